// Scrolling through any number of rows, without a page. Browsers limit the height of an element to 17 million pixels or
// more, so the place of the scroll bar stands for a part of the rows.

export const MAX_EXTENT = 8_000_000; // pixels

export class ScrollMap {
  /** @param visible how many rows fit; @param rowHeight in pixels */
  constructor(rows, visible, rowHeight, maxExtent = MAX_EXTENT) {
    this.lastFirst = Math.max(0, rows - visible); // the first row when the last one is shown
    this.extent = Math.min(this.lastFirst * rowHeight, maxExtent); // pixels that can be scrolled
  }

  /** The first row that is shown at a place of the scroll bar. */
  rowAt(pixels) {
    if (!this.extent) return 0;
    return this.clamp(Math.round((pixels / this.extent) * this.lastFirst));
  }

  pixelsOf(row) {
    return this.lastFirst ? (this.clamp(row) / this.lastFirst) * this.extent : 0;
  }

  clamp(row) {
    return Math.min(Math.max(0, row), this.lastFirst);
  }
}

const PAGE_SIZE = 250; // rows
const KEPT_PAGES = 60;
const MAX_FETCHES = 2;

/** The rows of a result in pages: those that are wanted are fetched, and the last used ones are kept. */
export class Pages {
  onchange = () => {};
  error = null;
  #rows;
  #fetch;
  #kept = new Map(); // by number, the last used one at the end
  #fetching = new Set();
  #wanted = [];

  /** @param fetch returns a promise for the rows `(start, count)` */
  constructor(rows, fetch) {
    this.#rows = rows;
    this.#fetch = fetch;
  }

  /** The page of a row and the place in it: `{ page, at }`, or undefined if the row is not there yet. */
  find(row) {
    const number = Math.floor(row / PAGE_SIZE);
    const page = this.#kept.get(number);
    return page && { page, at: row - number * PAGE_SIZE };
  }

  /** Fetch these rows, if they are not there, and then the page behind them. Earlier wishes are forgotten. */
  want(first, count) {
    const [from, to] = [first, Math.min(first + count, this.#rows) - 1].map((row) => Math.floor(row / PAGE_SIZE));
    this.#wanted = [];
    const last = Math.min(to + 1, Math.floor((this.#rows - 1) / PAGE_SIZE));
    for (let place = 0; place <= last - from; place++) {
      const number = from + place;
      const page = this.#kept.get(number);
      if (page) {
        this.#kept.delete(number);
        this.#kept.set(number, page);
      } else {
        this.#wanted.push(number);
      }
    }
    this.#pump();
  }

  #pump() {
    while (!this.error && this.#fetching.size < MAX_FETCHES) {
      const number = this.#wanted.find((each) => !this.#fetching.has(each) && !this.#kept.has(each));
      if (number === undefined) return;
      this.#load(number);
    }
  }

  async #load(number) {
    this.#fetching.add(number);
    const start = number * PAGE_SIZE;
    try {
      this.#kept.set(number, await this.#fetch(start, Math.min(PAGE_SIZE, this.#rows - start)));
      if (this.#kept.size > KEPT_PAGES) this.#kept.delete(this.#kept.keys().next().value);
    } catch (error) {
      this.error ??= error;
    } finally {
      this.#fetching.delete(number);
    }
    this.onchange();
    this.#pump();
  }
}
