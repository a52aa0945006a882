// Build what is shipped: rayforce.js from src, and the pages of the server's console from console and src:
// `npm install && npm run build`. sources.sha256 tells which sources they were built from, so that a test without node
// can compare.

import { build } from "esbuild";
import { createHash } from "node:crypto";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { fileURLToPath } from "node:url";

process.chdir(dirname(fileURLToPath(import.meta.url)));
const shared = { bundle: true, minify: true, mangleProps: /^_/, format: "esm", target: "es2022" };

await build({ ...shared, entryPoints: ["src/rayforce.js"], outfile: "rayforce.js" });

/** One file, which loads nothing: script and style are in the page. */
async function buildPage(page, script, outfile) {
  const options = { ...shared, write: false, legalComments: "none" };
  const built = await Promise.all(
    [script, "console/page.css"].map((path) => build({ ...options, entryPoints: [path], charset: "utf8" })),
  );
  const [code, style] = built.map(({ outputFiles }) => outputFiles[0].text.trim());
  if (/<\/(script|style)/i.test(code + style)) throw new Error(`${script}: it would end its own element`);
  const text = readFileSync(page, "utf8")
    .replace("<!--style-->", () => `<style>${style}</style>`)
    .replace("<!--script-->", () => `<script type="module">${code}</script>`);
  writeFileSync(outfile, text);
}

await buildPage("console/page.html", "console/main.js", "../_server/console.html");
await buildPage("console/sign_in.html", "console/sign_in.js", "../_server/sign_in.html");

const sums = ["console", "src"].flatMap((folder) =>
  readdirSync(folder)
    .sort()
    .map((name) => `${createHash("sha256").update(readFileSync(`${folder}/${name}`)).digest("hex")}  ${folder}/${name}\n`),
);
writeFileSync("sources.sha256", sums.join(""));
