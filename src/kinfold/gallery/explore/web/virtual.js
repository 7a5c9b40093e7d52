// A grid of any length of which only what is near the view is in the page.

import { setCss } from "./dom.js";

// Browsers stop at some ten million pixels; longer grids are scrolled in proportion.
const TALLEST = 12_000_000;

export class VirtualGrid {
  #items = new Map(); // index -> element, in the page
  #watcher;
  #scale = 1;

  /**
   * `canvas` is the element that gets the grid's height; `scroller` what scrolls it (the window, or an element).
   * `make(index)` gives an item's element, `drop(element)` is told when it leaves, `range(first, last)` which
   * indices (inclusive) are in or near the view. `height(width)` is an item's height.
   */
  constructor({ canvas, scroller = window, minWidth, minColumns = 1, gap = 12, height, make, drop, range }) {
    Object.assign(this, { canvas, scroller, minWidth, minColumns, gap, height, make, drop, range });
    this.total = 0;
    this.columns = 1;
    this.scrolled = () => this.render();
    scroller.addEventListener("scroll", this.scrolled, { passive: true });
    window.addEventListener("resize", this.scrolled, { passive: true });
    this.#watcher = new ResizeObserver(() => this.layout());
    this.#watcher.observe(canvas);
  }

  destroy() {
    this.scroller.removeEventListener("scroll", this.scrolled);
    window.removeEventListener("resize", this.scrolled);
    this.#watcher.disconnect();
    this.clear();
  }

  setTotal(total) {
    if (total === this.total) return;
    this.total = total;
    this.layout();
  }

  setMinWidth(width) {
    this.minWidth = width;
    this.layout();
  }

  /** Measure again; what was first in view stays in view. */
  layout() {
    const width = this.canvas.clientWidth;
    if (!width) return;
    const first = this.inView().first;
    const columns = Math.max(this.minColumns, Math.floor((width + this.gap) / (this.minWidth + this.gap)));
    const itemWidth = (width - this.gap * (columns - 1)) / columns;
    const itemHeight = this.height(itemWidth);
    const changed = columns !== this.columns || itemWidth !== this.itemWidth || itemHeight !== this.itemHeight;
    const below = this.#view().top > 0;
    Object.assign(this, { columns, itemWidth, itemHeight, rowHeight: itemHeight + this.gap });
    const rows = Math.ceil(this.total / columns);
    this.full = Math.max(0, rows * this.rowHeight - this.gap);
    this.canvas.style.setProperty("height", `${Math.min(this.full, TALLEST)}px`);
    const { height } = this.#view();
    this.#scale = this.full > TALLEST ? (this.full - height) / (TALLEST - height) : 1;
    if (changed) {
      for (const [index, element] of this.#items) this.#place(index, element);
      if (below) this.scrollTo(first, { block: "start" });
    }
    this.render();
  }

  /** Where the view lies on the canvas, in the canvas's pixels. */
  #view() {
    const canvas = this.canvas.getBoundingClientRect();
    if (this.scroller === window) return { top: -canvas.top, height: window.innerHeight };
    const frame = this.scroller.getBoundingClientRect();
    return { top: frame.top - canvas.top, height: this.scroller.clientHeight };
  }

  /** Indices of the first and last item in view. */
  inView() {
    if (!this.rowHeight || !this.total) return { first: 0, last: -1 };
    const { top, height } = this.#view();
    const from = top * this.#scale;
    const first = Math.max(0, Math.floor(from / this.rowHeight)) * this.columns;
    const last = (Math.floor((from + height) / this.rowHeight) + 1) * this.columns - 1;
    return { first: Math.min(first, this.total - 1), last: Math.min(Math.max(last, 0), this.total - 1) };
  }

  render() {
    if (!this.rowHeight) return;
    const { height } = this.#view();
    const spare = Math.max(2, Math.ceil(height / this.rowHeight)) * this.columns;
    const seen = this.inView();
    const first = Math.max(0, seen.first - spare);
    const last = Math.min(this.total - 1, seen.last + spare);
    for (const [index, element] of this.#items) {
      if (index < first || index > last) this.#remove(index, element);
    }
    let before = this.canvas.firstElementChild;
    for (let index = first; index <= last; index += 1) {
      let element = this.#items.get(index);
      if (element) {
        before = element.nextElementSibling;
        if (this.#scale !== 1) this.#place(index, element);
        continue;
      }
      element = this.make(index);
      this.#items.set(index, element);
      this.#place(index, element);
      this.canvas.insertBefore(element, before);
    }
    if (last >= first) this.range?.(first, last, seen);
  }

  #remove(index, element) {
    this.#items.delete(index);
    this.drop?.(element);
    element.remove();
  }

  #place(index, element) {
    const { x, y } = this.position(index);
    setCss(element, { transform: `translate(${x}px, ${y}px)`, width: `${this.itemWidth}px`, height: `${this.itemHeight}px` });
  }

  /** An item's corner on the canvas, in the canvas's pixels. */
  position(index) {
    const x = (index % this.columns) * (this.itemWidth + this.gap);
    let y = Math.floor(index / this.columns) * this.rowHeight;
    if (this.#scale !== 1) {
      const { top } = this.#view();
      y = y - top * this.#scale + top;
    }
    return { x, y };
  }

  /** Indices of the items that a box on the canvas touches. */
  touching({ left, top, right, bottom }) {
    const found = [];
    for (const index of this.#items.keys()) {
      const { x, y } = this.position(index);
      if (x < right && x + this.itemWidth > left && y < bottom && y + this.itemHeight > top) found.push(index);
    }
    return found.sort((a, b) => a - b);
  }

  element(index) {
    return this.#items.get(index);
  }

  get elements() {
    return this.#items;
  }

  /** Bring an item into view: as little as needed ("nearest"), or to the top ("start"); `above` stays free for bars. */
  scrollTo(index, { block = "nearest", above = this.above ?? 0, below = this.below ?? 0 } = {}) {
    if (!this.rowHeight || index < 0 || index >= this.total) return;
    const itemTop = Math.floor(index / this.columns) * this.rowHeight;
    const { top, height } = this.#view();
    const from = top * this.#scale;
    let to = from;
    if (block === "start" || itemTop < from + above) to = itemTop - above;
    else if (itemTop + this.itemHeight > from + height - below) to = itemTop + this.itemHeight - height + below;
    if (to === from) return;
    this.scroller.scrollBy({ top: to / this.#scale - top, behavior: "instant" });
    this.render();
  }

  /** Make every item in the page again, or only one. */
  refresh(index = null) {
    if (index !== null) {
      const old = this.#items.get(index);
      if (!old) return;
      const fresh = this.make(index);
      this.#items.set(index, fresh);
      this.#place(index, fresh);
      this.drop?.(old);
      old.replaceWith(fresh);
      return;
    }
    this.clear();
    this.layout();
  }

  clear() {
    for (const [index, element] of this.#items) this.#remove(index, element);
  }
}
