// When to connect again, without clocks: the current time and random numbers from 0 to 1 come in, delays come out.

const FIRST_DELAY = 100; // milliseconds; the bound of the delay doubles with each attempt
const MAX_DELAY = 5000;
const STABLE_AFTER = 5000; // a connection that has lasted this long starts the delays anew

export class Backoff {
  #attempts = 0;
  #connectedAt = 0;

  _connected(now) {
    this.#connectedAt = now;
  }

  /** The delay in milliseconds after the loss of a connection; none if the server has announced its end. */
  _lost(drained, now, random) {
    if (now - this.#connectedAt >= STABLE_AFTER) this.#attempts = 0;
    if (drained && !this.#attempts) {
      this.#attempts = 1;
      return 0;
    }
    return this._failed(random);
  }

  /** The delay in milliseconds after an attempt that has failed. */
  _failed(random) {
    return random * Math.min(MAX_DELAY, FIRST_DELAY * 2 ** this.#attempts++);
  }
}
