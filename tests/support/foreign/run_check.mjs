// Run a check of pages/checks.js: `node run_check.mjs CLIENT CHECK URL ARGUMENTS [WEBSOCKET]`. WEBSOCKET is a package of
// npm that has the class to use. Events go to standard output, one JSON object a line: `tell`, which a line on standard
// input answers, and finally `value` or `error`.

import { createRequire } from "node:module";
import { createInterface } from "node:readline/promises";
import * as checks from "./pages/checks.js";

const [path, check, url, given, websocket] = process.argv.slice(2);
const client = { ...(await import(path)) };
if (websocket) {
  const { WebSocket } = createRequire(import.meta.url)(websocket);
  const { connect } = client;
  client.connect = (address, options) => connect(address, { WebSocket, ...options });
}
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const write = (event) => process.stdout.write(`${JSON.stringify(event)}\n`);

async function tell(what) {
  write({ tell: what });
  await lines.next();
}

try {
  write({ value: (await checks[check](client, url, tell, ...JSON.parse(given))) ?? null });
} catch (error) {
  write({ error: `${error.stack}${error.cause ? `\n${error.cause.stack}` : ""}` });
}
process.stdin.destroy(); // if the client leaves something behind, the process does not end
