// The map: a density where points are many, discs where they are few; what is not selected lies grey beneath.

const SLOW = 25, AT_REST = 150;  // milliseconds: of a picture, beyond which one in motion has only every so many-th point
const NEAR = [[2000, 3], [20000, 2], [120000, 1]];  // in view, fewer than this: radius in pixels

class PointMap {
  constructor(canvas, overlay, explorer) {
    this.canvas = canvas;
    this.overlay = overlay;
    this.explorer = explorer;
    this.view = null;
    this.margin = { left: 58, right: 12, top: 10, bottom: 42 };
    this.frames = [];  // milliseconds of the last pictures
    this.whole = 0;  // milliseconds of the last one that had every point
    this.last = -Infinity;  // when that one, or the last in motion, was begun
    this.queued = false;
    this.path = null;  // corners of a shape that is being drawn, in levels: it stays in its place when the map moves
    this.cross = null;  // where the keyboard's pointer is
  }

  get width() { return this.canvas.clientWidth; }
  get height() { return this.canvas.clientHeight; }

  // The part of the canvas within the axes, in its own pixels.
  get frame() {
    const { left, right, top, bottom } = this.margin;
    return { x: left, y: top, w: Math.max(this.width - left - right, 10), h: Math.max(this.height - top - bottom, 10) };
  }

  reset() {
    const pad = 0.03 * LEVELS;
    this.view = { x0: -pad, x1: LEVELS + pad, y0: -pad, y1: LEVELS + pad };
    const { x, y } = this.explorer;
    for (const [column, low, high] of [[x, "x0", "x1"], [y, "y0", "y1"]]) {
      if (column.kind === "angle") { this.view[low] = 0; this.view[high] = LEVELS; }
    }
    this.draw();
  }

  toScreen(xLevel, yLevel) {
    const { x, y, w, h } = this.frame, v = this.view;
    return [x + ((xLevel - v.x0) / (v.x1 - v.x0)) * w, y + h - ((yLevel - v.y0) / (v.y1 - v.y0)) * h];
  }

  toLevels(px, py) {
    const { x, y, w, h } = this.frame, v = this.view;
    return [v.x0 + ((px - x) / w) * (v.x1 - v.x0), v.y0 + ((y + h - py) / h) * (v.y1 - v.y0)];
  }

  zoom(factor, px, py) {
    const [cx, cy] = this.toLevels(px, py), v = this.view;
    const smallest = 20, largest = 4 * LEVELS;
    const f = Math.min(Math.max(factor, smallest / (v.x1 - v.x0), smallest / (v.y1 - v.y0)), largest / (v.x1 - v.x0));
    this.view = {
      x0: cx + (v.x0 - cx) * f, x1: cx + (v.x1 - cx) * f, y0: cy + (v.y0 - cy) * f, y1: cy + (v.y1 - cy) * f,
    };
    this.draw();
  }

  pan(dx, dy) {
    const { w, h } = this.frame, v = this.view;
    const x = (dx / w) * (v.x1 - v.x0), y = (dy / h) * (v.y1 - v.y0);
    this.view = { x0: v.x0 - x, x1: v.x1 - x, y0: v.y0 + y, y1: v.y1 + y };
    this.draw();
  }

  draw() {
    if (this.queued) return;
    this.queued = true;
    requestAnimationFrame(() => {
      this.queued = false;
      this.paint();
    });
  }

  paint() {
    const e = this.explorer;
    if (!e.x || !this.view || this.width === 0) return;
    const started = performance.now(), inMotion = started - this.last < AT_REST && this.whole > SLOW;
    this.stride = inMotion ? Math.min(8, Math.ceil(this.whole / (SLOW / 2))) : 1;
    this.last = started;
    const scale = e.n > 200000 ? 1 : Math.min(window.devicePixelRatio || 1, 2);
    for (const canvas of [this.canvas, this.overlay]) {
      const w = Math.round(this.width * scale), h = Math.round(this.height * scale);
      if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    }
    const f = this.frame, w = Math.round(f.w * scale), h = Math.round(f.h * scale);
    const image = this.shade(this.accumulate(w, h, scale), w, h);
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.fillStyle = e.colour && e.colour.kind === "angle" ? e.data.circle_background : e.theme("--panel");
    context.fillRect(f.x * scale, f.y * scale, w, h);
    // Only an image that is drawn, not put, lets the background show through.
    const layer = this.layer || (this.layer = document.createElement("canvas"));
    if (layer.width !== w || layer.height !== h) { layer.width = w; layer.height = h; }
    layer.getContext("2d").putImageData(image, 0, 0);
    context.drawImage(layer, f.x * scale, f.y * scale);
    this.paintOverlay(scale);
    const took = performance.now() - started;
    clearTimeout(this.rest);
    if (inMotion) this.rest = setTimeout(() => { this.last = -Infinity; this.draw(); }, AT_REST);
    else this.whole = took;
    this.frames.push(took);
    if (this.frames.length > 200) this.frames.shift();
  }

  // Points in each pixel: selected and other ones, and sums of the selected ones' colours.
  accumulate(w, h, scale) {
    const size = w * h;
    if (!this.buffers || this.buffers.size !== size) {
      this.buffers = {
        size, selected: new Uint32Array(size), other: new Uint32Array(size), a: new Float32Array(size),
        b: new Float32Array(size), coloured: new Uint32Array(size),
      };
    }
    // How many are in view tells how large each is; it is known when they have been drawn, and seldom changes.
    for (let attempt = 0; attempt < 2; attempt++) {
      for (const name of ["selected", "other", "a", "b", "coloured"]) this.buffers[name].fill(0);
      const r = this.radiusFor(this.inView === undefined ? this.explorer.n : this.inView, scale);
      this.radius = r;
      this.inView = r === 0 ? this.addDense(w, h) * this.stride : this.addDiscs(w, h, r);
      if (this.radiusFor(this.inView, scale) === r) break;
    }
    return this.buffers;
  }

  radiusFor(inView, scale) {
    const near = NEAR.find(([count]) => inView < count);
    return near ? Math.round(near[1] * (scale > 1 ? 1.5 : 1)) : 0;
  }

  // One pixel for each point: a million of them twenty times a second. Gives how many are in view.
  addDense(w, h) {
    const e = this.explorer, v = this.view, n = e.n, { selected, other, a, b, coloured } = this.buffers;
    const X = e.x.levels, Y = e.y.levels, state = e.state, C = e.colour ? e.colour.levels : null;
    const sx = w / (v.x1 - v.x0), sy = h / (v.y1 - v.y0), x0 = v.x0, y1 = v.y1;
    const complete = !(e.x.missing || e.y.missing), gaps = e.colour !== null && e.colour.missing > 0;
    const way = C === null ? 0 : e.colour.kind === "angle" ? 2 : e.colour.isWords ? 3 : 1;
    const indexed = e.wordColours, cos = e.cosines, sin = e.sines, stride = this.stride;
    let inView = 0;
    for (let i = 0; i < n; i += stride) {
      const s = state[i];
      if (s === 0) continue;
      const px = (X[i] - x0) * sx, py = (y1 - Y[i]) * sy;
      if (!(px >= 0 && px < w && py >= 0 && py < h)) continue;
      if (!complete && (X[i] === MISSING || Y[i] === MISSING)) continue;
      inView++;
      const p = (py | 0) * w + (px | 0);
      if (s === 1) { other[p]++; continue; }
      selected[p]++;
      if (way === 0 || (gaps && C[i] === MISSING)) continue;
      if (way === 1) a[p] += C[i];
      else if (way === 2) { const k = C[i] >> 6; a[p] += cos[k]; b[p] += sin[k]; }
      else a[p] = indexed[C[i]];
      if (gaps) coloured[p]++;
    }
    return inView;
  }

  // Discs of some pixels: where points are few.
  addDiscs(w, h, r) {
    const e = this.explorer, v = this.view, { selected, other, a, b, coloured } = this.buffers;
    const X = e.x.levels, Y = e.y.levels, C = e.colour ? e.colour.levels : null;
    const sx = w / (v.x1 - v.x0), sy = h / (v.y1 - v.y0);
    const circular = C !== null && e.colour.kind === "angle", indexed = C !== null && e.colour.isWords ? e.wordColours : null;
    let inView = 0;
    for (let i = 0; i < e.n; i++) {
      const s = e.state[i], lx = X[i], ly = Y[i];
      if (s === 0 || lx === MISSING || ly === MISSING) continue;
      const px = Math.floor((lx - v.x0) * sx), py = Math.floor((v.y1 - ly) * sy);
      if (px < -r || px >= w + r || py < -r || py >= h + r) continue;
      if (px >= 0 && px < w && py >= 0 && py < h) inView++;
      const level = C === null ? MISSING : C[i];
      for (let y = Math.max(py - r, 0); y <= Math.min(py + r, h - 1); y++) {
        for (let x = Math.max(px - r, 0); x <= Math.min(px + r, w - 1); x++) {
          if ((x - px) ** 2 + (y - py) ** 2 > r * r + 1) continue;
          const p = y * w + x;
          if (s === 1) { other[p]++; continue; }
          selected[p]++;
          if (level === MISSING) continue;
          if (circular) { a[p] += e.cosines[level >> 6]; b[p] += e.sines[level >> 6]; }
          else if (indexed) a[p] = indexed[level];
          else a[p] += level;
          coloured[p]++;
        }
      }
    }
    return inView;
  }

  shade({ selected, other, a, b, coloured }, w, h) {
    const e = this.explorer, image = this.image && this.image.width === w && this.image.height === h ? this.image : new ImageData(w, h);
    this.image = image;
    const out = new Uint32Array(image.data.buffer), size = w * h, dense = this.radius === 0;
    let most = 1, mostOther = 1;
    for (let p = 0; p < size; p++) {
      if (selected[p] > most) most = selected[p];
      if (other[p] > mostOther) mostOther = other[p];
    }
    const opacity = (from, by, top) => Uint8Array.from({ length: 256 }, (_, k) => from + by * Math.log1p((k / 255) * top) / Math.log1p(top));
    const strong = opacity(90, 165, most), weak = opacity(50, 130, mostOther);
    const pack = (r, g, blue) => (blue << 16) | (g << 8) | r;
    const grey = pack(...rgb(e.theme("--faint"))), plain = pack(...rgb(e.theme("--accent")));
    const kind = e.colour ? e.colour.kind : "none", lut = new Uint32Array(256);
    if (e.lut) for (let k = 0; k < e.lut.length / 3; k++) lut[k] = pack(e.lut[3 * k], e.lut[3 * k + 1], e.lut[3 * k + 2]);
    const whole = dense && !(e.colour && e.colour.missing > 0);  // every selected point has a colour
    const way = { none: 0, angle: 2, words: 3 }[kind] ?? 1, scale = 256 / LEVELS, turn = 128 / Math.PI;
    for (let p = 0; p < size; p++) {
      const count = selected[p];
      if (count > 0) {
        const known = whole ? count : coloured[p];
        let colour = way === 0 ? plain : grey;
        if (way > 0 && known > 0) {
          if (way === 1) colour = lut[Math.min(255, ((a[p] / known) * scale) | 0)];
          else if (way === 2) colour = lut[(Math.atan2(b[p], a[p]) * turn + 128) & 255];
          else colour = lut[a[p]];
        }
        const alpha = dense ? strong[Math.min(255, ((count - 1) * 255 / most + 1) | 0)] : 235;
        out[p] = (alpha << 24) | colour;
      } else if (other[p] > 0) {
        const alpha = dense ? weak[Math.min(255, ((other[p] - 1) * 255 / mostOther + 1) | 0)] : 150;
        out[p] = (alpha << 24) | grey;
      } else out[p] = 0;
    }
    return image;
  }

  paintOverlay(scale) {
    const e = this.explorer, c = this.overlay.getContext("2d"), f = this.frame;
    document.getElementById("close-shape").hidden = e.tool === "lasso" || !this.path || this.path.length < 3;
    c.setTransform(scale, 0, 0, scale, 0, 0);
    c.clearRect(0, 0, this.width, this.height);
    c.strokeStyle = e.theme("--line"); c.fillStyle = e.theme("--ink"); c.lineWidth = 1;
    c.strokeRect(f.x + 0.5, f.y + 0.5, f.w - 1, f.h - 1);
    c.font = "12px system-ui, sans-serif";
    this.paintTicks(c, f, e.x, true);
    this.paintTicks(c, f, e.y, false);
    if (this.path && this.path.length) {
      c.beginPath();
      this.path.forEach(([lx, ly], k) => {
        const [x, y] = this.toScreen(lx, ly);
        if (k) c.lineTo(x, y);
        else c.moveTo(x, y);
      });
      if (this.path.length > 2) c.closePath();
      c.strokeStyle = e.theme("--ink"); c.lineWidth = 1.5; c.setLineDash([5, 4]); c.stroke(); c.setLineDash([]);
      c.fillStyle = "rgba(120, 140, 160, 0.18)"; c.fill();
    }
    if (this.cross) {
      const [x, y] = this.cross;
      c.strokeStyle = e.theme("--ink"); c.lineWidth = 1.5;
      c.beginPath(); c.moveTo(x - 9, y); c.lineTo(x + 9, y); c.moveTo(x, y - 9); c.lineTo(x, y + 9); c.stroke();
    }
  }

  paintTicks(c, f, column, horizontal) {
    const v = this.view, [from, to] = horizontal ? [v.x0, v.x1] : [v.y0, v.y1];
    const low = column.at(from), high = column.at(to), length = horizontal ? f.w : f.h;
    c.fillStyle = this.explorer.theme("--ink"); c.strokeStyle = this.explorer.theme("--line");
    c.textAlign = horizontal ? "center" : "right"; c.textBaseline = horizontal ? "top" : "middle";
    if (!column.isWords) {
      const { values, step } = ticks(low, high, Math.max(length / 80, 4));
      for (const value of values) {
        const share = (value - low) / (high - low);
        const text = formatNumber(value, step * 30);
        if (horizontal) c.fillText(text, f.x + share * f.w, f.y + f.h + 5);
        else c.fillText(text, f.x - 6, f.y + f.h - share * f.h);
      }
    }
    c.textAlign = "center";
    if (horizontal) c.fillText(column.label, f.x + f.w / 2, f.y + f.h + 22);
    else {
      c.save(); c.translate(9, f.y + f.h / 2); c.rotate(-Math.PI / 2); c.textBaseline = "middle";
      c.fillText(column.label, 0, 0); c.restore();
    }
  }
}

function rgb(text) {
  const hex = /^#([0-9a-f]{6})$/i.exec(text.trim());
  if (!hex) return [128, 128, 128];
  const value = parseInt(hex[1], 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

// Whether each point lies within a polygon whose corners are levels; those outside `passes` do not.
function insidePolygon(corners, X, Y, passes) {
  const n = X.length, inside = new Uint8Array(n), m = corners.length;
  let left = Infinity, right = -Infinity, bottom = Infinity, top = -Infinity;
  for (const [x, y] of corners) {
    left = Math.min(left, x); right = Math.max(right, x); bottom = Math.min(bottom, y); top = Math.max(top, y);
  }
  for (let i = 0; i < n; i++) {
    const x = X[i], y = Y[i];
    if (passes[i] === 0 || x < left || x > right || y < bottom || y > top || x === MISSING || y === MISSING) continue;
    let odd = 0;
    for (let k = 0, j = m - 1; k < m; j = k++) {
      const [xk, yk] = corners[k], [xj, yj] = corners[j];
      if (yk > y !== yj > y && x < ((xj - xk) * (y - yk)) / (yj - yk) + xk) odd ^= 1;
    }
    inside[i] = odd;
  }
  return inside;
}
