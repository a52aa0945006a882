// The page: it connects, runs what the editor has, and shows what comes of it.

import { connect } from "../src/client.js";
import { Chart, collect } from "./chart.js";
import { byId, cut, duration, element, plural } from "./dom.js";
import { Editor, History } from "./editor.js";
import { Grid } from "./grid.js";
import { Live, cellsOf } from "./live.js";
import MEANINGS from "./meanings.json";
import { expressions, lineOf } from "./rayfall.js";
import { open, tables } from "./results.js";
import { Pages } from "./scroll.js";

const MAX_OUTPUT = 100_000; // characters
const CLOCK_INTERVAL = 100; // milliseconds
const WORDS = { connecting: "connecting…", connected: "connected", waiting: "connection lost, reconnecting…", closed: "not connected" };

const token = globalThis.rayforceToken; // of the page to sign in, which this page has replaced
delete globalThis.rayforceToken;

const editor = new Editor(byId("query"), byId("colored"));
const history = new History(sessionStorage, "rayforce-console-history");
const grid = new Grid(byId("grid"));
const chart = new Chart(byId("chart"));

let connection = null;
let running = null; // aborts the query
let collecting = null; // aborts what the chart fetches
let result = null;
let ran = null; // what to run again
let lost = false; // whether the rows of the result went with the connection

// The connection

async function start() {
  const url = new URL(".", location.href); // the server may be below a path
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  [url.search, url.hash, url.username, url.password] = ["", "", "", ""];
  byId("server").textContent = url.host + (url.pathname === "/" ? "" : url.pathname);
  byId("retry").hidden = true;
  showState("connecting");
  try {
    connection = await connect(url.href, { token, reconnect: true, onStateChange: showState });
  } catch {
    showState("closed");
    byId("retry").hidden = false;
    showError(
      "connect",
      "The server does not accept this page's connection. If you reach it by a name or through a proxy, start it with " +
        `the option --allowed-origin ${location.origin}`,
    );
    return;
  }
  showError();
  new Live(connection, new Grid(byId("live-grid")), new Chart(byId("live-chart")));
  byId("subscribe").disabled = false;
  showState("connected");
  loadTables();
}

function showState(state) {
  byId("state").textContent = WORDS[state];
  byId("state").className = state;
  byId("run").disabled = running !== null || !connection;
  if (state === "connected" || !result?.rows) return;
  lost = true;
  showLost();
}

function showLost() {
  byId("lost").hidden = !lost;
}

// Running

async function run() {
  const query = { ...editor.selected, whole: editor.text };
  if (running || !connection || !query.text.trim()) return;
  await evaluate(query);
  editor.focus();
}

/** Evaluate the expressions of a part of the editor's text, one after the other; the last one's result is shown. */
async function evaluate(query) {
  const { text, offset, whole } = query;
  history.add(text);
  ran = query;
  clearResult();
  const found = expressions(text);
  running = new AbortController();
  const { signal } = running;
  const begun = performance.now();
  showRunning(true);
  const clock = setInterval(() => say(`Running for ${duration(performance.now() - begun)}…`), CLOCK_INTERVAL);
  let at = null;
  let last = null;
  try {
    for (at of found) {
      if (at.problem) throw Object.assign(new Error(at.problem), { code: "parse" });
      last?.end();
      last = await open(connection, text.slice(at.start, at.end), signal);
      print(last.output);
    }
    await showResult(last, begun, found.length);
    loadTables();
  } catch (error) {
    last?.end();
    const took = duration(performance.now() - begun);
    if (signal.aborted) {
      say(`Cancelled after ${took}.`);
    } else {
      say(`Failed after ${took}.`);
      const failed = at.place ?? at;
      const [start, end] = [offset + failed.start, offset + failed.end];
      if (editor.text.slice(start, end) === whole.slice(start, end)) editor.mark({ start, end }); // or it was edited
      const line = lineOf(whole, start);
      const place = found.length > 1 ? `expression ${found.indexOf(at) + 1} of ${found.length}, line ${line}` : `line ${line}`;
      showError(error.code ?? "error", messageOf(error), place, text.slice(at.start, at.end));
    }
  } finally {
    clearInterval(clock);
    running = null;
    showRunning(false);
  }
}

function showRunning(isRunning) {
  byId("run").disabled = isRunning;
  byId("cancel").disabled = !isRunning;
  document.body.classList.toggle("running", isRunning);
}

function clearResult() {
  result?.end();
  result = null;
  lost = false;
  collecting?.abort();
  showLost();
  showError();
  editor.mark(null);
  byId("output").textContent = "";
  byId("output").hidden = byId("value").hidden = byId("go-form").hidden = true;
  grid.show(null);
  chart.clear();
  chart.offer([], []);
}

async function showResult(next, begun, count) {
  const took = duration(performance.now() - begun);
  const several = count > 1 ? `${plural(count, "expression")}, ` : "";
  if (!next) {
    say("There is nothing to run.");
    return;
  }
  if (next.rows === null) {
    byId("value").textContent = cut(next.text, MAX_OUTPUT);
    byId("value").hidden = false;
    say(`${several}${took}`);
    return;
  }
  result = next;
  say(`${plural(next.rows, "row")}, ${plural(next.names.length, "column")}, ${several}${took}`);
  byId("go-form").hidden = next.rows < 50;
  byId("row").max = next.rows - 1;
  const pages = new Pages(next.rows, async (first, size) => (await next.take(first, size)).table);
  grid.show({
    names: next.names,
    types: next.types,
    rows: next.rows,
    want: (first, size) => next.rows && !lost && pages.want(first, size),
    cells(row) {
      const found = pages.find(row);
      return found && cellsOf(found.page, found.at);
    },
  });
  pages.onchange = () => {
    if (result !== next) return;
    if (pages.error && !lost) showError(pages.error.code ?? "error", messageOf(pages.error));
    grid.refresh();
  };
  chart.offer(next.names, next.types);
  if (!byId("chart").hidden) drawChart();
}

function print(text) {
  if (!text) return;
  const output = byId("output");
  output.hidden = false;
  output.textContent = cut(output.textContent + text, MAX_OUTPUT);
}

function say(text) {
  byId("status").textContent = text;
}

/** The message of an error, or what its code means: a native engine sends the code alone. */
function messageOf({ code, message }) {
  return message === code ? (MEANINGS[code] ?? "") : message;
}

function showError(code = "", message = "", place = "", query = "") {
  byId("error").hidden = !code;
  byId("error-code").textContent = code;
  byId("error-message").textContent = message;
  byId("error-place").textContent = place;
  byId("error-query").textContent = cut(query.trim().split("\n")[0], 120);
}

// The chart

async function drawChart() {
  collecting?.abort();
  const source = result;
  const places = chart.chosen;
  if (!source?.rows || lost || !places.length) return;
  const ending = (collecting = new AbortController());
  byId("stop-chart").hidden = false;
  try {
    const onprogress = (done, count) => chart.say(`${Math.floor((100 * done) / count)} % of ${plural(count, "row")}`);
    const numbers = await collect(source, places, { signal: ending.signal, onprogress });
    if (result !== source) return;
    chart.show(numbers);
    const count = numbers.get(-1).length;
    chart.say(count < source.rows ? `A sample of ${plural(count, "row")}, of ${plural(source.rows, "row")}` : plural(count, "row"));
  } catch (error) {
    if (!ending.signal.aborted) chart.say(`${error.code ?? "error"}: ${messageOf(error)}`);
    else if (collecting === ending) chart.say("Stopped.");
  } finally {
    if (collecting === ending) {
      collecting = null;
      byId("stop-chart").hidden = true;
    }
  }
}

// What is beside the editor

async function loadTables() {
  const list = byId("tables");
  try {
    const found = await tables(connection);
    const opened = new Set(Array.from(list.querySelectorAll("details[open]"), (details) => details.table));
    list.replaceChildren(...found.map((table) => tableItem(table, opened.has(table.name))));
    byId("no-tables").hidden = found.length > 0;
  } catch {
    // it stays as it was
  }
}

function tableItem({ name, rows, columns }, open) {
  const fields = columns.map(({ name: column, type }) =>
    element("li", {}, inserting(column), element("span", { className: "type", textContent: type })),
  );
  const summary = element("summary", {}, cut(name, 100), element("span", { className: "type", textContent: plural(rows, "row") }));
  const button = inserting(name);
  button.textContent = "Insert name";
  button.className = "small";
  const list = element("ul", {}, element("li", {}, button), ...fields);
  return element("li", {}, element("details", { open, table: name }, summary, list));
}

function inserting(name) {
  const button = element("button", { type: "button", className: "name", title: "Insert into the query", textContent: cut(name, 100) });
  button.addEventListener("click", () => editor.insert(name));
  return button;
}

function showHistory() {
  const items = history.entries.toReversed().map((text) => {
    const button = element("button", { type: "button", className: "name", title: cut(text, 2000), textContent: cut(text.trim().replaceAll(/\s+/g, " "), 80) });
    button.addEventListener("click", () => {
      editor.text = text;
      editor.focus();
    });
    return element("li", {}, button);
  });
  byId("history").replaceChildren(...items);
  byId("clear-history").hidden = !items.length;
}

// The controls

const tabs = [...document.querySelectorAll("[role=tab]")];

function select(tab) {
  for (const each of tabs) {
    const isSelected = each === tab;
    each.setAttribute("aria-selected", isSelected);
    each.tabIndex = isSelected ? 0 : -1;
    byId(each.getAttribute("aria-controls")).hidden = !isSelected;
  }
  if (tab.id === "chart-tab" && chart.isEmpty) drawChart();
}

tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => select(tab));
  tab.addEventListener("keydown", ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const next = tabs.at((place + step) % tabs.length);
    select(next);
    next.focus();
  });
});

byId("query").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) run();
  else if (event.altKey && (event.key === "ArrowUp" || event.key === "ArrowDown")) {
    const text = history.move(event.key === "ArrowUp" ? -1 : 1, editor.text);
    if (text !== undefined) editor.text = text;
  } else return;
  event.preventDefault();
});
document.addEventListener("keydown", ({ key }) => {
  if (key === "Escape") running?.abort();
});
byId("run").addEventListener("click", run);
byId("cancel").addEventListener("click", () => running?.abort());
byId("retry").addEventListener("click", start);
byId("again").addEventListener("click", () => !running && ran && evaluate(ran));
byId("refresh").addEventListener("click", loadTables);
byId("clear-history").addEventListener("click", () => history.clear());
byId("stop-chart").addEventListener("click", () => collecting?.abort());
byId("go-form").addEventListener("submit", (event) => {
  event.preventDefault();
  grid.go(Number(byId("row").value));
});
chart.onchange = drawChart;
history.onchange = showHistory;
if (matchMedia("(max-width: 760px)").matches) for (const part of document.querySelectorAll("aside > details")) part.open = false;
showHistory();
editor.focus();
start();
