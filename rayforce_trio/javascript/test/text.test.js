import assert from "node:assert/strict";
import { test } from "node:test";

import { History } from "../console/editor.js";
import { LatestRows } from "../console/live.js";
import { itemText, valueText } from "../console/text.js";
import { table, vector } from "../src/rayforce.js";

test("items are texts with all their digits", () => {
  for (const [type, item, text] of [
    ["I64", 9223372036854775807n, "9223372036854775807"],
    ["F64", 0.1, "0.1"],
    ["F32", Math.fround(0.1), "0.1"],
    ["B8", true, "true"],
    ["DATE", 8766, "2024-01-01"],
    ["DATE", 2_000_000_000, "2000000000"],
    ["TIMESTAMP", 1n, "2000-01-01T00:00:00.000000001Z"],
    ["SYMBOL", "<b>", "<b>"],
    ["LIST", [1n, "a"], '(list 1 "a")'],
    ["I64", null, "null"],
  ]) {
    assert.equal(itemText(type, item), text);
  }
});

test("values are texts, and long or deep ones are cut", () => {
  assert.equal(valueText("abc", "STRING"), '"abc"');
  assert.equal(valueText("abc", "SYMBOL"), "'abc");
  assert.equal(valueText(vector("SYMBOL", ["a", null])), "['a null]");
  assert.equal(valueText(new Map([["a", 1n]])), "{a: 1}");
  assert.equal(valueText(table({ a: ["x"] })), "(table [a] of 1 rows)");
  assert.equal(valueText({ function: "+" }), "+");
  assert.ok(valueText(Array(1000).fill(1)).length < 500);
  let deep = [];
  for (let depth = 0; depth < 1000; depth++) deep = [deep];
  assert.ok(valueText(deep).length < 200);
});

test("the latest rows of a topic are kept, the newest one first", () => {
  const rows = new LatestRows();
  assert.equal(rows.add(table({ a: [1, 2] })), true);
  assert.equal(rows.add(table({ a: [3] })), false);
  assert.deepEqual([0, 1, 2].map((row) => rows.cells(row)[0]), ["3", "2", "1"]);
  for (let row = 0; row < 3000; row++) rows.add(table({ a: [row] }));
  assert.deepEqual([rows.rows, rows.cells(0)[0]], [1000, "2999"]);
  assert.deepEqual([...rows.numbersOf([0]).get(0).slice(0, 2)], [2000, 2001]);
  assert.equal(rows.numbersOf([]).get(-1)[0], 2003);
  assert.equal(rows.add("text"), true);
  assert.deepEqual([rows.rows, rows.cells(0)], [1, ["text"]]);
  rows.add(new Map([["a", 1n], ["b", "x"]]));
  rows.add(new Map([["a", 2n], ["b", null]]));
  assert.deepEqual([rows.names, rows.types, rows.cells(0), rows.cells(1)], [["a", "b"], ["I64", "LIST"], ["2", null], ["1", "x"]]);
  rows.add(new Map([["a", vector("I64", [1n, 2n])]]));
  assert.deepEqual([rows.rows, rows.cells(0)], [2, ["2"]]);
});

function storage(kept = null) {
  return { kept, getItem: () => kept, setItem: (_, text) => (kept = text), read: () => kept };
}

test("the history goes back and forth, and keeps the draft", () => {
  const place = storage();
  const history = new History(place, "key");
  for (const text of ["1", "2", "1"]) history.add(text);
  assert.deepEqual(JSON.parse(place.read()), ["2", "1"]);
  assert.equal(history.move(-1, "draft"), "1");
  assert.equal(history.move(-1, "1"), "2");
  assert.equal(history.move(-1, "2"), undefined);
  assert.equal(history.move(1, "2"), "1");
  assert.equal(history.move(1, "1"), "draft");
  assert.equal(history.move(1, "draft"), undefined);
  assert.deepEqual(new History(storage('["a", 7]'), "key").entries, ["a"]);
});

test("a history that cannot be kept or read works nevertheless", () => {
  const broken = new History(storage("{"), "key");
  assert.deepEqual(broken.entries, []);
  const full = new History(
    {
      getItem: () => null,
      setItem() {
        throw new Error("full");
      },
    },
    "key",
  );
  full.add("1");
  assert.deepEqual(full.entries, ["1"]);
});
