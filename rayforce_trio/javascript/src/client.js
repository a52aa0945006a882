// The calls of a connection, which may come back after a loss.

import { abortable } from "./abort.js";
import { Backoff } from "./backoff.js";
import { decode } from "./decode.js";
import { call, encode, frame, functionCall, i64, query, string } from "./encode.js";
import { RayforceError } from "./errors.js";
import { Link, LinkEnded } from "./link.js";
import { SubscriptionState } from "./subscription.js";
import { Table, Vector } from "./types.js";

const HEADER_SIZE = 16;
const MAX_SENDS = 4; // of a query that may be sent again
const ENDED_BY_ERROR = new Set([1008, 1011]); // close codes after an error that the query may have caused
const REFUSING_TIMEOUT = 5000; // milliseconds until a server that starts no more queries must have closed
const SUBSCRIPTIONS = "subscriptions";
const SNAPSHOT_SIZE = 21; // a list of three: an i64, null, and the value
const LEFT = {}; // the end of a subscription that nobody wants any more
const MAX_BUFFER = 8 * 1024 * 1024; // bytes

/**
 * Connect to a server.
 *
 * @param {string} url its address: `ws://host:port` or `wss://host:port`
 * @param {object} [options] see `index.d.ts`
 */
export async function connect(url, options = {}) {
  const all = { WebSocket: globalThis.WebSocket, ...options };
  return new Connection(url, all, await Link.open(url, all));
}

class Connection {
  #url;
  #options;
  #link = null; // the present one
  #error = null; // why it has ended for good
  #backoff = new Backoff();
  _subscriptions = new Set();
  #saysHello = false;
  #state;
  #changed = new Notice();
  #closing = new AbortController();

  constructor(url, options, link) {
    this.#url = url;
    this.#options = options;
    this.#use(link);
  }

  /** `connecting`, `connected`, `waiting` before the next attempt, or `closed`. */
  get state() {
    return this.#state;
  }

  /** Evaluate a query, and return its value. */
  async execute(text, parameters, options) {
    return decode(await this._request(query(text, parameters), options), HEADER_SIZE);
  }

  /** Evaluate a query, and return its result as a table. */
  async fetch(text, parameters, options) {
    return tableOf(await this.execute(text, parameters, options));
  }

  /** Call a function of the server, by its name or the text of a lambda. */
  async call(name, values = [], options) {
    return decode(await this._request(functionCall(name, values), options), HEADER_SIZE);
  }

  /** Publish a value to the subscribers of a topic, and return the number of the update; 0 without subscribers. */
  async publish(topic, value, options = {}) {
    const payload = call(".ws.publish", string(topic), encode(value));
    const reply = await this._request(payload, { ...options, feature: SUBSCRIPTIONS, idempotent: false });
    return Number(decode(reply, HEADER_SIZE));
  }

  /** Subscribe to a topic, and return the subscription once it is active. */
  async subscribe(topic, options = {}) {
    return new Subscription(this, topic, options)._join();
  }

  /** Close the connection. Calls that wait fail. */
  close() {
    this._end(new RayforceError("closed", "the connection is closed"));
  }

  /** The present link; wait for one if there is none. */
  async _connected(signal) {
    while (!this.#link) {
      if (this.#error) throw this.#error;
      await this.#changed.wait(signal);
    }
    return this.#link;
  }

  /** A link whose server has a feature. */
  async _require(feature, signal) {
    this.#saysHello = true;
    for (;;) {
      const link = await this._connected(signal);
      try {
        await abortable(link._require(feature), signal);
        return link;
      } catch (error) {
        if (!(error instanceof LinkEnded)) throw error;
      }
    }
  }

  _add(subscription) {
    if (this.#error) throw this.#error;
    this._subscriptions.add(subscription);
  }

  async _request(payload, { signal, idempotent = false, feature } = {}) {
    signal?.throwIfAborted();
    const message = frame(payload);
    for (let sends = 1; ; ) {
      const link = feature ? await this._require(feature, signal) : await this._connected(signal);
      try {
        return await link._request(message, signal);
      } catch (error) {
        if (error.code === "closing" && this.#options.reconnect) {
          await this._leave(link, signal);
        } else if (!(error instanceof LinkEnded)) {
          throw error;
        } else if (!error._isUnsent) {
          this._checkRepeatable(link, error, idempotent && sends++ < MAX_SENDS);
        } else if (this.#error) {
          throw this.#error;
        }
      }
    }
  }

  /** Throw the error of a link if a request that was sent there must not be sent again. */
  _checkRepeatable(link, { error }, isAllowed) {
    if (this.#error) throw this.#error;
    if (isAllowed && !ENDED_BY_ERROR.has(link._closeCode)) return;
    throw new RayforceError(error.code, `${error.message}; the query may have been carried out`);
  }

  /** Wait for the end of a link whose server starts no more queries. */
  async _leave(link, signal) {
    const timer = setTimeout(() => link._end(new RayforceError("lost", "the server stops")), REFUSING_TIMEOUT);
    await abortable(link._ended, signal).finally(() => clearTimeout(timer));
  }

  #use(link) {
    if (this.#error) {
      link._end(this.#error);
      return;
    }
    this.#link = link;
    this.#backoff._connected(performance.now());
    if (this.#saysHello) link._require(SUBSCRIPTIONS).catch(() => {}); // who needs it asks again
    for (const subscription of this._subscriptions) subscription._resume(link);
    link._ended.then((error) => this.#lost(link, error));
    this.#setState("connected");
  }

  #lost(link, error) {
    if (this.#link !== link) return;
    this.#link = null;
    if (!this.#options.reconnect || error.code === "protocol") {
      this._end(error);
      return;
    }
    for (const subscription of this._subscriptions) subscription._wake();
    const drained = link._closeCode === 1001;
    this.#reconnect(this.#backoff._lost(drained, performance.now(), Math.random()));
  }

  async #reconnect(delay) {
    const { signal } = this.#closing;
    while (!this.#error) {
      this.#setState("waiting");
      await sleep(delay, signal);
      if (this.#error) return;
      this.#setState("connecting");
      const link = await Link.open(this.#url, { ...this.#options, signal }).catch(() => {});
      if (link) return this.#use(link);
      delay = this.#backoff._failed(Math.random());
    }
  }

  _end(error) {
    if (this.#error) return;
    this.#error = error;
    this.#closing.abort();
    this.#link?._end(error);
    this.#link = null;
    for (const subscription of this._subscriptions) subscription._fail(error);
    this.#setState("closed");
  }

  #setState(state) {
    this.#changed.give();
    if (state === this.#state) return;
    this.#state = state;
    queueMicrotask(() => this.#options.onStateChange?.(state)); // its error is uncaught, and changes nothing here
  }
}

/** The updates of a topic: an async iterator, for one loop at a time. */
class Subscription {
  /** The value of the query `snapshot`; undefined if there is none. */
  snapshot;
  topic;
  #connection;
  #options;
  #query; // the payload of the query of the snapshot; false if there is none
  #state;
  #changed = new Notice();
  #link;
  #id;

  constructor(connection, topic, options) {
    const { snapshot, parameters, resume, maxBuffer = MAX_BUFFER, overflow = "error", signal } = options;
    if (!/^[^\0]{1,1024}$/.test(topic)) throw new RayforceError("value", "not a topic");
    if (!["error", "dropOldest"].includes(overflow)) throw new RayforceError("value", "unknown overflow");
    if (snapshot && resume) throw new RayforceError("value", "either snapshot or resume");
    signal?.throwIfAborted();
    this.topic = topic;
    this.#connection = connection;
    this.#options = options;
    this.#query = snapshot !== undefined && query(snapshot, parameters);
    this.#state = new SubscriptionState({ maxBuffer, overflow, joins: this.#query, resume });
    this.#state._onchange = () => this._wake();
  }

  /** The place behind the last update that was taken; `subscribe(topic, { resume: position })` continues there. */
  get position() {
    return this.#state.position;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** Return the next update: its `value`, its `sequence`, and how many were `lost` before it. */
  async next() {
    for (;;) {
      const update = this.#state._take();
      if (update) {
        const { sequence, lost, buffer, start } = update;
        return { done: false, value: { topic: this.topic, sequence, lost, value: decode(buffer, start) } };
      }
      const { error } = this.#state;
      if (error) {
        this.close();
        if (error === LEFT) return { done: true, value: undefined };
        throw error;
      }
      await this.#changed.wait();
    }
  }

  async return() {
    this.close();
    return this.next();
  }

  /** End the subscription. */
  close() {
    this.#options.signal?.removeEventListener("abort", this.#abort);
    this.#connection._subscriptions.delete(this);
    this.#state._close(LEFT);
    this.#link?._session.unsubscribe(this.#id);
    this.#link?._pump();
  }

  #abort = () => this.#state._close(this.#options.signal.reason);

  async _join() {
    const { signal } = this.#options;
    signal?.addEventListener("abort", this.#abort);
    try {
      const link = await this.#connection._require(SUBSCRIPTIONS, signal);
      this.#connection._add(this); // first, so that it hears of the end of the connection
      this._attach(link);
      for (let sends = 1; this.#state._state !== "active"; ) {
        if (this.#state.error) throw this.#state.error;
        if (this.#state._state === "joining") sends += await this.#takeSnapshot(sends);
        else await this.#changed.wait();
      }
      return this;
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /** Have the server evaluate the query of the snapshot. Return how often it may have been evaluated in vain. */
  async #takeSnapshot(sends) {
    const [link, { signal }] = [this.#link, this.#options];
    try {
      const buffer = await link._request(frame(call(".ws.snapshot", i64(this.#id), this.#query)), signal);
      if (this.#link !== link) return 0;
      const next = Number(new DataView(buffer).getBigInt64(HEADER_SIZE + 12, true));
      this.snapshot = decode(buffer, HEADER_SIZE + SNAPSHOT_SIZE);
      this.#state._joined(next);
    } catch (error) {
      if (error.code === "closing") await this.#connection._leave(link, signal);
      else if (!(error instanceof LinkEnded)) throw error;
      else if (!error._isUnsent) this.#connection._checkRepeatable(link, error, sends < MAX_SENDS);
      await this.#connection._require(SUBSCRIPTIONS, signal);
      return error._isUnsent ? 0 : 1;
    }
    return 0;
  }

  _attach(link) {
    this.#link = link;
    this.#id = link._session.subscribe(this.topic, this.#state);
    link._pump();
  }

  /** Continue on another connection. */
  _resume(link) {
    this.#state._resume();
    if (!this.#state.error) this._attach(link);
    this._wake();
  }

  _fail(error) {
    this.#state._fail(error);
  }

  _wake() {
    this.#changed.give();
  }
}

/** Something that several calls can wait for, again and again. */
class Notice {
  #resolvers = [];

  wait(signal) {
    return abortable(new Promise((resolve) => this.#resolvers.push(resolve)), signal);
  }

  give() {
    for (const resolve of this.#resolvers.splice(0)) resolve();
  }
}

async function sleep(delay, signal) {
  let timer;
  const slept = new Promise((resolve) => (timer = setTimeout(resolve, delay)));
  await abortable(slept, signal).catch(() => clearTimeout(timer));
}

function tableOf(value) {
  if (value instanceof Table) return value;
  if (value instanceof Vector) return new Table(["value"], [value]);
  if (value instanceof Map) {
    const [names, columns] = [[...value.keys()], [...value.values()]];
    const isTable = columns.every((column) => column instanceof Vector && column.length === columns[0].length);
    if (names.length && isTable && names.every((name) => typeof name === "string")) return new Table(names, columns);
  }
  throw new RayforceError("value", "the result has no columns; use execute");
}
