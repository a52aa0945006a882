"""The server's tables: their names and their columns."""

from .._codec import engine_error, reply_payload
from .._protocol import STREAM_VARIABLES, Failure, Header, MessageType, Reply, string_in
from .._values._payloads import Buffer, call, i64, string, symbol, text_of_symbol
from .._values._types import Type
from ..errors import RayforceValueError
from ._fetching import read_columns
from ._reconnecting import AnyExchange

_TABLES = "((fn [globals] (at (key globals) (where (== 'TABLE (map type (value globals)))))) (env 0))"
_UNDEFINED = "null"  # the type of a name without a value


async def table_names(exchange: AnyExchange) -> list[str]:
    """Return the names of the server's tables, sorted. A checkpoint; if cancelled, as `evaluate`."""
    payload = await evaluate(exchange, call("eval", call("parse", string(_TABLES))), "(env 0)")
    names = (await read_columns(payload, exchange))["value"]
    return sorted(name for name in names if not name.startswith(STREAM_VARIABLES))


async def table_schema(exchange: AnyExchange, table: str) -> dict[str, str]:
    """Return the engine's type of each column of a table by the column's name.

    A checkpoint; if cancelled, as `evaluate`.

    Raises:
        RayforceValueError: the server has no table with this name, or `table` cannot be a name.
    """
    check_name(table)
    value = value_of(table)
    query = call("if", is_table(value), call("take", value, i64(0)), call("type", value))
    payload = await evaluate(exchange, query, f"(take {table} 0)")
    if payload[0] != Type.TABLE:
        kind = text_of_symbol(payload)
        described = "a function" if kind == "?" else f"a value of type {kind}"
        reason = "the server has no such table" if kind == _UNDEFINED else f"it is {described}, not a table"
        raise RayforceValueError(f"table {table!r}: {reason}")
    return dict((await read_columns(payload, exchange)).schema)


async def evaluate(exchange: AnyExchange, expression: Buffer, description: str) -> memoryview:
    """Return the payload of an expression's value, which is never a String. A checkpoint.

    If cancelled, the request ends like one of `Exchange.request`.

    Args:
        description: the expression as text, for errors.

    Raises:
        RayforceError: the evaluation failed, or the connection ended.
    """
    exchange.check_usable()
    header = Header(0, MessageType.SYNC, len(expression)).pack()
    return value_payload(exchange, await exchange.request(b"".join([header, expression])), description)


def value_payload(exchange: AnyExchange, reply: Reply, description: str) -> memoryview:
    """Return the payload of a value that is not a String. A baseline server's Strings are errors.

    Raises:
        RayforceError: the evaluation failed.
    """
    payload = reply_payload(reply, description)
    if not exchange.extended and (text := string_in(payload)) is not None:
        code, _, message = text.partition(": ")
        raise engine_error(Failure(code, message), description)
    return payload


def check_name(table: object) -> None:
    """Raise `RayforceValueError` if a table cannot have this name."""
    if not isinstance(table, str) or not table or not table.isprintable():
        shown = repr(table) if isinstance(table, str) else type(table).__qualname__
        raise RayforceValueError(
            f"Invalid table: {shown}. Must be the name of a table, a non-empty str without control characters"
        )


def value_of(table: str) -> bytes:
    """Return the expression whose value is the global of this name, or null if it does not exist."""
    return call("resolve", symbol(table))


def is_table(value: Buffer) -> bytes:
    """Return the expression that tells whether the value of an expression is a table."""
    return call("==", symbol("TABLE"), call("type", value))
