// The decoder and the encoder, on the payloads that test the Python ones: tests/javascript/test_package.py.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { neutralizer } from "../../../tests/support/foreign/pages/neutral.js";
import * as client from "../src/rayforce.js";

const { Table, Vector, atom, decode, encode, isoOf, table, toDate, toDays, toTimestamp, vector } = client;
const neutral = neutralizer(client);

const VECTORS = JSON.parse(readFileSync(new URL("vectors.json", import.meta.url)));
const ATOMS = { int16: "I16", float32: "F32" };
const ARRAYS = { uint8: Uint8Array, int32: Int32Array, float64: Float64Array };
const TABLE = "62000c0001000000000000006200" + "00000100000000000000" + "05000100000000000000" + "0700000000000000";
const ID = "00112233-4455-6677-8899-aabbccddeeff";

const bytesOf = (hex) => Uint8Array.from(hex.match(/../g), (digits) => Number(`0x${digits}`));
const hexOf = (bytes) => Buffer.from(bytes).toString("hex");
const decodeHex = (hex) => decode(bytesOf(hex).buffer);

function toSend(sent) {
  if (Array.isArray(sent)) return sent.map(toSend);
  if (sent === null || typeof sent !== "object") return sent;
  const [[kind, value]] = Object.entries(sent);
  return {
    int: () => BigInt(value),
    timestamp: () => new Date(value),
    atom: () => atom(ATOMS[value[0]], value[1]),
    array: () => ARRAYS[value[0]].from(value[1]),
    dict: () => Object.fromEntries(Object.entries(value).map(([key, item]) => [key, toSend(item)])),
  }[kind]();
}

for (const { name, sent, payload, value } of VECTORS) {
  if (name === undefined) {
    test(`sends ${JSON.stringify(sent)}`, () => assert.equal(hexOf(encode(toSend(sent))), payload));
  } else {
    test(`reads ${name}`, () => assert.deepEqual(neutral(decodeHex(payload)), value));
    test(`reads ${name} again when it was sent`, () => {
      if (name.startsWith("(- [")) return; // an item is null's value, and is not null: only the engine makes these
      assert.deepEqual(neutral(decode(encode(decodeHex(payload)).buffer)), name === '""' ? null : value);
    });
    test(`refuses ${name} when bytes are missing or too many`, () => {
      const bytes = bytesOf(payload);
      for (let size = 0; size < bytes.length; size++) {
        assert.throws(() => decode(bytes.slice(0, size).buffer), { code: "decode" });
      }
      assert.throws(() => decode(bytesOf(payload + "00").buffer), { code: "decode" });
    });
  }
}

test("columns are typed arrays, and null is the engine's own value in them", () => {
  const column = decodeHex("0540020000000000000005000000000000000000000000000080");
  assert.deepEqual(column.data, BigInt64Array.of(5n, -(2n ** 63n)));
  assert.deepEqual([...column], [5n, null]);
  assert.equal(column.at(-1), null);
  assert.equal(column.at(2), undefined);
  const booleans = new Vector("B8", Uint8Array.of(1, 0));
  assert.deepEqual([...booleans, booleans.at(2), booleans.at(-3)], [true, false, undefined, undefined]);
});

test("a table has rows and columns", () => {
  const trades = decode(encode(table({ id: BigInt64Array.of(1n, 2n), symbol: ["AAPL", null] })).buffer);
  assert.equal(trades.length, 2);
  assert.deepEqual(trades.toRows(), [
    { id: 1n, symbol: "AAPL" },
    { id: 2n, symbol: null },
  ]);
  assert.deepEqual(trades.column("id").data, BigInt64Array.of(1n, 2n));
  assert.throws(() => trades.column("px"), { code: "value", message: "no column px: id,symbol" });
  assert.equal(decode(encode(new Table([], [])).buffer).length, 0);
});

test("functions and errors of the engine", () => {
  assert.deepEqual(decodeHex("65636f756e7400"), { function: "count" });
  const lambda = decodeHex("64000c0001000000000000007800f4007800");
  assert.deepEqual([lambda.parameters.data, lambda.body], [["x"], "x"]);
  assert.throws(() => decodeHex("7f74797065000000"), { name: "RayforceError", code: "type" });
  assert.throws(() => decodeHex("7f6c656e67746868"), { code: "lengthh" });
});

test("replies that are damaged", () => {
  for (const [payload, problem] of [
    ["1400", "type 20"],
    ["f420ff00", "not UTF-8"],
    ["0c000200000000000000" + "6100ff00", "not UTF-8"],
    ["0d0001000000000000000100000000000000ff", "not UTF-8"],
    ["0500ffffffffffffffff", "it ends early"],
    ["0500ffffffffffffff7f", "it ends early"],
    ["62007e7e", "a table"],
    ["62000c000100000000000000610000000100000000000000" + "7e", "a table"],
    ["63007e7e", "a dict"],
    [`63000c0001000000000000006100${TABLE}`, "a dict"],
    [`6300${TABLE}${TABLE}`, "a dict"],
    ["6300f30001000000000000006100000100000000000000" + "7e", "a dict"],
    ["62000c000100000000000000610000000100000000000000" + "f300010000000000000061", "a table"],
    [`${"00000100000000000000".repeat(70)}7e`, "nested too deeply"],
  ]) {
    assert.throws(() => decodeHex(payload), { code: "decode", message: `damaged reply: ${problem}` });
  }
});

test("values of types that JavaScript does not have", () => {
  const sent = {
    date: atom("DATE", "2024-02-29"),
    day: atom("DATE", new Date("2024-02-29T23:59:59Z")),
    nanoseconds: atom("TIMESTAMP", "2024-01-31T10:00:00.123456789Z"),
    span: atom("TIMESPAN", 5n),
    id: atom("GUID", ID.toUpperCase()),
    byte: atom("U8", 255),
    nothing: atom("I32", null),
    texts: vector("STRING", ["a\0b", null]),
    many: vector("I64", new Array(3).fill(5n)),
  };
  const read = Object.fromEntries(decode(encode(sent).buffer));
  assert.equal(isoOf("DATE", read.date), "2024-02-29");
  assert.equal(read.day, read.date);
  assert.equal(isoOf("TIMESTAMP", read.nanoseconds), "2024-01-31T10:00:00.123456789Z");
  assert.deepEqual([read.span, read.id, read.byte, read.nothing], [5n, ID, 255, null]);
  assert.deepEqual([...read.texts], ["a\0b", null]);
  assert.equal(read.many.length, 3);
});

test("values that cannot be sent", () => {
  for (const [make, problem] of [
    [() => encode("a\0b"), "NUL in a symbol: a\0b"],
    [() => encode(["ok", "a\0(println 1)"]), "NUL in a symbol: a\0(println 1)"],
    [() => encode({ "a\0": 1 }), "NUL in a symbol: a\0"],
    [() => encode(new Table(["a\0"], [["x"]])), "NUL in a symbol: a\0"],
    [() => encode("\ud800"), "not UTF-8: \ud800"],
    [() => encode(2n ** 63n), `not of type I64: ${2n ** 63n}`],
    [() => encode(Symbol("x")), "no type for this value: Symbol(x)"],
    [() => encode(/x/), "no type for this value: /x/"],
    [() => encode(new Map([["a", 1], [1, 1]])), "not a string: 1"],
    [() => atom("I32", 2 ** 31) && encode(atom("I32", 2 ** 31)), `not of type I32: ${2 ** 31}`],
    [() => encode(atom("I16", 1.5)), "not of type I16: 1.5"],
    [() => encode(atom("F64", "1")), "not of type F64: 1"],
    [() => encode(atom("DATE", "2024-13-01")), "not of type DATE: NaN"],
    [() => encode(atom("GUID", "x")), "not a GUID: x"],
    [() => atom("I128", 1), "not a type: I128"],
    [() => vector("B8", [true, null]), "not of type B8: null"],
    [() => vector("I64", [1]), "not of type I64: 1"],
    [() => encode(new Date("x")), "not a date: Invalid Date"],
    [() => toTimestamp("2024-13-01"), "not a date: 2024-13-01"],
    [() => vector("TIMESTAMP", ["zzz"]), "not a date: zzz"],
    [() => table({ a: null }), "not a column: null"],
    [() => table({ a: undefined }), "not a column: undefined"],
    [() => table({ a: "text" }), "not a column: text"],
    [() => table({ a: 5 }), "not a column: 5"],
  ]) {
    assert.throws(make, { name: "RayforceError", code: "value", message: problem });
  }
});

test("dates and times", () => {
  assert.equal(toDate(null), null);
  assert.deepEqual(toDate(toDays("1969-12-31")), new Date("1969-12-31"));
  for (const text of ["2024-01-31T10:00:00.250Z", "1969-12-31T23:59:59.999Z", "1707-09-22T00:12:43.146Z"]) {
    assert.deepEqual(toDate(toTimestamp(text)), new Date(text));
    assert.equal(toTimestamp(new Date(text)), toTimestamp(text));
  }
  assert.equal(toTimestamp("1999-12-31T23:59:59.999999999Z"), -1n);
  assert.deepEqual(toDate(-1n), new Date("1999-12-31T23:59:59.999Z"));
  assert.deepEqual(vector("DATE", ["+275760-09-13", 2 ** 31 - 1, 1 - 2 ** 31, null]).iso(), [
    "+275760-09-13",
    "2147483647",
    "-2147483647",
    null,
  ]);
  assert.equal(isoOf("TIMESTAMP", -1n), "1999-12-31T23:59:59.999999999Z");
  assert.equal(isoOf("TIME", -1), "-00:00:00.001");
  assert.equal(isoOf("TIMESPAN", 90_000n * 10n ** 9n), "25:00:00.000000000");
});
