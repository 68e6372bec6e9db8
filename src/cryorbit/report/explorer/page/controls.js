// Pointer, keyboard, menus and files.

const LASSO_STEP = 3;  // pixels

function wireControls(e) {
  wireMenus(e);
  wirePointer(e);
  wireKeyboard(e);
  wireSaving(e);
  const repaint = () => { e.colours = {}; e.draw(); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  new ResizeObserver(() => e.map.draw()).observe(e.map.canvas);
}

function option(column) {
  const made = document.createElement("option");
  made.value = column.name;
  made.textContent = column.label;
  return made;
}

function wireMenus(e) {
  const numbers = e.columns.filter((column) => !column.isWords);
  for (const axis of ["x", "y"]) {
    const menu = document.getElementById(`axis-${axis}`);
    menu.replaceChildren(...numbers.map(option));
    menu.value = e[axis].name;
    menu.addEventListener("change", () => e.setAxis(axis, menu.value));
  }
  const colour = document.getElementById("axis-colour"), plain = new Option("one colour", "");
  colour.replaceChildren(plain, ...e.columns.map(option));
  colour.value = e.colour ? e.colour.name : "";
  colour.addEventListener("change", () => e.setColour(colour.value));
  const more = document.getElementById("add-filter"), fill = () => {
    const left = e.columns.filter((column) => !e.filters.some((filter) => filter.column === column));
    more.replaceChildren(new Option("Add a filter …", ""), ...left.map(option));
  };
  more.addEventListener("focus", fill);
  more.addEventListener("change", async () => { if (more.value) await e.addFilter(more.value); fill(); e.draw(); });
  fill();
  const actions = {
    all: () => e.pickAll(), none: () => e.pickNone(), kept: () => e.pickKept(true), dropped: () => e.pickKept(false),
    invert: () => e.invert(), undo: () => e.undo(), redo: () => e.redo(), reset: () => e.map.reset(),
    clear: () => e.change(() => { for (const filter of e.filters) filter.clear(); }),
  };
  for (const element of document.querySelectorAll("[data-do]")) {
    if (!e.kept && ["kept", "dropped"].includes(element.dataset.do)) element.hidden = true;
    element.addEventListener("click", actions[element.dataset.do]);
  }
  for (const input of document.querySelectorAll("input[name=tool]")) {
    input.addEventListener("change", () => { e.tool = input.value; e.map.path = null; e.map.draw(); });
  }
  for (const input of document.querySelectorAll("input[name=gallery]")) {
    input.checked = e.gallery && input.value === e.gallery.kind;
    input.closest("label").hidden = !e.gallery || !(input.value in e.gallery.sheets);
    input.addEventListener("change", () => { e.gallery.kind = input.value; e.gallery.paint(); });
  }
  for (const name of ["gallery", "pointed"]) document.getElementById(name).hidden = !e.gallery;
}

function howToPick(event) {
  if (event.shiftKey) return "add";
  if (event.altKey || event.ctrlKey || event.metaKey) return "remove";
  return document.querySelector("input[name=how]:checked").value;
}

function wirePointer(e) {
  const surface = e.map.overlay, map = e.map;
  let from = null;
  const place = (event) => {
    const box = surface.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  surface.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    surface.setPointerCapture(event.pointerId);
    map.cross = null;
    from = place(event);
    const corner = map.toLevels(...from);
    if (e.tool === "lasso") map.path = [corner];
    if (e.tool === "polygon") {
      // The second click of a double click is no further corner.
      const last = map.path && map.path.length ? map.toScreen(...map.path[map.path.length - 1]) : [-99, -99];
      if (Math.hypot(from[0] - last[0], from[1] - last[1]) > LASSO_STEP) map.path = [...(map.path || []), corner];
    }
  });
  surface.addEventListener("pointermove", (event) => {
    const at = place(event);
    if (from && e.tool === "pan") {
      map.pan(at[0] - from[0], at[1] - from[1]);
      from = at;
    } else if (from && e.tool === "lasso" && map.path) {
      const last = map.toScreen(...map.path[map.path.length - 1]);
      if (Math.hypot(at[0] - last[0], at[1] - last[1]) >= LASSO_STEP) map.path.push(map.toLevels(...at));
      map.paintOverlay(map.overlay.width / map.width);
    } else if (!from && e.gallery) e.gallery.point(...at);
  });
  surface.addEventListener("pointerup", (event) => {
    if (from && e.tool === "lasso") finishShape(e, howToPick(event));
    from = null;
    map.draw();
  });
  surface.addEventListener("dblclick", (event) => { if (e.tool === "polygon") finishShape(e, howToPick(event)); });
  surface.addEventListener("wheel", (event) => {
    event.preventDefault();
    map.zoom(Math.exp(Math.max(-1, Math.min(1, event.deltaY / 300))), ...place(event));
  }, { passive: false });
}

function finishShape(e, how) {
  const path = e.map.path || [];
  e.map.path = null;
  e.pickPolygon(path, how);
  e.map.draw();
}

// The map by keyboard: arrows move a cross (with Alt the map), Space sets a corner, Enter closes the shape.
function wireKeyboard(e) {
  const surface = e.map.overlay, map = e.map;
  surface.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey) return;  // the browser's own zoom, and undo
    const step = event.shiftKey ? 40 : 8, f = map.frame;
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
  });
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.target.matches("input[type=text]")) return;
    if (event.key.toLowerCase() === "z") { event.preventDefault(); event.shiftKey ? e.redo() : e.undo(); }
    if (event.key.toLowerCase() === "y") { event.preventDefault(); e.redo(); }
  });
}

function download(name, text, type) {
  const link = document.createElement("a"), address = URL.createObjectURL(new Blob([text], { type }));
  link.href = address;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}

function fileName(name) { return name.trim().replace(/[^\p{L}\p{N}._-]+/gu, "_").slice(0, 80) || "selection"; }

function wireSaving(e) {
  const input = document.getElementById("selection-name");
  document.getElementById("save-selection").addEventListener("click", () => {
    const name = input.value.trim() || `selection ${e.named.length + 1}`;
    e.named.push({ name, chosen: e.selected() });
    input.value = "";
    listSelections(e);
  });
  document.getElementById("download-ids").addEventListener("click", () => {
    download("particle_numbers.txt", `${e.ids_of(e.selected()).join("\n")}\n`, "text/plain");
  });
  if (e.data.review) wireReview(e);
}

function listSelections(e) {
  const list = document.getElementById("selections");
  list.replaceChildren(...e.named.map(({ name, chosen }, k) => {
    const item = document.createElement("li"), title = document.createElement("b"), count = document.createElement("span");
    title.textContent = name;
    count.textContent = ` ${chosen.reduce((sum, one) => sum + one, 0).toLocaleString("en")} particles `;
    const show = button("Show", () => e.change(() => {
      for (const filter of e.filters) filter.clear();
      e.picked = chosen.slice();
    }), `Show the selection ${name}`);
    const save = button("Download", () => {
      download(`${fileName(name)}.json`, JSON.stringify(e.selectionFile(name, chosen)), "application/json");
    }, `Download the selection ${name}`);
    const remove = button("×", () => { e.named.splice(k, 1); listSelections(e); }, `Forget the selection ${name}`);
    item.append(title, count, show, save, remove);
    return item;
  }));
}
