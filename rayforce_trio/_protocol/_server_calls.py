"""Server calls: requests and posts that the server itself carries out, for clients that have sent a hello.

The payload is a call of a reserved name that begins with `.ws.`, which the engine refuses to define:

    (.ws.snapshot id query)             the value of a query, consistent with the updates of subscription id
    (.ws.publish "topic" value)         publish a value
    (.ws.stream id batch_size query)    evaluate a query once, to receive its value in batches
    (.ws.batch id)                      the next batch
    (.ws.rows id start count)           any rows
    (.ws.end id)                        release a stream; a post, or a request whose reply is null

The client chooses the ids, and never uses one twice on a connection. A query is the payload that a request for it has.
"""

import struct
from collections.abc import Callable
from typing import NamedTuple

from .._text import counted
from ._control import MAX_ID, topic_problem
from ._frames import HEADER_SIZE, SIZED, STRING_ATOM, Frame
from ._replies import Failure

SNAPSHOT, PUBLISH = ".ws.snapshot", ".ws.publish"
OPEN_STREAM, NEXT_BATCH, TAKE_ROWS, END_STREAM = ".ws.stream", ".ws.batch", ".ws.rows", ".ws.end"
"""The reserved names."""

MAX_BATCH_SIZE = 2**31 - 1
"""The largest number of rows in a batch."""

STREAM_VARIABLES = "#stream-"
"""The beginning of the names of the variables in which the engine keeps the results of streams."""

_I64 = struct.Struct("<BBq")
_LIST, _I64_ATOM = 0, 0xFB
_NAME = b"\xf4\x00"  # a symbol that is not quoted
_NAME_START = HEADER_SIZE + SIZED.size
_RESERVED = _NAME + b".ws."
_RESERVED_END = _NAME_START + len(_RESERVED)
_MAX_NAME_SIZE = 32  # bytes


class Snapshot(NamedTuple):
    """Evaluate a query consistently with the updates of a subscription."""

    subscription: int
    query: Frame


class Publish(NamedTuple):
    """Publish a value."""

    topic: str
    value: Frame


class OpenStream(NamedTuple):
    """Evaluate a query whose value is received in batches."""

    stream: int
    batch_size: int
    query: Frame


class NextBatch(NamedTuple):
    """Return the next batch of a stream."""

    stream: int


class TakeRows(NamedTuple):
    """Return some rows of a stream, whichever batches have been returned."""

    stream: int
    first: int
    size: int


class EndStream(NamedTuple):
    """Release a stream. The server ignores this if there is no such stream."""

    stream: int


ServerCall = Snapshot | Publish | OpenStream | NextBatch | TakeRows | EndStream


def is_server_call(frame: Frame) -> bool:
    """Return whether a frame, whose header is valid, calls a reserved name."""
    return frame[_NAME_START:_RESERVED_END] == _RESERVED and frame[HEADER_SIZE] == _LIST


def parse_server_call(frame: Frame, *, is_post: bool = False) -> ServerCall | Failure:
    """Return the server call in a frame for which `is_server_call` is true, or the error that answers it.

    The last argument of the call is a view of the frame.
    """
    start = _NAME_START + len(_NAME)
    name, end, _ = bytes(frame[start : start + _MAX_NAME_SIZE]).partition(b"\0")
    text = name.decode("utf-8", "replace")
    known = _CALLS.get(text) if end else None
    if known is None:
        return Failure(
            "name", f"this server has no function {text!r}; names that begin with .ws. are reserved for the server"
        )
    if is_post and not known.may_be_post:
        return Failure("type", f"{text} must be sent as a request")
    reader = _Reader(memoryview(frame), start + len(name) + 1)
    _, _, count = SIZED.unpack_from(frame, HEADER_SIZE)
    try:
        if count != 1 + known.arguments:
            raise _Invalid(f"expected {counted(known.arguments, 'argument')}, got {count - 1}")
        call = known.read(reader)
        reader.finish()
    except _Invalid as error:
        return Failure("type", f"{text}: {error}")
    return call


class _Invalid(Exception):
    """An argument is not valid for the call."""


class _Reader:
    """Reads the arguments of a call one after the other."""

    def __init__(self, frame: memoryview, start: int) -> None:
        self._frame = frame
        self._at = start

    def number(self, what: str, limit: int, *, least: int = 1) -> int:
        """Return an integer from `least` to `limit`."""
        if len(self._frame) - self._at < _I64.size:
            raise _Invalid(f"{what} is missing")
        kind, attributes, value = _I64.unpack_from(self._frame, self._at)
        if kind != _I64_ATOM or attributes or not least <= value <= limit:
            raise _Invalid(f"{what} must be an I64 between {least} and {limit}")
        self._at += _I64.size
        return int(value)

    def id(self, what: str) -> int:
        return self.number(f"the id of the {what}", MAX_ID)

    def topic(self) -> str:
        frame, start = self._frame, self._at + SIZED.size
        if start > len(frame):
            raise _Invalid("the topic is missing")
        kind, _, size = SIZED.unpack_from(frame, self._at)
        if kind != STRING_ATOM or not 0 <= size <= len(frame) - start:
            raise _Invalid("the topic must be a String")
        try:
            topic = bytes(frame[start : start + size]).decode()
        except UnicodeDecodeError:
            raise _Invalid("the topic is not UTF-8") from None
        if problem := topic_problem(topic):
            raise _Invalid(f"the topic {problem}")
        self._at = start + size
        return topic

    def rest(self, what: str) -> memoryview:
        """Return the last argument, of any type."""
        rest = self._frame[self._at :]
        if not rest:
            raise _Invalid(f"{what} is missing")
        self._at = len(self._frame)
        return rest

    def finish(self) -> None:
        if self._at != len(self._frame):
            raise _Invalid(f"{counted(len(self._frame) - self._at, 'byte')} after the last argument")


class _Known(NamedTuple):
    """A reserved name: the number of its arguments, how they are read, and whether the call may be a post."""

    arguments: int
    read: Callable[[_Reader], ServerCall]
    may_be_post: bool = False


_CALLS = {
    SNAPSHOT: _Known(2, lambda reader: Snapshot(reader.id("subscription"), reader.rest("the query"))),
    PUBLISH: _Known(2, lambda reader: Publish(reader.topic(), reader.rest("the value"))),
    OPEN_STREAM: _Known(
        3,
        lambda reader: OpenStream(
            reader.id("stream"), reader.number("the batch size", MAX_BATCH_SIZE), reader.rest("the query")
        ),
    ),
    NEXT_BATCH: _Known(1, lambda reader: NextBatch(reader.id("stream"))),
    TAKE_ROWS: _Known(
        3,
        lambda reader: TakeRows(
            reader.id("stream"),
            reader.number("the first row", MAX_ID, least=0),
            reader.number("the number of rows", MAX_BATCH_SIZE),
        ),
    ),
    END_STREAM: _Known(1, lambda reader: EndStream(reader.id("stream")), may_be_post=True),
}
