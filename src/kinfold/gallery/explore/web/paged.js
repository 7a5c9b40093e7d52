// A long list of the server's, read page by page as it comes into view. While a page is read again its old items stay.

const AT_ONCE = 3;
const KEPT = 80;

export class PagedList {
  #pages = new Map(); // number -> {items, generation}
  #asked = new Map(); // number -> promise
  #wanted = [];
  #generation = 0;

  /** `load(offset, limit)` resolves to `{total, items}`; `loaded(first, last)` and `counted(total)` are told. */
  constructor({ load, size = 200, loaded, counted, failed }) {
    Object.assign(this, { load, size, loaded, counted, failed });
    this.total = null;
  }

  at(index) {
    return this.#pages.get(Math.floor(index / this.size))?.items[index % this.size];
  }

  /** The indices and items of every page at hand. */
  *known() {
    for (const [number, page] of this.#pages) {
      for (let k = 0; k < page.items.length; k += 1) yield [number * this.size + k, page.items[k]];
    }
  }

  /** Ask for the pages of `first` to `last`, those in view (`seen`) before the others, and drop older wishes. */
  want(first, last, seen = { first, last }) {
    const of = (index) => Math.floor(Math.max(0, index) / this.size);
    const numbers = [];
    for (let number = of(seen.first); number <= of(seen.last); number += 1) numbers.push(number);
    for (let number = of(first); number <= of(last); number += 1) if (!numbers.includes(number)) numbers.push(number);
    this.#wanted = numbers.filter((number) => !this.#fresh(number) && (this.total === null || number * this.size < Math.max(1, this.total)));
    this.#forget(of(first), of(last));
    this.#next();
  }

  #fresh(number) {
    return this.#pages.get(number)?.generation === this.#generation;
  }

  #forget(from, to) {
    if (this.#pages.size <= KEPT) return;
    const far = [...this.#pages.keys()].sort((a, b) => distance(b, from, to) - distance(a, from, to));
    for (const number of far.slice(0, this.#pages.size - KEPT)) this.#pages.delete(number);
  }

  #next() {
    while (this.#asked.size < AT_ONCE && this.#wanted.length) {
      const number = this.#wanted.shift();
      if (!this.#asked.has(number) && !this.#fresh(number)) this.#ask(number);
    }
  }

  #ask(number) {
    const generation = this.#generation;
    const promise = this.load(number * this.size, this.size)
      .then(({ total, items }) => {
        if (generation !== this.#generation) return;
        this.#pages.set(number, { items, generation });
        const counted = this.total !== total;
        this.total = total;
        if (counted) this.counted?.(total);
        this.loaded?.(number * this.size, number * this.size + items.length - 1);
      })
      .catch((error) => this.failed?.(error))
      .finally(() => {
        if (this.#asked.get(number) === promise) this.#asked.delete(number);
        this.#next();
      });
    this.#asked.set(number, promise);
    return promise;
  }

  /** The item at `index`, read first if need be; undefined past the end. */
  async item(index) {
    if (index < 0 || (this.total !== null && index >= this.total)) return undefined;
    const number = Math.floor(index / this.size);
    if (!this.#pages.has(number)) await (this.#asked.get(number) ?? this.#ask(number));
    return this.at(index);
  }

  /** Something changed: read the page in view again, the rest when it comes into view. */
  async refresh(first = 0) {
    this.#generation += 1;
    this.#asked.clear();
    this.#wanted = [];
    await this.#ask(Math.floor(first / this.size));
    for (const number of [...this.#pages.keys()]) {
      if (this.total !== null && number * this.size >= this.total) this.#pages.delete(number);
    }
  }

  /** Another list from the beginning: nothing old is shown. */
  async reset() {
    this.#pages.clear();
    this.total = null;
    await this.refresh(0);
  }
}

function distance(number, from, to) {
  return Math.max(0, from - number, number - to);
}
