// Columns: unpacked when first asked for, so that the first picture does not wait for those that nobody looks at.

const LEVELS = 65534, MISSING = 65535;

async function unpack(text) {
  const binary = atob(text.trim());
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

class Column {
  constructor(header, n) {
    Object.assign(this, header);
    this.n = n;
    this.levels = null;
  }

  async load() {
    if (this.levels) return this;
    const element = document.getElementById(`column-${this.place}`);
    const planes = await unpack(element.textContent);
    element.remove();  // its text is not needed twice
    const levels = new Uint16Array(this.n);
    for (let i = 0; i < this.n; i++) levels[i] = planes[i] | (planes[this.n + i] << 8);
    this.levels = levels;
    return this;
  }

  get isWords() { return this.kind === "words"; }

  // The value at a level.
  at(level) { return this.low + (level / LEVELS) * (this.high - this.low); }

  // The level of a value.
  levelOf(value) { return ((value - this.low) / (this.high - this.low)) * LEVELS; }

  word(level) { return this.words[level]; }

  // Whether a value lies where levels tell nothing apart.
  isBeyond(value) {
    return (value > this.high && value < this.most) || (value < this.low && value > this.least);
  }

  // The level that lets a value through as the end of a range; values that lie beyond the last level go with it.
  endOf(value, isLow) {
    const whole = isLow ? Math.ceil(value) - 0.5 : Math.floor(value) + 0.5;
    const level = this.levelOf(this.whole ? whole : value);
    // The level of a value was rounded.
    return Math.min(Math.max(this.whole ? level : Math.round(level), 0), LEVELS);
  }

  // A level that a hand chose: between two whole numbers where there are no others.
  snapped(level, isLow) {
    if (!this.whole || level <= 0 || level >= LEVELS) return level;
    return this.endOf(isLow ? Math.ceil(this.at(level)) : Math.floor(this.at(level)), isLow);
  }

  // Sentences on the values that lie beyond the levels, at either end.
  get beyond() {
    const said = [];
    if (this.least < this.low) said.push(`Below ${this.say(this.low)} (down to ${this.say(this.least)}) values are not told apart.`);
    if (this.most > this.high) said.push(`Above ${this.say(this.high)} (up to ${this.say(this.most)}) values are not told apart.`);
    return said;
  }

  // A number as people read it, with as many digits as levels can tell apart.
  say(value) {
    if (this.whole) return String(Math.round(value));
    const range = this.high - this.low, size = Math.abs(value);
    if (size >= 1e6 || range < 1e-4) return String(Number(value.toPrecision(4)));
    const told = Math.ceil(-Math.log10(range / LEVELS)), wanted = size > 0 ? 1 - Math.floor(Math.log10(size)) : 0;
    const digits = Math.max(digitsOf(range), Math.min(wanted, told));
    const text = plain(value, Math.max(0, Math.min(digits, 8)));
    return Number(text) === 0 ? (0).toFixed(digitsOf(range)) : text;
  }

  // The value of a particle as people read it.
  format(level) {
    if (level === MISSING) return "–";
    if (this.isWords) return this.word(level);
    if (this.kind === "flag") return level > LEVELS / 2 ? "yes" : "no";
    if (level >= LEVELS && this.most > this.high) return `≥ ${this.say(this.high)} (up to ${this.say(this.most)})`;
    if (level <= 0 && this.least < this.low) return `≤ ${this.say(this.low)} (down to ${this.say(this.least)})`;
    return this.say(this.at(level));
  }
}

// Digits after the point that a range asks for.
function digitsOf(range) { return Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(range)))); }

function plain(value, digits) {
  const text = value.toFixed(digits);
  return Number(text) === 0 ? (0).toFixed(digits) : text;
}

// A number with as many digits as its range asks for.
function formatNumber(value, range) {
  const size = Math.abs(range) || 1;
  return size >= 1e6 || size < 1e-4 ? value.toPrecision(3) : plain(value, digitsOf(size));
}

// Round numbers between two values, about as many as asked for.
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((k) => k * power).find((s) => s >= rough) || power * 10;
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  return { values: found, step };
}

// One bit for each particle, the first in the lowest place, as text.
function packBits(chosen) {
  const bytes = new Uint8Array(Math.ceil(chosen.length / 8));
  for (let i = 0; i < chosen.length; i++) if (chosen[i]) bytes[i >> 3] |= 1 << (i & 7);
  let binary = "";
  for (let start = 0; start < bytes.length; start += 8192) {
    binary += String.fromCharCode(...bytes.subarray(start, start + 8192));
  }
  return btoa(binary);
}
