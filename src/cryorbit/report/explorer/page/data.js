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

  word(level) { return this.words[Math.round(this.at(level))]; }

  // A value as people read it.
  format(level) {
    if (level === MISSING) return "–";
    if (this.isWords) return this.word(level);
    if (this.kind === "flag") return level > LEVELS / 2 ? "yes" : "no";
    return formatNumber(this.at(level), this.high - this.low);
  }
}

// A number with as many digits as its range asks for.
function formatNumber(value, range) {
  const size = Math.abs(range) || 1;
  if (size >= 1e6 || size < 1e-4) return value.toPrecision(3);
  const digits = Math.max(0, Math.min(6, 2 - Math.floor(Math.log10(size))));
  const text = value.toFixed(digits);
  return text === (-0).toFixed(digits) || Number(text) === 0 ? (0).toFixed(digits) : text;
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
