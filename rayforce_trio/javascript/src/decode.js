// Payloads to values, without I/O. Every count is checked against the bytes that are there.

import { RayforceError } from "./errors.js";
import { DICT, ERROR, LAMBDA, LIST, NULL, TABLE, TYPES, TYPE_OF_CODE, Table, Vector, isColumn } from "./types.js";

const HAS_NULLS = 0x40;
const MAX_DEPTH = 64;
const utf8 = new TextDecoder("utf-8", { ignoreBOM: true, fatal: true });
const latin1 = new TextDecoder("latin1");

/** Return the value of a payload, which begins at `at`. Throws an error in it, and one of code `decode` for damage. */
export function decode(buffer, at = 0) {
  const bytes = new Uint8Array(buffer);
  const view = new DataView(buffer);

  /** Skip some bytes; return where they begin. */
  const take = (size) => {
    if (size > bytes.length - at) throw damage("it ends early");
    at += size;
    return at - size;
  };

  const textBetween = (start, end) => {
    try {
      return utf8.decode(bytes.subarray(start, end));
    } catch {
      throw damage("not UTF-8");
    }
  };

  const text = (size) => textBetween(take(size), at);

  /** Read a number of items, of at least `size` bytes each. */
  const count = (size) => {
    const start = take(8);
    const items = view.getUint32(start, true) + view.getInt32(start + 4, true) * 2 ** 32;
    if (items < 0 || items * size > bytes.length - at) throw damage("it ends early");
    return items;
  };

  const value = (depth) => {
    if (depth > MAX_DEPTH) throw damage("nested too deeply");
    const code = view.getInt8(take(1));
    if (code === NULL) return null;
    if (code > LAMBDA && code < LAMBDA + 4) return { function: symbols(1)[0] };
    const attributes = bytes[take(1)];
    if (code === LIST) return repeat(count(1), () => value(depth + 1));
    if (code === TABLE) return table(value(depth + 1), value(depth + 1));
    if (code === DICT) return dict(value(depth + 1), value(depth + 1));
    if (code === LAMBDA) return { parameters: value(depth + 1), body: value(depth + 1) };
    const type = TYPE_OF_CODE.get(Math.abs(code));
    if (!type) throw damage(`type ${code}`);
    if (code > 0) return new Vector(type, items(type, count(TYPES[type].size)), !!(attributes & HAS_NULLS));
    const [item] = type === "STRING" ? [text(count(1))] : items(type, 1);
    return attributes & 1 ? null : new Vector(type, [item]).at(0);
  };

  const items = (type, length) => {
    if (type === "SYMBOL") return symbols(length);
    if (type === "STRING") return strings(length);
    if (type === "GUID") return repeat(length, () => guid(bytes.subarray(take(16), at)));
    const { array, size } = TYPES[type];
    return new array(buffer.slice(take(length * size), at)); // a copy: the items are not aligned
  };

  const symbols = (length) => {
    let [found, end] = [0, at];
    while (found < length) {
      if (end === bytes.length) throw damage("it ends early");
      if (bytes[end++] === 0) found++;
    }
    return text(end - at).split("\0").slice(0, -1);
  };

  const strings = (length) => {
    const start = at;
    const places = repeat(length, () => take(count(1)));
    // To decode all bytes at once is faster. What is not ASCII is decoded once more.
    const all = latin1.decode(bytes.subarray(start, at));
    return places.map((place, row) => {
      const end = row + 1 < length ? places[row + 1] - 8 : at;
      const part = all.slice(place - start, end - start);
      return /[^\0-\x7f]/.test(part) ? textBetween(place, end) : part;
    });
  };

  if (bytes[at] === ERROR) throw new RayforceError(text(bytes.length - at).replace(/\x7f|\0.*/gs, ""));
  const result = value(0);
  if (at < bytes.length) throw damage("it is too long");
  return result;
}

function table(names, columns) {
  const isTable = names?.type === "SYMBOL" && Array.isArray(columns) && names.length === columns.length;
  if (!isTable || columns.some((column) => !isColumn(column) || column.length !== columns[0].length)) {
    throw damage("a table");
  }
  return new Table(names.data, columns);
}

function dict(keys, values) {
  if (!isColumn(keys) || !isColumn(values) || keys.length !== values.length) throw damage("a dict");
  return new Map(Array.from(keys, (key, row) => [key, values.at(row)]));
}

function guid(bytes) {
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, "$1-$2-$3-$4-");
}

function repeat(length, make) {
  const values = [];
  while (values.length < length) values.push(make());
  return values;
}

function damage(problem) {
  return new RayforceError("decode", `damaged reply: ${problem}`);
}
