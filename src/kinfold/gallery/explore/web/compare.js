// Two groups side by side, what lies between them first; images go from one to the other.

import { edit, moveTo } from "./actions.js";
import { h, replace } from "./dom.js";
import { images, sure } from "./format.js";
import { icon } from "./icons.js";
import { openImage } from "./image.js";
import { ImageGrid } from "./imagegrid.js";
import { allRows, imageList } from "./lists.js";
import { selectionBar } from "./selectionbar.js";
import { Selection } from "./selection.js";
import { store } from "./store.js";
import { fitButton, sizeSlider, tileSize } from "./tilesize.js";

export async function mount(element, { parameters }) {
  const ids = parameters.slice(0, 2).map(Number);
  await store.ready;
  if (ids.length < 2 || ids.some((id) => !store.groups.has(id))) throw new Error("One of the two groups is gone.");
  const selection = new Selection();
  const sides = ids.map((id, k) => side(id, ids[1 - k], selection));
  const bar = selectionBar(selection, {
    first: () => ids,
    extra: (rows) => ids.map((id) => h("button", { type: "button", class: "button", onclick: async () => (await moveTo(rows, id)) && selection.clear() }, icon("move"), h("span", { class: "ellipsis", title: store.label(id) }, `To ${store.label(id)}`))),
  });
  const between = h("select", { "aria-label": "Which images" }, h("option", { value: "between" }, "Between the two"), h("option", { value: "" }, "All, most doubtful first"), h("option", { value: "confidence" }, "All, most confident first"));
  between.addEventListener("change", () => sides.forEach((one) => one.change(between.value)));
  const merge = async () => {
    const answer = await edit({ kind: "merge", groups: [ids[1]], into: ids[0] });
    if (answer) location.hash = `#/group/${ids[0]}`;
  };
  element.append(
    h(
      "header",
      { class: "compare-head" },
      h("div", {}, h("a", { class: "crumb", href: `#/group/${ids[0]}` }, icon("left"), store.label(ids[0])), h("h1", {}, "Side by side")),
      h("span", { class: "spring" }),
      h("label", { class: "inline" }, h("span", { class: "said" }, "Show"), between),
      fitButton(),
      sizeSlider((size) => sides.forEach((one) => one.grid.setSize(size))),
      !store.readOnly && h("button", { type: "button", class: "button", onclick: merge }, icon("merge"), h("span", {}, "Merge both")),
    ),
    h("div", { class: "columns" }, sides.map((one) => one.element)),
  );
  const forget = store.onChange(async () => {
    if (ids.some((id) => !store.groups.has(id))) {
      location.hash = `#/group/${ids.find((id) => store.groups.has(id)) ?? ""}`;
      return;
    }
    await Promise.all(sides.map((one) => one.again()));
  });
  await Promise.all(sides.map((one) => one.grid.start()));
  return {
    title: `${store.label(ids[0])} and ${store.label(ids[1])}`,
    unmount() {
      forget();
      bar.remove();
      sides.forEach((one) => one.grid.destroy());
    },
  };
}

function side(id, other, selection) {
  let shown = "between";
  const head = h("div", { class: "column-head" });
  const scroller = h("div", { class: "column-scroll" });
  const element = h("section", { class: "column", "aria-label": store.label(id) }, head, scroller);
  const asked = () => ({ group: id, sort: shown === "confidence" ? "confidence" : "doubt", second: shown === "between" ? other : null });
  let total = 0;
  const draw = () => {
    const group = store.groups.get(id);
    replace(
      head,
      h("h2", {}, h("a", { href: `#/group/${id}` }, store.label(id))),
      h("p", { class: "soft" }, shown === "between" ? `${images(total)} with ${store.label(other)} as second choice` : images(group?.size ?? total), ` · ${sure(group?.mean_confidence)} mean confidence`),
    );
  };
  const grid = new ImageGrid({
    label: `Images of ${store.label(id)}`,
    scroller,
    load: imageList(asked),
    rows: () => allRows(asked()),
    open: (list, index) => openImage(list, index, { show: (at) => grid.show(at), first: () => [other] }),
    counted: (n) => {
      total = n;
      draw();
    },
    size: tileSize(),
    caption: "doubt",
    selection,
  });
  grid.grid.gap = 8;
  scroller.append(grid.element);
  draw();
  return {
    element,
    grid,
    change(value) {
      shown = value;
      grid.caption = value === "confidence" ? "confidence" : "doubt";
      grid.start();
    },
    async again() {
      draw();
      await grid.refresh();
    },
  };
}
