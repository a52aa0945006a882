// What a chart shows, without a page: which rows it needs, and the points that are left of them.

import { isoOf } from "../src/time.js";

const MAX_ROWS = 2_000_000;
const MAX_BYTES = 256 * 1024 * 1024;
const PIECE_BYTES = 4 * 1024 * 1024;
const SAMPLES = 400; // pieces, if not all rows are taken

/**
 * The rows to fetch for a chart: all of them, or evenly spaced pieces if they are too many. `{ pieces, count }`: each
 * piece is `[start, count]`.
 */
export function plan(rows, bytesPerRow) {
  const limit = Math.max(SAMPLES, Math.min(MAX_ROWS, Math.floor(MAX_BYTES / bytesPerRow)));
  const size = Math.max(1, Math.min(100_000, Math.floor(PIECE_BYTES / bytesPerRow)));
  const pieces = [];
  if (rows <= limit) {
    for (let start = 0; start < rows; start += size) pieces.push([start, Math.min(size, rows - start)]);
    return { pieces, count: rows };
  }
  const count = Math.floor(limit / SAMPLES);
  for (let place = 0; place < SAMPLES; place++) pieces.push([Math.floor((place * (rows - count)) / (SAMPLES - 1)), count]);
  return { pieces, count: count * SAMPLES };
}

/** The items of a column as numbers; NaN for null. */
export function numbersOf(column) {
  const { data, type, hasNulls } = column;
  const numbers = Float64Array.from(data, Number);
  if (hasNulls && !type.startsWith("F")) {
    for (let row = 0; row < numbers.length; row++) if (column.at(row) === null) numbers[row] = NaN;
  }
  return numbers;
}

/** The least and the greatest finite number; null if there is none. */
export function rangeOf(...arrays) {
  let [low, high] = [Infinity, -Infinity];
  for (const numbers of arrays) {
    for (const number of numbers) {
      if (number < low && number > -Infinity) low = number;
      if (number > high && number < Infinity) high = number;
    }
  }
  return low <= high ? [low, high] : null;
}

/** A range with some space at both ends, which contains more than one number if possible. */
export function padded([low, high]) {
  const space = (high / 2 - low / 2 || Math.abs(high) / 2 || 0.5) * 0.08;
  return [Math.max(low - space, -Number.MAX_VALUE), Math.min(high + space, Number.MAX_VALUE)];
}

/** The place of a number in a range, from 0 to 1. Numbers are halved first, so that no difference is infinite. */
export function placeOf(number, [low, high]) {
  return high / 2 > low / 2 ? (number / 2 - low / 2) / (high / 2 - low / 2) : number * 0;
}

export function isSorted(numbers) {
  return numbers.every((number, place) => place === 0 || number >= numbers[place - 1]);
}

/**
 * A line of at most four points for each pixel: the first, the least, the greatest and the last one, so that no extreme
 * is lost. Points are `[pixel, y]`; null is a gap, where numbers are missing. `xs` must be sorted.
 */
export function lineOf(xs, ys, range, width) {
  const points = [];
  let bucket = null; // { pixel, places }
  const flush = () => {
    if (!bucket) return;
    const places = [...new Set([bucket.first, bucket.least, bucket.greatest, bucket.last])].sort((one, other) => one - other);
    for (const place of places) points.push([bucket.pixel, ys[place]]);
    bucket = null;
  };
  for (let place = 0; place < xs.length; place++) {
    const y = ys[place];
    if (!Number.isFinite(y) || !Number.isFinite(xs[place])) {
      flush();
      if (points.length && points.at(-1) !== null) points.push(null);
      continue;
    }
    const pixel = Math.round(placeOf(xs[place], range) * (width - 1));
    if (bucket?.pixel !== pixel) {
      flush();
      bucket = { pixel, first: place, least: place, greatest: place, last: place };
      continue;
    }
    bucket.last = place;
    if (y < ys[bucket.least]) bucket.least = place;
    if (y > ys[bucket.greatest]) bucket.greatest = place;
  }
  flush();
  return points;
}

/** The pixels of points, each once: `[column, row]`. */
export function dotsOf(xs, ys, rangeX, rangeY, width, height) {
  const seen = new Uint8Array(width * height);
  const dots = [];
  for (let place = 0; place < xs.length; place++) {
    const column = Math.round(placeOf(xs[place], rangeX) * (width - 1));
    const row = height - 1 - Math.round(placeOf(ys[place], rangeY) * (height - 1));
    const at = row * width + column;
    if (!(at >= 0) || seen[at]) continue; // NaN is not
    seen[at] = 1;
    dots.push([column, row]);
  }
  return dots;
}

const SECOND = { TIME: 1e3, TIMESTAMP: 1e9, TIMESPAN: 1e9 }; // units
const CLOCK_STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200]; // seconds
const DAY_STEPS = [1, 2, 7, 14, 30, 91, 183, 365, 730, 1826, 3652, 7305, 18262, 36524];

/** Places of labels within a range, about `most` of them and at least one: `[{ value, label }]`. */
export function ticks([low, high], most, type = "") {
  const step = stepOf(((high / 2 - low / 2) / most) * 2, type);
  const first = Math.ceil(low / step) * step;
  const found = [];
  // Steps are counted, not added: to add a step to a number that is much larger does not change it.
  for (let count = 0; count <= most + 1 && low + step > low; count++) {
    const value = first + count * step;
    if (!(value <= high + step * 1e-9)) break;
    const within = Math.min(Math.max(value, low), high);
    if (!(within <= found.at(-1)?.value)) found.push({ value: within, label: labelOf(within, step, type) });
  }
  return found.length ? found : [{ value: low, label: labelOf(low, 0, type) }];
}

function stepOf(least, type) {
  const day = type === "DATE" ? 1 : SECOND[type] * 86400;
  if (type in SECOND && least <= CLOCK_STEPS.at(-1) * SECOND[type] && least >= SECOND[type]) {
    return CLOCK_STEPS.find((step) => step * SECOND[type] >= least) * SECOND[type];
  }
  const days = day && least >= day / 2 && DAY_STEPS.find((step) => step * day >= least);
  if (days) return days * day;
  const power = 10 ** Math.floor(Math.log10(least));
  const step = [1, 2, 5, 10].find((factor) => factor * power >= least * (1 - 1e-9)) * power;
  return day ? Math.max(1, Math.round(step)) : step;
}

function labelOf(value, step, type) {
  if (type === "DATE") return isoOf(type, Math.round(value));
  if (type in SECOND) {
    const item = type === "TIME" ? Math.round(value) : BigInt(Math.round(value));
    const text = isoOf(type, item);
    if (type !== "TIMESTAMP") return step >= SECOND[type] ? text.split(".")[0] : text;
    const [date, clock] = text.replace("Z", "").split("T");
    if (step >= SECOND[type] * 86400) return date;
    if (clock.startsWith("00:00:00.000000")) return date;
    return step >= SECOND[type] * 60 ? clock.slice(0, 5) : step >= SECOND[type] ? clock.slice(0, 8) : clock;
  }
  const rounded = Number(value.toPrecision(12));
  const size = Math.abs(rounded);
  if (size >= 1e15 || (size && size < 1e-4)) return rounded.toExponential();
  return rounded.toLocaleString("en-US", { maximumFractionDigits: 6 });
}
