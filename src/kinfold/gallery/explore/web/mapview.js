// A map that is ready: points, names, legend, what is under the pointer, selecting, and correcting what is selected.

import { get } from "./api.js";
import { h, replace } from "./dom.js";
import { openDialog } from "./dialogs.js";
import { count, images } from "./format.js";
import { openImage, openRow } from "./image.js";
import { ImageGrid } from "./imagegrid.js";
import { keys } from "./keys.js";
import { Lasso } from "./lasso.js";
import { cssColor, groupColor, isDark, onTheme } from "./mapcolors.js";
import { readMap } from "./mapdata.js";
import { gestures } from "./mapgestures.js";
import { MapHover } from "./maphover.js";
import { MapIndex } from "./mapindex.js";
import { MapLabels, measureGroups } from "./maplabels.js";
import { MapLegend } from "./maplegend.js";
import { mapTools } from "./maptools.js";
import { Scatter } from "./scatter.js";
import { Selection } from "./selection.js";
import { selectionBar } from "./selectionbar.js";
import { store } from "./store.js";
import { complain } from "./toasts.js";

const REACH = 10; // px around the pointer
const DIM = 20; // of 255: groups beside those that are brought out

export class MapView {
  static possible() {
    const context = document.createElement("canvas").getContext("webgl2");
    context?.getExtension("WEBGL_lose_context")?.loseContext();
    return Boolean(context);
  }

  #stops = [];
  #abort = new AbortController();

  /** `facts` is the answer of /api/map. */
  constructor(page, facts) {
    this.page = page;
    this.facts = facts;
    this.selection = new Selection();
    this.dark = isDark();
  }

  async open() {
    const { signal } = this.#abort;
    this.data = await readMap(signal);
    this.greatest = await this.data.readGroups(store.version, signal);
    if (signal.aborted) return;
    this.index = new MapIndex(this.data.places, this.facts.bounds);
    this.#build();
    this.scatter.setPoints(this.data.places);
    this.#fit(true);
    this.#takeGroups();
    this.#listen();
  }

  destroy() {
    this.#abort.abort();
    for (const stop of this.#stops.splice(0).reverse()) stop();
  }

  #build() {
    const text = `Map of ${images(this.data.n)}. Arrow keys move it, plus and minus zoom, 0 shows all.`;
    this.canvas = h("canvas", { class: "map-canvas", tabindex: "0", role: "application", "aria-label": text });
    this.scatter = new Scatter(this.canvas, { drawn: (frame) => this.#drawn(frame) });
    this.#stops.push(() => this.scatter.destroy());
    this.lasso = new Lasso();
    const color = (id) => cssColor(this.#color(id));
    this.hover = new MapHover({ color });
    this.labels = new MapLabels({ scatter: this.scatter, text: (id) => store.label(id) });
    this.legend = new MapLegend({ color, changed: () => this.#paint(), select: () => this.#select(this.#all((slot) => this.legend.chosen.has(this.data.ids[slot]))) });
    this.tools = mapTools({
      zoom: (times) => this.gestures.zoom(times),
      home: () => this.gestures.home(),
      selectView: () => this.#selectView(),
      moded: (mode) => this.canvas.classList.toggle("draws", mode !== "pan"),
    });
    this.stage = h("div", { class: "map-stage" }, this.canvas, this.lasso.element, this.labels.element, this.tools.element, this.hover.element);
    replace(this.page, this.stage, this.legend.element);
  }

  #listen() {
    this.gestures = gestures(this.canvas, {
      scatter: this.scatter,
      lasso: this.lasso,
      mode: () => this.tools.mode(),
      outlined: (outline, event) => this.#outlined(outline, event),
      clicked: (x, y) => this.#clicked(x, y),
      hovered: (x, y) => this.#hovered(x, y),
      moved: () => this.hover.hide(),
    });
    const resized = new ResizeObserver(() => this.#fit());
    resized.observe(this.canvas);
    const bar = selectionBar(this.selection, { first: () => [...this.legend.chosen].filter((id) => id >= 0), extra: (rows) => this.#extra(rows) });
    const picked = () => this.#showSelected();
    this.selection.addEventListener("change", picked);
    const late = () => this.labels.set(this.middles, (id) => this.legend.shows(id));
    this.#stops.push(
      () => this.gestures.stop(),
      () => resized.disconnect(),
      () => bar.remove(),
      () => this.selection.removeEventListener("change", picked),
      store.onChange(() => this.#changed()),
      onTheme(() => this.#themed()),
      keys.bind("On the map", this.tools.bindings),
      () => cancelAnimationFrame(this.hoverFrame),
    );
    late();
  }

  #color(id) {
    return groupColor(id, this.dark);
  }

  #fit(first = false) {
    const home = first || ["x", "y", "scale"].every((name) => this.scatter.view[name] === this.scatter.fit[name]);
    this.scatter.setBounds(this.facts.bounds);
    if (home) Object.assign(this.scatter.view, this.scatter.fit);
    this.scatter.draw();
  }

  async #changed() {
    try {
      this.greatest = await this.data.readGroups(store.version, this.#abort.signal);
    } catch (error) {
      return complain(error);
    }
    this.#takeGroups();
  }

  #takeGroups() {
    const { sizes, middles } = measureGroups(this.data.places, this.data.ids, this.greatest);
    this.middles = middles;
    this.scatter.setGroups(this.data.colors);
    this.legend.setSizes(sizes);
    this.#paint();
  }

  #themed() {
    this.dark = isDark();
    this.legend.draw();
    this.#paint();
  }

  // The colours of all groups: shown, dimmed or hidden.
  #paint() {
    const colors = new Uint8Array(4 * (this.greatest + 2));
    const aside = this.legend.hiding ? 0 : DIM;
    for (let id = -1; id <= this.greatest; id += 1) {
      const alpha = this.legend.shows(id) ? (id < 0 ? 140 : 217) : aside;
      colors.set([...this.#color(id), alpha], 4 * (id + 1));
    }
    this.scatter.selected = this.dark ? [1, 1, 1, 1] : [0.08, 0.09, 0.11, 1];
    this.scatter.setColors(colors);
    this.labels.set(this.middles, (id) => this.legend.shows(id));
  }

  #drawn({ moving, begins, all }) {
    if (moving) this.labels.follow();
    else if (begins) this.labels.arrange();
    const { x, y, scale } = this.scatter.view;
    this.canvas.dataset.view = JSON.stringify([x, y, scale]);
    this.canvas.dataset.drawn = moving ? "moving" : all ? "all" : "some";
  }

  // Only groups that are brought out, or all, can be pointed at and selected.
  #counts = (slot) => this.legend.shows(this.data.ids[slot]);

  #at(x, y) {
    const [mapX, mapY] = this.scatter.toMap(x, y);
    return this.index.nearest(mapX, mapY, Math.max(REACH, this.scatter.pointSize) / this.scatter.view.scale, this.#counts);
  }

  #hovered(x, y) {
    cancelAnimationFrame(this.hoverFrame);
    if (x === null) return this.hover.hide();
    this.hoverFrame = requestAnimationFrame(() => {
      const slot = this.#at(x, y);
      this.canvas.classList.toggle("points", slot >= 0);
      if (slot < 0) return this.hover.hide();
      this.hover.show(this.data.row(slot), this.data.ids[slot], x, y, this.scatter.width, this.scatter.height);
    });
  }

  #clicked(x, y) {
    const slot = this.#at(x, y);
    this.hover.hide();
    if (slot < 0) return;
    if (this.tools.mode() === "pan" && !this.selection.size) openRow(this.data.row(slot));
    else this.selection.toggle(this.data.row(slot));
  }

  #outlined(outline, event) {
    const corners = new Float64Array(outline.length);
    for (let k = 0; k < outline.length; k += 2) corners.set(this.scatter.toMap(outline[k], outline[k + 1]), k);
    const add = event.shiftKey && this.tools.mode() !== "pan";
    this.#select(this.index.inside(corners, this.#counts), { add, take: event.altKey });
  }

  #selectView() {
    const { width, height } = this.scatter;
    const [left, high] = this.scatter.toMap(0, 0);
    const [right, low] = this.scatter.toMap(width, height);
    this.#select(this.index.inside([left, low, right, low, right, high, left, high], this.#counts));
  }

  #all(fits) {
    const found = [];
    for (let slot = 0; slot < this.data.n; slot += 1) if (fits(slot)) found.push(slot);
    return found;
  }

  #select(slots, { add = false, take = false } = {}) {
    const rows = Array.from(slots, (slot) => this.data.row(slot));
    if (take) {
      const less = new Set(rows);
      this.selection.only(this.selection.list().filter((row) => !less.has(row)));
    } else if (add) this.selection.add(rows);
    else this.selection.only(rows);
  }

  #showSelected() {
    const slots = new Uint32Array(this.selection.size);
    let size = 0;
    for (const row of this.selection.rows) {
      const slot = this.data.slotOf(row);
      if (slot >= 0) slots[size++] = slot;
    }
    this.scatter.setSelected(slots.subarray(0, size));
  }

  #extra(rows) {
    return h("button", { type: "button", class: "button", onclick: () => this.#list(rows) }, "See them");
  }

  // The selected images as a list, in which some can be taken out of the selection.
  #list(rows) {
    const load = async (offset, limit) => {
      const { images: items } = await get("api/map/images", { rows: rows.slice(offset, offset + limit).join(",") });
      return { total: rows.length, items };
    };
    const place = h("div", { class: "map-list", tabindex: "-1" });
    const grid = new ImageGrid({ label: "Selected images", load, open: (list, index) => openImage(list, index), scroller: place, size: 132, caption: "group", selection: this.selection });
    place.append(grid.element);
    openDialog({ title: `${count(rows.length)} selected`, className: "wide", body: place, closed: () => grid.destroy() });
    grid.start();
  }
}
