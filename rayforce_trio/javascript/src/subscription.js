// One subscription, without I/O: updates come in, are checked and buffered, and are taken out. The numbers of an epoch
// are consecutive, so they tell about every update that is missing.

import { RayforceError } from "./errors.js";

const UPDATE_OVERHEAD = 256; // bytes that an update counts besides its message

export class SubscriptionState {
  position; // behind the last update that was taken; undefined before it is known
  error = null; // why it has ended
  _onchange = () => {};
  _state = "subscribing"; // then "joining" until the snapshot arrives, and "active"
  #maxBuffer;
  #overflow;
  #joins;
  #buffer = [];
  #size = 0;
  #received = 0;
  #dropped = 0;

  /** @param resume the position to continue from; @param joins whether a snapshot comes before the first update */
  constructor({ maxBuffer, overflow, joins, resume }) {
    this.#maxBuffer = maxBuffer;
    this.#overflow = overflow;
    this.#joins = joins;
    this._resumeFrom = this.position = resume;
  }

  _confirmed(position) {
    if (this._state !== "subscribing") return;
    const { epoch, sequence } = this._resumeFrom ?? position;
    if (epoch !== position.epoch || sequence !== position.sequence) {
      this.#gap();
      return;
    }
    this.position ??= position;
    this.#received = position.sequence;
    this._state = this.#joins ? "joining" : "active";
    this._onchange();
  }

  /** The snapshot has arrived. It contains the updates before `next`. */
  _joined(next) {
    if (this._state !== "joining") return;
    this.#joins = false;
    this._state = "active";
    this.position = { epoch: this.position.epoch, sequence: next - 1 };
    while (this.#buffer[0]?.sequence < next) this.#shift();
    if (this.#dropped >= next && !this.#mayLose()) {
      this.#buffer = this.#buffer.filter((update, place) => update.sequence === next + place);
    }
    this._onchange();
  }

  _received(update) {
    if (this.error) return;
    const { sequence, lost } = update;
    if (this._state === "subscribing" || lost < 0 || sequence !== this.#received + 1 + lost) {
      this.#gap();
      return;
    }
    this.#received = sequence;
    const isActive = this._state === "active";
    if (isActive && sequence <= this.position.sequence) return; // the snapshot contains it
    if (lost) {
      this.#dropped = sequence - 1;
      if (isActive && this.#dropped > this.position.sequence && !this.#mayLose()) return;
    }
    const size = sizeOf(update);
    while (this.#buffer.length && this.#size + size > this.#maxBuffer) {
      if (isActive && !this.#mayLose()) return;
      this.#dropped = Math.max(this.#dropped, this.#shift().sequence);
    }
    this.#buffer.push(update);
    this.#size += size;
    this._onchange();
  }

  /** The connection was lost, and another one takes its place. */
  _resume() {
    if (this.error) return;
    if (this._state === "active") {
      this._resumeFrom = { epoch: this.position.epoch, sequence: Math.max(this.#received, this.position.sequence) };
    } else if (this._state === "joining") {
      this.#buffer = [];
      this.#size = this.#dropped = 0;
      this.position = this._resumeFrom;
    }
    this._state = "subscribing";
  }

  end(code, message) {
    this._fail(new RayforceError(code, message));
  }

  _fail(error) {
    this.error ??= error;
    this._onchange();
  }

  /** End at once: what is in the buffer is not wanted any more. */
  _close(error) {
    this.#buffer = [];
    this.error = error;
    this._onchange();
  }

  /** The next update, or undefined. */
  _take() {
    if (this.#joins || !this.#buffer.length) return undefined;
    const { sequence, buffer, start } = this.#shift();
    const lost = sequence - this.position.sequence - 1;
    this.position = { epoch: this.position.epoch, sequence };
    return { sequence, lost, buffer, start };
  }

  #shift() {
    const update = this.#buffer.shift();
    this.#size -= sizeOf(update);
    return update;
  }

  #gap() {
    this.end("gap", "updates are missing");
  }

  #mayLose() {
    if (this.#overflow !== "error") return true;
    this.end("slow", "the buffer is full");
    return false;
  }
}

function sizeOf({ buffer, start }) {
  return UPDATE_OVERHEAD + buffer.byteLength - start;
}
