// Particles to look at: a sample of the selection and of all others, and those at the pointer.

class Gallery {
  constructor(explorer, sample) {
    this.explorer = explorer;
    this.sample = sample;
    this.sheets = {};
    this.kind = "aligned" in sample.sheets ? "aligned" : "raw";
    for (const [kind, source] of Object.entries(sample.sheets)) {
      const image = new Image();
      image.onload = () => explorer.draw();
      image.src = source;
      this.sheets[kind] = image;
    }
  }

  // One sampled particle (its place in the sample) into a canvas.
  paintOne(context, kind, place, x, y, size) {
    const image = this.sheets[kind], px = this.sample.size, across = this.sample.across;
    if (!image || !image.complete || image.naturalWidth === 0) return false;
    context.drawImage(image, (place % across) * px, Math.floor(place / across) * px, px, px, x, y, size, size);
    return true;
  }

  paint() {
    const e = this.explorer, inside = [], outside = [];
    this.sample.rows.forEach((row, place) => (e.picked[row] & e.passes[row] ? inside : outside).push(place));
    for (const [name, places] of [["selected", inside], ["others", outside]]) {
      const canvas = document.getElementById(`gallery-${name}`), context = canvas.getContext("2d");
      const size = canvas.width / 8, shown = this.spread(places, 24);
      canvas.height = Math.max(1, Math.ceil(shown.length / 8)) * size;
      context.clearRect(0, 0, canvas.width, canvas.height);
      shown.forEach((place, k) => this.paintOne(context, this.kind, place, (k % 8) * size, Math.floor(k / 8) * size, size - 3));
      const text = shown.length
        ? `${shown.length} of the ${places.length} sampled particles`
        : "none of the sampled particles";
      document.getElementById(`gallery-${name}-note`).textContent = text;
    }
  }

  // So many of them, evenly over the whole.
  spread(places, count) {
    if (places.length <= count) return places;
    return Array.from({ length: count }, (_, k) => places[Math.floor((k * places.length) / count)]);
  }

  // The sampled particle nearest to a point of the map, in pixels; -1 where none is near.
  nearest(px, py) {
    const e = this.explorer, X = e.x.levels, Y = e.y.levels;
    let best = -1, least = 60 * 60;
    this.sample.rows.forEach((row, place) => {
      if (e.passes[row] === 0 || X[row] === MISSING || Y[row] === MISSING) return;
      const [x, y] = e.map.toScreen(X[row], Y[row]), far = (x - px) ** 2 + (y - py) ** 2;
      if (far < least) { least = far; best = place; }
    });
    return best;
  }

  // What the decoder draws at a place of the latent map; null where the axes are others or no particle is near.
  drawnAt(px, py) {
    const grid = this.explorer.data.decoder, e = this.explorer;
    if (!grid || e.x.name !== grid.x || e.y.name !== grid.y) return null;
    const [lx, ly] = e.map.toLevels(px, py), x = Math.floor((lx / LEVELS) * grid.cells), y = Math.floor((ly / LEVELS) * grid.cells);
    let best = null, least = Infinity;
    // The cell itself, or the nearest beside it that holds particles.
    for (let dy = -1; dy <= 1; dy++) {
      for (let dx = -1; dx <= 1; dx++) {
        const inside = x + dx >= 0 && x + dx < grid.cells && y + dy >= 0 && y + dy < grid.cells;
        const place = inside ? grid.places[(y + dy) * grid.cells + x + dx] : -1, far = dx * dx + dy * dy;
        if (place >= 0 && far < least) { least = far; best = place; }
      }
    }
    return best;
  }

  point(px, py) {
    const e = this.explorer, place = this.nearest(px, py);
    const cell = this.drawnAt(px, py), canvas = document.getElementById("pointed-images"), c = canvas.getContext("2d");
    c.clearRect(0, 0, canvas.width, canvas.height);
    const captions = [];
    let x = 0;
    const show = (kind, where, caption) => { if (this.paintOne(c, kind, where, x, 0, 92)) { captions.push(caption); x += 96; } };
    if (place >= 0) {
      show("raw", place, "as it is");
      show("aligned", place, "put into place");
      show("drawn", place, "drawn by the decoder");
    }
    if (cell !== null && e.decoderSheet) {
      const grid = e.data.decoder;
      c.drawImage(e.decoderSheet, (cell % grid.across) * grid.size, Math.floor(cell / grid.across) * grid.size, grid.size, grid.size, x, 0, 92, 92);
      captions.push("the decoder at this place");
    }
    const row = place >= 0 ? this.sample.rows[place] : -1;
    const told = new Set([e.x, e.y, e.colour, ...e.columns].filter((column) => column && column.levels));
    const facts = row < 0 ? [] : [...told].slice(0, 7).map((column) => `${column.label}: ${column.format(column.levels[row])}`);
    document.getElementById("pointed-note").textContent = captions.join(" · ") || "No particle of the sample is near.";
    document.getElementById("pointed-facts").textContent = row < 0 ? "" : `particle ${e.number(row)}: ${facts.join("; ")}`;
  }
}
