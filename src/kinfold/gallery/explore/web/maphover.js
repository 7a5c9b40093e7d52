// @ts-check
// What is under the pointer: its thumbnail and its group, beside the pointer.

import { h, replace } from "./dom.js";
import { store } from "./store.js";
import { picture } from "./tile.js";

const WIDTH = 128;
const WAIT = 50; // ms before a thumbnail is asked for

export class MapHover {
  #row = null;
  #timer = 0;

  /** `color(id)` is CSS. */
  constructor({ color }) {
    this.color = color;
    this.frame = h("div", { class: "hover-frame" });
    this.name = h("span", { class: "ellipsis" });
    this.swatch = h("span", { class: "swatch" });
    this.element = h("div", { class: "map-hover", hidden: true, "aria-hidden": "true" }, this.frame, h("p", {}, this.swatch, this.name));
  }

  /** Show an image's row and group at a pixel of the map, which is `width` × `height`. */
  show(row, group, x, y, width, height) {
    const right = x + WIDTH + 40 < width;
    const down = y + WIDTH + 60 < height;
    const left = right ? x + 16 : Math.max(4, x - WIDTH - 32);
    const top = down ? y + 16 : Math.max(4, y - WIDTH - 52);
    this.element.style.transform = `translate(${Math.round(left)}px, ${Math.round(top)}px)`;
    if (row === this.#row) return;
    this.#row = row;
    this.name.textContent = group < 0 ? "Wrong or noise" : store.label(group);
    this.swatch.style.background = this.color(group);
    this.element.hidden = false;
    replace(this.frame);
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => replace(this.frame, picture(row, `row ${row}`, WIDTH)), WAIT);
  }

  hide() {
    if (this.#row === null) return;
    this.#row = null;
    clearTimeout(this.#timer);
    this.element.hidden = true;
  }
}
