// The groups beside the map, with their colours: one click brings a group out, another lets it go.

import { freshId, h, replace, setCss } from "./dom.js";
import { brief } from "./format.js";
import { store } from "./store.js";

const MOST = 200;

export class MapLegend {
  /** Groups that are brought out; none: all are shown alike. */
  chosen = new Set();
  #sizes = new Map();

  /** `color(id)` is CSS; `changed()` is told when groups are brought out or let go; `select()` selects their images. */
  constructor({ color, changed, select }) {
    Object.assign(this, { color, changed, select });
    this.list = h("ul", { class: "legend-list" });
    this.search = h("input", { type: "search", class: "wide", placeholder: "Find a group", "aria-label": "Find a group in the list", hidden: true, oninput: () => this.draw() });
    this.hide = h("input", { type: "checkbox", id: freshId("hide"), onchange: () => this.changed() });
    this.foot = h(
      "div",
      { class: "legend-foot", hidden: true },
      h("label", { for: this.hide.id }, this.hide, "Hide the others"),
      h("button", { type: "button", class: "link", onclick: () => this.select() }, "Select their images"),
      h("button", { type: "button", class: "link", onclick: () => this.clear() }, "Show all"),
    );
    this.title = h("span", {}, "Groups");
    this.element = h("details", { class: "map-legend", open: !matchMedia("(max-width: 46rem)").matches }, h("summary", {}, this.title), this.search, this.list, this.foot);
    this.list.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (button) this.toggle(Number(button.dataset.group));
    });
  }

  get hiding() {
    return this.hide.checked && this.chosen.size > 0;
  }

  /** Whether a group is shown as it is, given what is brought out. */
  shows(id) {
    return !this.chosen.size || this.chosen.has(id);
  }

  /** Take the sizes of groups (id -> images on the map). */
  setSizes(sizes) {
    this.#sizes = sizes;
    for (const id of this.chosen) if (!sizes.get(id)) this.chosen.delete(id);
    this.search.hidden = sizes.size <= 20;
    this.draw();
  }

  toggle(id) {
    if (!this.chosen.delete(id)) this.chosen.add(id);
    this.draw();
    this.changed();
  }

  clear() {
    this.chosen.clear();
    this.draw();
    this.changed();
  }

  draw() {
    const focused = document.activeElement?.closest?.(".legend-list button")?.dataset.group;
    const words = this.search.value.trim().toLowerCase();
    const ids = [...this.#sizes.keys()].sort((a, b) => (a < 0) - (b < 0) || this.#sizes.get(b) - this.#sizes.get(a) || a - b);
    const fitting = ids.filter((id) => !words || this.chosen.has(id) || name(id).toLowerCase().includes(words) || String(id) === words);
    const shown = fitting.slice(0, MOST);
    const more = fitting.length - shown.length;
    replace(this.list, shown.map((id) => this.#entry(id)), more > 0 && h("li", { class: "soft" }, `and ${brief(more)} more: search for them`));
    this.foot.hidden = !this.chosen.size;
    this.title.textContent = this.chosen.size ? `Groups, ${this.chosen.size} brought out` : "Groups";
    if (focused !== undefined) this.list.querySelector(`button[data-group="${focused}"]`)?.focus();
  }

  #entry(id) {
    const swatch = h("span", { class: "swatch", "aria-hidden": "true" });
    setCss(swatch, { background: this.color(id) });
    return h(
      "li",
      { class: this.shows(id) ? "" : "aside" },
      h(
        "button",
        { type: "button", class: "legend-entry", "aria-pressed": String(this.chosen.has(id)), data: { group: id }, title: `Bring out ${name(id)}` },
        swatch,
        h("span", { class: "ellipsis", title: name(id) }, name(id)),
        h("span", { class: "soft number" }, brief(this.#sizes.get(id))),
      ),
    );
  }
}

const name = (id) => (id < 0 ? "Wrong or noise" : store.label(id));
