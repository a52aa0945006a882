import assert from "node:assert/strict";
import { test } from "node:test";

import { dotsOf, isSorted, lineOf, numbersOf, padded, plan, rangeOf, ticks } from "../console/plot.js";
import { vector } from "../src/rayforce.js";

const total = ({ pieces }) => pieces.reduce((sum, [, count]) => sum + count, 0);

test("a chart of a million rows takes all of them once, in pieces", () => {
  const planned = plan(1_000_000, 32);
  assert.equal(planned.count, 1_000_000);
  let at = 0;
  for (const [start, count] of planned.pieces) {
    assert.equal(start, at);
    at += count;
  }
  assert.equal(at, 1_000_000);
  assert.deepEqual(plan(0, 8), { pieces: [], count: 0 });
  assert.deepEqual(plan(3, 1e12), { pieces: [[0, 1], [1, 1], [2, 1]], count: 3 });
});

test("of too many rows, a chart takes evenly spaced pieces from the first to the last row", () => {
  for (const [rows, bytes] of [
    [1e9, 8],
    [3_000_000, 8],
    [1_000_000, 100_000],
  ]) {
    const planned = plan(rows, bytes);
    assert.equal(total(planned), planned.count);
    assert.ok(planned.count <= 2_000_000 && planned.count * bytes <= 300 * 1024 * 1024);
    assert.equal(planned.pieces[0][0], 0);
    const [start, count] = planned.pieces.at(-1);
    assert.equal(start + count, rows);
    assert.ok(planned.pieces.every(([from], place) => place === 0 || from > planned.pieces[place - 1][0]));
  }
});

test("nulls are no numbers", () => {
  assert.deepEqual([...numbersOf(vector("I64", [1n, null, -3n]))], [1, NaN, -3]);
  assert.deepEqual([...numbersOf(vector("F64", [1.5, null]))], [1.5, NaN]);
  assert.deepEqual([...numbersOf(vector("DATE", [null, 7]))], [NaN, 7]);
});

test("a range leaves out what is not finite", () => {
  assert.deepEqual(rangeOf([NaN, 3, -1, Infinity], [5, -Infinity]), [-1, 5]);
  assert.equal(rangeOf([NaN], []), null);
});

test("a line keeps the extremes of each pixel, with four points at most", () => {
  const size = 100_000;
  const xs = Float64Array.from({ length: size }, (_, place) => place);
  const ys = xs.map((x) => Math.sin(x / 5000));
  [ys[31_234], ys[77_777]] = [50, -70];
  const points = lineOf(xs, ys, [0, size - 1], 500);
  assert.ok(points.length <= 4 * 500);
  assert.equal(Math.max(...points.map(([, y]) => y)), 50);
  assert.equal(Math.min(...points.map(([, y]) => y)), -70);
  assert.deepEqual([points[0], points.at(-1)[0]], [[0, ys[0]], 499]);
  assert.ok(points.every(([pixel], place) => place === 0 || pixel >= points[place - 1][0]));
});

test("missing numbers are gaps in a line", () => {
  assert.deepEqual(lineOf([0, 1, 2, 3], [1, NaN, NaN, 2], [0, 3], 4), [[0, 1], null, [3, 2]]);
  assert.deepEqual(lineOf([0, NaN], [1, 1], [0, 0], 4), [[0, 1], null]);
});

test("rows that are not in order are dots, each pixel once", () => {
  assert.ok(isSorted([1, 1, 2]));
  assert.ok(!isSorted([2, 1]));
  assert.ok(!isSorted([1, NaN, 2]));
  assert.deepEqual(dotsOf([10, 0, 0, NaN], [1, 0, 0, 1], [0, 10], [0, 1], 11, 5), [
    [10, 0],
    [0, 4],
  ]);
});

test("ticks are round numbers within the range", () => {
  const labels = (...rest) => ticks(...rest).map(({ label }) => label);
  assert.deepEqual(labels([0, 100], 5), ["0", "20", "40", "60", "80", "100"]);
  assert.deepEqual(labels([0.12, 0.31], 4), ["0.15", "0.2", "0.25", "0.3"]);
  assert.deepEqual(labels([7, 7], 4), ["7"]);
  assert.deepEqual(labels([0, 4e18], 2), ["0", "2e+18", "4e+18"]);
  const noon = BigInt(Date.UTC(2024, 0, 2, 12) - Date.UTC(2000)) * 1_000_000n;
  const hour = 3_600_000_000_000;
  assert.deepEqual(labels([Number(noon), Number(noon) + 2 * hour], 4, "TIMESTAMP"), ["12:00", "12:30", "13:00", "13:30", "14:00"]);
  assert.deepEqual(labels([Number(noon) - 14 * hour, Number(noon) + 14 * hour], 3, "TIMESTAMP"), ["2024-01-02", "12:00", "2024-01-03"]);
  assert.deepEqual(labels([0, 3], 3, "DATE"), ["2000-01-01", "2000-01-02", "2000-01-03", "2000-01-04"]);
  assert.deepEqual(labels([0, 90_000], 3, "TIME"), ["00:00:00", "00:00:30", "00:01:00", "00:01:30"]);
  assert.ok(labels([0, 36525 * 20], 5, "DATE").length <= 21);
  assert.ok(labels([-1e9, 1e9], 5, "DATE").length <= 7);
});

const { MAX_VALUE, MIN_VALUE } = Number;

/** A few labels, in order, each at another place of the range. */
function checkTicks(range, most, type) {
  const values = ticks(range, most, type).map(({ value }) => value);
  const which = `${JSON.stringify({ range, most, type })}: ${values}`;
  assert.ok(values.length >= 1 && values.length <= most + 2, which);
  assert.ok(values.every((value) => value >= range[0] && value <= range[1]), which);
  assert.ok(values.every((value, place) => place === 0 || value > values[place - 1]), which);
}

test("numbers that are close to each other have a few ticks", () => {
  const burst = 850_000_000_000_000_000; // a time in nanoseconds, whose neighbors are 128 away
  for (const most of [2, 4.7, 8, 20]) {
    for (const type of ["", "TIMESTAMP", "TIMESPAN"]) {
      for (const width of [128, 256, 1024, 10_000]) checkTicks([burst, burst + width], most, type);
      checkTicks([-burst - 256, -burst], most, type);
    }
    checkTicks([0.3, 0.1 + 0.2], most);
    checkTicks(padded([0.3, 0.1 + 0.2]), most);
    checkTicks([1e18, 1e18 + 128], most);
    checkTicks([1e300, 1e300 * (1 + Number.EPSILON)], most);
  }
  assert.deepEqual(ticks([0.3, 0.1 + 0.2], 5), [{ value: 0.3, label: "0.3" }]);
});

test("any range has a few ticks", () => {
  const extremes = [-MAX_VALUE, -MAX_VALUE / 2, -(2 ** 63), -1, -1e-300, -MIN_VALUE, 0, MIN_VALUE, 3 * MIN_VALUE, 2 ** -1022, 0.1, 0.3, 1, 2 ** 53, 2 ** 63, MAX_VALUE];
  const types = { "": extremes, DATE: [-(2 ** 31), -1, 0, 1, 2 ** 31 - 1], TIME: [-(2 ** 31), 0, 1, 2 ** 31 - 1] };
  types.TIMESTAMP = types.TIMESPAN = extremes.filter((number) => Number.isInteger(number) && Math.abs(number) <= 2 ** 63);
  for (const [type, numbers] of Object.entries(types)) {
    for (const low of numbers) {
      for (const high of numbers.filter((number) => number >= low)) {
        for (const most of [2, 3.5, 12]) {
          checkTicks([low, high], most, type);
          if (type === "") checkTicks(padded([low, high]), most);
        }
      }
    }
  }
});

test("random ranges have a few ticks", () => {
  let state = 1;
  const random = () => (state = (state * 48271) % 2147483647) / 2147483647;
  const number = () => (random() - 0.5) * 10 ** (random() * 600 - 300);
  for (let round = 0; round < 3000; round++) {
    const low = number();
    const high = random() < 0.5 ? number() : low + Math.abs(low) * 10 ** (-18 * random());
    const range = low < high ? [low, high] : [high, low];
    checkTicks(range, 2 + 20 * random());
    checkTicks(padded(range), 2 + 20 * random());
  }
});

test("the widest range and the narrowest one are drawn", () => {
  assert.deepEqual(lineOf([-MAX_VALUE, 0, MAX_VALUE], [1, 2, 3], [-MAX_VALUE, MAX_VALUE], 5), [[0, 1], [2, 2], [4, 3]]);
  const size = 1000;
  const xs = Float64Array.from({ length: size }, (_, place) => (place < size / 2 ? 0 : MIN_VALUE));
  assert.ok(lineOf(xs, xs, [0, MIN_VALUE], 5).length <= 8);
  assert.deepEqual(dotsOf([MAX_VALUE, -MAX_VALUE], [0, MIN_VALUE], [-MAX_VALUE, MAX_VALUE], [0, 1], 3, 2), [[2, 1], [0, 1]]);
  assert.deepEqual(padded([0, 100]), [-4, 104]);
  assert.deepEqual(padded([0, 0]), [-0.04, 0.04]);
  assert.deepEqual(padded([-MAX_VALUE, MAX_VALUE]), [-MAX_VALUE, MAX_VALUE]);
});
