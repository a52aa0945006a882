// Rayfall text, without a page: tokens, top-level expressions and pairs of brackets. The command line divides its
// input in the same way.

const TOKEN = new RegExp(
  [
    /(?<string>"(?:\\[^]|[^"\\])*"|'(?:\\[^]|[^\\)\]}\s])')/, // a string or a character; '(' is a character, ')' is not
    /(?<unfinished>"(?:\\[^]|[^"\\])*)/,
    /(?<comment>;[^\n]*)/,
    /(?<open>[([{])/,
    /(?<close>[)\]}])/,
    /(?<quote>')/,
    /(?<space>\s+)/,
    /(?<atom>[^\s()[\]{}"';]+)/,
    /(?<other>[^])/,
  ]
    .map(({ source }) => source)
    .join("|"),
  "g",
);
const NUMBER = /^(?:-?\.?\d\S*|0N\w|-?0[xXWw]\w*)$/;
const KEYWORDS = new Set(
  (
    "and def do false fn if let not null or quote return select set true try update while insert upsert delete " +
    "asc: by: desc: from: take: where:"
  ).split(" "),
);
const CLOSING = { "(": ")", "[": "]", "{": "}" };

/** The tokens of a text, which together are the whole text: `{ kind, start, end, color }`. */
export function tokens(text) {
  const found = [];
  for (const { groups, 0: match, index } of text.matchAll(TOKEN)) {
    const kind = Object.keys(groups).find((name) => groups[name] !== undefined);
    const isQuoted = found.at(-1)?.kind === "quote";
    found.push({ kind, start: index, end: index + match.length, color: colorOf(kind, match, isQuoted) });
  }
  return found;
}

function colorOf(kind, text, isQuoted) {
  if (kind === "string" || kind === "unfinished") return "string";
  if (kind === "comment") return "comment";
  if (kind === "quote" || (isQuoted && kind === "atom")) return "symbol";
  if (kind === "open" || kind === "close") return "bracket";
  if (kind !== "atom") return "";
  if (NUMBER.test(text)) return "number";
  return KEYWORDS.has(text) ? "keyword" : "";
}

/**
 * The top-level expressions of a text: `{ start, end, problem, place }`. A problem is why one cannot be evaluated, such as
 * an unclosed bracket, and its place is the token that shows it.
 */
export function expressions(text, parts = tokens(text)) {
  const found = [];
  let start = -1;
  let opened = []; // tokens
  const finish = (end, problem = "", place = null) => {
    found.push({ start, end, problem, place });
    [start, opened] = [-1, []];
    return found;
  };
  for (const part of parts) {
    const { kind } = part;
    if (start < 0) {
      if (kind === "space" || kind === "comment") continue;
      start = part.start;
    }
    if (kind === "open") opened.push(part);
    else if (kind === "close") {
      const last = opened.pop();
      if (!last) return finish(text.length, "a closing bracket has no opening one", part);
      if (CLOSING[text[last.start]] !== text[part.start]) {
        return finish(text.length, `${text[last.start]} is closed by ${text[part.start]}`, part);
      }
    } else if (kind === "unfinished") {
      return finish(part.end, "the string is not closed", part);
    }
    if (!opened.length && ["string", "close", "atom", "other"].includes(kind)) finish(part.end);
  }
  if (opened.length) return finish(text.length, "the bracket is not closed", opened.at(-1));
  return start < 0 ? found : finish(text.length);
}

/** The places of the bracket at the caret and of its partner, or null. */
export function bracketPair(text, caret, parts = tokens(text)) {
  const at = parts.findIndex(({ kind, start, end }) => (kind === "close" && end === caret) || (kind === "open" && start === caret));
  if (at < 0) return null;
  const step = parts[at].kind === "open" ? 1 : -1;
  let depth = 0;
  for (let place = at; parts[place]; place += step) {
    depth += { open: 1, close: -1 }[parts[place].kind] ?? 0;
    if (depth === 0) return [parts[at].start, parts[place].start];
  }
  return null;
}

/** The number of the line of a place, from 1 on. */
export function lineOf(text, place) {
  return text.slice(0, place).split("\n").length;
}
