// Dates and times in the engine's units. Its epoch is 2000-01-01, in UTC; JavaScript's is 1970-01-01.

import { RayforceError } from "./errors.js";

const EPOCH = Date.UTC(2000); // milliseconds
const DAY = 86_400_000; // milliseconds
const MILLION = 1_000_000n;

/** A timestamp (nanoseconds, a bigint) or a date (days, a number) as a Date, which has milliseconds; null for null. */
export function toDate(value) {
  if (value === null) return null;
  return new Date(EPOCH + (typeof value === "bigint" ? Number((value - nanosecondsOf(value)) / MILLION) : value * DAY));
}

/** A Date, or a text that Date can read, with up to nine digits, as a timestamp. */
export function toTimestamp(value) {
  const time = new Date(value) - EPOCH;
  if (isNaN(time)) throw new RayforceError("value", `not a date: ${value}`);
  const [, digits = ""] = /\.\d{3}(\d{1,6})/.exec(value) ?? [];
  return BigInt(time) * MILLION + BigInt(digits.padEnd(6, "0"));
}

/** A Date, or a text such as 2024-01-31, as a date: its day in UTC. */
export function toDays(value) {
  return Math.floor((new Date(value) - EPOCH) / DAY);
}

/** An item of type DATE, TIME, TIMESTAMP or TIMESPAN as text, with all digits. */
export function isoOf(type, item) {
  if (type === "TIME") return clock(BigInt(item), 3);
  if (type === "TIMESPAN") return clock(item, 9);
  const date = toDate(item);
  if (isNaN(date)) return `${item}`;
  const text = date.toISOString();
  return type === "DATE" ? text.split("T")[0] : text.replace("Z", pad(nanosecondsOf(item), 6) + "Z");
}

/** The nanoseconds of a timestamp that a Date does not have. */
function nanosecondsOf(timestamp) {
  return ((timestamp % MILLION) + MILLION) % MILLION;
}

/** Hours, minutes, seconds and digits. There can be more than 24 hours, and a sign. */
function clock(time, digits) {
  const unit = 10n ** BigInt(digits);
  const size = time < 0n ? -time : time;
  const seconds = size / unit;
  const [hours, minutes, rest] = [seconds / 3600n, (seconds / 60n) % 60n, seconds % 60n].map((part) => pad(part, 2));
  return `${time < 0n ? "-" : ""}${hours}:${minutes}:${rest}.${pad(size % unit, digits)}`;
}

function pad(number, digits) {
  return `${number}`.padStart(digits, "0");
}
