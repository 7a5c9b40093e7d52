// A long list of images to look through and select from: a listbox of which only what is near the view is in the page.

import { paused, freshId, h } from "./dom.js";
import { PagedList } from "./paged.js";
import { band } from "./band.js";
import { Selection } from "./selection.js";
import { blankTile, imageTile, release } from "./tile.js";
import { complain } from "./toasts.js";
import { VirtualGrid } from "./virtual.js";

const CAPTION = 24;
const TWO_LINES = 40;

export class ImageGrid {
  #stem = freshId("tile");
  #anchor = -1;
  #active = -1;
  #shown = new WeakMap(); // tile -> what it shows
  #range = [0, 0, null];
  #settled = paused(() => this.list.want(...this.#range), 40);

  /**
   * `load(offset, limit)` gives `{total, items}`; `open(list, index)` shows an image; `counted(total)` is told how many
   * there are; `rows()` gives the row numbers of the whole list. `selection` may be shared by grids.
   */
  constructor({ label, load, rows = null, open, counted, scroller = window, size = 120, caption = "confidence", selection = new Selection(), selectable = true }) {
    Object.assign(this, { rows, open, selection, caption, selectable });
    this.canvas = h("div", { class: "tiles", role: "listbox", tabindex: "0", "aria-label": label, "aria-multiselectable": selectable ? "true" : null });
    this.empty = h("p", { class: "nothing", hidden: true }, "No images here.");
    this.element = h("div", { class: "image-grid" }, this.canvas, this.empty);
    this.list = new PagedList({
      load,
      counted: (total) => {
        this.empty.hidden = total > 0;
        this.canvas.hidden = total === 0;
        this.grid.setTotal(total);
        counted?.(total);
      },
      loaded: (first, last) => this.#renew(first, last),
      failed: complain,
    });
    this.grid = new VirtualGrid({
      canvas: this.canvas,
      scroller,
      minWidth: size,
      minColumns: 2,
      gap: 10,
      height: (width) => width + (caption === "group" ? TWO_LINES : CAPTION),
      make: (index) => this.#make(index),
      drop: release,
      range: (...range) => this.#ranged(range),
    });
    this.#listen();
  }

  /** Read the list for the first time, or from its beginning after the order or the filter changed. */
  async start() {
    this.#active = this.#anchor = -1;
    this.grid.clear();
    await this.list.reset().catch(complain);
    this.grid.refresh();
  }

  /** Read again what is in view, because something was edited. */
  async refresh() {
    const { first } = this.grid.inView();
    await this.list.refresh(Math.max(0, first)).catch(complain);
    if (this.#active >= this.list.total) this.#active = this.list.total - 1;
    this.grid.render();
  }

  destroy() {
    this.#settled.cancel();
    this.grid.destroy();
    this.selection.removeEventListener("change", this.painted);
  }

  setSize(size) {
    this.canvas.classList.toggle("tiny", size < 84);
    this.grid.setMinWidth(size);
  }

  #make(index) {
    const item = this.list.at(index);
    const id = `${this.#stem}-${index}`;
    if (!item) return blankTile(id);
    const selected = this.selection.has(item.row);
    const tile = imageTile(item, { id, width: this.grid.itemWidth, caption: this.caption, selected, position: index + 1, total: this.list.total, number: index });
    tile.classList.toggle("active", index === this.#active);
    this.#shown.set(tile, JSON.stringify(item));
    return tile;
  }

  #ranged(range) {
    this.#range = range;
    const missing = !this.list.at(range[2].first) || !this.list.at(range[2].last);
    if (missing && this.list.total !== null && this.list.total > 2000) this.#settled();
    else this.list.want(...range);
  }

  // Pages that are read again bring mostly what was there: tiles that show the same stay, and so do their pictures.
  #renew(first, last) {
    for (const [index, element] of [...this.grid.elements]) {
      if (index < first || index > last) continue;
      if (this.#shown.get(element) !== JSON.stringify(this.list.at(index))) this.grid.refresh(index);
    }
    this.#paint();
  }

  #listen() {
    this.painted = () => this.#paint();
    this.selection.addEventListener("change", this.painted);
    this.canvas.addEventListener("click", (event) => this.#click(event));
    this.canvas.addEventListener("keydown", (event) => this.#key(event));
    this.canvas.addEventListener("focus", () => this.#active < 0 && this.list.total && this.#go(Math.max(0, this.grid.inView().first), { scroll: false }));
    if (this.selectable) {
      band(this.canvas, {
        grid: this.grid,
        base: () => new Set(this.selection.rows),
        pick: (indices, base) => this.selection.only([...base, ...indices.map((index) => this.list.at(index)?.row).filter((row) => row !== undefined)]),
      });
    }
  }

  #click(event) {
    const tile = event.target.closest(".tile");
    if (!tile?.dataset.index) return;
    const index = Number(tile.dataset.index);
    const before = this.#anchor;
    this.#go(index, { scroll: false });
    if (!this.selectable) return void this.open(this.list, index);
    if (event.shiftKey) return void this.selectRange(before < 0 ? index : before, index);
    this.#anchor = index;
    if (event.target.closest(".check") || event.ctrlKey || event.metaKey || this.selection.size) this.selection.toggle(this.list.at(index).row);
    else this.open(this.list, index);
  }

  #key(event) {
    const { columns } = this.grid;
    const page = columns * Math.max(1, Math.floor(window.innerHeight / this.grid.rowHeight) - 1);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    const last = (this.list.total ?? 0) - 1;
    if (last < 0 || event.altKey) return;
    if (event.key in steps && !(event.ctrlKey || event.metaKey)) {
      const to = Math.max(0, Math.min(last, this.#active + steps[event.key]));
      if (event.shiftKey && this.selectable) {
        if (this.#anchor < 0) this.#anchor = Math.max(0, this.#active);
        this.selectRange(this.#anchor, to);
      } else {
        this.#anchor = to;
      }
      this.#go(to);
    } else if (event.key === " " && this.selectable) {
      this.#anchor = this.#active;
      const item = this.list.at(this.#active);
      if (item) this.selection.toggle(item.row);
    } else if (event.key === "Enter" && this.#active >= 0) {
      this.open(this.list, this.#active);
    } else {
      return;
    }
    event.preventDefault();
  }

  #go(index, { scroll = true } = {}) {
    this.grid.element(this.#active)?.classList.remove("active");
    this.#active = index;
    if (scroll) this.grid.scrollTo(index);
    this.grid.element(index)?.classList.add("active");
    this.canvas.setAttribute("aria-activedescendant", `${this.#stem}-${index}`);
  }

  /** Make `index` the one that the keys act on, and bring it into view. */
  show(index) {
    this.#go(index);
  }

  /** Select from `from` to `to`, whichever comes first; of images never seen the row numbers are asked for. */
  async selectRange(from, to) {
    const [first, last] = from < to ? [from, to] : [to, from];
    const items = Array.from({ length: last - first + 1 }, (_, k) => this.list.at(first + k));
    if (items.every(Boolean)) return void this.selection.add(items.map((item) => item.row));
    const rows = await this.rows?.().catch(complain);
    if (rows) this.selection.add(rows.slice(first, last + 1));
  }

  #paint() {
    for (const [index, element] of this.grid.elements) {
      const item = this.list.at(index);
      if (item) element.setAttribute("aria-selected", String(this.selection.has(item.row)));
    }
    this.canvas.classList.toggle("selecting", this.selection.size > 0);
    const shown = this.grid.element(this.#active);
    if (shown) this.canvas.setAttribute("aria-activedescendant", shown.id);
    else this.canvas.removeAttribute("aria-activedescendant");
  }
}
