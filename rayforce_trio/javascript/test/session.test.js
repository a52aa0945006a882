// The protocol's states: each test is a conversation of one connection.

import assert from "node:assert/strict";
import { test } from "node:test";

import { frame, i64 } from "../src/encode.js";
import { Session } from "../src/session.js";
import { SubscriptionState } from "../src/subscription.js";

const OPTIONS = { maxBuffer: 10_000, overflow: "error", joins: false, resume: undefined };

function reply(number, kind = 2) {
  const message = frame(i64(number));
  message[7] = kind;
  return message.buffer;
}

function update(id, sequence, lost = 0, size = 0) {
  const bytes = new Uint8Array(61 + size);
  const view = new DataView(bytes.buffer);
  bytes.set(new Uint8Array(reply(0, 0).slice(0, 16)));
  view.setBigInt64(8, BigInt(bytes.length - 16), true);
  bytes.set([0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5, 0, 3], 16);
  [id, sequence, lost].forEach((number, place) => view.setBigInt64(36 + 8 * place, BigInt(number), true));
  bytes[60] = 0x7e;
  return bytes.buffer;
}

function drain(session) {
  const messages = [];
  for (let message; (message = session.next()) !== undefined; ) messages.push(message);
  return messages;
}

const controls = (session) => drain(session).map((message) => JSON.parse(message));
const submit = (session, number = 0) => session._submit(frame(i64(number)));
const says = (session, message) => session._receive(JSON.stringify(message));

function opened(options = {}) {
  const session = new Session();
  const state = new SubscriptionState({ ...OPTIONS, ...options });
  const id = session.subscribe("trades", state);
  drain(session);
  return { session, state, id, confirm: (sequence = 0) => says(session, { subscribed: { id, epoch: "e", sequence } }) };
}

const taken = (state) => {
  const found = [];
  for (let item; (item = state._take()); ) found.push([item.sequence, item.lost]);
  return found;
};

test("replies belong to the requests in their order", () => {
  const session = new Session();
  const requests = [1, 2].map((number) => submit(session, number));
  assert.equal(drain(session).length, 2);
  const buffer = reply(5);
  assert.deepEqual(session._receive(buffer), [{ request: requests[0], buffer }]);
  const [{ request, error }] = says(session, { error: { request: 2, code: "type", message: "no" } });
  assert.equal(request, requests[1]);
  assert.deepEqual([error.code, error.message], ["type", "no"]);
});

test("a request that is cancelled before it was sent is never sent", () => {
  const session = new Session();
  session._cancel(submit(session));
  assert.deepEqual(drain(session), []);
});

test("a request that is cancelled keeps its place, and its reply is dropped", () => {
  const session = new Session();
  const [first, second] = [submit(session), submit(session)];
  drain(session);
  session._cancel(first);
  assert.deepEqual(controls(session), [{ cancel: 1 }]);
  assert.deepEqual(session._receive(reply(1)), []);
  assert.equal(session._receive(reply(2))[0].request, second);
});

test("at most 512 requests, and 32 MiB, are unanswered", () => {
  const session = new Session();
  for (let number = 0; number < 513; number++) submit(session, number);
  assert.equal(drain(session).length, 512);
  session._receive(reply(0));
  assert.equal(drain(session).length, 1);

  const large = new Session();
  for (let number = 0; number < 2; number++) large._submit({ length: 20 * 1024 * 1024 });
  assert.equal(drain(large).length, 1);
  large._receive(reply(0));
  assert.equal(drain(large).length, 1);
});

test("requests behind one that the server did not start are not started either", () => {
  const session = new Session();
  const [first, second] = [submit(session), submit(session)];
  drain(session);
  const third = submit(session);
  assert.equal(session._isUnsent(second), false);
  says(session, { error: { request: 1, code: "closing", message: "" } });
  assert.deepEqual([first, second, third].map((request) => session._isUnsent(request)), [false, true, true]);
});

test("the server names its features once", () => {
  const session = new Session();
  session._hello();
  assert.deepEqual(controls(session), [{ hello: { features: ["subscriptions"] } }]);
  says(session, { hello: { features: ["subscriptions", "later"] }, unknown: 1 });
  says(session, { hello: { features: [] } });
  assert.deepEqual([...session._features], ["subscriptions", "later"]);
});

test("what breaks the protocol", () => {
  const session = new Session();
  for (const [message, problem] of [
    ["no JSON", "a text that is not JSON"],
    [JSON.stringify({ error: { request: 1, code: "x", message: "" } }), "an error out of turn"],
    [reply(1), "a reply without a request"],
    [reply(1, 1), "a request"],
    [reply(1).slice(0, -1), "a message that is no frame"],
    [new ArrayBuffer(16), "a message that is no frame"],
  ]) {
    assert.throws(() => session._receive(message), { code: "protocol", message: `the server sent ${problem}` });
  }
});

test("pushes that nobody has asked for are ignored", () => {
  const session = new Session();
  assert.deepEqual(session._receive(reply(1, 0)), []);
  assert.deepEqual(session._receive(update(7, 1)), []);
  assert.deepEqual(says(session, { unsubscribed: { id: 3, code: "gap", message: "" } }), []);
});

test("a subscription is active from the position that the server confirms", () => {
  const { session, state, id, confirm } = opened();
  confirm(17);
  assert.deepEqual([state._state, state.position], ["active", { epoch: "e", sequence: 17 }]);
  session._receive(update(id, 18));
  session._receive(update(id, 19));
  assert.deepEqual(taken(state), [[18, 0], [19, 0]]);
  assert.deepEqual(state.position, { epoch: "e", sequence: 19 });
  session.unsubscribe(id);
  session.unsubscribe(id);
  assert.deepEqual(controls(session), [{ unsubscribe: id }]);
});

test("a gap ends a subscription", () => {
  for (const second of [update(1, 3), update(1, 1), update(1, 2, -1)]) {
    const { session, state, confirm } = opened();
    confirm();
    session._receive(update(1, 1));
    session._receive(second);
    assert.equal(state.error.code, "gap");
    assert.deepEqual(taken(state), [[1, 0]]);
    assert.deepEqual(controls(session), [{ unsubscribe: 1 }]);
  }
});

test("the server refuses a subscription", () => {
  const { session, state, id } = opened();
  says(session, { unsubscribed: { id, code: "access", message: "not you" } });
  assert.deepEqual([state.error.code, state.error.message], ["access", "not you"]);
});

test("a subscription resumes from its position, or ends", () => {
  const resume = { epoch: "e", sequence: 4 };
  const session = new Session();
  session.subscribe("trades", new SubscriptionState({ ...OPTIONS, resume }));
  assert.deepEqual(controls(session), [{ subscribe: { id: 1, topic: "trades", resume } }]);
  const { state, confirm } = opened({ resume });
  confirm(4);
  assert.equal(state._state, "active");
  const other = opened({ resume });
  other.confirm(5);
  assert.equal(other.state.error.code, "gap");
});

test("after a loss, a subscription continues behind the last update that arrived", () => {
  const { session, state, id, confirm } = opened();
  confirm();
  session._receive(update(id, 1));
  state._resume();
  assert.deepEqual(state._resumeFrom, { epoch: "e", sequence: 1 });
  const next = new Session();
  next.subscribe("trades", state);
  says(next, { subscribed: { id: 1, epoch: "e", sequence: 1 } });
  next._receive(update(1, 2));
  assert.deepEqual(taken(state), [[1, 0], [2, 0]]);
});

test("updates before the snapshot are dropped", () => {
  const { session, state, id, confirm } = opened({ joins: true });
  confirm();
  for (const sequence of [1, 2, 3]) session._receive(update(id, sequence));
  assert.deepEqual([state._state, taken(state)], ["joining", []]);
  state._joined(3);
  assert.deepEqual(state.position, { epoch: "e", sequence: 2 });
  session._receive(update(id, 4));
  assert.deepEqual(taken(state), [[3, 0], [4, 0]]);
});

test("an update that the snapshot contains can arrive behind it", () => {
  const { session, state, id, confirm } = opened({ joins: true });
  confirm();
  state._joined(3);
  for (const sequence of [1, 2, 3]) session._receive(update(id, sequence));
  assert.deepEqual(taken(state), [[3, 0]]);
});

test("a snapshot is taken again after a loss", () => {
  const { session, state, id, confirm } = opened({ joins: true });
  confirm(7);
  session._receive(update(id, 8));
  state._resume();
  assert.deepEqual([state._state, state._resumeFrom, state.position], ["subscribing", undefined, undefined]);
});

test("a buffer that is full ends a subscription, and what is in it can be taken", () => {
  const { session, state, id, confirm } = opened({ maxBuffer: 600 });
  confirm();
  for (const sequence of [1, 2, 3]) session._receive(update(id, sequence));
  assert.equal(state.error.code, "slow");
  assert.deepEqual(taken(state), [[1, 0], [2, 0]]);
});

test("or the oldest updates are dropped, and counted", () => {
  const { session, state, id, confirm } = opened({ maxBuffer: 600, overflow: "dropOldest" });
  confirm();
  for (const sequence of [1, 2, 3]) session._receive(update(id, sequence));
  assert.deepEqual(taken(state), [[2, 1], [3, 0]]);
  session._receive(update(id, 6, 2));
  session._receive(update(id, 7, 0, 5000)); // one update always fits
  assert.deepEqual(taken(state), [[7, 3]]);
});

test("what the server has dropped ends a subscription that must not lose anything", () => {
  const { session, state, id, confirm } = opened();
  confirm();
  session._receive(update(id, 3, 2));
  assert.equal(state.error.code, "slow");
});

test("behind a snapshot, what was dropped before is a gap only if the snapshot does not contain it", () => {
  for (const [next, code, found] of [[3, undefined, [[3, 0]]], [2, "slow", []]]) {
    const { session, state, id, confirm } = opened({ joins: true });
    confirm();
    session._receive(update(id, 1));
    session._receive(update(id, 3, 1));
    state._joined(next);
    assert.equal(state.error?.code, code);
    assert.deepEqual(taken(state), found);
  }
});

test("a subscription that is closed, or aborted, drops its buffer and its earlier end", () => {
  for (const code of ["left", "aborted"]) {
    const { session, state, id, confirm } = opened();
    confirm();
    session._receive(update(id, 1));
    session._receive(update(id, 3));
    assert.equal(state.error.code, "gap");
    state._close({ code });
    assert.deepEqual([state.error.code, taken(state)], [code, []]);
  }
});
