// Run a check of pages/checks.js: `node run_check.mjs CLIENT CHECK URL ARGUMENTS`. Events go to standard output, one JSON
// object a line: `tell`, which a line on standard input answers, and finally `value` or `error`.

import { createInterface } from "node:readline/promises";
import * as checks from "./pages/checks.js";

const [path, check, url, given] = process.argv.slice(2);
const client = await import(path);
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
