// @ts-check
// Drawing an outline over the map: by hand, or as a rectangle. It is shown as SVG, and told as pixels of the canvas.

import { svg } from "./dom.js";

const STEP = 3; // px between points of a line drawn by hand

export class Lasso {
  #points = [];
  #shape;

  constructor() {
    this.#shape = svg("path", { class: "lasso-line" });
    this.element = svg("svg", { class: "lasso", "aria-hidden": "true" }, this.#shape);
    this.active = false;
  }

  /** Begin at a pixel; `shape` is "lasso" or "rectangle". */
  begin(x, y, shape) {
    this.active = true;
    this.rectangle = shape === "rectangle";
    this.#points = [x, y];
    this.#draw();
  }

  /** Go on to a pixel. */
  reach(x, y) {
    const points = this.#points;
    if (this.rectangle) {
      const [x0, y0] = points;
      this.#points = [x0, y0, x, y0, x, y, x0, y];
    } else if (Math.hypot(x - points.at(-2), y - points.at(-1)) >= STEP) {
      points.push(x, y);
    }
    this.#draw();
  }

  /** End; gives the outline `[x0, y0, x1, y1, …]` in pixels, or null if there is none. */
  finish() {
    const points = this.#points;
    this.cancel();
    return points.length >= 6 ? points : null;
  }

  cancel() {
    this.active = false;
    this.#points = [];
    this.#draw();
  }

  #draw() {
    const pairs = [];
    for (let k = 0; k < this.#points.length; k += 2) pairs.push(`${this.#points[k].toFixed(1)} ${this.#points[k + 1].toFixed(1)}`);
    this.#shape.setAttribute("d", pairs.length ? `M${pairs.join("L")}Z` : "");
  }
}
