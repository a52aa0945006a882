// A live topic: its latest rows in a table, and a chart of them.

import { tableOf } from "./results.js";
import { byId, plural } from "./dom.js";
import { Table, Vector } from "../src/types.js";
import { isNumeric, isTemporal, itemText, typeOf, valueText } from "./text.js";
import { numbersOf } from "./plot.js";

const MAX_ROWS = 1000;

/** The latest rows of a topic, a source for a grid: the newest row is the first one. */
export class LatestRows {
  names = [];
  types = [];
  #cells = []; // texts, the newest row at the end
  #numbers = []; // of each row, NaN for what is no number
  #count = 0;

  get rows() {
    return this.#cells.length;
  }

  cells(row) {
    return this.#cells[this.#cells.length - 1 - row];
  }

  want() {}

  /** Add an update, and return whether its columns are others than before. Then earlier rows are dropped. */
  add(value) {
    const table = rowsOf(value);
    const types = table.columns.map(typeOf);
    const isNew = types.join() !== this.types.join() || table.names.join("\0") !== this.names.join("\0");
    if (isNew) [this.names, this.types, this.#cells, this.#numbers] = [table.names, types, [], []];
    const start = Math.max(0, table.length - MAX_ROWS);
    const numbers = table.columns.map((column, place) => (isNumeric(types[place]) || isTemporal(types[place]) ? numbersOf(column) : null));
    for (let row = start; row < table.length; row++) {
      this.#cells.push(cellsOf(table, row));
      this.#numbers.push(numbers.map((column) => column?.[row] ?? NaN));
    }
    this.#count += table.length;
    const excess = this.#cells.length - MAX_ROWS;
    if (excess > 0) {
      this.#cells.splice(0, excess);
      this.#numbers.splice(0, excess);
    }
    return isNew;
  }

  /** The numbers of columns, as a chart needs them. */
  numbersOf(places) {
    const first = this.#count - this.#numbers.length;
    const found = new Map([[-1, Float64Array.from(this.#numbers, (_, row) => first + row)]]);
    for (const place of places) found.set(place, Float64Array.from(this.#numbers, (row) => row[place]));
    return found;
  }
}

/** Any value as a table: a dict of names is one of rows if its values are vectors, and otherwise one row. */
function rowsOf(value) {
  if (value instanceof Table || value instanceof Vector) return tableOf(value);
  if (!(value instanceof Map) || ![...value.keys()].every((key) => typeof key === "string")) return new Table(["value"], [single(value)]);
  const [names, items] = [[...value.keys()], [...value.values()]];
  const areColumns = items.length && items.every((item) => item instanceof Vector && item.length === items[0].length);
  return new Table(names, areColumns ? items : items.map(single));
}

/** A column of one item. */
function single(item) {
  if (typeof item === "number") return new Vector("F64", Float64Array.of(item));
  return typeof item === "bigint" ? new Vector("I64", BigInt64Array.of(item)) : [item];
}

/** The texts of the cells of a row; null for null. */
export function cellsOf(table, row) {
  return table.columns.map((column) => {
    const item = column.at(row);
    if (item === null) return null;
    return column instanceof Vector ? itemText(column.type, item) : typeof item === "string" ? item : valueText(item);
  });
}

/** The controls of the topic: subscribe, pause, stop. */
export class Live {
  #connection;
  #grid;
  #chart;
  #rows = new LatestRows();
  #ending = null; // aborts the subscription
  #resume = null; // continues after a pause
  #updates = 0;
  #lost = 0;

  constructor(connection, grid, chart) {
    [this.#connection, this.#grid, this.#chart] = [connection, grid, chart];
    chart.onchange = () => this.#draw();
    byId("topic-form").addEventListener("submit", (event) => {
      event.preventDefault();
      if (this.#ending) this.#stop();
      else this.#follow(byId("topic").value);
    });
    byId("pause").addEventListener("click", () => this.#pause());
    this.#show();
  }

  #stop() {
    this.#ending.abort();
    this.#resume?.();
  }

  #pause() {
    if (this.#resume) this.#resume();
    else this.#resume = () => (this.#resume = null);
    this.#show();
  }

  async #follow(topic) {
    const ending = (this.#ending = new AbortController());
    [this.#rows, this.#updates, this.#lost] = [new LatestRows(), 0, 0];
    this.#grid.show(null);
    this.#chart.clear();
    this.#say("Subscribing…");
    this.#show();
    try {
      const subscription = await this.#connection.subscribe(topic, { overflow: "dropOldest", signal: ending.signal });
      this.#say(`Subscribed to ${topic}. No update yet.`);
      for await (const update of subscription) {
        await this.#take(update);
        if (ending.signal.aborted) break;
      }
      subscription.close();
      this.#say(`${this.#counts()} Stopped.`);
    } catch (error) {
      this.#say(ending.signal.aborted ? `${this.#counts()} Stopped.` : `${this.#counts()} ${error.code ?? "error"}: ${error.message}`, !ending.signal.aborted);
    } finally {
      [this.#ending, this.#resume] = [null, null];
      this.#show();
    }
  }

  async #take({ value, lost }) {
    while (this.#resume) {
      await new Promise((resolve) => {
        this.#resume = () => {
          this.#resume = null;
          resolve();
        };
      });
    }
    this.#updates++;
    this.#lost += lost;
    if (this.#rows.add(value)) {
      this.#grid.show(this.#rows);
      this.#chart.offer(this.#rows.names, this.#rows.types);
    }
    this.#grid.refresh();
    this.#draw();
    this.#say(this.#counts());
  }

  #draw() {
    if (this.#rows.rows) this.#chart.show(this.#rows.numbersOf(this.#chart.chosen));
  }

  #counts() {
    return `${plural(this.#updates, "update")}, ${this.#lost.toLocaleString("en-US")} lost.`;
  }

  #say(text, isError = false) {
    const message = byId("live-message");
    message.textContent = text;
    message.classList.toggle("error", isError);
  }

  #show() {
    byId("subscribe").textContent = this.#ending ? "Stop" : "Subscribe";
    byId("topic").disabled = this.#ending !== null;
    byId("pause").hidden = !this.#ending;
    byId("pause").textContent = this.#resume ? "Continue" : "Pause";
  }
}
