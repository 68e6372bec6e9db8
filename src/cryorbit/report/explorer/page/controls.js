// Menus, buttons and files.

function wireControls(e) {
  wireMenus(e);
  wireTools(e);
  wireHistoryKeys(e);
  wireSaving(e);
  new Gestures(e);
  const repaint = () => { e.colours = {}; e.setColour(e.colour ? e.colour.name : ""); };
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
    more.replaceChildren(new Option("Another filter …", ""), ...left.map(option));
  };
  more.addEventListener("focus", fill);
  document.querySelector("[data-do=filter]").addEventListener("click", async () => {
    if (more.value) await e.addFilter(more.value);
    fill();
  });
  fill();
  for (const input of document.querySelectorAll("input[name=gallery]")) {
    input.checked = e.gallery && input.value === e.gallery.kind;
    input.closest("label").hidden = !e.gallery || !(input.value in e.gallery.sheets);
    input.addEventListener("change", () => { e.gallery.kind = input.value; e.gallery.paint(); });
  }
  for (const name of ["gallery", "pointed"]) document.getElementById(name).hidden = !e.gallery;
}

function wireTools(e) {
  const middle = () => [e.map.frame.x + e.map.frame.w / 2, e.map.frame.y + e.map.frame.h / 2];
  const actions = {
    all: () => e.pickAll(), none: () => e.pickNone(), kept: () => e.pickKept(true), dropped: () => e.pickKept(false),
    invert: () => e.invert(), undo: () => e.undo(), redo: () => e.redo(), reset: () => e.map.reset(),
    in: () => e.map.zoom(0.7, ...middle()), out: () => e.map.zoom(1 / 0.7, ...middle()), close: (event) => finishShape(e, howToPick(event)),
    clear: () => e.change(() => { for (const filter of e.filters) filter.clear(); }),
  };
  for (const element of document.querySelectorAll("[data-do]")) {
    if (!e.kept && ["kept", "dropped"].includes(element.dataset.do)) element.hidden = true;
    if (element.dataset.do in actions) element.addEventListener("click", actions[element.dataset.do]);
  }
  const use = (tool) => { e.tool = e.map.overlay.dataset.tool = tool; e.map.path = null; e.map.draw(); };
  // A finger that comes to scroll must not draw around particles.
  const first = matchMedia("(pointer: coarse)").matches ? "pan" : "lasso";
  for (const input of document.querySelectorAll("input[name=tool]")) {
    input.checked = input.value === first;
    input.addEventListener("change", () => use(input.value));
  }
  use(first);
}

function wireHistoryKeys(e) {
  document.addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.target.matches("input[type=text], input[type=number]")) return;
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
    const saved = { name: input.value.trim() || `selection ${++e.unnamed}`, chosen: e.selected() };
    e.named.push(saved);
    input.value = "";
    listSelections(e);
    downloadSelection(e, saved);
  });
  document.getElementById("download-ids").addEventListener("click", () => {
    const head = "# numbers of particles in the input file of the run, from 1";
    download("particle_numbers.txt", `${head}\n${e.ids_of(e.selected()).join("\n")}\n`, "text/plain");
  });
  const file = document.getElementById("selection-file"), problem = document.getElementById("selection-problem");
  document.getElementById("open-selection").addEventListener("click", () => file.click());
  file.addEventListener("change", async () => {
    problem.hidden = true;
    try {
      const saved = openedSelection(e, await file.files[0].text());
      e.named.push(saved);
      listSelections(e);
      showSelection(e, saved);
    } catch (error) {
      problem.textContent = `${file.files[0].name}: ${error.message}`;
      problem.hidden = false;
    }
    file.value = "";
  });
  if (e.data.review) wireReview(e);
}

// What an earlier visit saved, if it is of this run.
function openedSelection(e, text) {
  let saved;
  try { saved = JSON.parse(text); } catch { saved = null; }
  if (!saved || saved.program !== "cryorbit" || saved.kind !== "selection") throw new Error("is no selection that a page saved.");
  if (saved.particles !== e.n || saved.input !== e.data.input || saved.rows !== e.data.rows) throw new Error("is a selection of another run.");
  const bytes = atob(String(saved.bits)), chosen = new Uint8Array(e.n);
  for (let i = 0; i < e.n; i++) chosen[i] = (bytes.charCodeAt(i >> 3) >> (i & 7)) & 1;
  return { name: String(saved.name), chosen };
}

function showSelection(e, { chosen }) {
  e.change(() => {
    for (const filter of e.filters) filter.clear();
    e.picked = chosen.slice();
  });
}

function downloadSelection(e, { name, chosen }) {
  download(`${fileName(name)}.json`, JSON.stringify(e.selectionFile(name, chosen)), "application/json");
}

function listSelections(e) {
  const list = document.getElementById("selections");
  list.replaceChildren(...e.named.map(({ name, chosen }, k) => {
    const item = document.createElement("li"), title = document.createElement("b"), count = document.createElement("span");
    title.textContent = name;
    count.textContent = ` ${chosen.reduce((sum, one) => sum + one, 0).toLocaleString("en")} particles `;
    const show = button("Show", () => showSelection(e, { chosen }), `Show the selection ${name}`);
    const save = button("Save again", () => downloadSelection(e, { name, chosen }), `Save the selection ${name} again`);
    const remove = button("×", () => { e.named.splice(k, 1); listSelections(e); }, `Forget the selection ${name}`);
    item.append(title, count, show, save, remove);
    return item;
  }));
}
