import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";

import { MAX_EXTENT, Pages, ScrollMap } from "../console/scroll.js";

test("few rows scroll pixel by pixel", () => {
  const map = new ScrollMap(100, 20, 25);
  assert.equal(map.extent, 80 * 25);
  assert.deepEqual([0, 25, 26, 2000, 9999, -5].map((pixels) => map.rowAt(pixels)), [0, 1, 1, 80, 80, 0]);
  assert.equal(map.pixelsOf(3), 75);
});

test("rows that fit do not scroll", () => {
  for (const rows of [0, 5, 20]) {
    const map = new ScrollMap(rows, 20, 25);
    assert.deepEqual([map.extent, map.rowAt(100), map.pixelsOf(7), map.clamp(7)], [0, 0, 0, 0]);
  }
});

test("the last row of any number of rows can be reached, within the height that browsers allow", () => {
  for (const rows of [1_000_000, 3_000_000_000]) {
    const map = new ScrollMap(rows, 20, 26);
    assert.equal(map.extent, MAX_EXTENT);
    assert.equal(map.rowAt(MAX_EXTENT), rows - 20);
    assert.equal(map.rowAt(MAX_EXTENT / 2), (rows - 20) / 2);
    assert.equal(map.pixelsOf(Infinity), MAX_EXTENT);
  }
  const map = new ScrollMap(1_000_000, 20, 26);
  for (let row = 0; row < 999_980; row += 7919) assert.equal(map.rowAt(map.pixelsOf(row)), row);
});

function paged(rows) {
  const asked = [];
  const answers = [];
  const pages = new Pages(rows, (start, count) => {
    asked.push([start, count]);
    return new Promise((resolve, reject) => answers.push({ resolve, reject }));
  });
  return { pages, asked, answers };
}

test("rows are fetched in pages, two at a time, and what was wanted last comes first", async () => {
  const { pages, asked, answers } = paged(1_000_000);
  pages.want(0, 30);
  assert.deepEqual(asked, [
    [0, 250],
    [250, 250],
  ]);
  pages.want(500_000, 30);
  pages.want(999_980, 20);
  assert.equal(asked.length, 2);
  assert.equal(pages.find(0), undefined);
  answers.shift().resolve("first");
  await turn();
  assert.deepEqual(asked.at(-1), [999_750, 250]);
  assert.deepEqual(pages.find(249), { page: "first", at: 249 });
  for (const { resolve } of answers) resolve("page");
  await turn();
  assert.equal(asked.length, 3);
  assert.deepEqual(pages.find(999_999), { page: "page", at: 249 });
});

test("the last page has the rest of the rows", () => {
  const { pages, asked } = paged(260);
  pages.want(0, 30);
  assert.deepEqual(asked, [
    [0, 250],
    [250, 10],
  ]);
});

test("no number of rows keeps the page busy", () => {
  const { pages, asked } = paged(2 ** 63);
  pages.want(2 ** 62, 30);
  assert.ok(asked.length >= 1 && asked.length <= 2);
});

test("the pages that were used last are kept", async () => {
  const pages = new Pages(1_000_000, async (start) => start);
  for (let row = 0; row < 100_000; row += 250) {
    pages.want(row, 1);
    await turn();
  }
  assert.equal(pages.find(0), undefined);
  assert.deepEqual(pages.find(99_750), { page: 99_750, at: 0 });
});

test("an error ends the fetching and is reported", async () => {
  const { pages, asked, answers } = paged(1000);
  let changes = 0;
  pages.onchange = () => changes++;
  pages.want(0, 30);
  answers[0].reject(new Error("lost"));
  await turn();
  assert.deepEqual([pages.error.message, changes], ["lost", 1]);
  pages.want(700, 10);
  assert.equal(asked.length, 2);
});
