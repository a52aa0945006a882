// The chart: numeric columns of rows that were fetched for it, on a canvas.

import { element } from "./dom.js";
import { dotsOf, isSorted, lineOf, numbersOf, padded, placeOf, plan, rangeOf, ticks } from "./plot.js";
import { isNumeric, isTemporal } from "./text.js";

const MARGIN = { left: 68, right: 14, top: 12, bottom: 30 }; // CSS pixels
const MAX_SERIES = 6; // as many as there are colors
const FIRST_PIECE = 1000; // rows, from which the size of the others is estimated
const ROW_NUMBER = -1;

/** Choices of columns, and the canvas. */
export class Chart {
  #canvas;
  #columns; // the fieldset of the check boxes
  #select;
  #message;
  #names = [];
  #types = [];
  #numbers = null; // a Map of columns to their numbers
  onchange = () => {}; // other columns were chosen

  constructor(root) {
    this.#canvas = root.querySelector("canvas");
    this.#columns = root.querySelector("fieldset");
    this.#select = root.querySelector("select");
    this.#message = root.querySelector(".message");
    this.#select.addEventListener("change", () => this.onchange());
    this.#columns.addEventListener("change", () => this.#chosen());
    new ResizeObserver(() => this.#draw()).observe(this.#canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  /** Offer the columns of a result. The choice remains if they are the same as before. */
  offer(names, types) {
    if (names.join("\0") === this.#names.join("\0") && types.join() === this.#types.join()) return;
    [this.#names, this.#types, this.#numbers] = [names, types, null];
    const numeric = this.#places(isNumeric);
    const temporal = this.#places(isTemporal);
    const option = (place) => element("option", { value: place, textContent: place < 0 ? "row number" : names[place] });
    this.#select.replaceChildren(...[ROW_NUMBER, ...temporal, ...numeric].map(option));
    this.#select.value = temporal[0] ?? ROW_NUMBER;
    const boxes = numeric.slice(0, 50).map((place) => {
      const box = element("input", { type: "checkbox", value: place });
      return element("label", {}, box, element("span", { className: "swatch" }), names[place]);
    });
    this.#columns.replaceChildren(this.#columns.firstElementChild, ...boxes);
    const first = this.#columns.querySelectorAll("input");
    if (first.length) (first[first.length > 1 && /^(id|key|row|index)$/i.test(names[numeric[0]]) ? 1 : 0]).checked = true;
    this.#color();
    this.say(numeric.length ? "" : "The result has no numeric columns.");
    this.#draw();
  }

  /** Forget the numbers, because there is another result. */
  clear() {
    this.#numbers = null;
    this.#draw();
  }

  get isEmpty() {
    return this.#numbers === null;
  }

  say(text) {
    this.#message.textContent = text;
  }

  /** The places of the chosen columns: x, and then the others. */
  get chosen() {
    return [Number(this.#select.value), ...this.#ys()].filter((place) => place >= 0);
  }

  /** Show columns: a Map of places to arrays of numbers, among them those that are chosen. */
  show(numbers) {
    this.#numbers = numbers;
    this.#draw();
  }

  #places(isOfKind) {
    return this.#types.flatMap((type, place) => (isOfKind(type) ? [place] : []));
  }

  #ys() {
    return Array.from(this.#columns.querySelectorAll("input:checked"), ({ value }) => Number(value));
  }

  #chosen() {
    const boxes = [...this.#columns.querySelectorAll("input:checked")];
    for (const box of boxes.slice(MAX_SERIES)) box.checked = false;
    this.#color();
    this.onchange();
  }

  #color() {
    for (const label of this.#columns.querySelectorAll("label")) label.className = "";
    [...this.#columns.querySelectorAll("input:checked")].forEach((box, series) => {
      box.parentElement.className = `series-${series}`;
    });
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#canvas;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    Object.assign(this.#canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
    const context = this.#canvas.getContext("2d");
    context.scale(ratio, ratio);
    const ys = this.#ys().filter((place) => this.#numbers?.has(place));
    const [rangeY, x] = [ys.length ? rangeOf(...ys.map((place) => this.#numbers.get(place))) : null, Number(this.#select.value)];
    const xs = this.#numbers?.get(x) ?? this.#numbers?.get(ROW_NUMBER);
    const rangeX = xs && rangeOf(xs);
    const named = ys.map((place) => this.#names[place]).join(", ");
    this.#canvas.setAttribute("aria-label", rangeX && rangeY ? `Chart of ${named} against ${this.#nameOf(x)}` : "Empty chart");
    if (!rangeX || !rangeY) return;
    this.#plot(context, { width, height, xs, ys, rangeX, rangeY: padded(rangeY), x });
  }

  #nameOf(place) {
    return place < 0 ? "the row number" : this.#names[place];
  }

  #plot(context, { width, height, xs, ys, rangeX, rangeY, x }) {
    const style = getComputedStyle(this.#canvas);
    const area = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    if (area.width < 10 || area.height < 10) return;
    const pixelY = (y) => MARGIN.top + area.height * (1 - placeOf(y, rangeY));
    context.font = style.font;
    context.lineWidth = 1;
    context.fillStyle = style.getPropertyValue("--muted");
    context.strokeStyle = style.getPropertyValue("--line");
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const { value, label } of ticks(rangeY, Math.max(2, area.height / 50))) {
      const at = Math.round(pixelY(value)) + 0.5;
      stroke(context, [MARGIN.left, at], [width - MARGIN.right, at]);
      context.fillText(label, MARGIN.left - 8, at, MARGIN.left - 10);
    }
    context.textBaseline = "top";
    for (const { value, label } of ticks(rangeX, Math.max(2, area.width / 110), this.#types[x])) {
      const at = MARGIN.left + placeOf(value, rangeX) * (area.width - 1);
      const half = context.measureText(label).width / 2;
      context.textAlign = at + half > width ? "right" : "center";
      stroke(context, [Math.round(at) + 0.5, MARGIN.top + area.height], [Math.round(at) + 0.5, MARGIN.top + area.height + 5]);
      context.fillText(label, Math.min(at, width), MARGIN.top + area.height + 9);
    }
    const sorted = isSorted(xs);
    ys.forEach((place, series) => {
      context.strokeStyle = context.fillStyle = style.getPropertyValue(`--series-${series}`);
      if (sorted) line(context, lineOf(xs, this.#numbers.get(place), rangeX, area.width), pixelY);
      else dots(context, dotsOf(xs, this.#numbers.get(place), rangeX, rangeY, Math.floor(area.width), Math.floor(area.height)));
    });
  }
}

/** Fetch the columns of a result that a chart needs: a Map of places to numbers, with the row numbers at -1. */
export async function collect(result, places, { signal, onprogress }) {
  const first = await result.take(0, Math.min(FIRST_PIECE, result.rows), signal);
  const { pieces, count } = plan(result.rows, Math.max(1, first.size / first.table.length));
  const numbers = new Map([ROW_NUMBER, ...places].map((place) => [place, new Float64Array(count)]));
  let at = 0;
  for (const [start, size] of pieces) {
    const { table } = await result.take(start, size, signal);
    for (const place of places) numbers.get(place).set(numbersOf(table.columns[place]), at);
    for (let row = 0; row < size; row++) numbers.get(ROW_NUMBER)[at + row] = start + row;
    at += size;
    onprogress(at, count);
  }
  return numbers;
}

function stroke(context, from, to) {
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(...to);
  context.stroke();
}

function line(context, points, pixelY) {
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.beginPath();
  points.forEach((point, place) => {
    if (!point) return;
    const at = [MARGIN.left + point[0], pixelY(point[1])];
    if (points[place - 1]) context.lineTo(...at);
    else context.moveTo(...at);
    if (!points[place - 1] && !points[place + 1]) context.fillRect(at[0] - 1, at[1] - 1, 3, 3); // a lone point
  });
  context.stroke();
}

function dots(context, places) {
  for (const [column, row] of places) context.fillRect(MARGIN.left + column - 0.5, MARGIN.top + row - 0.5, 2, 2);
}
