// Values and queries to payloads and frames, without I/O. A value is data: nothing in it is ever evaluated.

import { RayforceError } from "./errors.js";
import { toDays, toTimestamp } from "./time.js";
import { Atom, DICT, isColumn, isNullItem, LIST, NULL, TABLE, TYPES, Table, Vector } from "./types.js";

const HAS_NULLS = 0x40;
const QUOTED = 0x20;
const SYMBOL = 0xf4;
const STRING = 0xf3;
const I64 = 0xfb;
const NAME = /^[A-Za-z_]\w*$/;
const TAKEN = new Set(["do", "let", "eval", "parse", "quote", "true", "false", "null"]);
const FUNCTION = /^[^\s()[\]{}"'`;,\0]+$/;
const utf8 = new TextEncoder();

const TYPE_OF_ARRAY = new Map(["U8", "I16", "I32", "I64", "F32", "F64"].map((type) => [TYPES[type].array, type]));

const TYPE_OF = { boolean: "B8", bigint: "I64", number: "F64", string: "SYMBOL" };

/** What strings and Dates become, in the types of dates. */
const CONVERSIONS = { DATE: toDays, TIMESTAMP: toTimestamp };

/** Return a value of a type that JavaScript does not have, such as `atom("I32", 5)`. */
export function atom(type, value) {
  return new Atom(known(type), value);
}

/** Return a vector of a type from items: numbers, texts or Dates as the type has them, and null. */
export function vector(type, items) {
  const { array, _nothing } = TYPES[known(type)];
  const data = Array.from(items, (item) => {
    if (item !== null && item !== undefined) return checkedItem(type, item);
    if (_nothing === undefined) throw unrepresentable(null, `not of type ${type}`);
    return _nothing;
  });
  return new Vector(type, array === Array ? data : array.from(data), data.some((item) => isNullItem(type, item)));
}

/** Return a table from an object of columns: typed arrays, vectors, or arrays of values of one kind. */
export function table(columns) {
  return new Table(
    Object.keys(columns),
    Object.values(columns).map((column) => {
      const found = toVector(column) ?? column;
      if (!isColumn(found)) throw unrepresentable(column, "not a column");
      return found;
    }),
  );
}

/** The frame of a request: a header and a payload. */
export function frame(payload) {
  const bytes = join([new Uint8Array(16), payload]);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, 0xfadeface);
  view.setUint32(4, 0x03000001); // version 3, no flags, little-endian, a request
  view.setBigInt64(8, BigInt(payload.length), true);
  return bytes;
}

/** The payload of a query: its text, or with parameters the expression that binds their names around it. */
export function query(text, parameters) {
  if (typeof text !== "string") throw unrepresentable(text, "not a query");
  const bindings = Object.entries(parameters ?? {}).map(([key, value]) => {
    if (!NAME.test(key) || TAKEN.has(key)) throw unrepresentable(key, "not a name");
    return call("let", name(key), data(value));
  });
  return bindings.length ? call("do", ...bindings, parsed(text)) : string(text);
}

/** The payload of a call of a function: by its name, or by the text of a lambda. */
export function functionCall(text, values) {
  const isLambda = /^\s*\(/.test(text);
  if (!isLambda && !FUNCTION.test(text)) throw unrepresentable(text, "not a function");
  return list([isLambda ? parsed(text) : name(text), ...values.map(data)]);
}

/** The payload of a call of a function that the server itself carries out. */
export function call(text, ...payloads) {
  return list([name(text), ...payloads]);
}

export function string(text) {
  const bytes = utf8.encode(checkedText(text));
  return join([header(STRING, bytes.length), bytes]);
}

export function i64(number) {
  return join([[I64, 0], BigInt64Array.of(BigInt(number))]);
}

/** The payload of a value. */
export function encode(value) {
  if (value === null || value === undefined) return Uint8Array.of(NULL);
  if (value instanceof Atom) return encodeAtom(value.type, value.value);
  const found = toVector(value);
  if (found) return encodeVector(found);
  if (Array.isArray(value)) return list(value.map(encode));
  if (value instanceof Table) {
    return join([[TABLE, 0], encodeVector(new Vector("SYMBOL", value.names)), list(value.columns.map(encode))]);
  }
  if (value instanceof Date) return encodeAtom("TIMESTAMP", value);
  if (TYPE_OF[typeof value]) return encodeAtom(TYPE_OF[typeof value], value);
  const entries = value instanceof Map ? [...value] : isPlain(value) && Object.entries(value);
  if (entries) {
    const [keys, values] = [0, 1].map((part) => entries.map((entry) => entry[part]));
    return join([[DICT, 0], encodeVector(toVector(keys) ?? vector("SYMBOL", keys)), list(values.map(encode))]);
  }
  throw unrepresentable(value, "no type for this value");
}

/** The payload of an expression that evaluates to a value. The engine would evaluate lists and dicts. */
function data(value) {
  const payload = encode(value);
  return payload[0] === LIST || payload[0] === DICT ? call("quote", payload) : payload;
}

function encodeAtom(type, value) {
  if (value === null) return Uint8Array.of(NULL);
  const code = -TYPES[type].code;
  if (type === "STRING") return string(value);
  return join([[code, type === "SYMBOL" ? QUOTED : 0], items(type, [checkedItem(type, value)])]);
}

function encodeVector({ type, data }) {
  const { array } = TYPES[type];
  const isArray = array === Array || !(data instanceof array);
  const checked = isArray ? Array.from(data, (item) => checkedItem(type, item)) : data;
  const marked = checked.some((item) => isNullItem(type, item));
  return join([header(TYPES[type].code, data.length, marked ? HAS_NULLS : 0), items(type, checked)]);
}

/** The bytes of items of one type, one after the other. */
function items(type, values) {
  if (type === "SYMBOL") return join(values.map((text) => utf8.encode(text + "\0")));
  if (type === "STRING") {
    const texts = values.map((text) => utf8.encode(text));
    return join(texts.flatMap((text) => [BigInt64Array.of(BigInt(text.length)), text]));
  }
  if (type === "GUID") return join(values.map((text) => text.replaceAll("-", "").match(/../g).map((hex) => `0x${hex}`)));
  return bytesOf(ArrayBuffer.isView(values) ? values : TYPES[type].array.from(values));
}

function checkedItem(type, item) {
  const value = typeof item === "string" || item instanceof Date ? (CONVERSIONS[type]?.(item) ?? item) : item;
  if (type === "SYMBOL" || type === "STRING") {
    if (checkedText(value).includes("\0") && type === "SYMBOL") throw unrepresentable(value, "NUL in a symbol");
    return value;
  }
  if (type === "GUID") {
    if (!/^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}$/i.test(value)) throw unrepresentable(value, "not a GUID");
    return value.toLowerCase();
  }
  if (type === "B8") return value ? 1 : 0;
  const { array } = TYPES[type];
  const isBig = array === BigInt64Array;
  const fits = typeof value === (isBig ? "bigint" : "number") && (type[0] === "F" || array.of(value)[0] === value);
  if (!fits) throw unrepresentable(value, `not of type ${type}`);
  return value;
}

function isPlain(value) {
  return [Object.prototype, null].includes(Object.getPrototypeOf(value));
}

function checkedText(text) {
  if (typeof text !== "string") throw unrepresentable(text, "not a string");
  if (/\p{Surrogate}/u.test(text)) throw unrepresentable(text, "not UTF-8");
  return text;
}

/** The vector that a column is: a Vector, a typed array, or values of one type and null. Undefined for all else. */
function toVector(values) {
  if (values instanceof Vector) return values;
  const typeOfArray = TYPE_OF_ARRAY.get(values?.constructor);
  if (typeOfArray) return new Vector(typeOfArray, values);
  if (!Array.isArray(values)) return undefined;
  const typeOf = (value) => (value instanceof Date ? "TIMESTAMP" : value instanceof Atom ? value.type : TYPE_OF[typeof value]);
  const present = values.filter((value) => value !== null && value !== undefined);
  const types = new Set(present.map(typeOf));
  const [type] = types;
  if (types.size !== 1 || !type || (TYPES[type]._nothing === undefined && present.length < values.length)) return undefined;
  return vector(
    type,
    values.map((value) => (value instanceof Atom ? value.value : value)),
  );
}

function list(payloads) {
  return join([header(LIST, payloads.length), ...payloads]);
}

function parsed(text) {
  return call("eval", call("parse", string(text)));
}

/** A name that the engine looks up. */
function name(text) {
  return join([[SYMBOL, 0], utf8.encode(checkedText(text) + "\0")]);
}

function header(code, count, attributes = 0) {
  return join([[code, attributes], BigInt64Array.of(BigInt(count))]);
}

function bytesOf(array) {
  return ArrayBuffer.isView(array) ? new Uint8Array(array.buffer, array.byteOffset, array.byteLength) : array;
}

function join(parts) {
  const bytes = parts.map(bytesOf);
  const joined = new Uint8Array(bytes.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of bytes) {
    joined.set(part, at);
    at += part.length;
  }
  return joined;
}

function known(type) {
  if (!Object.hasOwn(TYPES, type)) throw unrepresentable(type, "not a type");
  return type;
}

function unrepresentable(value, problem) {
  return new RayforceError("value", `${problem}: ${String(value).slice(0, 40)}`);
}
