// Cards of class averages: which classes are selected, and what share of each.

function wireClasses(explorer) {
  const cards = [...document.querySelectorAll(".class-cards button")], clean = document.getElementById("classes-clean");
  const column = explorer.column("class"), numbers = new Uint16Array(explorer.n).fill(1), totals = new Map(), chosen = new Set();
  const rejected = new Set(cards.filter((card) => card.dataset.kept !== "true").map((card) => Number(card.dataset.class)));
  // A column of which all values are the same is left out.
  if (column) for (let row = 0; row < explorer.n; row++) numbers[row] = Math.round(column.at(column.levels[row]));
  const classOf = (row) => numbers[row];
  for (let row = 0; row < explorer.n; row++) totals.set(classOf(row), (totals.get(classOf(row)) || 0) + 1);
  let own = false;  // whether a change of the selection comes from here

  function press() {
    for (const card of cards) card.setAttribute("aria-pressed", String(chosen.has(Number(card.dataset.class))));
  }

  function pick() {
    const inside = new Uint8Array(explorer.n);
    for (let row = 0; row < explorer.n; row++) {
      const number = classOf(row);
      // Of a class that was rejected and is wanted all the same, every particle is.
      if (chosen.has(number) && (!clean.checked || rejected.has(number) || explorer.isKept(row))) inside[row] = 1;
    }
    own = true;
    explorer.pick(inside, "replace");
    own = false;
    press();
  }

  function choose(wanted) {
    chosen.clear();
    for (const card of cards) if (wanted(card)) chosen.add(Number(card.dataset.class));
  }

  // The bars follow whatever was selected, and a class of which nothing is left is not pressed any more.
  function show() {
    const counts = new Map();
    for (let row = 0; row < explorer.n; row++) if (explorer.state[row] === 2) counts.set(classOf(row), (counts.get(classOf(row)) || 0) + 1);
    for (const card of cards) {
      const number = Number(card.dataset.class), count = counts.get(number) || 0, total = totals.get(number) || 1;
      card.querySelector(".bar-of i").style.width = `${(100 * count) / total}%`;
      if (own) continue;
      if (count === 0) chosen.delete(number);
      else chosen.add(number);
    }
    press();
  }

  for (const card of cards) card.addEventListener("click", () => {
    const number = Number(card.dataset.class);
    if (!chosen.delete(number)) chosen.add(number);
    pick();
  });
  const isKept = (card) => card.dataset.kept === "true";
  const wanted = { kept: isKept, rejected: (card) => !isKept(card), all: () => true, none: () => false };
  for (const button of document.querySelectorAll("[data-classes]")) {
    button.addEventListener("click", () => { choose(wanted[button.dataset.classes]); pick(); });
  }
  clean.addEventListener("change", pick);
  explorer.watchers.push(show);
  choose(isKept);
  press();
  show();
}

async function waitForExplorer() {
  const box = document.getElementById("explorer");
  if (!box) return;
  while (!box.dataset.ready) await new Promise((resolve) => setTimeout(resolve, 20));
  if (box.dataset.ready !== "true") return;
  const column = window.cryorbitExplorer.column("class");
  if (column) await column.load();
  wireClasses(window.cryorbitExplorer);
  document.getElementById("cards").dataset.ready = "true";
}

waitForExplorer();
