// @ts-check
// The groups that a group's images have as their second choice.

import { thumb } from "./api.js";
import { h } from "./dom.js";
import { count, percent } from "./format.js";
import { store } from "./store.js";

const SHOWN = 12;

export function bordersPanel(group) {
  const borders = group.borders ?? [];
  if (!borders.length) return [h("h2", {}, "Borders on"), h("p", { class: "soft" }, "No other group is a second choice here.")];
  return [h("h2", {}, "Borders on"), h("p", { class: "soft small" }, "Second choice of its images. Open one to see both side by side."), h("ul", { class: "border-list" }, borders.slice(0, SHOWN).map((one) => border(group, one)))];
}

function border(group, one) {
  const rows = one.rows.slice(0, 4);
  return h(
    "li",
    {},
    h(
      "a",
      { class: "border", href: `#/compare/${group.id}/${one.id}` },
      h("span", { class: "strip", "aria-hidden": "true" }, store.run.has_images && rows.map((row) => h("img", { src: thumb(row, 56), alt: "", decoding: "async" }))),
      h("span", { class: "border-text" }, h("b", { class: "ellipsis", title: store.label(one.id) }, store.label(one.id)), h("span", { class: "soft" }, `${percent(one.share)}`), h("span", { class: "sr" }, `, second choice of ${count(one.n)} images`)),
      h("span", { class: "meter", css: { "--share": one.share }, "aria-hidden": "true" }),
    ),
  );
}
