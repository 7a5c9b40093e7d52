// @ts-check
// One image of a grid.

import { thumb } from "./api.js";
import { h } from "./dom.js";
import { fileName, sure } from "./format.js";
import { icon } from "./icons.js";
import { store } from "./store.js";

const MARKS = { wrong: "wrong", noise: "noise" };

/** A thumbnail, or words where the image can't be shown. */
export function picture(row, key, width, attributes = {}) {
  if (!store.run.has_images) return absent(key, "no image");
  const image = h("img", { src: thumb(row, width), alt: fileName(key ?? `row ${row}`), decoding: "async", draggable: "false", ...attributes });
  sharpen(image, row);
  image.addEventListener("error", () => image.isConnected && image.hasAttribute("src") && image.replaceWith(absent(key, "missing")));
  return image;
}

/**
 * Ask for the larger thumbnail of `row` where the smaller one is too coarse for its place: the crop of a panorama shows
 * a few of its pixels.
 */
export function sharpen(image, row) {
  const look = () => {
    const { naturalWidth: width, naturalHeight: height, clientWidth, clientHeight } = image;
    if (!clientWidth || Math.max(width, height) < 128) return; // a small image has no more than that
    const crop = getComputedStyle(image).objectFit === "cover";
    const scale = (crop ? Math.max : Math.min)(clientWidth / width, clientHeight / height);
    if (scale * Math.min(devicePixelRatio || 1, 2) > 1.25) image.src = thumb(row, 256);
  };
  image.addEventListener("load", look, { once: true });
}

function absent(key, why) {
  return h("span", { class: "absent" }, h("span", {}, fileName(key ?? "")), h("span", { class: "sr" }, `, ${why}`));
}

/** Stop loading what has left the view, so that what came into view is loaded first. */
export function release(element) {
  for (const image of element.querySelectorAll("img")) if (!image.complete) image.removeAttribute("src");
}

/** A tile that is still being read. */
export function blankTile(id) {
  return h("div", { class: "tile blank", id, role: "option", "aria-selected": "false", "aria-label": "loading" });
}

/** `caption` is "confidence", "doubt", "typicality", "key", "similarity" or "group". */
export function imageTile(item, { id, width, caption, selected, position, total, number }) {
  const words = captionOf(item, caption);
  return h(
    "div",
    {
      class: `tile${item.mark ? ` marked ${item.mark}` : ""}`,
      id,
      role: "option",
      title: item.key,
      "aria-selected": String(selected),
      "aria-posinset": position,
      "aria-setsize": total,
      data: { row: item.row, index: number },
    },
    h(
      "span",
      { class: "frame" },
      picture(item.row, item.key, width),
      h("span", { class: "check", "aria-hidden": "true" }, icon("confirm")),
      MARKS[item.mark] && h("span", { class: "badge" }, MARKS[item.mark]),
      item.by_hand && !item.mark && h("span", { class: "by-hand", title: "placed or confirmed by a person" }, icon("confirm"), h("span", { class: "sr" }, "confirmed")),
    ),
    h("span", { class: `caption${caption === "group" ? " two" : ""}` }, words),
  );
}

function captionOf(item, caption) {
  if (caption === "key") return h("span", { class: "ellipsis" }, fileName(item.key));
  if (caption === "similarity") return [h("b", {}, sure(item.similarity)), h("span", { class: "ellipsis soft", title: store.label(item.group) }, store.label(item.group))];
  if (caption === "group") return [h("span", { class: "ellipsis" }, fileName(item.key)), h("span", { class: "ellipsis soft", title: store.label(item.group) }, store.label(item.group))];
  const value = caption === "typicality" ? item.typicality : item.confidence;
  const bar = h("span", { class: "meter", css: { "--share": value ?? 0 }, "aria-hidden": "true" });
  if (caption === "doubt" && item.second !== null && item.second !== undefined && item.second >= 0) {
    return [h("b", {}, sure(item.confidence)), h("span", { class: "ellipsis soft" }, `${store.label(item.second)} ${sure(item.second_confidence)}`)];
  }
  return [h("b", {}, sure(value)), bar];
}
