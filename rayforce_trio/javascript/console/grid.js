// The table of a result: only the rows that are seen are elements. The rows come from a source:
// `{ names, types, rows, cells(row), want(first, count) }`, whose cells are undefined until they are there.

import { cut, element } from "./dom.js";
import { ScrollMap } from "./scroll.js";
import { isNumeric } from "./text.js";

const MAX_COLUMNS = 200;
const MAX_TEXT = 300; // characters of a cell
const WIDTHS = [5, 44]; // characters of a column

export class Grid {
  #scroller;
  #spacer;
  #table;
  #source = null;
  #map = new ScrollMap(0, 1, 1);
  #first = 0;
  #set = 0; // the place of the scroll bar that belongs to #first
  #widths = [];
  #rowHeight = 26;
  #isDue = false;

  constructor(scroller) {
    this.#scroller = scroller;
    this.#spacer = element("div", { className: "spacer" });
    scroller.append(this.#spacer);
    scroller.addEventListener("scroll", () => this.#scrolled());
    scroller.addEventListener("keydown", (event) => this.#pressed(event));
    scroller.addEventListener("wheel", (event) => this.#wheeled(event), { passive: false });
    new ResizeObserver(() => this.refresh()).observe(scroller);
  }

  /** Show a source from its first row on; null shows nothing. */
  show(source) {
    this.#source = source;
    [this.#first, this.#set] = [0, 0];
    this.#widths = [];
    this.#scroller.scrollTop = 0;
    this.#scroller.scrollLeft = 0;
    this.refresh();
  }

  /** The first row that is shown. */
  get first() {
    return this.#first;
  }

  go(row) {
    this.#first = this.#map.clamp(row);
    this.#set = this.#scroller.scrollTop = this.#map.pixelsOf(this.#first);
    this.refresh();
  }

  /** Draw again before the next frame. */
  refresh() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#render();
    });
  }

  get #visible() {
    return Math.max(1, Math.floor((this.#scroller.clientHeight - this.#rowHeight) / this.#rowHeight));
  }

  #scrolled() {
    if (Math.abs(this.#scroller.scrollTop - this.#set) < 1) return;
    this.#set = this.#scroller.scrollTop;
    this.#first = this.#map.rowAt(this.#set);
    this.refresh();
  }

  /** Where a pixel of the scroll bar stands for several rows, the wheel moves row by row nevertheless. */
  #wheeled(event) {
    if (event.deltaMode !== 0 || event.ctrlKey || !event.deltaY || this.#map.extent >= this.#map.lastFirst * this.#rowHeight) return;
    event.preventDefault();
    this.go(this.#first + Math.sign(event.deltaY) * Math.ceil(Math.abs(event.deltaY) / this.#rowHeight));
    this.#scroller.scrollLeft += event.deltaX;
  }

  #pressed(event) {
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: this.#visible, PageUp: -this.#visible, Home: -Infinity, End: Infinity }[event.key];
    if (!step || event.altKey || event.metaKey) return;
    event.preventDefault();
    this.go(this.#first + step);
  }

  #render() {
    const source = this.#source;
    if (!source) {
      this.#spacer.replaceChildren();
      this.#spacer.style.height = "0";
      return;
    }
    const visible = Math.min(this.#visible, source.rows);
    this.#map = new ScrollMap(source.rows, this.#visible, this.#rowHeight);
    this.#spacer.style.height = `${this.#map.extent + this.#scroller.clientHeight - (this.#scroller.scrollWidth > this.#scroller.clientWidth ? 1 : 0)}px`;
    this.#first = this.#map.clamp(this.#first);
    source.want(this.#first, visible);
    const shown = source.names.slice(0, MAX_COLUMNS);
    const rows = Array.from({ length: visible }, (_, place) => this.#row(this.#first + place, shown.length));
    const heads = shown.map((name, place) => {
      this.#widen(place, name.length + source.types[place].length + 1);
      const type = element("span", { className: "type", textContent: source.types[place] });
      return element("th", { scope: "col", title: name, className: isNumeric(source.types[place]) ? "number" : "" }, cut(name, MAX_TEXT), type);
    });
    const numberWidth = Math.max(3, String(source.rows).length);
    const columns = [numberWidth, ...shown.map((_, place) => this.#widths[place])].map((width) => {
      const column = element("col");
      column.style.width = `calc(${width}ch + 1.5rem)`;
      return column;
    });
    this.#table = element(
      "table",
      {},
      element("colgroup", {}, ...columns),
      element("thead", {}, element("tr", {}, element("th", { scope: "col", className: "row", ariaLabel: "row number" }), ...heads)),
      element("tbody", {}, ...rows),
    );
    this.#table.setAttribute("aria-rowcount", source.rows + 1);
    const total = [numberWidth, ...this.#widths.slice(0, shown.length)].reduce((sum, width) => sum + width, 0);
    this.#table.style.width = `calc(${total}ch + ${1.5 * (shown.length + 1)}rem)`;
    this.#spacer.replaceChildren(this.#table);
  }

  #row(row, columns) {
    const source = this.#source;
    const cells = source.cells(row);
    const line = element("tr", {}, element("th", { scope: "row", className: "row", textContent: String(row) }));
    line.setAttribute("aria-rowindex", row + 2);
    for (let place = 0; place < columns; place++) {
      const cell = element("td", { className: isNumeric(source.types[place]) ? "number" : "" });
      if (cells === undefined) {
        cell.textContent = "…";
        cell.className = "pending";
      } else {
        const text = cells[place];
        cell.textContent = text === null ? "null" : cut(text, MAX_TEXT).replaceAll(/\s/g, " ");
        if (text === null) cell.classList.add("null");
        else if (text.length > WIDTHS[1]) cell.title = cut(text, 2000);
        this.#widen(place, cell.textContent.length);
      }
      line.append(cell);
    }
    return line;
  }

  /** Columns become wider and never narrower, so that nothing jumps while the rows scroll. */
  #widen(place, size) {
    this.#widths[place] = Math.max(this.#widths[place] ?? WIDTHS[0], Math.min(size, WIDTHS[1]));
  }
}
