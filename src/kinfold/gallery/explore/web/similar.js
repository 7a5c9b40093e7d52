// Images like one of the run, or like a file that was dropped on the page.

import { get, postFile } from "./api.js";
import { h } from "./dom.js";
import { fileName, sure } from "./format.js";
import { droppedFile } from "./drop.js";
import { openImage, openRow } from "./image.js";
import { ImageGrid } from "./imagegrid.js";
import { fixedList } from "./lists.js";
import { selectionBar } from "./selectionbar.js";
import { store } from "./store.js";
import { picture } from "./tile.js";
import { fitButton, tileSize } from "./tilesize.js";

const MANY = 120;

export async function mount(element, { parameters }) {
  const found = parameters[0] ? await likeRow(Number(parameters[0])) : await likeFile();
  if (!found) {
    element.append(h("div", { class: "nothing" }, h("h1", {}, "Find similar images"), h("p", {}, "Drop an image anywhere on this page, or open one and choose “Find similar”.")));
    return { title: "Find similar", unmount() {} };
  }
  const grid = new ImageGrid({
    label: "Similar images",
    load: (offset, limit) => fixedList(found.images)(offset, limit),
    open: (list, index) => openImage(list, index, { show: (at) => grid.show(at) }),
    caption: "similarity",
    size: tileSize(),
  });
  const bar = selectionBar(grid.selection, { selectAll: () => grid.selection.only(found.images.map((one) => one.row)), first: () => (found.top ?? []).map((one) => one.group) });
  element.append(
    h(
      "header",
      { class: "similar-head" },
      h("div", { class: "asked" }, found.picture),
      h("div", {}, h("p", { class: "soft" }, "Similar to"), h("h1", { class: "key" }, found.name), found.top?.length ? [h("h2", {}, "Most probable groups"), predicted(found.top)] : null),
      h("span", { class: "spring" }),
      fitButton(),
    ),
    grid.element,
  );
  const forget = store.onChange(async () => {
    if (found.again) found.images = (await found.again()).images;
    await grid.refresh();
  });
  await grid.start();
  return {
    title: `Similar to ${found.name}`,
    unmount() {
      forget();
      bar.remove();
      grid.destroy();
      found.release?.();
    },
  };
}

async function likeRow(row) {
  const again = () => get(`api/images/${row}/neighbors`, { n: MANY });
  const [facts, near] = await Promise.all([get(`api/images/${row}`), again()]);
  const image = h("button", { type: "button", class: "near-image", "aria-label": `Open ${fileName(facts.key)}`, onclick: () => openRow(row) }, picture(row, facts.key, 160));
  return { picture: image, name: fileName(facts.key), top: facts.top, images: near.images, again };
}

async function likeFile() {
  const file = droppedFile();
  if (!file) return null;
  const answer = await postFile("api/similar", file, { n: MANY });
  const url = URL.createObjectURL(file);
  return { picture: h("img", { src: url, alt: file.name }), name: file.name, top: answer.top, images: answer.images, release: () => URL.revokeObjectURL(url) };
}

function predicted(top) {
  return h(
    "ol",
    { class: "probabilities" },
    top.map(({ group, probability }) => h("li", {}, h("a", { class: "key", href: `#/group/${group}` }, store.label(group)), h("span", { class: "meter", css: { "--share": probability }, "aria-hidden": "true" }), h("span", { class: "number" }, sure(probability)))),
  );
}
