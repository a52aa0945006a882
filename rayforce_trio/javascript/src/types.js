// The engine's types: codes on the wire, and how vectors and tables look in JavaScript.

import { RayforceError } from "./errors.js";
import { isoOf } from "./time.js";

const MIN16 = -32768;
const MIN32 = -2147483648;
const MIN64 = -(2n ** 63n);
export const NIL = "00000000-0000-0000-0000-000000000000";

const vectorOf = (code, array, _nothing, size = array.BYTES_PER_ELEMENT) => ({ code, array, _nothing, size });

/** The types of vectors: the code, the array, the item that stands for null, and the bytes of an item. */
export const TYPES = {
  B8: vectorOf(1, Uint8Array),
  U8: vectorOf(2, Uint8Array),
  I16: vectorOf(3, Int16Array, MIN16),
  I32: vectorOf(4, Int32Array, MIN32),
  I64: vectorOf(5, BigInt64Array, MIN64),
  F32: vectorOf(6, Float32Array, NaN),
  F64: vectorOf(7, Float64Array, NaN),
  DATE: vectorOf(8, Int32Array, MIN32),
  TIME: vectorOf(9, Int32Array, MIN32),
  TIMESTAMP: vectorOf(10, BigInt64Array, MIN64),
  GUID: vectorOf(11, Array, NIL, 16),
  SYMBOL: vectorOf(12, Array, "", 1), // an item has one byte at least
  STRING: vectorOf(13, Array, "", 8),
  TIMESPAN: vectorOf(16, BigInt64Array, MIN64),
};

export const TYPE_OF_CODE = new Map(Object.entries(TYPES).map(([name, { code }]) => [code, name]));

export const LIST = 0;
export const TABLE = 98;
export const DICT = 99;
export const LAMBDA = 100;
export const NULL = 0x7e;
export const ERROR = 0x7f;

export function isNullItem(type, item) {
  return Object.is(item, TYPES[type]._nothing);
}

/** Items of one type. `data` has the raw items; reading them one by one, or with `values`, gives null for null. */
export class Vector {
  constructor(type, data, hasNulls = false) {
    this.type = type;
    this.data = data;
    this.hasNulls = hasNulls || type === "SYMBOL";
  }

  get length() {
    return this.data.length;
  }

  /** The item in a row: null where the engine has null, a boolean for B8. */
  at(row) {
    const item = this.data.at(row);
    if (this.hasNulls && isNullItem(this.type, item)) return null;
    return this.type === "B8" && item >= 0 ? item > 0 : item;
  }

  *[Symbol.iterator]() {
    for (let row = 0; row < this.length; row++) yield this.at(row);
  }

  values() {
    return [...this];
  }

  /** The items as texts, for the types of dates and times; null for null. */
  iso() {
    return Array.from(this, (item) => (item === null ? null : isoOf(this.type, item)));
  }
}

/** Whether a value has items. */
export const isColumn = (value) => value instanceof Vector || Array.isArray(value);

/** Columns of equal length. A column is a Vector, or an array of values of any kind. */
export class Table {
  constructor(names, columns) {
    this.names = names;
    this.columns = columns;
  }

  get length() {
    return this.columns[0]?.length ?? 0;
  }

  column(name) {
    const place = this.names.indexOf(name);
    if (place < 0) throw new RayforceError("value", `no column ${name}: ${this.names}`);
    return this.columns[place];
  }

  *[Symbol.iterator]() {
    for (let row = 0; row < this.length; row++) {
      yield Object.fromEntries(this.names.map((name, place) => [name, this.columns[place].at(row)]));
    }
  }

  toRows() {
    return [...this];
  }
}

/** One value of a type that JavaScript does not have, to be sent. See `atom`. */
export class Atom {
  constructor(type, value) {
    this.type = type;
    this.value = value;
  }
}
