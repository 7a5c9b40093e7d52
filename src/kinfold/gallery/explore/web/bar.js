// The bar at the top: where one can go, search, undo and redo, taking away, light and dark. On a phone the ways lie at the foot.

import { redo, undo } from "./actions.js";
import { get } from "./api.js";
import { h, replace } from "./dom.js";
import { showExport } from "./export.js";
import { brandMark, icon } from "./icons.js";
import { keys, showKeys } from "./keys.js";
import { store } from "./store.js";

const WAYS = [
  ["", "Groups", "groups"],
  ["map", "Map", "map"],
  ["refine", "Refine", "refine"],
  ["history", "History", "history"],
  ["skipped", "Skipped", "skipped"],
];

const links = new Map();

/** Fill the bar. Once; `drawBar.current(name)` then marks where one is. */
export function drawBar() {
  const search = searchField();
  const ways = h("nav", { class: "ways", "aria-label": "Views" }, WAYS.filter(([name]) => name !== "skipped" || store.run.n_skipped).map(way));
  const tools = h("div", { class: "tools" }, ...(store.readOnly ? [] : undoButtons()), tool("export", "Export", showExport, "export-tool"), themeButton(), tool("help", "Keys (?)", showKeys, "wide-only"));
  const brand = h("a", { class: "brand", href: "#/", "aria-label": "Kinfold, all groups" }, brandMark(), h("span", {}, "kinfold"));
  replace(document.getElementById("bar"), brand, ways, search.form, tools);
  const bindings = [
    { key: "/", text: "Search", work: () => search.field.focus() },
    { key: "?", text: "These keys", work: showKeys },
    { key: "e", text: "Export", work: showExport },
  ];
  if (!store.readOnly) {
    bindings.push({ key: "z", ctrl: true, shift: false, text: "Undo", work: undo, dialogs: true }, { key: "z", ctrl: true, shift: true, text: "Redo", work: redo, dialogs: true });
    bindings.push({ key: "y", ctrl: true, work: redo, dialogs: true });
  }
  keys.bind("Everywhere", bindings);
}

drawBar.current = (name) => {
  const here = { group: "", compare: "", search: "", similar: "", tree: "" }[name] ?? name;
  for (const [way, link] of links) {
    if (way === here) link.setAttribute("aria-current", way === name ? "page" : "true");
    else link.removeAttribute("aria-current");
  }
};

function way([name, text, sign]) {
  const link = h("a", { href: `#/${name}` }, icon(sign), h("span", {}, text));
  links.set(name, link);
  return link;
}

function tool(sign, label, work, className = "") {
  return h("button", { type: "button", class: `ghost square ${className}`, "aria-label": label, title: label, onclick: work }, icon(sign));
}

function undoButtons() {
  const back = tool("undo", "Undo (Ctrl+Z)", undo);
  const forth = tool("redo", "Redo (Ctrl+Shift+Z)", redo);
  const look = async () => {
    const { can_undo, can_redo } = await get("api/history", { limit: 1 }).catch(() => ({ can_undo: true, can_redo: true }));
    back.disabled = !can_undo;
    forth.disabled = !can_redo;
  };
  store.onChange(look);
  store.addEventListener("reopen", look);
  look();
  return [back, forth];
}

function searchField() {
  const field = h("input", { type: "search", placeholder: window.innerWidth < 700 ? "Search" : "Search names and files", "aria-label": "Search groups and file names", autocomplete: "off", spellcheck: "false", enterkeyhint: "search" });
  const form = h(
    "form",
    {
      class: "search",
      role: "search",
      onsubmit: (event) => {
        event.preventDefault();
        const words = field.value.trim();
        location.hash = words ? `#/search?q=${encodeURIComponent(words)}` : "#/";
        field.blur();
      },
    },
    icon("search"),
    field,
    h("kbd", { "aria-hidden": "true" }, "/"),
  );
  field.addEventListener("keydown", (event) => event.key === "Escape" && field.blur());
  window.addEventListener("hashchange", () => {
    if (!location.hash.startsWith("#/search")) field.value = "";
  });
  return { form, field };
}

function themeButton() {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const button = tool("moon", "", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try {
      localStorage.setItem("kinfold.theme", root.dataset.theme);
    } catch {
      // Then it holds for this page alone.
    }
    draw();
    document.dispatchEvent(new Event("kinfold:theme"));
  }, "theme");
  const draw = () => {
    const label = dark() ? "Light theme" : "Dark theme";
    button.setAttribute("aria-label", label);
    button.setAttribute("title", label);
    replace(button, icon(dark() ? "sun" : "moon"));
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
  return button;
}
