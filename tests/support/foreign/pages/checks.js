// What the JavaScript client does with a real server. Each check is an async function of the client's module, the
// server's URL, a function that has the tests do something, and arguments. node and a page run the same ones.

import { neutralizer } from "./neutral.js";

function same(found, expected) {
  const text = (value) => JSON.stringify(value, (_, item) => (typeof item === "bigint" ? `${item}n` : item));
  if (text(found) !== text(expected)) throw new Error(`${text(found)} is not ${text(expected)}`);
}

async function fails(promise, code, message) {
  const error = await promise.then(
    (value) => {
      throw new Error(`no error, but ${value}`);
    },
    (error) => error,
  );
  same([error.name, error.code], ["RayforceError", code]);
  if (message !== undefined) same(error.message, message);
}

async function aborted(promise, reason) {
  same(await promise.then(String, (error) => error === reason), true);
}

/** Return what some queries are evaluated to, and the same after a way to the engine and back, as JSON. */
export async function values(client, url, tell, queries) {
  const connection = await client.connect(url);
  const neutral = neutralizer(client);
  const found = [];
  for (const query of queries) {
    const value = await connection.execute(query);
    const dict = await connection.execute("x", { x: new Map([["argument", [value, "end", 1]]]) });
    found.push([value, await connection.execute("x", { x: value }), dict.get("argument")[0]].map(neutral));
  }
  connection.close();
  return found;
}

export async function queries({ connect, Table, atom, table }, url) {
  const connection = await connect(url);
  same(connection.state, "connected");
  same(await connection.execute("(+ 1 2)"), 3n);
  same(await connection.execute("(+ x y)", { x: 2n, y: 1.5 }), 3.5);
  same(await connection.execute("x", { x: ["println", "x"] }).then((x) => x.values()), ["println", "x"]);
  same(await connection.execute("x", { x: [["println", 1]] }), [["println", 1]]);
  same(await connection.call("(fn [x y] (* x y))", [6n, atom("I64", 7n)]), 42n);
  const rows = table({ id: [1n, 2n, 3n], price: [1.5, null, 200.5], symbol: ["a", "b", null] });
  await connection.execute("(set js_trades x)", { x: rows });
  const found = await connection.fetch("(select {from: js_trades where: (> price low)})", { low: 100 });
  same(found instanceof Table, true);
  same(found.toRows(), [{ id: 3n, price: 200.5, symbol: null }]);
  same((await connection.fetch("(til 3)")).column("value").values(), [0n, 1n, 2n]);
  same((await connection.fetch("(dict [a b] (list [1 2] [3 4]))")).toRows(), [{ a: 1n, b: 3n }, { a: 2n, b: 4n }]);
  await fails(connection.fetch("(+ 1 2)"), "value", "the result has no columns; use execute");
  await fails(connection.execute("x", { "x y": 1 }), "value", "not a name: x y");
  await fails(connection.execute("x", { quote: 1 }), "value", "not a name: quote");
  await fails(connection.call("a b"), "value", "not a function: a b");
  same((await Promise.all(Array.from({ length: 600 }, (_, n) => connection.call("+", [BigInt(n), 1n])))).at(-1), 600n);
  connection.close();
  connection.close();
  same(connection.state, "closed");
  await fails(connection.execute("1"), "closed");
}

export async function errors({ connect }, url, tell, message) {
  const connection = await connect(url);
  await fails(connection.execute('(+ 1 "a")'), "type", message);
  await fails(connection.execute("unknown_name"), "name");
  await fails(connection.execute("(+ 1"), "parse");
  connection.close();
}

/** A large result, and a large request. */
export async function large({ connect }, url) {
  const connection = await connect(url);
  const numbers = await connection.execute("(til 1000000)");
  same([numbers.length, numbers.data[999_999]], [1_000_000, 999_999n]);
  same(await connection.call("sum", [numbers]), 499_999_500_000n);
  connection.close();
}

/** Abort a query that runs and one that waits. The next one is answered, so both were stopped. */
export async function abort({ connect }, url, tell, slow) {
  const connection = await connect(url);
  const [running, waiting] = [new AbortController(), new AbortController()];
  const reason = new Error("enough");
  const first = connection.execute(slow, {}, { signal: running.signal });
  const second = connection.execute(slow, {}, { signal: waiting.signal });
  const next = connection.execute("(+ 1 2)");
  await tell("running");
  waiting.abort(reason);
  running.abort(reason);
  await aborted(second, reason);
  await aborted(first, reason);
  same(await next, 3n);
  await tell("stopped");
  connection.close();
}

/** Abort a query that was sent just now, in an engine that cannot stop it. */
export async function abortAtOnce({ connect }, url) {
  const connection = await connect(url);
  const controller = new AbortController();
  const reason = new Error("enough");
  const query = connection.execute("(sum (til 1000))", {}, { signal: controller.signal });
  controller.abort(reason);
  await aborted(query, reason);
  same(await connection.execute("(+ 1 2)"), 3n);
  await aborted(connection.execute("1", {}, { signal: controller.signal }), reason);
  same(await connection.execute("(+ 2 2)", {}, { signal: new AbortController().signal }), 4n);
  connection.close();
  await aborted(connect(url, { signal: controller.signal }), reason);
}

export async function token({ connect }, url, tell, secret) {
  for (const wrong of [undefined, "guess"]) await fails(connect(url, { token: wrong }), "connect");
  const connection = await connect(url, { token: secret });
  same(await connection.execute("(+ 1 2)"), 3n);
  connection.close();
}

export async function refusals({ connect }, url, tell, closed) {
  await fails(connect(closed), "connect");
  await fails(connect("http//no"), "connect");
  await fails(connect(url, { WebSocket: null }), "connect");
}

export async function updates({ connect, table }, url) {
  const [subscriber, publisher] = [await connect(url), await connect(url)];
  same(await publisher.publish("js", 1n), 0);
  await subscriber.execute("(set js_total 5)");
  const updates = await subscriber.subscribe("js", { snapshot: "(+ js_total more)", parameters: { more: 2n } });
  same(updates.snapshot, 7n);
  const { sequence } = updates.position;
  same(await publisher.publish("js", table({ id: [1n] })), sequence + 1);
  await publisher.publish("js", "text");
  const found = [];
  for await (const update of updates) {
    found.push([update.topic, update.sequence - sequence, update.lost]);
    if (found.length === 1) same(update.value.toRows(), [{ id: 1n }]);
    else if (update.value === "text") break;
  }
  same(found, [["js", 1, 0], ["js", 2, 0]]);
  same(await updates.next(), { done: true });

  const resumed = await subscriber.subscribe("js", { resume: { ...updates.position, sequence: sequence + 1 } });
  same((await resumed.next()).value.value, "text");
  const waiting = resumed.next();
  resumed.close();
  same(await waiting, { done: true });
  await fails(subscriber.subscribe("js", { resume: { epoch: "other", sequence: 1 } }), "gap");
  await fails(subscriber.subscribe("js", { snapshot: "unknown_name" }), "name");

  const controller = new AbortController();
  const ended = await subscriber.subscribe("js", { signal: controller.signal });
  const next = ended.next();
  controller.abort(new Error("enough"));
  await aborted(next, controller.signal.reason);
  await aborted(subscriber.subscribe("js", { signal: controller.signal }), controller.signal.reason);
  subscriber.close();
  publisher.close();
}

/** Stay connected while the server restarts. */
export async function reconnection({ connect }, url, tell) {
  const states = [];
  const connection = await connect(url, { reconnect: true, onStateChange: (state) => states.push(state) });
  const other = await connect(url);
  const updates = await connection.subscribe("js");
  same(await connection.execute("(+ 1 2)"), 3n);
  await tell("restart");
  const once = { idempotent: true }; // the loss may be noticed only after the call was sent
  same(await connection.execute("(+ 2 2)", null, once), 4n);
  same(other.state, "closed");
  await fails(other.execute("1"), "lost");
  same([states[0], states.at(-1)], ["connected", "connected"]);
  await fails(updates.next(), "gap");
  const again = await connection.subscribe("js");
  await connection.publish("js", 1n);
  same((await again.next()).value.value, 1n);
  connection.close();
  await fails(again.next(), "closed");
  same(states.at(-1), "closed"); // the callback runs after close() has returned
}
