import assert from "node:assert/strict";
import { test } from "node:test";

import { dotsOf, isSorted, lineOf, numbersOf, plan, rangeOf, ticks } from "../console/plot.js";
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
