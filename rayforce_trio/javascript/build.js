// Build rayforce.js, the one file that is shipped, from src: `npm install && npm run build`. sources.sha256 tells which
// sources it was built from, so that a test without node can compare.

import { build } from "esbuild";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

process.chdir(dirname(fileURLToPath(import.meta.url)));
await build({
  entryPoints: ["src/rayforce.js"],
  outfile: "rayforce.js",
  bundle: true,
  minify: true,
  mangleProps: /^_/,
  format: "esm",
  target: "es2022",
});
const sums = readdirSync("src")
  .sort()
  .map((name) => `${createHash("sha256").update(readFileSync(`src/${name}`)).digest("hex")}  src/${name}\n`);
writeFileSync("sources.sha256", sums.join(""));
