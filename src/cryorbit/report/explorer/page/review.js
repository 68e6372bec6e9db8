// With `cryorbit review` behind the page: particles are written, and every image can be fetched.

function wireReview(e) {
  const box = document.getElementById("review"), status = document.getElementById("review-status");
  const say = (text, wrong = false) => { status.textContent = text; status.classList.toggle("wrong", wrong); };
  box.hidden = false;
  document.getElementById("export-star").addEventListener("click", async () => {
    const name = document.getElementById("export-name").value;
    say("Writing …");
    try {
      const answer = await ask(e, "export", { file: name, selection: e.selectionFile(name) });
      say(`${answer.written.toLocaleString("en")} particles: ${answer.path}`);
    } catch (error) { say(error.message, true); }
  });
  let first = 0;
  const page = async (step) => {
    const chosen = e.selected(), rows = [];
    for (let i = 0; i < e.n; i++) if (chosen[i]) rows.push(i);
    const many = 48;
    first = Math.min(Math.max(first + step * many, 0), Math.max(0, Math.floor((rows.length - 1) / many) * many));
    const wanted = rows.slice(first, first + many);
    try {
      const answer = wanted.length ? await ask(e, "images", { rows: wanted, aligned: document.getElementById("every-aligned").checked }) : null;
      const image = document.getElementById("every-image");
      image.hidden = answer === null;
      if (answer) image.src = answer.sheet;
      document.getElementById("every-note").textContent = wanted.length
        ? `Particles ${first + 1} to ${first + wanted.length} of the ${rows.length.toLocaleString("en")} selected: numbers ${wanted.map((row) => e.number(row)).join(", ")}`
        : "Nothing is selected.";
    } catch (error) { document.getElementById("every-note").textContent = error.message; }
  };
  // What was shown or written was of the selection then.
  e.watchers.push(() => {
    first = 0;
    document.getElementById("every-image").hidden = true;
    document.getElementById("every-note").textContent = "";
    say("");
  });
  document.getElementById("every-aligned").addEventListener("change", () => {
    if (!document.getElementById("every-image").hidden) page(0);
  });
  document.getElementById("every-first").addEventListener("click", () => { first = 0; page(0); });
  document.getElementById("every-next").addEventListener("click", () => page(1));
  document.getElementById("every-back").addEventListener("click", () => page(-1));
}

async function ask(e, what, content) {
  let response;
  try {
    response = await fetch(what, {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify(content),
    });
  } catch { throw new Error("cryorbit review does not answer any more: start it again."); }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}
