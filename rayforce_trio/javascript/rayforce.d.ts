/** An error: the engine's, the server's, or one of this client. */
export class RayforceError extends Error {
  /**
   * The engine's code, such as `type` or `name`; one of the server: `cancel`, `timeout`, `toobig`, `busy`, `closing`,
   * `access`, `limit`, `gap`, `engine`; or one of this client: `connect`, `closed`, `lost`, `protocol`, `unsupported`,
   * `slow`, `value`, `decode`.
   */
  readonly code: string;
}

export type VectorType =
  | "B8" | "U8" | "I16" | "I32" | "I64" | "F32" | "F64" | "DATE" | "TIME" | "TIMESTAMP" | "TIMESPAN" | "GUID"
  | "SYMBOL" | "STRING";

export type Items =
  | Uint8Array | Int16Array | Int32Array | BigInt64Array | Float32Array | Float64Array | string[];

/** A single value: a bigint for I64, TIMESTAMP and TIMESPAN, and null for null. */
export type Scalar = boolean | number | bigint | string | null;

/** A value of the engine. A builtin function is `{function}`, a lambda `{parameters, body}`. */
export type Value = Scalar | Vector | Table | Map<Value, Value> | Value[] | object;

/** Items of one type. */
export class Vector implements Iterable<Scalar> {
  constructor(type: VectorType, data: Items, hasNulls?: boolean);
  readonly type: VectorType;
  /** The raw items, in which the engine's own value stands for null. */
  readonly data: Items;
  /** Whether that value stands for null here. */
  readonly hasNulls: boolean;
  readonly length: number;
  /** The item at a place, from the end if it is negative; null for null, and undefined if there is no such place. */
  at(place: number): Scalar | undefined;
  /** The items; null for null. */
  values(): Scalar[];
  /** The items as texts, for the types of dates and times; null for null. */
  iso(): (string | null)[];
  [Symbol.iterator](): Iterator<Scalar>;
}

/** A column: a vector, or an array of values of any kind. */
export type Column = Vector | Value[];

/** Columns of one length. */
export class Table implements Iterable<Record<string, Value>> {
  constructor(names: string[], columns: Column[]);
  readonly names: string[];
  readonly columns: Column[];
  /** The number of rows. */
  readonly length: number;
  /** The column of a name. Throws a RayforceError of code `value` if there is none. */
  column(name: string): Column;
  /** The rows as objects; null for null. */
  toRows(): Record<string, Value>[];
  [Symbol.iterator](): Iterator<Record<string, Value>>;
}

/** A value to send, of a type that JavaScript does not have. Made by `atom`. */
export interface Atom {
  readonly type: VectorType;
  readonly value: unknown;
}

/** What can be sent: a number is an F64, a bigint an I64, a string a symbol, and a Date a timestamp. */
export type Sent =
  | null | undefined | boolean | number | bigint | string | Date | Atom | Vector | Table | Items | Sent[]
  | Map<unknown, unknown>
  | { [key: string]: Sent };

/** A value of a type. A DATE or TIMESTAMP can be a Date or an ISO text. */
export function atom(type: VectorType, value: Scalar | Date): Atom;

/** A vector of a type; null and undefined are null. */
export function vector(type: VectorType, items: Iterable<Scalar | Date | undefined>): Vector;

/** A table of columns by their names. */
export function table(columns: Record<string, Items | Vector | Sent[]>): Table;

/** The payload of a value, in the engine's wire format. */
export function encode(value: Sent): Uint8Array;

/** The value of a payload, which begins at `start`. Throws the error that the payload is. */
export function decode(buffer: ArrayBuffer, start?: number): Value;

/** A timestamp (a bigint) or a date (a number) as a Date, which has milliseconds. */
export function toDate(value: bigint | number | null): Date | null;

/**
 * A Date, or a text that Date can read, as a timestamp: nanoseconds since 2000-01-01 in UTC. Throws a RayforceError of
 * code `value` for any other text, and for an invalid Date.
 */
export function toTimestamp(value: Date | string): bigint;

/** A Date, or a text such as 2024-01-31, as a date: days since 2000-01-01. */
export function toDays(value: Date | string): number;

/**
 * An item as text with all its digits: `2024-01-31`, `10:00:00.250`, `2024-01-31T10:00:00.123456789Z`. A date that Date
 * does not have is its number of days.
 */
export function isoOf(type: "DATE" | "TIME" | "TIMESTAMP" | "TIMESPAN", item: bigint | number): string;

export interface CallOptions {
  /** Cancels the call, and stops the query in the engine. */
  signal?: AbortSignal;
  /** Whether the query may be sent again after a loss of the connection. */
  idempotent?: boolean;
}

/** A place in the updates of a topic. */
export interface Position {
  epoch: string;
  sequence: number;
}

export interface SubscribeOptions {
  /** A query whose value fits the updates: none is missing, and none is in both. */
  snapshot?: string;
  /** The parameters of that query. */
  parameters?: Record<string, Sent>;
  /** The position of an earlier subscription. */
  resume?: Position;
  /** The bytes of updates that are kept until they are taken: 8 MiB by default. One update always fits. */
  maxBuffer?: number;
  /** What happens beyond that: an error of code `slow`, or the oldest updates are dropped and counted. */
  overflow?: "error" | "dropOldest";
  /** Ends the subscription, and drops the updates that wait: the loop throws the reason of the signal. */
  signal?: AbortSignal;
}

export interface Update {
  topic: string;
  /** Its number. */
  sequence: number;
  /** How many updates were dropped directly before it. */
  lost: number;
  value: Value;
}

/** The updates of a topic, for one loop at a time. */
export interface Subscription extends AsyncIterableIterator<Update> {
  readonly topic: string;
  /** The value of the query `snapshot`. */
  readonly snapshot: Value | undefined;
  /** The place behind the last update that was taken. */
  readonly position: Position;
  /** End the subscription, and drop the updates that wait. A loop over it ends. */
  close(): void;
}

export type State = "connecting" | "connected" | "waiting" | "closed";

export interface Connection {
  readonly state: State;
  /** Evaluate a query. Its parameters are data, and never evaluated. */
  execute(query: string, parameters?: Record<string, Sent> | null, options?: CallOptions): Promise<Value>;
  /** Evaluate a query whose result is a table, a vector (the column `value`), or a dict of vectors of one length. */
  fetch(query: string, parameters?: Record<string, Sent> | null, options?: CallOptions): Promise<Table>;
  /** Call a function of the server, by its name or by the text of a lambda. */
  call(name: string, values?: Sent[], options?: CallOptions): Promise<Value>;
  /** Publish a value, and return the number of the update: 0 if nobody has subscribed. */
  publish(topic: string, value: Sent, options?: { signal?: AbortSignal }): Promise<number>;
  /** Subscribe to a topic; the promise is fulfilled when the subscription is active. */
  subscribe(topic: string, options?: SubscribeOptions): Promise<Subscription>;
  /** Close the connection. Calls that wait fail with the code `closed`. */
  close(): void;
}

export interface ConnectOptions {
  /** Authenticates this client. */
  token?: string;
  /** Whether to connect again after a loss. */
  reconnect?: boolean;
  /** Cancels connecting. It has no effect afterwards. */
  signal?: AbortSignal;
  /**
   * Is called with each new state, in a microtask after the change. An error that it throws is uncaught, and does not
   * affect the connection.
   */
  onStateChange?: (state: State) => void;
  /** The class to use: that of the browser or of node by default. */
  WebSocket?: unknown;
}

/** Connect to a server: `ws://host:port` or `wss://host:port`. */
export function connect(url: string, options?: ConnectOptions): Promise<Connection>;
