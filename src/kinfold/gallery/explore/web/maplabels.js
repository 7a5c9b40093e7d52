// Names of groups on the map, at the middle of their points: the largest groups first, and none over another.

import { h } from "./dom.js";

const MOST = 60;
const SAMPLE = 1500; // points of a group that its middle is taken from
const LINE = 22; // px

/**
 * `{sizes, middles}`: images of every group (id -> n, −1 too), and where its points have their median (id -> {x, y, n}).
 * `ids` has every point's group, `greatest` the greatest number.
 */
export function measureGroups(places, ids, greatest) {
  const counts = new Uint32Array(greatest + 2);
  const samples = new Map();
  for (let slot = 0; slot < ids.length; slot += 1) {
    const id = ids[slot];
    const before = counts[id + 1]++;
    if (before >= SAMPLE || id < 0) continue; // points come in random order: the first are a fair sample
    if (!before) samples.set(id, []);
    samples.get(id).push(slot);
  }
  const sizes = new Map();
  const middles = new Map();
  for (let id = -1; id <= greatest; id += 1) {
    const n = counts[id + 1];
    if (!n) continue;
    sizes.set(id, n);
    const sample = samples.get(id);
    if (sample) middles.set(id, { x: median(sample, places, 0), y: median(sample, places, 1), n });
  }
  return { sizes, middles };
}

function median(sample, places, axis) {
  const values = Float32Array.from(sample, (slot) => places[2 * slot + axis]).sort();
  return values[values.length >> 1];
}

export class MapLabels {
  #labels = [];
  #measure = document.createElement("canvas").getContext("2d");

  /** `text(id)` is what a group is called. */
  constructor({ scatter, text }) {
    Object.assign(this, { scatter, text });
    this.element = h("div", { class: "map-labels", "aria-hidden": "true" });
  }

  /** Take the groups' middles; `shown(id)` tells which may be named. */
  set(middles, shown) {
    this.#measure.font = "600 13px system-ui, sans-serif";
    this.element.replaceChildren();
    this.#labels = [...middles]
      .filter(([id]) => shown(id))
      .sort((a, b) => b[1].n - a[1].n)
      .slice(0, 4 * MOST)
      .map(([id, place]) => {
        const text = this.text(id);
        return { ...place, text, width: Math.min(180, this.#measure.measureText(text).width + 14), element: null };
      });
    this.arrange();
  }

  /** Choose which names are shown in this view. */
  arrange() {
    const { width, height } = this.scatter;
    const taken = [];
    for (const label of this.#labels) {
      const [x, y] = this.#place(label);
      const box = [x - label.width / 2, y - LINE / 2, x + label.width / 2, y + LINE / 2];
      const off = x < 0 || y < 0 || x > width || y > height;
      const free = !off && taken.length < MOST && taken.every((other) => box[0] > other[2] || box[2] < other[0] || box[1] > other[3] || box[3] < other[1]);
      if (free) taken.push(box);
      this.#show(label, free);
    }
    this.follow();
  }

  /** Where a name stands: at its group's middle, but whole where that is in view. */
  #place(label) {
    const [x, y] = this.scatter.toScreen(label.x, label.y);
    const { width } = this.scatter;
    const half = label.width / 2;
    return x < 0 || x > width || width < label.width ? [x, y] : [Math.min(width - half, Math.max(half, x)), y];
  }

  #show(label, on) {
    if (on && !label.element) {
      label.element = h("span", { class: "map-label" }, label.text);
      this.element.append(label.element);
    } else if (!on && label.element) {
      label.element.remove();
      label.element = null;
    }
  }

  /** Keep the names that are shown at their groups while the view moves. */
  follow() {
    for (const label of this.#labels) {
      if (!label.element) continue;
      const [x, y] = this.#place(label);
      label.element.style.transform = `translate(${x.toFixed(1)}px, ${y.toFixed(1)}px) translate(-50%, -50%)`;
    }
  }
}
