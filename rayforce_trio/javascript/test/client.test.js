// The calls of a connection, with a WebSocket that the tests play.

import assert from "node:assert/strict";
import { afterEach, beforeEach, mock, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";

import { frame, i64 } from "../src/encode.js";
import { connect } from "../src/rayforce.js";

const SUBSCRIPTIONS = { hello: { features: ["subscriptions"] } };

let sockets = [];
let connections = [];

class FakeWebSocket extends EventTarget {
  readyState = 0;
  protocol = "";
  sent = [];

  constructor(url, subprotocols) {
    super();
    if (!url.startsWith("ws")) throw new SyntaxError(`no URL: ${url}`);
    Object.assign(this, { url, subprotocols });
    sockets.push(this);
  }

  #tell(type, properties) {
    this.dispatchEvent(Object.assign(new Event(type), properties));
  }

  open(protocol = "rayforce.v1", greeting = 1) {
    Object.assign(this, { readyState: 1, protocol });
    this.#tell("open");
    assert.deepEqual(this.sent.shift(), Uint8Array.of(1, 0));
    this.receive(Uint8Array.of(greeting).buffer);
  }

  receive(data) {
    this.#tell("message", { data });
  }

  says(message) {
    this.receive(JSON.stringify(message));
  }

  replies(number) {
    const message = frame(i64(number));
    message[7] = 2;
    this.receive(message.buffer);
  }

  send(message) {
    this.sent.push(typeof message === "string" ? JSON.parse(message) : message);
  }

  drop(code, reason = "") {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.#tell("close", { code, reason });
  }

  close() {
    if (this.readyState > 1) return;
    this.readyState = 2;
    queueMicrotask(() => this.drop(1000));
  }
}

/** Wait until this many sockets were made, and return the last one. */
async function socket(count) {
  while (sockets.length < count) await turn();
  return sockets[count - 1];
}

async function sent(websocket, count) {
  while (websocket.sent.length < count) await turn();
  return websocket.sent.splice(0);
}

async function opened(options = {}) {
  const connecting = connect("ws://test", { WebSocket: FakeWebSocket, ...options });
  const first = await socket(1);
  first.open();
  const connection = await connecting;
  connections.push(connection);
  return [connection, first];
}

const coming = () => opened({ reconnect: true });

function update(id, sequence) {
  const bytes = new Uint8Array(61);
  const view = new DataView(bytes.buffer);
  bytes.set(frame(new Uint8Array(45)));
  bytes[7] = 0;
  bytes.set([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 3], 16);
  [id, sequence, 0].forEach((number, place) => view.setBigInt64(36 + 8 * place, BigInt(number), true));
  bytes[60] = 0x7e;
  return bytes.buffer;
}

function snapshot(next, value) {
  const parts = [[0, 0, 3, 0, 0, 0, 0, 0, 0, 0], i64(next), [0x7e], i64(value)].flatMap((part) => [...part]);
  const message = frame(Uint8Array.from(parts));
  message[7] = 2;
  return message.buffer;
}

beforeEach(() => {
  sockets = [];
  mock.method(Math, "random", () => 0);
});

afterEach(() => {
  for (const connection of connections.splice(0)) connection.close();
});

test("a server that is no Rayforce server, or refuses", async () => {
  for (const [play, problem] of [
    [(websocket) => websocket.drop(1006), "closed with code 1006 "],
    [(websocket) => websocket.drop(1013, "too many"), "closed with code 1013 too many"],
    [(websocket) => websocket.open(""), "the server does not speak rayforce.v1"],
  ]) {
    sockets = [];
    const connecting = connect("ws://test", { WebSocket: FakeWebSocket });
    play(await socket(1));
    await assert.rejects(connecting, { code: "connect", message: `cannot connect to ws://test: ${problem}` });
  }
  await assert.rejects(connect("http", { WebSocket: FakeWebSocket }), { code: "connect" });
});

test("a server that does not answer", async (t) => {
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const connecting = connect("ws://test", { WebSocket: FakeWebSocket });
  t.mock.timers.tick(5000);
  await assert.rejects(connecting, { code: "connect", message: "cannot connect to ws://test: no answer" });
});

test("connecting is aborted", async () => {
  const controller = new AbortController();
  const connecting = connect("ws://test", { WebSocket: FakeWebSocket, signal: controller.signal });
  controller.abort(new Error("enough"));
  await assert.rejects(connecting, controller.signal.reason);
  assert.equal((await socket(1)).readyState >= 2, true);
});

test("a token is a subprotocol, in base64url", async () => {
  const [, websocket] = await opened({ token: "~?~?>>" });
  assert.deepEqual(websocket.subprotocols, ["rayforce.v1", "rayforce.token.fj9-Pz4-"]);
});

test("without reconnect, a loss is the end", async () => {
  const [connection, websocket] = await opened();
  const query = connection.execute("1");
  await sent(websocket, 1);
  websocket.drop(1006);
  await assert.rejects(query, { code: "lost", message: "closed with code 1006 " });
  assert.equal(connection.state, "closed");
  await assert.rejects(connection.execute("1"), { code: "lost" });
});

test("a server that breaks the protocol is left", async () => {
  const [connection, websocket] = await coming();
  websocket.receive("no JSON");
  await assert.rejects(connection.execute("1"), { code: "protocol" });
  assert.equal(connection.state, "closed");
});

test("a query that may have been carried out is not sent again", async () => {
  const [connection, websocket] = await coming();
  const query = connection.execute("1");
  await sent(websocket, 1);
  websocket.drop(1006);
  await assert.rejects(query, {
    code: "lost",
    message: "closed with code 1006 ; the query may have been carried out",
  });
  (await socket(2)).open();
});

test("an idempotent one is, three times", async () => {
  const [connection] = await coming();
  const query = connection.execute("1", {}, { idempotent: true });
  const failed = assert.rejects(query, { code: "lost" });
  for (let count = 1; count <= 4; count++) {
    const websocket = await socket(count);
    if (count > 1) websocket.open();
    await sent(websocket, 1);
    websocket.drop(1006);
  }
  await failed;
});

test("but not after an error that it may have caused", async () => {
  for (const code of [1008, 1011]) {
    sockets = [];
    const [connection, websocket] = await coming();
    const query = connection.execute("1", {}, { idempotent: true });
    await sent(websocket, 1);
    websocket.drop(code);
    await assert.rejects(query, { code: "lost" });
    connection.close();
  }
});

test("calls wait for the next connection, and can be aborted", async () => {
  const [connection, websocket] = await coming();
  websocket.drop(1006);
  await turn();
  const controller = new AbortController();
  const [query, aborted] = [connection.execute("1"), connection.execute("1", {}, { signal: controller.signal })];
  controller.abort(new Error("enough"));
  await assert.rejects(aborted, controller.signal.reason);
  const second = await socket(2);
  second.open();
  await sent(second, 1);
  second.replies(5);
  assert.equal(await query, 5n);
});

test("queries that a stopping server did not start are sent to the next one", async () => {
  const [connection, websocket] = await coming();
  const queries = [connection.execute("1"), connection.execute("2")];
  await sent(websocket, 2);
  websocket.says({ error: { request: 1, code: "closing", message: "" } });
  await turn();
  websocket.drop(1001);
  const second = await socket(2);
  second.open();
  await sent(second, 2);
  second.replies(1);
  second.replies(2);
  assert.deepEqual((await Promise.all(queries)).sort(), [1n, 2n]);
});

test("a connection that is closed does not come back", async () => {
  const [connection, websocket] = await coming();
  websocket.drop(1006);
  await turn();
  const query = connection.execute("1");
  connection.close();
  await assert.rejects(query, { code: "closed" });
  await turn();
  for (const each of sockets.slice(1)) assert.equal(each.readyState >= 2, true);
});

test("attempts that fail are followed by others", async () => {
  const states = [];
  const [connection, websocket] = await opened({ reconnect: true, onStateChange: (state) => states.push(state) });
  websocket.drop(1006);
  (await socket(2)).drop(1006);
  (await socket(3)).open();
  await turn();
  assert.deepEqual(states, ["connected", "waiting", "connecting", "waiting", "connecting", "connected"]);
  connection.close();
});

test("an error of onStateChange is uncaught, and changes nothing", async () => {
  const states = [];
  const onStateChange = (state) => {
    throw state;
  };
  process.setUncaughtExceptionCaptureCallback((state) => states.push(state));
  try {
    const [connection, websocket] = await opened({ reconnect: true, onStateChange });
    websocket.drop(1006);
    (await socket(2)).drop(1006);
    const third = await socket(3);
    third.open();
    const query = connection.execute("1");
    await sent(third, 1);
    third.replies(5);
    assert.equal(await query, 5n);
    connection.close();
    await turn();
  } finally {
    process.setUncaughtExceptionCaptureCallback(null);
  }
  assert.deepEqual(states, ["connected", "waiting", "connecting", "waiting", "connecting", "connected", "closed"]);
  assert.equal(sockets.length, 3);
});

test("attempts to connect leave no listeners behind", async (t) => {
  const listeners = new Set();
  const { addEventListener, removeEventListener } = AbortSignal.prototype;
  t.mock.method(AbortSignal.prototype, "addEventListener", function (type, listener) {
    listeners.add(listener);
    addEventListener.call(this, type, listener);
  });
  t.mock.method(AbortSignal.prototype, "removeEventListener", function (type, listener) {
    listeners.delete(listener);
    removeEventListener.call(this, type, listener);
  });
  const [, websocket] = await coming();
  websocket.drop(1006);
  for (let count = 2; count < 5; count++) (await socket(count)).drop(1006);
  (await socket(5)).open();
  await turn();
  assert.equal(listeners.size, 0);
});

test("a server without subscriptions", async (t) => {
  const [connection, websocket] = await opened();
  const subscribing = connection.subscribe("t");
  assert.deepEqual(await sent(websocket, 1), [{ hello: { features: ["subscriptions"] } }]);
  websocket.says({ hello: { features: ["streams"] } });
  await assert.rejects(subscribing, { code: "unsupported", message: "the server has no subscriptions" });
  await assert.rejects(connection.publish("t", 1), { code: "unsupported" });
  assert.deepEqual(websocket.sent, []);
});

test("a server that does not know hello", async (t) => {
  const [connection, websocket] = await opened();
  t.mock.timers.enable({ apis: ["setTimeout"] });
  const subscribing = connection.subscribe("t");
  while (!websocket.sent.length) await turn();
  t.mock.timers.tick(5000);
  await assert.rejects(subscribing, { code: "unsupported" });
});

test("a subscription continues on the next connection", async () => {
  const [connection, websocket] = await coming();
  const subscribing = connection.subscribe("t");
  await sent(websocket, 1);
  websocket.says(SUBSCRIPTIONS);
  assert.deepEqual(await sent(websocket, 1), [{ subscribe: { id: 1, topic: "t" } }]);
  websocket.says({ subscribed: { id: 1, epoch: "e", sequence: 4 } });
  const updates = await subscribing;
  websocket.receive(update(1, 5));
  websocket.drop(1006);
  const second = await socket(2);
  second.open();
  const resume = { epoch: "e", sequence: 5 };
  const messages = await sent(second, 2);
  assert.deepEqual(messages, [{ hello: { features: ["subscriptions"] } }, { subscribe: { id: 1, topic: "t", resume } }]);
  second.says({ subscribed: { id: 1, ...resume } });
  second.receive(update(1, 6));
  for (const sequence of [5, 6]) {
    assert.deepEqual((await updates.next()).value, { topic: "t", sequence, lost: 0, value: null });
  }
  assert.deepEqual(await updates.return(), { done: true, value: undefined });
  assert.deepEqual(second.sent, [{ unsubscribe: 1 }]);
  second.drop(1006);
  const third = await socket(3);
  third.open();
  assert.deepEqual(await sent(third, 1), [{ hello: { features: ["subscriptions"] } }]);
});

/** A subscription that has buffered three updates. */
async function buffered(options) {
  const [connection, websocket] = await opened();
  const subscribing = connection.subscribe("t", options);
  await sent(websocket, 1);
  websocket.says(SUBSCRIPTIONS);
  await sent(websocket, 1);
  websocket.says({ subscribed: { id: 1, epoch: "e", sequence: 0 } });
  for (const sequence of [1, 2, 3]) websocket.receive(update(1, sequence));
  return [await subscribing, websocket];
}

test("a loop ends when its subscription is closed or left, although updates are buffered", async () => {
  for (const leave of [(updates) => updates.close(), (updates) => updates.return()]) {
    sockets = [];
    const [updates, websocket] = await buffered();
    const taken = [];
    for await (const { sequence } of updates) {
      taken.push(sequence);
      leave(updates);
    }
    assert.deepEqual(taken, [1]);
    assert.deepEqual(websocket.sent, [{ unsubscribe: 1 }]);
    assert.deepEqual(await updates.next(), { done: true, value: undefined });
  }
});

test("a loop throws the reason when its signal is aborted, although updates are buffered", async () => {
  const controller = new AbortController();
  const [updates] = await buffered({ signal: controller.signal });
  const reason = new Error("enough");
  assert.equal((await updates.next()).value.sequence, 1);
  controller.abort(reason);
  await assert.rejects(updates.next(), reason);
});

test("updates that arrived before a loss can be taken", async () => {
  const [updates, websocket] = await buffered();
  websocket.drop(1006);
  await turn();
  for (const sequence of [1, 2, 3]) assert.equal((await updates.next()).value.sequence, sequence);
  await assert.rejects(updates.next(), { code: "lost" });
});

test("a connection that ends while a subscription begins ends it, too", async () => {
  for (let turns = 0; turns < 20; turns++) {
    sockets = [];
    const [connection, websocket] = await opened();
    const failed = assert.rejects(connection.subscribe("t"), { code: "closed" });
    await sent(websocket, 1);
    websocket.says(SUBSCRIPTIONS);
    for (let count = 0; count < turns; count++) await null;
    connection.close();
    await failed;
  }
});

test("the query of a snapshot is evaluated again after a loss", async () => {
  const [connection, websocket] = await coming();
  const subscribing = connection.subscribe("t", { snapshot: "1" });
  await sent(websocket, 1);
  websocket.says(SUBSCRIPTIONS);
  await sent(websocket, 1);
  websocket.says({ subscribed: { id: 1, epoch: "e", sequence: 4 } });
  await sent(websocket, 1);
  websocket.receive(update(1, 5));
  websocket.drop(1006);
  const second = await socket(2);
  second.open();
  await sent(second, 2);
  second.says(SUBSCRIPTIONS);
  second.says({ subscribed: { id: 1, epoch: "f", sequence: 0 } });
  await sent(second, 1);
  second.receive(update(1, 1));
  second.receive(update(1, 2));
  second.receive(snapshot(2, 7));
  const updates = await subscribing;
  assert.deepEqual([updates.snapshot, updates.position], [7n, { epoch: "f", sequence: 1 }]);
  assert.equal((await updates.next()).value.sequence, 2);
});

test("arguments of subscriptions are checked", async () => {
  const [connection] = await opened();
  const resume = { epoch: "e", sequence: 1 };
  await assert.rejects(connection.subscribe("t", { overflow: "latest" }), { code: "value" });
  await assert.rejects(connection.subscribe("t", { snapshot: "1", resume }), { code: "value" });
  await assert.rejects(connection.subscribe("a\0b"), { code: "value" });
  await assert.rejects(connection.subscribe(""), { code: "value" });
  await assert.rejects(connection.subscribe("x".repeat(1025)), { code: "value" });
});
