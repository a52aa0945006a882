// The editor: a text area over a colored copy of its text.

import { element } from "./dom.js";
import { bracketPair, tokens } from "./rayfall.js";

const MAX_COLORED = 50_000; // characters; a longer text would make typing slow

export class Editor {
  onchange = () => {};
  #area;
  #copy;
  #failed = null; // the place of an expression that failed

  constructor(area, copy) {
    [this.#area, this.#copy] = [area, copy];
    area.addEventListener("input", () => {
      this.#failed = null;
      this.#paint();
      this.onchange();
    });
    area.addEventListener("scroll", () => this.#follow());
    document.addEventListener("selectionchange", () => document.activeElement === area && this.#paint());
    this.#paint();
  }

  get text() {
    return this.#area.value;
  }

  set text(text) {
    this.#area.value = text;
    this.#failed = null;
    this.#area.setSelectionRange(text.length, text.length);
    this.#paint();
  }

  /** What is selected, or else the whole text: `{ text, offset }`. */
  get selected() {
    const { selectionStart: start, selectionEnd: end, value } = this.#area;
    const part = value.slice(start, end);
    return part.trim() ? { text: part, offset: start } : { text: value, offset: 0 };
  }

  focus() {
    this.#area.focus();
  }

  /** Insert a text at the caret, with spaces around it where words would touch. */
  insert(text) {
    const { selectionStart: start, selectionEnd: end, value } = this.#area;
    const before = /[^\s([{'"]$/.test(value.slice(0, start)) ? " " : "";
    const after = /^[^\s)\]}'"]/.test(value.slice(end)) ? " " : "";
    this.#area.setRangeText(before + text + after, start, end, "end");
    this.#area.dispatchEvent(new Event("input"));
    this.focus();
  }

  /** Mark an expression that failed, until the text changes; null marks none. */
  mark(place) {
    this.#failed = place;
    this.#paint();
  }

  #paint() {
    const text = this.#area.value;
    const parts = text.length <= MAX_COLORED ? tokens(text) : [{ start: 0, end: text.length, color: "" }];
    const { selectionStart: caret, selectionEnd } = this.#area;
    const pair = caret === selectionEnd && text.length <= MAX_COLORED ? bracketPair(text, caret, parts) : null;
    const spans = parts.map(({ start, end, color }) => {
      const classes = [color];
      if (pair?.includes(start)) classes.push("pair");
      if (this.#failed && start >= this.#failed.start && start < this.#failed.end) classes.push("failed");
      return element("span", { className: classes.join(" ").trim(), textContent: text.slice(start, end) });
    });
    this.#copy.replaceChildren(...spans, "\n");
    this.#follow();
  }

  #follow() {
    this.#copy.scrollTop = this.#area.scrollTop;
    this.#copy.scrollLeft = this.#area.scrollLeft;
  }
}

const MAX_ENTRIES = 100;

/** Earlier queries, the last one at the end. They are kept in the tab, and gone when it is closed. */
export class History {
  onchange = () => {};
  entries = [];
  #storage;
  #key;
  #at = 0; // the entry that is shown, or behind the last one
  #draft = "";

  constructor(storage, key) {
    [this.#storage, this.#key] = [storage, key];
    try {
      const kept = JSON.parse(storage.getItem(key) ?? "[]");
      if (Array.isArray(kept)) this.entries = kept.filter((entry) => typeof entry === "string");
    } catch {
      // what cannot be read is as good as nothing
    }
    this.#at = this.entries.length;
  }

  add(text) {
    this.entries = [...this.entries.filter((entry) => entry !== text), text].slice(-MAX_ENTRIES);
    this.#at = this.entries.length;
    this.#keep();
  }

  clear() {
    this.entries = [];
    this.#at = 0;
    this.#keep();
  }

  /** The entry `step` further, given the present text; undefined if there is none. Behind the last one is the draft. */
  move(step, text) {
    const next = this.#at + step;
    if (next < 0 || next > this.entries.length) return undefined;
    if (this.#at === this.entries.length) this.#draft = text;
    this.#at = next;
    return this.entries[next] ?? this.#draft;
  }

  #keep() {
    try {
      this.#storage.setItem(this.#key, JSON.stringify(this.entries));
    } catch {
      // the storage is full or forbidden: the history lasts as long as the page
    }
    this.onchange();
  }
}
