// What a search found: groups by name, images by file name.

import { CardGrid } from "./cards.js";
import { h } from "./dom.js";
import { images, plural } from "./format.js";
import { openImage } from "./image.js";
import { ImageGrid } from "./imagegrid.js";
import { allRows, imageList } from "./lists.js";
import { selectionBar } from "./selectionbar.js";
import { store } from "./store.js";
import { fitButton, tileSize } from "./tilesize.js";
import { complain } from "./toasts.js";

export async function mount(element, { query }) {
  const q = query.get("q") ?? "";
  const asked = { q, sort: "group" };
  const groupsTotal = h("span", { class: "soft" });
  const imagesTotal = h("span", { class: "soft" });
  const cards = new CardGrid({ query: () => ({ q, sort: "size", order: "desc" }), counted: (n) => (groupsTotal.textContent = plural(n, "group")) });
  const grid = new ImageGrid({
    label: "Images found",
    load: imageList(() => asked),
    rows: () => allRows(asked),
    open: (list, index) => openImage(list, index, { show: (at) => grid.show(at) }),
    counted: (n) => (imagesTotal.textContent = images(n)),
    caption: "group",
    size: tileSize(),
  });
  cards.nothing.textContent = "No group has such a name.";
  grid.empty.textContent = "No file has such a name.";
  const selectAll = async () => grid.selection.only((await allRows(asked).catch(complain)) ?? []);
  const bar = selectionBar(grid.selection, { selectAll });
  element.append(
    h("header", { class: "page-head" }, h("h1", {}, `“${q}”`), h("p", { class: "lede" }, "Groups by name or number, images by file name.")),
    h("section", { "aria-label": "Groups found" }, h("div", { class: "toolbar" }, h("h2", {}, "Groups"), groupsTotal), cards.element),
    h("section", { "aria-label": "Images found" }, h("div", { class: "toolbar" }, h("h2", {}, "Images"), imagesTotal, h("span", { class: "spring" }), fitButton()), grid.element),
  );
  const forget = store.onChange(() => Promise.all([cards.refresh(), grid.refresh()]));
  await Promise.all([cards.start(), grid.start()]);
  return {
    title: `“${q}”`,
    unmount() {
      forget();
      bar.remove();
      cards.destroy();
      grid.destroy();
    },
  };
}
