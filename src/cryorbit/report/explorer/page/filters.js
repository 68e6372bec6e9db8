// Filters: a range of a column with its histogram, or words that a text is in.

const BINS = 64;

class Filter {
  constructor(column, explorer) {
    this.column = column;
    this.explorer = explorer;
    this.clear();
    this.build();
  }

  clear() {
    this.low = 0;
    this.high = LEVELS;
    this.text = "";
    this.allowed = null;
  }

  get isOpen() { return this.low <= 0 && this.high >= LEVELS && this.allowed === null; }

  get state() { return [this.low, this.high, this.text]; }

  set state([low, high, text]) {
    [this.low, this.high] = [low, high];
    this.setText(text);
    this.show();
  }

  setText(text) {
    this.text = text;
    this.allowed = null;
    if (!this.column.isWords || text === "") return;
    const wanted = text.toLowerCase();
    this.allowed = new Uint8Array(MISSING + 1);
    this.column.words.forEach((word, k) => {
      if (word.toLowerCase().includes(wanted)) this.allowed[Math.round(this.column.levelOf(k))] = 1;
    });
  }

  // Take from `passes` what does not pass.
  apply(passes) {
    if (this.isOpen) return;
    const levels = this.column.levels, { low, high, allowed } = this;
    for (let i = 0; i < passes.length; i++) {
      const level = levels[i];
      if (allowed ? allowed[level] === 0 : level < low || level > high) passes[i] = 0;
    }
  }

  build() {
    const { column } = this, box = document.createElement("fieldset"), legend = document.createElement("legend");
    legend.textContent = column.label;
    const remove = button("×", () => this.explorer.removeFilter(this), `Remove the filter of ${column.label}`);
    remove.className = "remove";
    box.className = "filter";
    box.append(legend, remove);
    if (column.isWords) {
      this.input = field("text", `contains (of ${column.words.length.toLocaleString("en")} names)`);
      this.input.input.addEventListener("change", () => this.explorer.change(() => this.setText(this.input.input.value)));
      this.note = document.createElement("small");
      box.append(this.input.label, this.note);
    } else {
      this.histogram = document.createElement("canvas");
      this.histogram.width = 2 * BINS * 2; this.histogram.height = 80;
      this.histogram.setAttribute("role", "img");
      this.histogram.setAttribute("aria-label", `Histogram of ${column.label}; the selected part in colour`);
      this.from = this.slider("from", 0, (level) => { this.low = Math.min(level, this.high); });
      this.to = this.slider("to", LEVELS, (level) => { this.high = Math.max(level, this.low); });
      box.append(this.histogram, this.from.label, this.to.label);
    }
    this.element = box;
    this.show();
  }

  slider(name, level, set) {
    const made = field("range", name);
    Object.assign(made.input, { min: 0, max: LEVELS, step: 1, value: level });
    made.input.setAttribute("aria-label", `${this.column.label}, ${name}`);
    made.value = document.createElement("output");
    made.label.append(made.value);
    // While it moves, the picture follows; the history gets one entry for the whole of it.
    made.input.addEventListener("input", () => {
      this.explorer.beginChange();
      set(Number(made.input.value));
      this.show();
      this.explorer.refilter();
    });
    made.input.addEventListener("change", () => this.explorer.endChange());
    made.input.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      const level = Number(made.input.value) + (step * LEVELS) / (event.shiftKey ? 20 : 200);
      this.explorer.change(() => set(Math.round(Math.min(Math.max(level, 0), LEVELS))));
    });
    return made;
  }

  show() {
    const { column } = this;
    if (column.isWords) {
      this.input.input.value = this.text;
      const count = this.allowed ? this.allowed.reduce((sum, one) => sum + one, 0) : column.words.length;
      this.note.textContent = this.allowed ? `${count.toLocaleString("en")} of the names` : "";
      return;
    }
    for (const [made, level] of [[this.from, this.low], [this.to, this.high]]) {
      made.input.value = level;
      made.value.textContent = column.format(Math.round(level));
      made.input.setAttribute("aria-valuetext", made.value.textContent);
    }
  }

  paint() {
    if (!this.histogram) return;
    const e = this.explorer, levels = this.column.levels, all = new Uint32Array(BINS), chosen = new Uint32Array(BINS);
    for (let i = 0; i < levels.length; i++) {
      if (levels[i] === MISSING) continue;
      const bin = (levels[i] * BINS) >>> 16;
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
  name.textContent = text;
  label.append(name, input);
  return { label, input };
}
