// @ts-check
// Runs before the page is drawn, so that a chosen theme, or a chosen crop, never flashes. A plain script: modules come later.
(() => {
  let chosen = null;
  try {
    if (localStorage.getItem("kinfold.fit") === "whole") document.documentElement.dataset.fit = "whole";
    chosen = localStorage.getItem("kinfold.theme");
  } catch {
    // Storage may be forbidden; then the system's theme is right.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
