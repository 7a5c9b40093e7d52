// Groups as cards, as many as there are: only those near the view are in the page.

import { get, thumb } from "./api.js";
import { h } from "./dom.js";
import { count, images, sure } from "./format.js";
import { icon } from "./icons.js";
import { PagedList } from "./paged.js";
import { store } from "./store.js";
import { release, sharpen } from "./tile.js";
import { complain } from "./toasts.js";
import { VirtualGrid } from "./virtual.js";

export const TEXT = 74;
export const WORDS = 56; // the height of what stands for images where there are none
const NARROW = 200; // below it, three images in a row instead of four

/** How many of `n` images are shown, across and down: all cells are filled. */
function shapeOf(n, most) {
  if (n >= 2 * most) return [most, 2];
  if (n >= 6) return [3, 2];
  if (n >= 4) return [2, 2];
  return [Math.max(1, n), 1];
}

/** The most representative images of a group, or words where there are none, for a card `width` wide. */
export function mosaicOf(group, width) {
  const narrow = width < NARROW;
  const rows = group.representatives;
  const [across, down] = shapeOf(rows.length, narrow ? 3 : 4);
  const side = Math.max(width / across, width / (narrow ? 1.5 : 2) / down);
  const shown = store.run.has_images && rows.length > 0;
  return h(
    "span",
    { class: `mosaic${narrow ? " three" : ""}${store.run.has_images ? "" : " none"}`, css: { "--across": shown ? across : 1, "--down": shown ? down : 1 }, "aria-hidden": "true" },
    shown ? rows.slice(0, across * down).map((row) => cell(row, side)) : h("span", { class: "wordless" }, rows.length ? group.words?.join(" · ") || `${group.id ?? ""}` : "empty"),
  );
}

/** A group's card: a link with its most representative images, name, size and confidence, and a box to select it. */
function groupCard(group, width, { selectable, selected }) {
  const mosaic = mosaicOf(group, width);
  const flags = [group.locked && flag("lock", "locked"), group.n_wrong > 0 && flag("wrong", `${count(group.n_wrong)} marked wrong`), group.n_noise > 0 && flag("noise", `${count(group.n_noise)} marked as noise`)];
  const name = group.name || `Group ${group.id}`;
  return h(
    "li",
    { class: `card-place${selected ? " selected" : ""}` },
    h(
      "a",
      { class: "card", href: `#/group/${group.id}`, data: { group: group.id } },
      mosaic,
      h(
        "span",
        { class: "card-text" },
        h("span", { class: "card-title" }, h("b", { class: "ellipsis", title: name }, name), flags, group.name && h("span", { class: "soft small" }, `${group.id}`)),
        h("span", { class: "card-line" }, h("span", { class: "soft" }, images(group.size)), confidence(group.size ? group.mean_confidence : null)),
      ),
    ),
    selectable && h("label", { class: "pick", title: "Select (Space)" }, h("input", { type: "checkbox", checked: selected, "aria-label": `Select ${name}`, data: { group: group.id } }), h("span", { class: "check", "aria-hidden": "true" }, icon("confirm"))),
  );
}

function cell(row, side) {
  const image = h("img", { src: thumb(row, side), alt: "", decoding: "async", draggable: "false" });
  image.addEventListener("error", () => image.hasAttribute("src") && image.replaceWith(h("span", { class: "cell gone" })));
  sharpen(image, row);
  return h("span", { class: "cell" }, image);
}

function flag(sign, text) {
  return h("span", { class: "flag", title: text }, icon(sign), h("span", { class: "sr" }, text));
}

/** "0.87" with a small bar. */
export function confidence(value) {
  return h("span", { class: "sure", title: "Mean confidence" }, h("span", { class: "sr" }, "mean confidence "), h("span", { class: "meter", css: { "--share": value ?? 0 }, "aria-hidden": "true" }), sure(value));
}

export class CardGrid {
  /** `query()` gives what /api/groups is asked for besides offset and limit; `counted(total)` is told. */
  constructor({ query, counted, selection = null }) {
    this.selection = store.readOnly ? null : selection;
    this.canvas = h("ul", { class: "cards", "aria-label": "Groups" });
    this.nothing = h("p", { class: "nothing", hidden: true }, "No group fits.");
    this.element = h("div", {}, this.canvas, this.nothing);
    this.list = new PagedList({
      size: 100,
      load: async (offset, limit) => {
        const { total, groups } = await get("api/groups", { ...query(), offset, limit });
        return { total, items: groups };
      },
      counted: (total) => {
        this.nothing.hidden = total > 0;
        this.grid.setTotal(total);
        counted?.(total);
      },
      loaded: () => this.grid.refresh(),
      failed: complain,
    });
    const narrow = window.innerWidth < 600;
    this.grid = new VirtualGrid({
      canvas: this.canvas,
      minWidth: narrow ? 150 : 232,
      gap: narrow ? 12 : 16,
      height: (width) => TEXT + (store.run.has_images ? Math.round(width < NARROW ? (2 * width) / 3 : width / 2) : WORDS),
      make: (index) => (this.list.at(index) ? this.#card(this.list.at(index)) : h("li", { class: "card-place" }, h("span", { class: "card blank" }))),
      drop: release,
      range: (...range) => this.list.want(...range),
    });
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    if (this.selection) {
      this.painted = () => this.#paint();
      this.selection.addEventListener("change", this.painted);
      this.canvas.addEventListener("click", (event) => this.#click(event));
    }
  }

  #anchor = -1;

  #card(group) {
    return groupCard(group, this.grid.itemWidth, { selectable: Boolean(this.selection), selected: Boolean(this.selection?.has(group.id)) });
  }

  /** The cards in the page by the number of their group. */
  cards() {
    return new Map([...this.grid.elements.values()].map((element) => [Number(element.querySelector(".card[href]")?.dataset.group ?? -1), element]));
  }

  #paint() {
    for (const [, element] of this.grid.elements) {
      const box = element.querySelector(".pick input");
      if (!box) continue;
      box.checked = this.selection.has(Number(box.dataset.group));
      element.classList.toggle("selected", box.checked);
    }
    this.canvas.classList.toggle("selecting", this.selection.size > 0);
  }

  #indexOf(node) {
    return [...this.grid.elements].find(([, element]) => element.contains(node))?.[0] ?? -1;
  }

  // Shift selects up to here; once some are selected a click selects, as for images. Enter (detail 0) always opens.
  #click(event) {
    if (event.target.closest("label.pick") && !event.target.matches("input")) {
      if (!event.shiftKey) return; // the click on the box follows
      event.preventDefault();
    }
    const index = this.#indexOf(event.target);
    const group = this.list.at(index);
    const box = event.target.closest(".pick");
    if (!group || (!box && (event.ctrlKey || event.metaKey || !event.detail || !(event.shiftKey || this.selection.size)))) return;
    if (!box) event.preventDefault();
    if (event.shiftKey && this.#anchor >= 0) this.#range(this.#anchor, index);
    else this.selection.toggle(group.id);
    this.#anchor = index;
    this.#paint();
  }

  #range(from, to) {
    const between = Array.from({ length: Math.abs(to - from) + 1 }, (_, k) => this.list.at(Math.min(from, to) + k));
    this.selection.add(between.filter(Boolean).map((group) => group.id));
  }

  /** Read from the beginning. */
  async start() {
    await this.list.reset().catch(complain);
    this.grid.refresh();
  }

  /** Read again, staying where one is. */
  async refresh() {
    await this.list.refresh(Math.max(0, this.grid.inView().first)).catch(complain);
  }

  destroy() {
    this.selection?.removeEventListener("change", this.painted);
    this.grid.destroy();
  }

  #key(event) {
    const card = event.target.closest?.(".card[href]");
    if (!card || event.ctrlKey || event.metaKey || event.altKey) return;
    const here = Math.max(0, this.#indexOf(card));
    if (event.key === " " && this.selection) {
      event.preventDefault();
      this.selection.toggle(Number(card.dataset.group));
      this.#anchor = here;
      return;
    }
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.grid.columns, ArrowUp: -this.grid.columns }[event.key];
    if (!step) return;
    event.preventDefault();
    const to = Math.max(0, Math.min(this.grid.total - 1, here + step));
    if (event.shiftKey && this.selection) {
      if (this.#anchor < 0) this.#anchor = here;
      this.#range(this.#anchor, to);
    } else {
      this.#anchor = to;
    }
    this.grid.scrollTo(to, { above: 120, below: 24 });
    this.grid.element(to)?.querySelector("a")?.focus({ preventScroll: true });
  }
}
