// @ts-check
// Elements from data. Everything a run holds (keys, names, reasons) passes through here, as text or as an attribute, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Make an element. Of `attributes`, `on…` are listeners, `css` an object of properties set by script (the page's
 * policy forbids style attributes), `data` an object for dataset, booleans and null are there or not, `class`,
 * `aria-…` and the rest attributes. Children are nodes or text; null and false are left out.
 */
export function h(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for SVG. */
export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "css") setCss(element, value);
    else if (name === "data") Object.assign(element.dataset, value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Set style properties; custom ones (`--x`) too. */
export function setCss(element, properties) {
  for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, String(value));
}

/** Put `children` in the place of what `element` holds. */
export function replace(element, ...children) {
  element.replaceChildren(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/**
 * Do `work`, which draws parts of `root` again, and leave the focus where it was: on what now stands in that place, or
 * else on `root`, so that keys don't go astray.
 */
export function keepFocus(root, work) {
  const before = document.activeElement;
  const held = before && before !== root && root.contains(before);
  const words = (element) => element.dataset.focus ?? element.getAttribute("aria-label") ?? element.textContent;
  const sign = held && `${before.tagName} ${words(before)}`;
  work();
  if (!held || before.isConnected) return;
  const again = [...root.querySelectorAll("button, a[href], input, select")].find((one) => `${one.tagName} ${words(one)}` === sign);
  (again ?? root).focus({ preventScroll: true });
}

let lastId = 0;

/** An id no other element has, for labels and descriptions. */
export function freshId(stem = "id") {
  lastId += 1;
  return `${stem}-${lastId}`;
}

/** Whether keys typed now belong to a field and not to the page. */
export function isTyping(event) {
  const target = event.target;
  if (!(target instanceof Element)) return false;
  if (target.closest("textarea, select, [contenteditable]")) return true;
  const input = target.closest("input");
  return Boolean(input) && !["checkbox", "radio", "range", "button"].includes(input.type);
}

/** Call `work` when the calls to the returned function have paused for `wait` milliseconds. */
export function paused(work, wait = 160) {
  let timer = 0;
  const later = (...values) => {
    clearTimeout(timer);
    timer = setTimeout(() => work(...values), wait);
  };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** Text to the clipboard, also where the page isn't a secure context. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
    return;
  }
  const field = h("textarea", { class: "sr", "aria-hidden": "true" });
  field.value = text;
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
