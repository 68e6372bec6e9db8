// Begin when the page is there; say so where it cannot.

async function main() {
  const box = document.getElementById("explorer"), problem = document.getElementById("explorer-problem");
  try {
    if (typeof DecompressionStream === "undefined") throw new Error("this browser is too old (it has no DecompressionStream): use one of 2023 or later");
    const explorer = new Explorer(JSON.parse(document.getElementById("explorer-data").textContent));
    window.cryorbitExplorer = explorer;  // for the console, and for tests
    await explorer.start();
  } catch (error) {
    problem.hidden = false;
    problem.textContent = `The map cannot be shown: ${error.message}.`;
    box.dataset.ready = "failed";
    throw error;
  }
}

main();
