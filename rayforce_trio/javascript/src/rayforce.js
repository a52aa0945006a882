// The client of rayforce-trio for JavaScript: `rayforce.d.ts` has the types, docs/how-to/javascript.md is a guide.

export { connect } from "./client.js";
export { decode } from "./decode.js";
export { atom, encode, table, vector } from "./encode.js";
export { RayforceError } from "./errors.js";
export { isoOf, toDate, toDays, toTimestamp } from "./time.js";
export { Table, Vector } from "./types.js";
