// @ts-check
// An image dropped on the page, or chosen: what is similar to it is shown.

import { h } from "./dom.js";
import { store } from "./store.js";
import { toast } from "./toasts.js";

const LARGEST = 32 * 1024 * 1024;
let dropped = null;

/** The file that was dropped last. */
export const droppedFile = () => dropped;

/** Listen for files dragged over the page. */
export function acceptFiles() {
  if (!store.run.can_search_by_image) return;
  const veil = h("div", { class: "veil", hidden: true, "aria-hidden": "true" }, h("p", {}, "Drop an image to find similar ones"));
  document.body.append(veil);
  const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  window.addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    veil.hidden = false;
  });
  window.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) veil.hidden = true;
  });
  window.addEventListener("drop", (event) => {
    veil.hidden = true;
    if (!holdsFiles(event)) return;
    event.preventDefault();
    search(event.dataTransfer.files[0]);
  });
}

/** Look for what is similar to `file`. */
export function search(file) {
  if (!file) return;
  if (file.size > LARGEST) {
    toast("The file is larger than 32 MB.", { kind: "error" });
    return;
  }
  dropped = file;
  const hash = "#/similar";
  if (location.hash === hash) window.dispatchEvent(new HashChangeEvent("hashchange"));
  else location.hash = hash;
}

/** A button that lets one choose a file, where the run can search by image. */
export function chooseButton() {
  if (!store.run.can_search_by_image) return null;
  const field = h("input", { type: "file", accept: "image/*", class: "sr", tabindex: "-1", "aria-hidden": "true", onchange: () => search(field.files[0]) });
  return h("span", {}, field, h("button", { type: "button", class: "button", onclick: () => field.click() }, "Search by image…"));
}
