// @ts-check
// Where points are: a grid over the map, for what is under the pointer and what lies in an outline. Typed arrays alone.

const PER_CELL = 6;
const MOST_CELLS = 1024; // along each side
const NONE = new Uint32Array(0);

export class MapIndex {
  /** `places`: x, y of every point (Float32Array); `bounds`: least x and y, greatest x and y. */
  constructor(places, [left, low, right, high]) {
    const n = places.length / 2;
    this.places = places;
    this.n = n;
    this.side = Math.max(1, Math.min(MOST_CELLS, Math.round(Math.sqrt(n / PER_CELL))));
    this.left = left;
    this.low = low;
    this.width = Math.max(right - left, 1e-9) / this.side;
    this.height = Math.max(high - low, 1e-9) / this.side;
    const cells = new Uint32Array(n);
    this.starts = new Uint32Array(this.side * this.side + 1);
    for (let k = 0; k < n; k += 1) {
      const cell = this.#row(places[2 * k + 1]) * this.side + this.#column(places[2 * k]);
      cells[k] = cell;
      this.starts[cell + 1] += 1;
    }
    for (let cell = 1; cell < this.starts.length; cell += 1) this.starts[cell] += this.starts[cell - 1];
    const next = this.starts.slice();
    this.order = new Uint32Array(n);
    for (let k = 0; k < n; k += 1) this.order[next[cells[k]]++] = k;
  }

  #column(x) {
    return Math.max(0, Math.min(this.side - 1, Math.floor((x - this.left) / this.width)));
  }

  #row(y) {
    return Math.max(0, Math.min(this.side - 1, Math.floor((y - this.low) / this.height)));
  }

  /** The point nearest (x, y) no farther than `reach`, of those for which `counts(k)`; −1 if there is none. */
  nearest(x, y, reach, counts) {
    let best = -1;
    let least = reach * reach;
    for (let row = this.#row(y - reach), last = this.#row(y + reach); row <= last; row += 1) {
      const begin = this.starts[row * this.side + this.#column(x - reach)];
      const end = this.starts[row * this.side + this.#column(x + reach) + 1];
      for (let place = begin; place < end; place += 1) {
        const k = this.order[place];
        const dx = this.places[2 * k] - x;
        const dy = this.places[2 * k + 1] - y;
        const far = dx * dx + dy * dy;
        if (far <= least && counts(k)) {
          least = far;
          best = k;
        }
      }
    }
    return best;
  }

  /**
   * The points inside a closed outline (`[x0, y0, x1, y1, …]`, even-odd), of those for which `counts(k)`. Only the cells
   * that the outline passes are looked at point by point; the others are inside or outside as a whole.
   */
  inside(outline, counts) {
    if (outline.length < 6 || !this.n) return NONE;
    const box = extent(outline);
    const [firstColumn, lastColumn] = [this.#column(box[0]), this.#column(box[2])];
    const [firstRow, lastRow] = [this.#row(box[1]), this.#row(box[3])];
    const columns = lastColumn - firstColumn + 1;
    const passed = this.#passed(outline, firstColumn, firstRow, columns, lastRow - firstRow + 1);
    const found = new Uint32Array(this.starts[lastRow * this.side + lastColumn + 1] - this.starts[firstRow * this.side + firstColumn]);
    let size = 0;
    for (let row = firstRow; row <= lastRow; row += 1) {
      let whole = null; // whether the run of unpassed cells that one stands in is inside
      for (let column = firstColumn; column <= lastColumn; column += 1) {
        const edge = passed[(row - firstRow) * columns + column - firstColumn];
        if (edge) whole = null;
        else whole ??= contains(outline, this.left + (column + 0.5) * this.width, this.low + (row + 0.5) * this.height);
        if (!edge && !whole) continue;
        const cell = row * this.side + column;
        for (let place = this.starts[cell]; place < this.starts[cell + 1]; place += 1) {
          const k = this.order[place];
          if ((!edge || contains(outline, this.places[2 * k], this.places[2 * k + 1])) && counts(k)) found[size++] = k;
        }
      }
    }
    return found.slice(0, size);
  }

  /** Which cells of a block the outline passes through: those of the boxes around short pieces of its sides. */
  #passed(outline, firstColumn, firstRow, columns, rows) {
    const passed = new Uint8Array(columns * rows);
    const n = outline.length / 2;
    for (let k = 0; k < n; k += 1) {
      const [ax, ay] = [outline[2 * k], outline[2 * k + 1]];
      const next = (k + 1) % n;
      const [bx, by] = [outline[2 * next], outline[2 * next + 1]];
      const pieces = Math.max(1, Math.ceil(Math.max(Math.abs(bx - ax) / this.width, Math.abs(by - ay) / this.height)));
      for (let piece = 0; piece < pieces; piece += 1) {
        const [from, to] = [piece / pieces, (piece + 1) / pieces];
        const xs = [ax + (bx - ax) * from, ax + (bx - ax) * to];
        const ys = [ay + (by - ay) * from, ay + (by - ay) * to];
        // A hair more on every side, so that rounding never leaves a cell out.
        const [x0, x1] = [this.#column(Math.min(...xs) - this.width * 1e-3), this.#column(Math.max(...xs) + this.width * 1e-3)];
        const [y0, y1] = [this.#row(Math.min(...ys) - this.height * 1e-3), this.#row(Math.max(...ys) + this.height * 1e-3)];
        for (let row = Math.max(y0, firstRow); row <= Math.min(y1, firstRow + rows - 1); row += 1) {
          for (let column = Math.max(x0, firstColumn); column <= Math.min(x1, firstColumn + columns - 1); column += 1) {
            passed[(row - firstRow) * columns + column - firstColumn] = 1;
          }
        }
      }
    }
    return passed;
  }
}

/** Whether (x, y) lies in a closed outline, by the even-odd rule. */
export function contains(outline, x, y) {
  let inside = false;
  for (let k = 0, before = outline.length - 2; k < outline.length; before = k, k += 2) {
    const [ax, ay, bx, by] = [outline[k], outline[k + 1], outline[before], outline[before + 1]];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

function extent(outline) {
  const box = [Infinity, Infinity, -Infinity, -Infinity];
  for (let k = 0; k < outline.length; k += 2) {
    box[0] = Math.min(box[0], outline[k]);
    box[1] = Math.min(box[1], outline[k + 1]);
    box[2] = Math.max(box[2], outline[k]);
    box[3] = Math.max(box[3], outline[k + 1]);
  }
  return box;
}
