// Pointers, wheel and keys on the map.

const LASSO_STEP = 3, TAP = 8;  // pixels

// A map that has been clicked or tapped takes the wheel and all fingers; before, the page scrolls as everywhere.
class Gestures {
  constructor(explorer) {
    this.explorer = explorer;
    this.map = explorer.map;
    this.surface = explorer.map.overlay;
    this.down = new Map();  // pointers that are down, and where they are
    this.began = null;  // where the only pointer that is down began
    this.addedCorner = false;
    const on = (name, action, options) => this.surface.addEventListener(name, action.bind(this), options);
    on("pointerdown", this.press);
    on("pointermove", this.move);
    on("pointerup", this.release);
    on("pointercancel", this.cancel);
    on("dblclick", (event) => { if (explorer.tool === "polygon") finishShape(explorer, howToPick(event)); });
    on("wheel", this.wheel, { passive: false });
    on("keydown", this.key);
  }

  place(event) {
    const box = this.surface.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  }

  press(event) {
    if (event.button !== 0) return;
    const { map, explorer } = this, at = this.place(event), corner = map.toLevels(...at);
    this.surface.setPointerCapture(event.pointerId);
    this.down.set(event.pointerId, at);
    map.cross = null;
    if (this.down.size > 1) {
      // A second finger: they zoom and move, and what the first began to draw was not meant.
      if (explorer.tool === "lasso") map.path = null;
      else if (this.addedCorner) map.path.pop();
      this.began = null;
      this.addedCorner = false;
      return;
    }
    this.began = at;
    this.viewBefore = map.view;
    if (explorer.tool === "lasso") map.path = [corner];
    if (explorer.tool === "polygon") {
      // The second click of a double click is no further corner.
      const last = map.path && map.path.length ? map.toScreen(...map.path[map.path.length - 1]) : [-99, -99];
      this.addedCorner = Math.hypot(at[0] - last[0], at[1] - last[1]) > LASSO_STEP;
      if (this.addedCorner) map.path = [...(map.path || []), corner];
    }
  }

  move(event) {
    const { map, explorer } = this, at = this.place(event), before = this.down.get(event.pointerId);
    if (!before) {
      if (explorer.gallery) explorer.gallery.point(...at);
    } else if (this.down.size > 1) this.pinch(event.pointerId, at);
    else if (explorer.tool === "pan") {
      map.pan(at[0] - before[0], at[1] - before[1]);
      this.down.set(event.pointerId, at);
    } else if (explorer.tool === "lasso" && map.path) {
      const last = map.toScreen(...map.path[map.path.length - 1]);
      if (Math.hypot(at[0] - last[0], at[1] - last[1]) >= LASSO_STEP) map.path.push(map.toLevels(...at));
      map.paintOverlay(map.overlay.width / map.width);
    }
  }

  pinch(pointer, at) {
    const before = fingers([...this.down.values()]);
    this.down.set(pointer, at);
    const after = fingers([...this.down.values()]);
    this.map.pan(after.x - before.x, after.y - before.y);
    this.map.zoom(before.apart / after.apart, after.x, after.y);
  }

  release(event) {
    const { map, explorer } = this, at = this.place(event);
    if (!this.down.delete(event.pointerId)) return;
    const near = ([x, y]) => Math.hypot(x - this.began[0], y - this.began[1]) < TAP;
    // A hand that trembles draws no shape.
    const tapped = this.began && near(at) && (map.path || []).every((corner) => near(map.toScreen(...corner)));
    if (tapped && explorer.tool === "lasso") map.path = null;
    if (explorer.tool === "lasso" && map.path) finishShape(explorer, howToPick(event));
    this.addedCorner = false;
    if (tapped && explorer.tool !== "polygon" && explorer.gallery) explorer.gallery.point(...at);
    map.draw();
  }

  // The browser took the finger, to scroll: what it has done here was not meant.
  cancel(event) {
    this.down.delete(event.pointerId);
    if (this.explorer.tool === "lasso") this.map.path = null;
    if (this.explorer.tool === "pan" && this.viewBefore) this.map.view = this.viewBefore;
    this.map.draw();
  }

  wheel(event) {
    if (!event.ctrlKey && document.activeElement !== this.surface) return;
    event.preventDefault();
    this.map.zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 300))), ...this.place(event));
  }

  // Arrows move a cross (with Alt the map), Space sets a corner, Enter closes the shape.
  key(event) {
    if (event.ctrlKey || event.metaKey) return;  // the browser's own zoom, and undo
    const { map, explorer: e } = this, step = event.shiftKey ? 40 : 8, f = map.frame;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    map.cross = map.cross || [f.x + f.w / 2, f.y + f.h / 2];
    const [x, y] = map.cross;
    if (way && event.altKey) map.pan(-way[0] * step, -way[1] * step);
    else if (way) {
      map.cross = [Math.min(Math.max(x + way[0] * step, f.x), f.x + f.w), Math.min(Math.max(y + way[1] * step, f.y), f.y + f.h)];
      if (e.gallery) e.gallery.point(...map.cross);
    } else if (event.key === " ") map.path = [...(map.path || []), map.toLevels(x, y)];
    else if (event.key === "Enter") finishShape(e, howToPick(event));
    else if (event.key === "Escape") { map.path = null; map.cross = null; }
    else if (event.key === "+" || event.key === "=") map.zoom(0.8, x, y);
    else if (event.key === "-") map.zoom(1.25, x, y);
    else if (event.key === "0") map.reset();
    else return;
    event.preventDefault();
    map.draw();
  }
}

// Middle and distance of two fingers.
function fingers([[ax, ay], [bx, by]]) {
  return { x: (ax + bx) / 2, y: (ay + by) / 2, apart: Math.max(Math.hypot(ax - bx, ay - by), 1) };
}

function howToPick(event) {
  if (event.shiftKey) return "add";
  if (event.altKey || event.ctrlKey || event.metaKey) return "remove";
  return document.querySelector("input[name=how]:checked").value;
}

function finishShape(e, how) {
  const path = e.map.path || [];
  e.map.path = null;
  e.pickPolygon(path, how);
  e.map.draw();
}
