// @ts-check
// The buttons over the map: what dragging does, zoom, and selecting what is in view.

import { h, svg } from "./dom.js";

const PATHS = {
  pan: "M10 3v14M3 10h14M7.500 5.500 10 3l2.500 2.500M7.500 14.500 10 17l2.500-2.500M5.500 7.500 3 10l2.500 2.500M14.500 7.500 17 10l-2.500 2.500",
  lasso: "M10 3.500c4 0 7 2 7 4.800s-3 4.700-7 4.700-7-1.900-7-4.700 3-4.800 7-4.800ZM6 12.500c-1.600.9-1.500 2.900.2 3 1.500 0 1.800-1.600.6-2.700M6.200 15.500c.3 1-.2 1.700-1 2",
  rectangle: "M4 4h3M9 4h3M14 4h2v2M16 8.500v3M16 14v2h-2M11 16H8M6 16H4v-2M4 11.500v-3M4 6V4",
  more: "M10 4.500v11M4.500 10h11",
  less: "M4.500 10h11",
  home: "M4 7.500V4h3.500M12.500 4H16v3.500M16 12.500V16h-3.500M7.500 16H4v-3.500M8 8h4v4H8z",
  all: "M4 4h12v12H4zM7 10l2.200 2.200L13.500 8",
};
const MODES = [
  ["pan", "Move the view", "V"],
  ["lasso", "Select with a lasso", "L"],
  ["rectangle", "Select with a rectangle", "R"],
];

const sign = (name) => svg("svg", { class: "icon", viewBox: "0 0 20 20", "aria-hidden": "true", focusable: "false" }, svg("path", { d: PATHS[name] }));

/** `{element, mode(), set(mode), bindings}`; `works` has `zoom(times)`, `home()`, `selectView()`, `moded(mode)`. */
export function mapTools(works) {
  let mode = "pan";
  const modes = MODES.map(([name, text, key]) =>
    h("button", { type: "button", class: "ghost square", "aria-label": text, title: `${text} (${key})`, "aria-pressed": String(name === mode), "aria-keyshortcuts": key, data: { mode: name }, onclick: () => set(name) }, sign(name)),
  );
  const set = (name) => {
    mode = name;
    for (const button of modes) button.setAttribute("aria-pressed", String(button.dataset.mode === name));
    works.moded(name);
  };
  const button = (name, text, key, work) => h("button", { type: "button", class: "ghost square", "aria-label": text, title: `${text} (${key})`, onclick: work }, sign(name));
  const element = h(
    "div",
    { class: "map-tools" },
    h("div", { class: "map-tool-set", role: "group", "aria-label": "What dragging does" }, modes),
    h("div", { class: "map-tool-set", role: "group", "aria-label": "View" }, button("more", "Zoom in", "+", () => works.zoom(1.6)), button("less", "Zoom out", "−", () => works.zoom(1 / 1.6)), button("home", "Show all", "0", () => works.home())),
    h("div", { class: "map-tool-set" }, button("all", "Select all in view", "A", () => works.selectView())),
  );
  const bindings = [
    ...MODES.map(([name, text, key]) => ({ key: key.toLowerCase(), text, work: () => set(name) })),
    { key: "a", text: "Select all in view", work: () => works.selectView() },
    { key: "+", text: "Zoom in", work: () => works.zoom(1.6) },
    { key: "-", text: "Zoom out", work: () => works.zoom(1 / 1.6) },
    { key: "0", text: "Show all", work: () => works.home() },
  ];
  return { element, mode: () => mode, set, bindings };
}
