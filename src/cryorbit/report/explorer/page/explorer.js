// The explorer: what is shown, what is picked, and what was done before.

const MOST_UNDO = 40;

class Explorer {
  constructor(data) {
    this.data = data;
    this.n = data.particles;
    this.columns = data.columns.map((header, place) => new Column({ ...header, place }, this.n));
    this.passes = new Uint8Array(this.n).fill(1);
    this.picked = new Uint8Array(this.n).fill(1);
    this.state = new Uint8Array(this.n);  // of each particle: 0 filtered out, 1 shown, 2 selected
    this.filters = [];
    this.done = [];
    this.undone = [];
    this.named = [];
    this.unnamed = 0;  // selections so far that nobody gave a name
    this.tool = "lasso";
    this.cosines = new Float32Array(1024);
    this.sines = new Float32Array(1024);
    for (let k = 0; k < 1024; k++) {
      // Level 0 is minus half a turn.
      const angle = ((k + 0.5) / 1024) * 2 * Math.PI - Math.PI;
      this.cosines[k] = Math.cos(angle);
      this.sines[k] = Math.sin(angle);
    }
    this.colours = {};
    this.x = this.y = this.colour = null;
    this.asked = {};  // names of the axes and the colour that were asked for last
    this.watchers = [];  // told when the selection has changed
  }

  column(name) { return this.columns.find((column) => column.name === name) || null; }

  theme(name) {
    if (!(name in this.colours)) this.colours[name] = getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    return this.colours[name];
  }

  // Whether the run kept a particle; all where it did not say.
  isKept(row) { return !this.kept || this.kept.levels[row] > LEVELS / 2; }

  // What a particle is called in the file: its number, from 1.
  number(row) { return (this.ids ? this.ids[row] : row) + 1; }

  async start() {
    if (this.data.ids) {
      const bytes = await unpack(this.data.ids);
      this.ids = new Int32Array(bytes.buffer, 0, this.n);
    }
    this.map = new PointMap(document.getElementById("map"), document.getElementById("map-overlay"), this);
    await Promise.all([this.setAxis("x", this.data.start.x, false), this.setAxis("y", this.data.start.y, false)]);
    this.count();
    this.map.reset();
    if (this.data.start.colour) await this.setColour(this.data.start.colour);
    this.kept = this.column("kept");
    if (this.kept) {
      // What the run would drop lies beside what it keeps from the first look on.
      await this.kept.load();
      for (let i = 0; i < this.n; i++) this.picked[i] = this.kept.levels[i] > LEVELS / 2 ? 1 : 0;
    }
    for (const name of this.data.start.filters) this.filters.push(await this.filterOf(name));
    this.listFilters();
    if (this.data.sample) this.gallery = new Gallery(this, this.data.sample);
    if (this.data.decoder) {
      this.decoderSheet = new Image();
      this.decoderSheet.src = this.data.decoder.sheet;
    }
    wireControls(this);
    this.refilter();
    document.getElementById("explorer").dataset.ready = "true";
  }

  async setAxis(axis, name, reset = true) {
    this.asked[axis] = name;
    const column = await this.column(name).load();
    if (this.asked[axis] !== name) return;  // another one was asked for in between
    this[axis] = column;
    this.map.path = null;  // a shape that was begun on other axes means nothing here
    if (reset) this.map.reset();
  }

  async setColour(name) {
    this.asked.colour = name;
    const column = name ? await this.column(name).load() : null;
    if (this.asked.colour !== name) return;
    this.colour = column;
    this.wordColours = null;
    const maps = this.data.colour_maps;
    if (this.colour) {
      const kind = this.colour.kind;
      const line = matchMedia("(prefers-color-scheme: dark)").matches ? maps.line_on_dark : maps.line_on_light;
      this.lut = kind === "angle" ? decodeColours(maps.circle) : kind === "flag" ? flagColours(maps) : decodeColours(line);
      if (this.colour.isWords) this.colourWords();
    }
    showLegend(this);
    this.draw();
  }

  // The commonest words have colours of their own, all others one.
  colourWords() {
    const { levels, words } = this.colour, counts = new Uint32Array(words.length);
    for (let i = 0; i < this.n; i++) if (levels[i] !== MISSING) counts[levels[i]]++;
    const order = [...words.keys()].sort((a, b) => counts[b] - counts[a]);
    const palette = decodeColours(this.data.colour_maps.words), own = palette.length / 3 - 1;
    this.lut = palette;
    this.wordColours = new Uint8Array(MISSING + 1).fill(own);
    this.commonWords = order.slice(0, own).map((k) => words[k]);
    order.slice(0, own).forEach((word, k) => { this.wordColours[word] = k; });
  }

  async filterOf(name) { return Filter.of(await this.column(name).load(), this); }

  async addFilter(name) {
    if (this.filters.some((filter) => filter.column.name === name)) return;
    const filter = await this.filterOf(name);
    if (this.filters.some((other) => other.column === filter.column)) return;
    this.change(() => { this.filters = [...this.filters, filter]; });
  }

  removeFilter(filter) {
    const place = this.filters.indexOf(filter);
    this.change(() => { this.filters = this.filters.filter((other) => other !== filter); });
    const next = this.filters[Math.min(place, this.filters.length - 1)];
    (next ? next.element.querySelector("button") : document.getElementById("add-filter")).focus();
  }

  // An element that is put where it was loses the focus, and a click that has begun on it.
  listFilters() {
    const box = document.getElementById("filters"), elements = this.filters.map((filter) => filter.element);
    for (const gone of [...box.children]) if (!elements.includes(gone)) gone.remove();
    elements.forEach((element, k) => { if (box.children[k] !== element) box.insertBefore(element, box.children[k] || null); });
    for (const filter of this.filters) filter.show();
  }

  // ---- history: a state before each change

  snapshot() {
    return { picked: this.picked, filters: this.filters.map((filter) => [filter, filter.state]) };
  }

  beginChange() { if (!this.before) this.before = this.snapshot(); }

  // `source` is what the hand holds: steps of it that follow each other at once are undone together.
  endChange(source = null) {
    const before = this.before, after = this.snapshot(), now = performance.now();
    this.before = null;
    if (!before || sameState(before, after)) return;
    const goesOn = source !== null && source === this.source && now - this.changed < 1000;
    if (!goesOn) this.done.push(before);
    if (this.done.length > MOST_UNDO) this.done.shift();
    this.undone = [];
    this.source = source;
    this.changed = now;
    this.refilter();
  }

  change(action) {
    this.beginChange();
    action();
    this.listFilters();
    this.endChange();
  }

  restore(from, to) {
    const state = from.pop();
    if (!state) return;
    this.before = this.source = null;
    to.push(this.snapshot());
    this.picked = state.picked;
    this.filters = state.filters.map(([filter]) => filter);
    for (const [filter, kept] of state.filters) filter.state = kept;
    this.listFilters();
    this.refilter();
  }

  undo() { this.restore(this.done, this.undone); }

  redo() { this.restore(this.undone, this.done); }

  // ---- picking

  refilter() {
    this.passes.fill(1);
    for (const filter of this.filters) filter.apply(this.passes);
    this.count();
    this.draw();
  }

  draw() {
    this.map.draw();
    // Histograms of very many wait until the hand rests.
    const many = this.n > 200000;
    if (this.panels && !many) return;
    clearTimeout(this.panels);
    this.panels = setTimeout(() => {
      this.panels = null;
      for (const filter of this.filters) filter.paint();
      if (this.gallery) this.gallery.paint();
    }, many ? AT_REST : 30);
  }

  pick(inside, how) {
    this.change(() => {
      const next = how === "replace" ? inside : this.picked.slice();
      if (how === "add") for (let i = 0; i < this.n; i++) next[i] |= inside[i];
      if (how === "remove") for (let i = 0; i < this.n; i++) if (inside[i]) next[i] = 0;
      if (how === "within") for (let i = 0; i < this.n; i++) next[i] &= inside[i];
      this.picked = next;
    });
  }

  pickPolygon(path, how) {
    if (path.length < 3) return;
    this.pick(insidePolygon(path, this.x.levels, this.y.levels, this.passes), how);
  }

  pickAll() { this.pick(new Uint8Array(this.n).fill(1), "replace"); }

  pickNone() { this.pick(new Uint8Array(this.n), "replace"); }

  pickKept(kept) {
    const inside = new Uint8Array(this.n), levels = this.kept.levels;
    for (let i = 0; i < this.n; i++) inside[i] = levels[i] > LEVELS / 2 === kept ? 1 : 0;
    this.pick(inside, "replace");
  }

  // All that is not selected now, filters or not: so that the two together are the whole.
  invert() {
    const inside = new Uint8Array(this.n), chosen = this.selected();
    for (let i = 0; i < this.n; i++) inside[i] = 1 - chosen[i];
    this.change(() => {
      for (const filter of this.filters) filter.clear();
      this.picked = inside;
    });
  }

  // The selection: what is picked and passes all filters. What is counted is what is saved.
  selected() {
    const chosen = new Uint8Array(this.n);
    for (let i = 0; i < this.n; i++) chosen[i] = this.picked[i] & this.passes[i];
    return chosen;
  }

  count() {
    let shown = 0, chosen = 0, kept = 0;
    const { passes, picked, state, n } = this, levels = this.kept ? this.kept.levels : null;
    for (let i = 0; i < n; i++) {
      const pass = passes[i], both = pass & picked[i];
      state[i] = pass + both;
      shown += pass;
      chosen += both;
      if (levels !== null) kept += both & (levels[i] >> 15);
    }
    this.chosen = chosen;
    const say = (value) => value.toLocaleString("en");
    document.getElementById("count-selected").textContent = say(chosen);
    document.getElementById("count-all").textContent = say(this.n);
    document.getElementById("count-kept").textContent = levels ? ` (${say(kept)} kept by the run, ${say(chosen - kept)} dropped)` : "";
    document.getElementById("count-shown").textContent = shown === this.n ? "" : `Filters let ${say(shown)} through.`;
    for (const element of document.querySelectorAll("[data-needs-selection]")) element.disabled = chosen === 0;
    for (const tell of this.watchers) tell();
  }

  // ---- what leaves the page

  selectionFile(name, chosen = this.selected()) {
    return {
      program: "cryorbit", kind: "selection", version: 1, name, input: this.data.input, rows: this.data.rows, particles: this.n,
      selected: chosen.reduce((sum, one) => sum + one, 0), bits: packBits(chosen),
    };
  }

  ids_of(chosen) {
    const numbers = [];
    for (let i = 0; i < this.n; i++) if (chosen[i]) numbers.push(this.number(i));
    return numbers;
  }
}

function sameState(a, b) {
  const same = ([filter, state], k) => b.filters[k] && b.filters[k][0] === filter && String(b.filters[k][1]) === String(state);
  return a.picked === b.picked && a.filters.length === b.filters.length && a.filters.every(same);
}

function decodeColours(text) {
  const bytes = new Uint8Array(text.length / 2);
  for (let k = 0; k < bytes.length; k++) bytes[k] = parseInt(text.slice(2 * k, 2 * k + 2), 16);
  return bytes;
}

// From the colour of "no" to that of "yes", for pixels that hold both.
function flagColours(maps) {
  const [no, yes] = [decodeColours(maps.no), decodeColours(maps.yes)], lut = new Uint8Array(768);
  for (let k = 0; k < 256; k++) for (let c = 0; c < 3; c++) lut[3 * k + c] = Math.round(no[c] + ((yes[c] - no[c]) * k) / 255);
  return lut;
}

function showLegend(e) {
  const box = document.getElementById("legend"), column = e.colour;
  box.replaceChildren();
  if (!column) return;
  const css = (k) => `rgb(${e.lut[3 * k]}, ${e.lut[3 * k + 1]}, ${e.lut[3 * k + 2]})`;
  const entry = (k, text) => {
    const item = document.createElement("span"), swatch = document.createElement("i"), name = document.createElement("span");
    swatch.style.background = css(k);
    name.textContent = text;
    item.append(swatch, name);
    box.append(item);
  };
  if (column.isWords) {
    e.commonWords.forEach((word, k) => entry(k, word));
    if (column.words.length > e.commonWords.length) entry(e.lut.length / 3 - 1, `${column.words.length - e.commonWords.length} others`);
  } else if (column.kind === "flag") {
    entry(255, "yes");
    entry(0, "no");
  } else {
    const bar = document.createElement("canvas"), from = document.createElement("span"), to = document.createElement("span");
    bar.width = 256; bar.height = 1;
    bar.setAttribute("role", "img");
    bar.setAttribute("aria-label", "Colours from the lowest to the highest value");
    const c = bar.getContext("2d");
    for (let k = 0; k < 256; k++) { c.fillStyle = css(k); c.fillRect(k, 0, 1, 1); }
    from.textContent = column.format(0);
    to.textContent = column.format(LEVELS);
    box.append(from, bar, to);
  }
}
