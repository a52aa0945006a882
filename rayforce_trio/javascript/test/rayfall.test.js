import assert from "node:assert/strict";
import { test } from "node:test";

import { bracketPair, expressions, lineOf, tokens } from "../console/rayfall.js";

const colors = (text) => tokens(text).map(({ start, end, color }) => [text.slice(start, end), color]);

test("tokens have colors, and are the whole text", () => {
  assert.deepEqual(colors(`(set x 'abc) ; "note"\n"a\\"b" -1.5 0Nl 'x'`), [
    ["(", "bracket"],
    ["set", "keyword"],
    [" ", ""],
    ["x", ""],
    [" ", ""],
    ["'", "symbol"],
    ["abc", "symbol"],
    [")", "bracket"],
    [" ", ""],
    ['; "note"', "comment"],
    ["\n", ""],
    ['"a\\"b"', "string"],
    [" ", ""],
    ["-1.5", "number"],
    [" ", ""],
    ["0Nl", "number"],
    [" ", ""],
    ["'x'", "string"],
  ]);
  for (const text of ["", '"never closed', "'", "((}]", "{a: 1}\0\ud800", "\\", ";", "'(' ')"]) {
    assert.equal(
      tokens(text)
        .map(({ start, end }) => text.slice(start, end))
        .join(""),
      text,
    );
  }
});

test("a text is divided into its top-level expressions", () => {
  for (const [text, ...expected] of [
    [""],
    [" ; only a comment\n"],
    ["1", "1"],
    ["(+ 1 2) x 'y \"a b\" ; end", "(+ 1 2)", "x", "'y", '"a b"'],
    ["(a (b) [c {d: 1}])(e)", "(a (b) [c {d: 1}])", "(e)"],
    ['(f ")") ; (g\n(h)', '(f ")")', "(h)"],
    ["(f '(') 2", "(f '(')", "2"],
    ["1 (while true 1)\n\n[1 2]", "1", "(while true 1)", "[1 2]"],
  ]) {
    const found = expressions(text);
    assert.deepEqual(
      found.map(({ start, end }) => text.slice(start, end)),
      expected,
    );
    assert.ok(found.every(({ problem }) => problem === ""));
  }
});

test("what cannot be evaluated has a problem, and ends the text", () => {
  for (const [text, count, problem, start] of [
    ["1\n(+ 1", 2, "the bracket is not closed", 2],
    ['1 "abc', 2, "the string is not closed", 2],
    ['(1 "abc', 1, "the string is not closed", 3],
    ["1 ) 2", 2, "a closing bracket has no opening one", 2],
    ["(+ 1 2] 3", 1, "( is closed by ]", 6],
    ["(a [b", 1, "the bracket is not closed", 3],
  ]) {
    const found = expressions(text);
    const { end, place, problem: given } = found.at(-1);
    assert.deepEqual([found.length, given, place.start, end], [count, problem, start, text.length], text);
  }
});

test("a bracket beside the caret has a partner", () => {
  const text = '(a ")" [b])';
  assert.deepEqual(bracketPair(text, 0), [0, 10]);
  assert.deepEqual(bracketPair(text, 11), [10, 0]);
  assert.deepEqual(bracketPair(text, 10), [9, 7]);
  assert.equal(bracketPair(text, 2), null);
  assert.equal(bracketPair("(a", 0), null);
  assert.equal(bracketPair("", 0), null);
});

test("lines are counted from one on", () => {
  assert.deepEqual([0, 1, 2].map((place) => lineOf("a\nb", place)), [1, 1, 2]);
});
