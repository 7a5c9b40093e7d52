// @ts-check
// How large tiles are, and whether they show whole pictures: one choice for all grids, kept in the browser.

import { freshId, h } from "./dom.js";
import { icon } from "./icons.js";

const KEPT = "kinfold.tiles";
const LEAST = 56;
const MOST = 260;

export function tileSize() {
  let kept = NaN;
  try {
    kept = Number(localStorage.getItem(KEPT) ?? NaN);
  } catch {
    // Then the default holds.
  }
  return kept >= LEAST && kept <= MOST ? kept : window.innerWidth < 600 ? 88 : 116;
}

export function sizeSlider(changed) {
  const field = h("input", { type: "range", id: freshId("size"), min: LEAST, max: MOST, step: 4, value: tileSize(), "aria-label": "Size of the images" });
  field.addEventListener("input", () => {
    changed(field.valueAsNumber);
    try {
      localStorage.setItem(KEPT, field.value);
    } catch {
      // Then it holds for this page alone.
    }
  });
  return h("label", { class: "inline slider", for: field.id }, icon("groups"), field);
}

/** A button that shows whole pictures in place of square crops, or back; the choice is kept. */
export function fitButton() {
  const root = document.documentElement;
  const button = h("button", { type: "button", class: "button fit", title: "Show whole pictures, or square crops" }, icon("expand"), h("span", {}, "Whole"));
  const draw = () => button.setAttribute("aria-pressed", String(root.dataset.fit === "whole"));
  button.addEventListener("click", () => {
    root.dataset.fit = root.dataset.fit === "whole" ? "crop" : "whole";
    draw();
    try {
      localStorage.setItem("kinfold.fit", root.dataset.fit);
    } catch {
      // Then it holds for this page alone.
    }
  });
  draw();
  return button;
}
