// Groups as cards, as many as there are: only those near the view are in the page.

import { get, thumb } from "./api.js";
import { h } from "./dom.js";
import { count, images, sure } from "./format.js";
import { icon } from "./icons.js";
import { PagedList } from "./paged.js";
import { store } from "./store.js";
import { release } from "./tile.js";
import { complain } from "./toasts.js";
import { VirtualGrid } from "./virtual.js";

const TEXT = 74;
const WORDS = 56; // the height of what stands for images where there are none
const NARROW = 200; // below it, three images in a row instead of four

/** A group's card: a link with its most representative images, name, size and confidence. */
function groupCard(group, width) {
  const columns = width < NARROW ? 3 : 4;
  const rows = group.representatives.slice(0, 2 * columns);
  const few = rows.length <= 4;
  const many = few ? 4 : 2 * columns;
  const side = few ? width / 2 : width / columns;
  const mosaic = h(
    "span",
    { class: `mosaic${columns === 3 ? " three" : ""}${few ? " few" : ""}${store.run.has_images ? "" : " none"}`, "aria-hidden": "true" },
    store.run.has_images && rows.length
      ? Array.from({ length: many }, (_, k) => cell(rows[k], side))
      : h("span", { class: "wordless" }, rows.length ? group.words?.join(" · ") || `${group.id}` : "empty"),
  );
  const flags = [group.locked && flag("lock", "locked"), group.n_wrong > 0 && flag("wrong", `${count(group.n_wrong)} marked wrong`), group.n_noise > 0 && flag("noise", `${count(group.n_noise)} marked as noise`)];
  return h(
    "li",
    { class: "card-place" },
    h(
      "a",
      { class: "card", href: `#/group/${group.id}`, data: { group: group.id } },
      mosaic,
      h(
        "span",
        { class: "card-text" },
        h("span", { class: "card-title" }, h("b", { class: "ellipsis" }, group.name || `Group ${group.id}`), flags, group.name && h("span", { class: "soft small" }, `${group.id}`)),
        h("span", { class: "card-line" }, h("span", { class: "soft" }, images(group.size)), confidence(group.size ? group.mean_confidence : null)),
      ),
    ),
  );
}

function cell(row, side) {
  if (row === undefined) return h("span", { class: "cell" });
  const image = h("img", { src: thumb(row, side), alt: "", decoding: "async", draggable: "false" });
  image.addEventListener("error", () => image.hasAttribute("src") && image.replaceWith(h("span", { class: "cell gone" })));
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
  constructor({ query, counted }) {
    this.canvas = h("ul", { class: "cards", "aria-label": "Groups" });
    this.nothing = h("p", { class: "nothing", hidden: true }, "No group fits.");
    this.element = h("div", {}, this.canvas, this.nothing);
    this.list = new PagedList({
      size: 100,
      load: async (offset, limit) => {
        const { total, groups } = await get("/api/groups", { ...query(), offset, limit });
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
      make: (index) => (this.list.at(index) ? groupCard(this.list.at(index), this.grid.itemWidth) : h("li", { class: "card-place" }, h("span", { class: "card blank" }))),
      drop: release,
      range: (...range) => this.list.want(...range),
    });
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
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
    this.grid.destroy();
  }

  #key(event) {
    const card = event.target.closest?.(".card[href]");
    if (!card || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: this.grid.columns, ArrowUp: -this.grid.columns }[event.key];
    if (!step) return;
    event.preventDefault();
    const here = [...this.grid.elements].find(([, element]) => element.contains(card))?.[0] ?? 0;
    const to = Math.max(0, Math.min(this.grid.total - 1, here + step));
    this.grid.scrollTo(to, { above: 120, below: 24 });
    this.grid.element(to)?.querySelector("a")?.focus({ preventScroll: true });
  }
}
