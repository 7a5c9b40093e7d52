// @ts-check
// Which images are selected: row numbers, whatever list shows them.

export class Selection extends EventTarget {
  rows = new Set();

  get size() {
    return this.rows.size;
  }

  has(row) {
    return this.rows.has(row);
  }

  set(row, on) {
    if (on === this.rows.has(row)) return;
    if (on) this.rows.add(row);
    else this.rows.delete(row);
    this.#tell();
  }

  toggle(row) {
    this.set(row, !this.rows.has(row));
  }

  add(rows) {
    for (const row of rows) this.rows.add(row);
    this.#tell();
  }

  only(rows) {
    this.rows = new Set(rows);
    this.#tell();
  }

  clear() {
    if (!this.rows.size) return;
    this.rows.clear();
    this.#tell();
  }

  list() {
    return [...this.rows];
  }

  #tell() {
    this.dispatchEvent(new Event("change"));
  }
}
