"""The requests that the server itself sends to an engine."""

import struct

from .._protocol import HEADER_SIZE, VERBOSE_FLAG, Frame, Header, LazyFrame, MessageType, string_in
from .._values._payloads import NULL, Buffer, call, i64, quoted, string

_I64 = struct.Struct("<BBq")
_I64_ATOM = 0xFB


def request_of(payload: Buffer, *, verbose: bool = False) -> bytes:
    """Return the request whose payload is an expression; with `verbose`, the reply also has the printed text."""
    header = Header(VERBOSE_FLAG if verbose else 0, MessageType.SYNC, len(payload))
    return b"".join([header.pack(), payload])


def expression_of(query: Frame) -> Buffer:
    """Return the expression that evaluates a query: a text is parsed first."""
    return query if string_in(query) is None else call("eval", call("parse", query))


def publish_request(topic: str, value: Buffer) -> bytes:
    """Return the request that publishes a value in an engine that pushes. Its reply is the number of the update."""
    return request_of(call(".mc.pub", string(topic), quoted(value)))


def snapshot_request(topic: str, query: Frame) -> bytes:
    """Return the request for the number of the next update of a topic, null, and the value of a query.

    The engine evaluates it as a whole. Unsubscribing at once leaves nothing behind if the query fails; the numbers go
    on, because the server is subscribed, too.
    """
    return request_of(
        call("list", call(".mc.sub", string(topic)), call(".mc.unsub", string(topic)), expression_of(query))
    )


def numbered_snapshot_request(next_sequence: int, query: Frame) -> bytes:
    """Like `snapshot_request`, for updates that the server numbers."""
    return request_of(call("list", i64(next_sequence), NULL, expression_of(query)))


def value_request(value: Frame) -> bytes:
    """Return the request whose reply is the value itself."""
    return request_of(quoted(value))


def integer_in(frame: Frame | LazyFrame) -> int | None:
    """Return the integer in a reply; `None` if it has something else."""
    if len(frame) != HEADER_SIZE + _I64.size:
        return None
    kind, _, value = _I64.unpack(frame[HEADER_SIZE:])
    return value if kind == _I64_ATOM else None
