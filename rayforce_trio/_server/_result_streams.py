"""Results in batches: the streams of one connection.

If the engine keeps variables, a stream is one, and each batch is a part of it that the engine returns. Otherwise the
engine returns the whole result once, and the server keeps it.
"""

import struct
from collections.abc import Callable, Generator

import trio

from .._engines import Session
from .._protocol import (
    CANCELLED,
    HEADER_SIZE,
    EndStream,
    Failure,
    FrameError,
    NextBatch,
    OpenStream,
    OpenStreams,
    Reply,
    Result,
    Rows,
    TakeRows,
    response_frame,
    split_verbose,
)
from .._tasks import run_in_time_slices
from .._values._payloads import NULL, call, i64, name, string, text_of_symbol, vector
from .._values._reader import FixedColumn, NotColumns, PayloadCursor, RawColumn, UnknownType
from .._values._types import Type
from ..errors import RayforceConversionError
from ._expressions import expression_of, request_of
from ._spooled_value import SpooledValue, spool
from ._stream_variables import StreamVariables, evaluate_unlogged

_ACCESS = "access"  # the engine's code if a client may not set variables
_TEXT_SIZE = 16  # bytes that a text takes in the engine, as an estimate
_DESCRIPTION = struct.Struct("<BBqBBq")  # a list, and its first item, the number of rows
_KEPT_BY_SERVER = (Type.DICT.name, Type.LIST.name)  # of a dict, the engine would take some keys; a list has no columns
_PAIR = struct.Struct("<qq")
_DAMAGED = "the engine sent a damaged reply"


class ResultStreams:
    """The streams of one connection. One task at a time calls `open`, `next_batch`, `take_rows` and `end`.

    Args:
        session: the connection's engine session.
        variables: its variables.
        on_stored: called when more bytes are kept on the server, with their number.
    """

    def __init__(self, session: Session, variables: StreamVariables, on_stored: Callable[[int], None]) -> None:
        self._session = session
        self._variables = variables
        self._on_stored = on_stored
        self._streams = OpenStreams()
        self._sources: dict[int, str | SpooledValue] = {}  # the names of variables, and values
        self._keeps_variables = True  # as far as is known
        self._is_cancelled = False  # the present call of `open`

    @property
    def stored(self) -> int:
        """The number of bytes that the server keeps."""
        return sum(source.size for source in self._sources.values() if isinstance(source, SpooledValue))

    async def open(self, request: OpenStream) -> Reply:
        """Evaluate the query of a new stream.

        Return a list of the number of rows, the printed text and the value without rows; a list of null, the printed
        text and the value, if it has no rows; or an error. The reply may be incomplete, as that of `Session.request`.

        A checkpoint. If cancelled, the session can only be closed.

        Raises:
            EngineError: the engine is lost.
        """
        self._is_cancelled = False
        refusal = self._streams.open(request)
        if refusal is not None:
            await trio.lowlevel.checkpoint()
            return refusal
        reply = await self._evaluate(request)
        if isinstance(reply, Failure):
            await self._remove(request.stream)
        return reply

    def cancel(self) -> None:
        """Have the running call of `open`, if there is one, not start the query. No checkpoint.

        A stop reaches only the request that the session has in flight, and `open` sends another one before the query.
        """
        self._is_cancelled = True

    async def next_batch(self, request: NextBatch) -> Reply:
        """Return the next rows of a stream, or an error. The reply may be incomplete, as that of `Session.request`.

        A checkpoint. If cancelled, the session can only be closed.

        Raises:
            EngineError: the engine is lost.
        """
        rows = self._streams.next_rows(request)
        reply = await self._take(request.stream, rows)
        if isinstance(rows, Rows) and isinstance(reply, Result):
            self._streams.returned(request.stream, rows)
        return reply

    async def take_rows(self, request: TakeRows) -> Reply:
        """Return some rows of a stream. Otherwise like `next_batch`, also if cancelled."""
        return await self._take(request.stream, self._streams.take_rows(request))

    async def end(self, request: EndStream) -> Reply:
        """Release a stream, if it exists, and return null. A checkpoint. If cancelled, the session can only be closed.

        Raises:
            EngineError: the engine is lost.
        """
        if self._streams.state(request.stream) is None:
            await trio.lowlevel.checkpoint()
        else:
            await self._remove(request.stream)
        return Result(response_frame(NULL))

    # Inside

    async def _take(self, stream: int, rows: Rows | Failure) -> Reply:
        """Return some rows of a stream, or an error. Like `next_batch`, also if cancelled."""
        if isinstance(rows, Failure):
            await trio.lowlevel.checkpoint()
            return rows
        source = self._sources[stream]
        if isinstance(source, SpooledValue):
            await trio.lowlevel.checkpoint()
            return await source.batch(rows.start, rows.count)
        part = vector(Type.I64, 2, [_PAIR.pack(rows.start, rows.count)])
        return await evaluate_unlogged(self._session, call("take", name(source), part))

    async def _evaluate(self, request: OpenStream) -> Reply:
        """Evaluate the query of a stream. Otherwise like `open`, also if cancelled."""
        if self._keeps_variables:
            variable = self._variables.new()
            self._sources[request.stream] = variable
            reply = await evaluate_unlogged(self._session, call("set", name(variable), i64(0)))
            if isinstance(reply, Failure) and reply.code == _ACCESS:
                self._variables.forget(variable)
                self._keeps_variables = False
            elif isinstance(reply, Failure):
                return reply
        if self._is_cancelled:
            return Failure(CANCELLED, "the client cancelled the request")
        if self._keeps_variables:
            return await self._evaluate_into(variable, request)
        reply = await self._session.request(request_of(request.query, verbose=True))
        return await self._keep(request.stream, reply)

    async def _evaluate_into(self, variable: str, request: OpenStream) -> Reply:
        """Have the engine keep the result in a variable. Otherwise like `open`, also if cancelled."""
        value = name(variable)
        evaluation = call("do", call("set", value, expression_of(request.query)), call("type", value))
        reply = await self._session.request_unlogged(request_of(evaluation, verbose=True))
        output, reply = await self._split(reply)
        if isinstance(reply, Failure):
            return reply
        kind = text_of_symbol(bytes(reply.frame[HEADER_SIZE:])) or ""
        if kind in _KEPT_BY_SERVER or not kind.isupper():
            kept = await self._keep(
                request.stream, await evaluate_unlogged(self._session, call("list", string(output), value))
            )
            await self._variables.delete(variable)
            return kept
        empty = call("take", value, i64(0))
        reply = await evaluate_unlogged(self._session, call("list", call("count", value), string(output), empty))
        if isinstance(reply, Failure):
            return reply
        description = await self._session.receive_whole(reply)
        start = HEADER_SIZE + _DESCRIPTION.size + len(string(output))
        if len(description) <= start:
            return Failure("io", _DAMAGED)
        outer, _, items, of_rows, _, rows = _DESCRIPTION.unpack_from(description, HEADER_SIZE)
        if (outer, items, of_rows) != (Type.LIST, 3, i64(0)[0]):
            return Failure("io", _DAMAGED)
        row_size = await run_in_time_slices(_row_size(description[start:]))
        return self._streams.opened(request.stream, rows, rows * row_size) or Result(description)

    async def _split(self, reply: Reply) -> tuple[str, Reply]:
        """Return the printed text and the reply in the reply to a verbose request, which is received completely.

        A checkpoint if it has to wait. If cancelled, the session can only be closed.

        Raises:
            EngineError: the engine is lost.
        """
        if isinstance(reply, Failure):
            return "", reply
        try:
            return split_verbose(await self._session.receive_whole(reply))
        except FrameError as error:
            return "", Failure("io", f"{_DAMAGED}: {error}")

    async def _keep(self, stream: int, reply: Reply) -> Reply:
        """Keep a whole result on the server, from a list of the printed text and the value.

        Otherwise like `open`, also if cancelled.
        """
        if isinstance(reply, Failure):
            return reply
        value = await spool(self._session, reply, self._on_stored)
        if isinstance(value, Failure):
            return value
        if isinstance(value, Result):
            self._streams.has_no_rows(stream)
            return value
        self._sources[stream] = value
        return self._streams.opened(stream, len(value), value.size) or await value.description()

    async def _remove(self, stream: int) -> None:
        """Forget a stream, and delete its variable or the value that the server keeps.

        A checkpoint if the stream has a variable or many columns; if cancelled, the variable may be left.
        """
        self._streams.remove(stream)
        source = self._sources.pop(stream, None)
        if isinstance(source, str):
            await self._variables.delete(source)
        elif source is not None:
            await source.release()


def _row_size(payload: bytes) -> Generator[None, None, int]:
    """Return how many bytes a row takes in the engine, as an estimate. Yield between steps."""
    try:
        columns: dict[str, RawColumn] = yield from PayloadCursor(payload).read_columns()
    except (NotColumns, UnknownType, RayforceConversionError):
        return _TEXT_SIZE
    size = 0
    while columns:  # they are also freed in steps
        _, column = columns.popitem()
        size += column.values.itemsize if isinstance(column, FixedColumn) else _TEXT_SIZE
        yield
    return size
