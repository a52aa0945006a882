// Values as text.

import { isoOf } from "../src/time.js";
import { Table, Vector } from "../src/types.js";

const MAX_ITEMS = 200;
const MAX_DEPTH = 8;
const TEMPORAL = new Set(["DATE", "TIME", "TIMESTAMP", "TIMESPAN"]);
const NUMERIC = new Set(["U8", "I16", "I32", "I64", "F32", "F64"]);

export const isNumeric = (type) => NUMERIC.has(type);
export const isTemporal = (type) => TEMPORAL.has(type);

/** An item of a type as the text of a cell. */
export function itemText(type, item) {
  if (item === null || item === undefined) return "null";
  if (TEMPORAL.has(type)) return isoOf(type, item);
  if (type === "F32") return String(Number(item.toPrecision(7)));
  return typeof item === "object" ? valueText(item) : String(item);
}

/** The type of a column: that of a vector, or LIST. */
export function typeOf(column) {
  return column instanceof Vector ? column.type : "LIST";
}

/** Any value as text, in the manner of Rayfall. Long ones are cut. */
export function valueText(value, type = undefined, depth = 0) {
  if (value === null || value === undefined) return "null";
  if (depth > MAX_DEPTH) return "…";
  const each = (items) => {
    const shown = Array.from({ length: Math.min(items.length, MAX_ITEMS) }, (_, row) => items.at(row));
    return [shown, items.length > MAX_ITEMS ? " …" : ""];
  };
  if (value instanceof Table) return `(table [${value.names.join(" ")}] of ${value.length} rows)`;
  if (value instanceof Vector) {
    const [shown, rest] = each(value);
    return `[${shown.map((item) => quoted(value.type, item)).join(" ")}${rest}]`;
  }
  if (Array.isArray(value)) {
    const [shown, rest] = each(value);
    return `(list ${shown.map((item) => valueText(item, undefined, depth + 1)).join(" ")}${rest})`;
  }
  if (value instanceof Map) {
    const [shown, rest] = each([...value]);
    return `{${shown.map(([key, item]) => `${String(key)}: ${valueText(item, undefined, depth + 1)}`).join(" ")}${rest}}`;
  }
  if (typeof value === "object") {
    if ("function" in value) return String(value.function);
    const names = value.parameters instanceof Vector ? value.parameters.values().join(" ") : "";
    return `(fn [${names}] …)`;
  }
  return type ? quoted(type, value) : typeof value === "string" ? JSON.stringify(value) : String(value);
}

function quoted(type, item) {
  if (item === null) return "null";
  if (type === "STRING") return JSON.stringify(item);
  return type === "SYMBOL" ? `'${item}` : itemText(type, item);
}
