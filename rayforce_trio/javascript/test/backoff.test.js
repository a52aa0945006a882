import assert from "node:assert/strict";
import { test } from "node:test";

import { Backoff } from "../src/backoff.js";

test("delays double up to five seconds, and begin anew after a connection that has lasted", () => {
  const backoff = new Backoff();
  backoff._connected(0);
  assert.equal(backoff._lost(false, 10_000, 1), 100);
  assert.deepEqual(
    Array.from({ length: 7 }, () => backoff._failed(1)),
    [200, 400, 800, 1600, 3200, 5000, 5000],
  );
  backoff._connected(20_000);
  assert.equal(backoff._lost(false, 24_999, 1), 5000);
  backoff._connected(30_000);
  assert.equal(backoff._lost(false, 35_000, 0.5), 50);
});

test("a server that has announced its end is replaced at once, but not again and again", () => {
  const backoff = new Backoff();
  backoff._connected(0);
  assert.equal(backoff._lost(true, 10_000, 1), 0);
  backoff._connected(10_000);
  assert.equal(backoff._lost(true, 10_100, 1), 200);
});
