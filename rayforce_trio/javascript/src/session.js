// The client's side of the protocol on one connection, without I/O: events come in, messages and replies come out.
// Replies carry no number: each belongs to the oldest unanswered request. So a request that is cancelled after it was
// sent keeps its place, and its reply is dropped.

import { RayforceError } from "./errors.js";

const MAX_IN_FLIGHT = 512; // requests
const MAX_IN_FLIGHT_BYTES = 32 * 1024 * 1024; // one request may have any size
const HEADER_SIZE = 16;
const UPDATE_SIZE = 44; // a list of two, and a vector of three
const MAGIC = 0xfadeface;

export class Session {
  _features = null; // of the server, once it has answered the hello
  #controls = [];
  #queued = new Set();
  #unanswered = [];
  #bytes = 0;
  #number = 0;
  #refused; // the number of the first request that the server did not start because it stops
  #subscriptions = new Map();
  #lastSubscription = 0;

  /** Queue a request, and return it. `next` sends it. */
  _submit(message) {
    const request = { message, size: message.length, _number: 0, _isCancelled: false };
    this.#queued.add(request);
    return request;
  }

  /** Forget an unanswered request. If it was sent, the engine stops it, and its reply is dropped. */
  _cancel(request) {
    if (this.#queued.delete(request)) return;
    request._isCancelled = true;
    this.#control({ cancel: request._number });
  }

  /** Whether the server has certainly not started a request, and never will. */
  _isUnsent(request) {
    return !request._number || request._number > this.#refused;
  }

  _hello() {
    this.#control({ hello: { features: ["subscriptions"] } });
  }

  /** Subscribe, and return the number of the subscription on this connection. */
  subscribe(topic, state) {
    const id = ++this.#lastSubscription;
    this.#subscriptions.set(id, state);
    this.#control({ subscribe: { id, topic, ...(state._resumeFrom && { resume: state._resumeFrom }) } });
    return id;
  }

  unsubscribe(id) {
    if (this.#subscriptions.delete(id)) this.#control({ unsubscribe: id });
  }

  /** The next message to send; undefined if there is none now. */
  next() {
    if (this.#controls.length) return this.#controls.shift();
    const [request] = this.#queued;
    const { length } = this.#unanswered;
    if (!request || length >= MAX_IN_FLIGHT) return undefined;
    if (length && this.#bytes + request.size > MAX_IN_FLIGHT_BYTES) return undefined;
    this.#queued.delete(request);
    this.#unanswered.push(request);
    this.#bytes += request.size;
    request._number = ++this.#number;
    const { message } = request;
    request.message = null;
    return message;
  }

  /** Take a message, and return the replies in it: `{request, buffer}` or `{request, error}`. */
  _receive(message) {
    return typeof message === "string" ? this.#receiveControl(message) : this.#receiveFrame(message);
  }

  #receiveFrame(buffer) {
    const view = new DataView(buffer);
    const size = buffer.byteLength - HEADER_SIZE;
    if (size < 1 || view.getUint32(0) !== MAGIC || view.getBigInt64(8, true) !== BigInt(size)) {
      throw violation("a message that is no frame");
    }
    const kind = view.getUint8(7);
    if (kind === 2) return this.#answer({ buffer });
    if (kind !== 0) throw violation("a request");
    if (size > UPDATE_SIZE) this.#update(buffer, view);
    return [];
  }

  #update(buffer, view) {
    const [id, sequence, lost] = [0, 8, 16].map((at) => Number(view.getBigInt64(HEADER_SIZE + 20 + at, true)));
    if (view.getUint16(HEADER_SIZE) || view.getUint8(HEADER_SIZE + 10) !== 5) return; // another kind of push
    const state = this.#subscriptions.get(id);
    state?._received({ sequence, lost, buffer, start: HEADER_SIZE + UPDATE_SIZE });
    this.#unsubscribeIfEnded(id, state);
  }

  #receiveControl(text) {
    const { error, hello, subscribed, unsubscribed } = parse(text);
    let replies = [];
    if (error) {
      if (this.#unanswered[0]?._number !== error.request) throw violation("an error out of turn");
      if (error.code === "closing") this.#refused ??= error.request;
      replies = this.#answer({ error: new RayforceError(error.code, error.message) });
    }
    if (hello) this._features ??= new Set(hello.features);
    if (subscribed) {
      const state = this.#subscriptions.get(subscribed.id);
      state?._confirmed({ epoch: subscribed.epoch, sequence: subscribed.sequence });
      this.#unsubscribeIfEnded(subscribed.id, state);
    }
    if (unsubscribed) {
      this.#subscriptions.get(unsubscribed.id)?.end(unsubscribed.code, unsubscribed.message);
      this.#subscriptions.delete(unsubscribed.id);
    }
    return replies;
  }

  #answer(reply) {
    const request = this.#unanswered.shift();
    if (!request) throw violation("a reply without a request");
    this.#bytes -= request.size;
    return request._isCancelled ? [] : [{ request, ...reply }];
  }

  #unsubscribeIfEnded(id, state) {
    if (state?.error) this.unsubscribe(id);
  }

  #control(message) {
    this.#controls.push(JSON.stringify(message));
  }
}

function parse(text) {
  try {
    return JSON.parse(text) ?? {};
  } catch {
    throw violation("a text that is not JSON");
  }
}

function violation(problem) {
  return new RayforceError("protocol", `the server sent ${problem}`);
}
