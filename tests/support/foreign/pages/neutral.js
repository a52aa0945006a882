// Values of the JavaScript client as support/value_vectors.py writes them.

const TEMPORAL = ["DATE", "TIME", "TIMESTAMP", "TIMESPAN"];

/** Return the function that makes JSON of a value, for the client's module. */
export function neutralizer({ Table, Vector }) {
  return function neutral(value) {
    if (value instanceof Table) return { names: value.names, columns: value.columns.map(neutral) };
    if (value instanceof Map) return { names: [...value.keys()], columns: [...value.values()].map(neutral) };
    if (Array.isArray(value)) return value.map(neutral);
    if (value instanceof Vector) {
      const iso = TEMPORAL.includes(value.type) && { iso: value.iso() };
      return { type: value.type, items: value.values().map(neutral), ...iso };
    }
    return typeof value === "bigint" ? `${value}` : value;
  };
}
