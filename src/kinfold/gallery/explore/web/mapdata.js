// @ts-check
// The points of the map as typed arrays, in a random order that is the same every time: any first part of it is a fair sample.

import { getBytes } from "./api.js";

/** Read points and rows; groups come by `readGroups`. */
export async function readMap(signal) {
  const [points, rows] = await Promise.all([getBytes("api/map/points", {}, { signal }), getBytes("api/map/rows", {}, { signal })]);
  return new MapData(new Float32Array(points.bytes), asRows(rows));
}

function asRows({ bytes, headers }) {
  return headers.get("X-Dtype") === "int64" ? Float64Array.from(new BigInt64Array(bytes), Number) : new Int32Array(bytes);
}

class MapData {
  /** `points`: x, y of every image; `rows`: its row number, rising. */
  constructor(points, rows) {
    this.n = rows.length;
    if (points.length !== 2 * this.n) throw new Error("The map doesn't fit its images.");
    this.rowsByPlace = rows;
    this.order = shuffled(this.n); // slot -> place
    this.slots = new Uint32Array(this.n); // place -> slot
    this.places = new Float32Array(2 * this.n); // x, y by slot
    for (let slot = 0; slot < this.n; slot += 1) {
      const place = this.order[slot];
      this.slots[place] = slot;
      this.places[2 * slot] = points[2 * place];
      this.places[2 * slot + 1] = points[2 * place + 1];
    }
    this.ids = new Int32Array(this.n).fill(-1); // group by slot
    this.colors = new Uint16Array(this.n); // place in the palette by slot: group + 1
  }

  /** Read every image's group as it is now; gives the greatest number. */
  async readGroups(version, signal) {
    const { bytes } = await getBytes("api/map/groups", { version }, { signal });
    const groups = new Int32Array(bytes);
    if (groups.length !== this.n) throw new Error("The map doesn't fit its groups; reload the page.");
    let greatest = -1;
    for (let slot = 0; slot < this.n; slot += 1) {
      const id = groups[this.order[slot]];
      this.ids[slot] = id;
      this.colors[slot] = id + 1;
      if (id > greatest) greatest = id;
    }
    return greatest;
  }

  row(slot) {
    return this.rowsByPlace[this.order[slot]];
  }

  /** The slot of a row number; −1 if it isn't on the map. */
  slotOf(row) {
    let [low, high] = [0, this.n];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rowsByPlace[middle] < row) low = middle + 1;
      else high = middle;
    }
    return this.rowsByPlace[low] === row ? this.slots[low] : -1;
  }
}

// Fisher and Yates, with a small generator of its own (xorshift), so that a reload draws the same picture.
function shuffled(n) {
  const order = new Uint32Array(n);
  let state = 0x9e3779b9;
  for (let k = 0; k < n; k += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    const other = Math.floor(((state >>> 0) / 4294967296) * (k + 1));
    order[k] = order[other];
    order[other] = k;
  }
  return order;
}
