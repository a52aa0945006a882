// One WebSocket connection: it opens, sends and receives what a `Session` decides on, and ends.

import { abortable } from "./abort.js";
import { RayforceError } from "./errors.js";
import { Session } from "./session.js";

const SUBPROTOCOL = "rayforce.v1";
const OPEN = 1; // the state of a WebSocket
const GREETING_TIMEOUT = 5000; // milliseconds
const HELLO_TIMEOUT = 5000;

/** The end of a link, for a request: callers never see it. `isUnsent`: the server has not started the request. */
export class LinkEnded {
  constructor(error, isUnsent) {
    this.error = error;
    this._isUnsent = isUnsent;
  }
}

export class Link {
  error = null; // why it has ended
  _closeCode = 0; // that of the server
  _session = new Session();
  #socket;
  #waiting = new Map(); // requests, and the functions that settle their promises
  #features; // a promise for those of the server
  #setFeatures;
  #isGreeted = false;
  #greet;
  #fail;
  #end;
  #greeted = new Promise((resolve, reject) => ([this.#greet, this.#fail] = [resolve, reject]));
  _ended = new Promise((resolve) => (this.#end = resolve));

  /** Open a connection. Rejects with an error of code `connect`, or with the reason of the signal. */
  static async open(url, { WebSocket, token, signal }) {
    signal?.throwIfAborted();
    let link;
    const timer = setTimeout(() => link?._end(new RayforceError("lost", "no answer")), GREETING_TIMEOUT);
    try {
      link = new Link(new WebSocket(url, token === undefined ? [SUBPROTOCOL] : [SUBPROTOCOL, tokenItem(token)]));
      await abortable(link.#greeted, signal);
      return link;
    } catch (cause) {
      link?._end(cause);
      signal?.throwIfAborted();
      throw new RayforceError("connect", `cannot connect to ${url}: ${cause.message}`, { cause });
    } finally {
      clearTimeout(timer);
    }
  }

  constructor(socket) {
    let problem = "";
    this.#socket = socket;
    socket.binaryType = "arraybuffer";
    socket.addEventListener("open", () => socket.send(Uint8Array.of(1, 0)));
    socket.addEventListener("message", ({ data }) => this.#receive(data));
    socket.addEventListener("error", ({ message = "" }) => (problem = message)); // a close event follows
    socket.addEventListener("close", ({ code, reason }) => {
      this._closeCode = code;
      this._end(new RayforceError("lost", `closed with code ${code} ${reason || problem}`));
    });
  }

  /** Send a request and return its reply. Rejects with `LinkEnded`, an error of the query, or the signal's reason. */
  async _request(message, signal) {
    if (this.error) throw new LinkEnded(this.error, true);
    const request = this._session._submit(message);
    const reply = new Promise((resolve, reject) => this.#waiting.set(request, { resolve, reject }));
    this._pump();
    try {
      return await abortable(reply, signal);
    } finally {
      if (this.#waiting.delete(request)) {
        this._session._cancel(request);
        this._pump();
      }
    }
  }

  /** Wait until the server has named its features. Rejects with `LinkEnded`, or an error of code `unsupported`. */
  async _require(feature) {
    if (!this.#features) {
      let timer;
      this.#features = new Promise((resolve) => {
        this.#setFeatures = resolve;
        timer = setTimeout(resolve, HELLO_TIMEOUT);
      });
      this._ended.then(this.#setFeatures);
      this.#features.then(() => clearTimeout(timer));
      this._session._hello();
      this._pump();
    }
    await this.#features;
    if (this.error) throw new LinkEnded(this.error, true);
    if (!this._session._features?.has(feature)) throw new RayforceError("unsupported", `the server has no ${feature}`);
  }

  /** Send what the session has to send. */
  _pump() {
    let message;
    while (this.#socket.readyState === OPEN && (message = this._session.next()) !== undefined) this.#socket.send(message);
  }

  /** Close the connection, and fail the requests that wait. Idempotent. */
  _end(error) {
    if (this.error) return;
    this.error = error;
    this.#fail(error);
    for (const [request, { reject }] of this.#waiting) {
      reject(new LinkEnded(error, this._session._isUnsent(request)));
    }
    this.#waiting.clear();
    this.#socket.close(1000);
    this.#end(error);
  }

  #receive(data) {
    if (this.error) return;
    try {
      if (!this.#isGreeted) this.#takeGreeting(data);
      else this._session._receive(data).forEach((reply) => this.#settle(reply));
      if (this._session._features) this.#setFeatures?.();
    } catch (error) {
      this._end(error);
    }
    this._pump();
  }

  #takeGreeting(data) {
    if (this.#socket.protocol !== SUBPROTOCOL || data.byteLength !== 1) {
      throw new RayforceError("protocol", `the server does not speak ${SUBPROTOCOL}`);
    }
    this.#isGreeted = true;
    this.#greet();
  }

  #settle({ request, buffer, error }) {
    const { resolve, reject } = this.#waiting.get(request);
    this.#waiting.delete(request);
    if (error) reject(error);
    else resolve(buffer);
  }
}

/** The subprotocol that carries a token, in base64url. */
function tokenItem(token) {
  return "rayforce.token." + btoa(token).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}
