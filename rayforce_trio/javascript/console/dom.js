// Elements. Everything that the server sends is set as text, never as markup.

/** Make an element with properties and children, which are elements or texts. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

export function byId(id) {
  return document.getElementById(id);
}

export const plural = (count, word) => `${count.toLocaleString("en-US")} ${word}${count === 1 ? "" : "s"}`;

/** A duration in milliseconds as text. */
export function duration(milliseconds) {
  if (milliseconds < 1000) return `${Math.max(1, Math.round(milliseconds))} ms`;
  return milliseconds < 60_000 ? `${(milliseconds / 1000).toFixed(2)} s` : `${(milliseconds / 60_000).toFixed(1)} min`;
}

/** Cut a text for a place that shows the beginning only. */
export function cut(text, size) {
  return text.length > size ? `${text.slice(0, size)}…` : text;
}
