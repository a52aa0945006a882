// Queries whose results stay on the server, and are fetched in parts, through the connection of the client.

import { decode } from "../src/decode.js";
import { call, i64, string } from "../src/encode.js";
import { TYPE_OF_CODE, Table } from "../src/types.js";
import { typeOf, valueText } from "./text.js";

const HEADER_SIZE = 16;
const NULL = 0x7e;
const BATCH_SIZE = 1; // rows of a batch; the console takes no batches
const ROWS = "rows";

let lastStream = 0; // never used twice, also after the connection was lost

/** Evaluate a query, and return its result, whose rows stay on the server until `end`. */
export async function open(connection, text, signal) {
  const stream = ++lastStream;
  try {
    const query = call(".ws.stream", i64(stream), i64(BATCH_SIZE), string(text));
    return new Result(connection, stream, await connection._request(query, { signal, feature: ROWS }));
  } catch (error) {
    end(connection, stream); // the engine may have evaluated it before it was told to stop
    throw error;
  }
}

function end(connection, stream) {
  connection._request(call(".ws.end", i64(stream)), { feature: ROWS }).catch(() => {}); // a lost connection has no streams
}

class Result {
  rows; // null if the value has none
  output; // what the query printed
  names = [];
  types = [];
  text = ""; // of a value without rows
  #connection;
  #stream;

  constructor(connection, stream, buffer) {
    this.#connection = connection;
    this.#stream = stream;
    const [rows, output, value] = decode(buffer, HEADER_SIZE);
    this.output = output ?? "";
    this.rows = rows === null ? null : Number(rows);
    if (rows === null) {
      this.text = valueText(value, atomType(buffer));
      this.end();
    } else {
      const table = tableOf(value);
      this.names = table.names;
      this.types = table.columns.map(typeOf);
    }
  }

  /** Some rows as a table, and how many bytes they took: `{ table, size }`. */
  async take(start, count, signal) {
    const query = call(".ws.rows", i64(this.#stream), i64(start), i64(count));
    const buffer = await this.#connection._request(query, { signal, feature: ROWS });
    return { table: tableOf(decode(buffer, HEADER_SIZE)), size: buffer.byteLength };
  }

  /** Release the rows on the server. */
  end() {
    end(this.#connection, this.#stream);
  }
}

/** A table, or a vector or list as a table of one column. */
export function tableOf(value) {
  return value instanceof Table ? value : new Table(["value"], [value]);
}

/** The type of the value in a list of null, the printed text and the value, if that is one item. */
function atomType(buffer) {
  const view = new DataView(buffer);
  const output = HEADER_SIZE + 10 + 1;
  if (view.getUint8(HEADER_SIZE + 10) !== NULL) return undefined;
  const at = view.getUint8(output) === NULL ? output + 1 : output + 10 + Number(view.getBigInt64(output + 2, true));
  return TYPE_OF_CODE.get(-view.getInt8(at));
}

const TABLES = `((fn [globals] (do
  (let places (where (== 'TABLE (map type (value globals)))))
  (list (at (key globals) places)
        (map count (at (value globals) places))
        (map (fn [table] (list (cols table) (map type (value table)))) (at (value globals) places)))))
(env 0))`;

/** The tables of the server: `{ name, rows, columns: [{ name, type }] }`. */
export async function tables(connection, signal) {
  const [names, counts, shapes] = await connection.execute(TABLES, {}, { signal, idempotent: true });
  return Array.from(names, (name, place) => ({
    name,
    rows: Number(counts.at(place)),
    columns: columnsOf(shapes.at(place)),
  }))
    .filter(({ name }) => !name.startsWith("#"))
    .sort((one, other) => (one.name < other.name ? -1 : 1));
}

const LONG_NAMES = { SYM: "SYMBOL", STR: "STRING" }; // of types, as the headers of a result have them

function columnsOf([names, types]) {
  return Array.from(names, (name, place) => ({ name, type: LONG_NAMES[types.at(place)] ?? String(types.at(place)) }));
}
