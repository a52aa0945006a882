"""Bulk changes of the server's tables. Each message changes a table completely or not at all."""

import re
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import cast

from .._checks import check_flag
from .._codec import TabularData, payload_of_object
from .._protocol import Header, MessageType
from .._tasks import TimeSlice, call_unprotected
from .._text import counted
from .._values._payloads import Buffer, call, i64, name, quoted, symbol, symbols, text_of_symbol
from .._values._table_data import TableData, table_data_steps
from .._values._types import Type
from ..errors import RayforceConversionError, RayforceValueError
from ._reconnecting import AnyExchange
from ._tables import check_name, is_table, table_schema, value_of, value_payload

Progress = Callable[[int], object]
"""A function that is called with the number of rows inserted so far."""

MESSAGE_SIZE = 8 * 1024 * 1024
"""The longest message with rows, in bytes: a server inserts it in milliseconds, so other clients do not wait long.

A server that speaks the extended protocol, but announces no limit, accepts messages of this size.
"""

BASELINE_MESSAGE_SIZE = 1024 * 1024 - 1
"""The longest message with rows for a baseline server, in bytes: rayforce-py's refuses longer ones."""

_NEW_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LITERALS = frozenset({"false", "null", "true"})

_Change = Callable[[Buffer], bytes]
"""Returns the expression that changes a table, given the payload of a table with rows.

The expression's value is `_DONE`, or a symbol that says why nothing was changed.
"""
_DONE = i64(1)
_CHANGED = "changed"
_ROWS = bytes(range(0xF8, 0x100))  # placeholder for the rows in an expression; not UTF-8, so no name contains it


class RowCount:
    """Counts the rows that the server has confirmed. An exception that leaves the block gets it as `rows_inserted`.

    Args:
        progress: called with each new number.

    Raises:
        RayforceValueError: `progress` cannot be called.
    """

    def __init__(self, progress: Progress | None) -> None:
        if progress is not None and not callable(progress):
            raise RayforceValueError(
                f"Invalid progress: {progress!r}. Must be a function that takes the number of rows, or None"
            )
        self.rows = 0
        self._progress = progress

    def add(self, rows: int) -> None:
        self.rows += rows
        if self._progress is not None:
            call_unprotected(self._progress, self.rows)

    def __enter__(self) -> "RowCount":
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if exc is not None:
            exc.rows_inserted = self.rows  # type: ignore[attr-defined]  # set on any exception, cancellations too


async def insert(exchange: AnyExchange, table: str, data: TabularData, inserted: RowCount) -> None:
    """Append rows to a table. A checkpoint; if cancelled, as `WSClientConnection.insert`."""
    rows = await _fitted(data, table, await table_schema(exchange, table))
    await _send(exchange, table, rows, "insert", _insertion(table, rows.names), inserted)


async def upsert(exchange: AnyExchange, table: str, data: TabularData, keys: Sequence[str], inserted: RowCount) -> None:
    """Replace the rows of a table that have the same keys, and append the others.

    A checkpoint; if cancelled, as `WSClientConnection.upsert`.
    """
    _check_key_names(keys)
    schema = await table_schema(exchange, table)
    _check_keys(keys, table, list(schema))
    if unsuitable := [column for column, kind in schema.items() if kind == Type.F32.name]:
        raise RayforceValueError(
            f"the column {unsuitable[0]!r} of the table {table!r} has the type F32, with which the engine cannot "
            f"upsert; insert the rows, or change the column to F64"
        )
    rows = await _fitted(data, table, schema)

    def change(payload: Buffer) -> bytes:
        return _if_unchanged(table, rows.names, call("upsert", symbol(table), i64(len(keys)), quoted(payload)))

    await _send(exchange, table, rows, "upsert", change, inserted)


async def create(exchange: AnyExchange, table: str, data: TabularData, inserted: RowCount, *, replace: bool) -> None:
    """Create a table, or replace one. A checkpoint; if cancelled, as `WSClientConnection.create_table`."""
    exchange.check_usable()
    check_flag("replace", replace)
    _check_new_name(table)
    value = value_of(table)
    free = call("nil?", value)
    if replace:
        free = call("or", free, is_table(value))

    def change(payload: Buffer) -> bytes:
        return call("if", free, _done_after(call("set", name(table), quoted(payload))), call("type", value))

    rows = await _converted(data)
    await _send(exchange, table, rows, "set", change, inserted, then=_insertion(table, rows.names))


def _insertion(table: str, columns: Sequence[str]) -> _Change:
    return lambda payload: _if_unchanged(table, columns, call("insert", symbol(table), quoted(payload)))


def _if_unchanged(table: str, columns: Sequence[str], change: bytes) -> bytes:
    """Return the expression that changes a table if it has these columns.

    The engine inserts columns of unknown names by their order, and uses the first columns as the keys of an upsert.
    """
    found = call("key", value_of(table))
    changed = symbol(_CHANGED)
    same = call("if", call("all", call("==", found, quoted(symbols(columns)))), _done_after(change), changed)
    return call("if", call("==", call("count", found), i64(len(columns))), same, changed)


def _done_after(change: bytes) -> bytes:
    return call("do", change, _DONE)


async def _fitted(data: TabularData, table: str, schema: dict[str, str]) -> TableData:
    """Return data with the columns of a table, in its order.

    A checkpoint every few milliseconds; if cancelled, the converted data is dropped.
    """
    types = {column: Type[kind] for column, kind in schema.items()}
    return (await _converted(data)).cast(types, table=table)


async def _converted(data: TabularData) -> TableData:
    """Return data of any kind as columns that can be sent.

    A checkpoint every few milliseconds; if cancelled, the converted data is dropped.
    """
    time_slice = TimeSlice()
    time_slice.start()
    steps = table_data_steps(data, payload_of_object)
    while True:
        try:
            call_unprotected(next, steps)  # other libraries may take long
        except StopIteration as end:
            return cast(TableData, end.value)
        await time_slice.yield_if_due()


async def _send(
    exchange: AnyExchange,
    table: str,
    rows: TableData,
    function: str,
    change: _Change,
    inserted: RowCount,
    then: _Change | None = None,
) -> None:
    """Send rows in one or several messages, and wait for each reply before the next message.

    If a row cannot be converted, nothing is sent. A checkpoint. If cancelled, `inserted` counts the rows of the
    messages that the server has confirmed; the current message may have been carried out, too.

    Args:
        function: the engine's function that changes the table, for errors.
        change: makes the expression around the rows of the first message, and of the others if `then` is `None`.
        then: makes the expression around the rows of the other messages.
    """
    if then is None and not len(rows):
        return
    time_slice = TimeSlice()
    time_slice.start()
    overhead = max(len(_frame(each, b"")) for each in (change, then or change))
    longest = _longest_message(exchange)
    size = longest - overhead
    if size <= 0:
        raise RayforceConversionError(
            f"the server accepts messages of at most {counted(longest, 'byte')}, which leaves no room for rows"
        )
    messages = rows.payloads(size)
    message = await _next(messages, time_slice)
    if message is not None and message[1] < len(rows):
        rest = rows.payloads(size)  # converted twice, to hold only one message in memory
        while await _next(rest, time_slice) is not None:
            pass
    while message is not None:
        payload, count = message
        result = await exchange.request(_frame(change, payload))
        del message, payload
        _check_result(value_payload(exchange, result, f"({function} '{table} ...)"), table)
        inserted.add(count)
        time_slice.start()
        message = await _next(messages, time_slice)
        change = then or change


async def _next(messages: Iterator[tuple[bytes, int] | None], time_slice: TimeSlice) -> tuple[bytes, int] | None:
    """Return the next message, or `None` after the last one.

    A checkpoint every few milliseconds; if cancelled, `messages` can still be used.
    """
    for message in messages:
        if message is not None:
            return message
        await time_slice.yield_if_due()
    return None


def _frame(change: _Change, rows: bytes) -> bytes:
    """Return the frame with the expression that changes a table. The rows may be large; they are copied only once."""
    before, after = change(_ROWS).split(_ROWS)
    header = Header(0, MessageType.SYNC, len(before) + len(rows) + len(after)).pack()
    return b"".join([header, before, rows, after])


def _check_result(payload: memoryview, table: str) -> None:
    if payload == _DONE:
        return
    reason = text_of_symbol(payload)
    if reason == _CHANGED:
        raise RayforceValueError(
            f"the columns of the table {table!r} changed during the call; look at the table, then call this again"
        )
    if reason == "TABLE":
        raise RayforceValueError(f"the server already has a table {table!r}; pass replace=True to replace it")
    kind = "a function" if reason == "?" else f"a value of type {reason}"
    raise RayforceValueError(f"{table!r} is {kind} on the server; only a table can be replaced")


def _longest_message(exchange: AnyExchange) -> int:
    if not exchange.extended:
        return BASELINE_MESSAGE_SIZE
    return min(MESSAGE_SIZE, exchange.max_request_size or MESSAGE_SIZE)


def _check_key_names(keys: object) -> None:
    if not isinstance(keys, Sequence) or isinstance(keys, str) or not keys or not all(isinstance(k, str) for k in keys):
        raise RayforceValueError(f"Invalid keys: {keys!r}. Must be a list of one or more column names")


def _check_keys(keys: Sequence[str], table: str, columns: Sequence[str]) -> None:
    if list(keys) != list(columns[: len(keys)]):
        raise RayforceValueError(
            f"Invalid keys: {list(keys)!r}. Must be the first columns of the table {table!r}, in the table's order, "
            "because "
            f"the engine requires it; the columns are {', '.join(map(repr, columns))}"
        )


def _check_new_name(table: object) -> None:
    check_name(table)
    if not _NEW_NAME.fullmatch(str(table)) or table in _LITERALS:
        raise RayforceValueError(
            f"Invalid name for a table: {table!r}. Must begin with a letter or '_' and consist of letters, digits, "
            "'_' and '-'"
        )
