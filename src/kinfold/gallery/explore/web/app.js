// The page's beginning: load the run, draw the bar, show the view that the address names, and go from one to the next.

import * as api from "./api.js";
import { drawBar } from "./bar.js";
import { dialogOpen } from "./dialogs.js";
import { h, isTyping, replace } from "./dom.js";
import { acceptFiles } from "./drop.js";
import { keys } from "./keys.js";
import { store } from "./store.js";
import { toast } from "./toasts.js";

// The first part of the address, and the module that shows it.
const VIEWS = {
  "": "./overview.js",
  group: "./group.js",
  compare: "./compare.js",
  search: "./search.js",
  similar: "./similar.js",
  map: "./map.js",
  refine: "./refine.js",
  history: "./history.js",
  skipped: "./skipped.js",
  tree: "./tree.js",
};

const view = document.getElementById("view");
const places = new Map(); // address -> where it was scrolled to
let current = null; // {hash, handle}
let turn = 0;

/** `#/group/7?sort=doubt` to its parts. */
export function parse(hash) {
  const [path, query] = hash.replace(/^#\/?/, "").split("?");
  const [name, ...parameters] = path.split("/").map(decodeURIComponent);
  return { name, parameters, query: new URLSearchParams(query ?? "") };
}

async function show() {
  const hash = location.hash || "#/";
  const mine = (turn += 1);
  const back = places.get(hash) ?? 0;
  if (current) {
    places.set(current.hash, window.scrollY);
    current.handle?.unmount?.();
    current = null;
  }
  const { name, parameters, query } = parse(hash);
  const element = h("div", { class: "view" });
  view.setAttribute("aria-busy", "true");
  let handle = null;
  try {
    const module = await import(VIEWS[name] ?? "./lost.js");
    if (mine !== turn) return;
    replace(view, element);
    handle = await module.mount(element, { api, store, parameters, query });
  } catch (error) {
    if (mine !== turn) return;
    replace(view, element);
    replace(element, h("div", { class: "nothing" }, h("h1", {}, "This can't be shown"), h("p", {}, error.message), h("p", {}, h("a", { class: "link", href: "#/" }, "To all groups"))));
  }
  if (mine !== turn) return void handle?.unmount?.();
  current = { hash, handle };
  view.dataset.place = hash;
  view.removeAttribute("aria-busy");
  document.title = `${handle?.title ?? "Kinfold"} · ${store.run.title}`;
  drawBar.current(name);
  window.scrollTo({ top: back, behavior: "instant" });
  if (mine > 1 && (document.activeElement === document.body || !document.activeElement?.isConnected)) view.focus({ preventScroll: true });
}

function listen() {
  window.addEventListener("hashchange", show);
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    view.focus();
  });
  window.addEventListener("keydown", (event) => {
    if (isTyping(event) || event.defaultPrevented) return;
    keys.press(event, dialogOpen());
  });
  store.addEventListener("reach", ({ detail }) => {
    if (detail.reached) toast("Kinfold answers again.");
    else toast(detail.text, { kind: "error" });
  });
  store.addEventListener("reopen", () => {
    const { name } = parse(location.hash);
    if (current) places.set(current.hash, window.scrollY);
    // Numbers of groups mean others now.
    if (name === "group" || name === "compare") location.hash = "#/";
    else show();
  });
  acceptFiles();
}

async function begin() {
  history.scrollRestoration = "manual";
  try {
    await store.open();
  } catch (error) {
    view.removeAttribute("aria-busy");
    replace(view, h("div", { class: "nothing" }, h("h1", {}, "The run can't be shown"), h("p", {}, error.message)));
    return;
  }
  drawBar();
  listen();
  await show();
}

begin();
