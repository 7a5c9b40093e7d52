// Short words about what happened, at the foot of the page, read out by screen readers.

import { h } from "./dom.js";
import { sentence } from "./format.js";
import { icon } from "./icons.js";

const STAY = 7000;
const MOST = 3;

/** Say `text`; `actions` are `[label, work]`; `kind` "error" is said at once and stays longer. */
export function toast(text, { actions = [], kind = "done", stay = null } = {}) {
  raise();
  const place = document.getElementById(kind === "error" ? "alerts" : "toasts");
  const element = h("div", { class: `toast ${kind}` }, kind === "working" && h("progress", { "aria-label": "Working" }), h("p", {}, sentence(text)));
  let timer = 0;
  const leave = () => {
    clearTimeout(timer);
    const held = element.contains(document.activeElement);
    element.remove();
    if (held) (hostOf() === document.body ? document.getElementById("view") : hostOf()).focus({ preventScroll: true });
  };
  const wait = () => {
    clearTimeout(timer);
    if (stay === Infinity) return; // until it is taken away
    timer = setTimeout(leave, stay ?? (kind === "error" ? 2 * STAY : STAY));
  };
  for (const [label, work] of actions) {
    element.append(h("button", { type: "button", class: "link", onclick: () => (leave(), work()) }, label));
  }
  if (kind !== "working") element.append(h("button", { type: "button", class: "ghost square", "aria-label": "Dismiss", onclick: leave }, icon("close")));
  element.addEventListener("pointerenter", () => clearTimeout(timer));
  element.addEventListener("pointerleave", wait);
  element.addEventListener("focusin", () => clearTimeout(timer));
  element.addEventListener("focusout", wait);
  const old = [...place.children].filter((one) => !one.classList.contains("working"));
  for (const one of old.slice(0, Math.max(0, old.length - MOST + 1))) one.remove();
  place.append(element);
  wait();
  return leave;
}

const hostOf = () => [...document.querySelectorAll("dialog[open]")].at(-1) ?? document.body;

// What is said while a dialog is open has to lie in it: the rest of the page can't be reached then.
function raise() {
  const corner = document.getElementById("corner");
  const host = hostOf();
  if (corner.parentElement !== host) host.append(corner);
}

/** Take the toasts out of a dialog that closes. */
export function lower(dialog) {
  const corner = document.getElementById("corner");
  if (dialog.contains(corner)) document.body.append(corner);
}

export const complain = (error) => {
  if (error?.name !== "AbortError") toast(error.message ?? String(error), { kind: "error" });
};
