// Filters: a range of a column with its histogram, yes or no, or words that a text is in.

const BINS = 64, STEPS = 1000;

class Filter {
  constructor(column, explorer) {
    this.column = column;
    this.explorer = explorer;
    this.clear();
    this.element = document.createElement("fieldset");
    this.element.className = "filter";
    const legend = document.createElement("legend");
    legend.textContent = column.label;
    const remove = button("×", () => explorer.removeFilter(this), `Remove the filter of ${column.label}`);
    remove.className = "remove";
    this.element.append(legend, remove, ...this.build());
    this.show();
  }

  static of(column, explorer) {
    const kind = column.isWords ? WordFilter : column.kind === "flag" ? FlagFilter : RangeFilter;
    return new kind(column, explorer);
  }

  paint() {}
}

class FlagFilter extends Filter {
  clear() { this.wanted = ""; }

  get state() { return this.wanted; }

  set state(wanted) { this.wanted = wanted; }

  apply(passes) {
    if (this.wanted === "") return;
    const levels = this.column.levels, level = this.wanted === "yes" ? LEVELS : 0;
    for (let i = 0; i < passes.length; i++) if (levels[i] !== level) passes[i] = 0;
  }

  build() {
    this.menu = document.createElement("select");
    this.menu.append(new Option("yes and no", ""), new Option("yes", "yes"), new Option("no", "no"));
    this.menu.setAttribute("aria-label", this.column.label);
    this.menu.addEventListener("change", () => this.explorer.change(() => { this.wanted = this.menu.value; }));
    return [this.menu];
  }

  show() { this.menu.value = this.wanted; }
}

class WordFilter extends Filter {
  clear() { this.state = ""; }

  get state() { return this.text; }

  set state(text) {
    this.text = text;
    this.allowed = null;
    if (text === "") return;
    const wanted = text.toLowerCase();
    this.allowed = new Uint8Array(MISSING + 1);
    this.column.words.forEach((word, k) => {
      if (word.toLowerCase().includes(wanted)) this.allowed[k] = 1;
    });
  }

  apply(passes) {
    if (this.allowed === null) return;
    const levels = this.column.levels, allowed = this.allowed;
    for (let i = 0; i < passes.length; i++) if (allowed[levels[i]] === 0) passes[i] = 0;
  }

  build() {
    const { label, input } = field("text", `contains (of ${this.column.words.length.toLocaleString("en")} names)`);
    input.addEventListener("change", () => this.explorer.change(() => { this.state = input.value; }));
    this.input = input;
    this.note = document.createElement("small");
    return [label, this.note];
  }

  show() {
    this.input.value = this.text;
    const count = this.allowed ? this.allowed.reduce((sum, one) => sum + one, 0) : 0;
    this.note.textContent = this.allowed ? `${count.toLocaleString("en")} of the names` : "";
  }
}

// Both ends as sliders, for the hand, and as numbers, for what is meant exactly.
class RangeFilter extends Filter {
  clear() {
    this.low = 0;
    this.high = LEVELS;
  }

  get state() { return [this.low, this.high]; }

  set state([low, high]) { [this.low, this.high] = [low, high]; }

  apply(passes) {
    const levels = this.column.levels, { low, high } = this;
    if (low <= 0 && high >= LEVELS) return;
    // Around a circle, from more to less goes through half a turn.
    const around = low > high;
    for (let i = 0; i < passes.length; i++) {
      const level = levels[i];
      if (around ? level === MISSING || (level < low && level > high) : level < low || level > high) passes[i] = 0;
    }
  }

  build() {
    const { column } = this;
    this.scale = new Scale(column);
    this.histogram = document.createElement("canvas");
    this.histogram.width = 2 * BINS * 2; this.histogram.height = 80;
    this.histogram.setAttribute("role", "img");
    this.histogram.setAttribute("aria-label", `Histogram of ${column.label}; the selected part in colour`);
    // One end pushes the other along, but for a circle, where neither is the lower.
    const straight = column.kind !== "angle";
    this.from = this.end("from", (level) => { this.low = level; if (straight) this.high = Math.max(level, this.high); });
    this.to = this.end("to", (level) => { this.high = level; if (straight) this.low = Math.min(level, this.low); });
    const notes = [...column.beyond];
    if (this.scale.isBent) notes.push("Small steps where most values are.");
    const note = document.createElement("small");
    note.textContent = notes.join(" ");
    return [this.histogram, this.from.label, this.to.label, note];
  }

  end(name, set) {
    const { explorer, column } = this, { label, input } = field("range", name), number = document.createElement("input");
    const isLow = name === "from";
    Object.assign(input, { min: 0, max: STEPS, step: 1 });
    input.setAttribute("aria-label", `${column.label}, ${name}`);
    Object.assign(number, { type: "number", step: column.whole ? 1 : "any", autocomplete: "off" });
    number.setAttribute("aria-label", `${column.label}, ${name}, as a number`);
    label.append(number);
    // While it moves, the picture follows; the history gets one entry for the whole of it.
    input.addEventListener("input", () => {
      explorer.beginChange();
      set(column.snapped(this.scale.level(Number(input.value) / STEPS), isLow));
      this.show();
      explorer.refilter();
    });
    // A slider that comes back to where it was tells of no change.
    for (const end of ["change", "pointerup", "blur"]) input.addEventListener(end, () => explorer.endChange(input));
    number.addEventListener("input", () => number.setCustomValidity(""));
    number.addEventListener("change", () => {
      const value = Number(number.value), isNone = number.value === "" || !Number.isFinite(value);
      if (isNone || column.isBeyond(value)) {
        this.show();
        number.setCustomValidity(isNone ? "" : column.beyond.join(" "));
        number.reportValidity();
      } else explorer.change(() => set(column.endOf(value, isLow)));
    });
    return { label, input, number };
  }

  show() {
    const { column } = this;
    // An end between two whole numbers is the one that it lets through.
    const least = this.low <= 0 ? column.least : column.whole ? Math.ceil(column.at(this.low)) : column.at(this.low);
    const most = this.high >= LEVELS ? column.most : column.whole ? Math.floor(column.at(this.high)) : column.at(this.high);
    for (const [made, level, value] of [[this.from, this.low, least], [this.to, this.high, most]]) {
      made.input.value = Math.round(this.scale.place(level) * STEPS);
      made.number.value = column.say(value);
      made.input.setAttribute("aria-valuetext", made.number.value);
    }
  }

  paint() {
    const e = this.explorer, levels = this.column.levels, all = new Uint32Array(BINS), chosen = new Uint32Array(BINS);
    const bins = this.scale.bins;
    for (let i = 0; i < levels.length; i++) {
      if (levels[i] === MISSING) continue;
      const bin = bins[levels[i]];
      all[bin]++;
      chosen[bin] += e.picked[i] & e.passes[i];
    }
    const c = this.histogram.getContext("2d"), { width, height } = this.histogram, w = width / BINS;
    const most = Math.max(1, ...all);
    c.clearRect(0, 0, width, height);
    for (let bin = 0; bin < BINS; bin++) {
      // Square roots: a bar of a hundredth can still be seen.
      for (const [counts, colour] of [[all, "--line"], [chosen, "--accent"]]) {
        const tall = counts[bin] ? Math.max(2, Math.sqrt(counts[bin] / most) * (height - 2)) : 0;
        c.fillStyle = e.theme(colour);
        c.fillRect(bin * w, height - tall, w - 1, tall);
      }
    }
  }
}

// Levels along a slider: evenly, or by a logarithm from the end at which most of them crowd.
class Scale {
  constructor(column) {
    const middle = column.kind === "angle" ? 0.5 : median(column.levels) / LEVELS;
    this.mirrored = middle > 0.5;
    // No nearer than where a bar would be narrower than a level.
    const near = Math.max(this.mirrored ? 1 - middle : middle, 0.0105);
    // The bend that puts the median in the middle: log(1 + k t) / log(1 + k) = 1 / 2.
    this.bend = near < 0.1 ? (1 - 2 * near) / near ** 2 : 0;
    this.bins = new Uint8Array(LEVELS + 1);
    for (let level = 0; level <= LEVELS; level++) this.bins[level] = Math.min(BINS - 1, Math.floor(this.place(level) * BINS));
  }

  get isBent() { return this.bend > 0; }

  // From 0 to 1.
  place(level) {
    const t = level / LEVELS;
    if (!this.isBent) return t;
    const bent = (part) => Math.log1p(this.bend * part) / Math.log1p(this.bend);
    return this.mirrored ? 1 - bent(1 - t) : bent(t);
  }

  level(place) {
    if (!this.isBent) return place * LEVELS;
    const straight = (part) => Math.expm1(part * Math.log1p(this.bend)) / this.bend;
    return LEVELS * (this.mirrored ? 1 - straight(1 - place) : straight(place));
  }
}

function median(levels) {
  const counts = new Uint32Array(MISSING + 1);
  for (let i = 0; i < levels.length; i++) counts[levels[i]]++;
  const half = (levels.length - counts[MISSING]) / 2;
  let sum = 0;
  for (let level = 0; level <= LEVELS; level++) {
    sum += counts[level];
    if (sum >= half) return level;
  }
  return 0;
}

function button(text, action, label) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  if (label) { made.setAttribute("aria-label", label); made.title = label; }
  made.addEventListener("click", action);
  return made;
}

function field(type, text) {
  const label = document.createElement("label"), name = document.createElement("span");
  const input = document.createElement("input");
  input.type = type;
  input.autocomplete = "off";
  name.textContent = text;
  label.append(name, input);
  return { label, input };
}
