"""Results in batches: the public class `Batches`."""

import struct
from collections.abc import Mapping
from enum import Enum, auto
from types import TracebackType

import anyio.lowlevel

from .._codec import Query, decode_payload, reply_payload
from .._protocol import (
    END_STREAM,
    HEADER_SIZE,
    MAX_BATCH_SIZE,
    NEXT_BATCH,
    OPEN_STREAM,
    SIZED,
    STREAMS,
    ClientRequest,
    MessageType,
    Reply,
    string_in,
)
from .._tasks import enable_ki_protection
from .._text import counted
from .._values._columns import Columns, ColumnsReader
from .._values._payloads import NULL, i64, list_of
from .._values._types import Type
from ..errors import NoColumns, ProtocolError, RayforceTypeError, RayforceValueError, RayforceWSError
from ._exchange import Exchange
from ._fetching import finish
from ._reconnecting import AnyExchange
from ._server_call import server_call

_NO_ROWS = list_of([NULL, NULL, NULL])[: -2 * len(NULL)]  # the beginning of the description of one without columns
_NOT_DESCRIBED = "the server's first reply to a stream does not describe its result"
_DESCRIPTION = struct.Struct("<BBqbBq")  # a list of three, and its first item, the number of rows


class _State(Enum):
    """The state of a stream."""

    NEW = auto()
    """The block was not entered."""
    OPEN = auto()
    """Batches are to be returned, or all have been."""
    FAILED = auto()
    """The next batch could not be received."""
    ENDED = auto()
    """The block was left."""


class Batches:
    """The result of a query in batches, returned by `WSClientConnection.stream`. It is an async context manager.

    Iterate over it with `async for`, in one task at a time. Each batch is a `Columns` with `batch_size` rows; the last
    one may have fewer. There is at least one batch, which may have no rows. The client receives the next batch while
    one is in use. The connection can be used for other calls at the same time.
    """

    def __init__(self, exchange: AnyExchange, stream: int, query: Query, frame: bytes, batch_size: int) -> None:
        self._connection = exchange
        self._exchange: Exchange | None = None  # the one on which the stream is open
        self._stream = stream
        self._query = query
        self._frame = frame
        self._batch_size = batch_size
        self._state = _State.NEW
        self._total_rows = 0
        self._schema: Mapping[str, str] = {}
        self._output = ""
        self._requested_rows = 0
        self._returned_rows = 0
        self._ahead: ClientRequest | None = None  # the request for the next batch
        self._reader: ColumnsReader | None = None  # reads a batch that has arrived
        self._in_use = False

    @property
    def total_rows(self) -> int:
        """The number of rows of all batches together. It is known when the block has been entered."""
        return self._total_rows

    @property
    def schema(self) -> Mapping[str, str]:
        """The engine's type of each column, like `Columns.schema`. It is known when the block has been entered."""
        return self._schema

    @property
    def output(self) -> str:
        """The text that the query printed. It is empty if the engine has a journal, and prints the text itself."""
        return self._output

    def __repr__(self) -> str:
        return f"<Batches {self._state.name.lower()}; rows: {self._returned_rows} of {self._total_rows}>"

    @enable_ki_protection
    async def __aenter__(self) -> "Batches":
        """Have the server evaluate the query, and return these batches.

        A checkpoint. If cancelled, the query is stopped as by a cancelled `execute`, and the server releases its
        result.

        Raises:
            NoColumns: the result has no columns. The error has the value.
            UnsupportedByServer: the server does not offer results in batches. The query was not evaluated.
            RayforceWSError: the block was entered before.
            RayforceError: other errors are those of `WSClientConnection.execute`. The code `limit` means that the
                connection has too many streams.
        """
        if self._state is not _State.NEW:
            raise RayforceWSError("a stream can be used once; call stream() again")
        self._connection.check_usable()
        self._state = _State.OPEN
        self._in_use = True
        try:
            reply = await self._connection.request_in_session(STREAMS, self._open)
            self._frame = b""
            await self._read_description(reply_payload(reply, self._query))
            self._request_ahead()
        except BaseException:
            self._release()
            raise
        finally:
            self._in_use = False
        return self

    async def _open(self, exchange: Exchange) -> Reply:
        """Send the query. A checkpoint; if cancelled, as `Exchange.request`, and the stream is to be released."""
        self._exchange = exchange
        return await exchange.request(self._frame)

    @enable_ki_protection
    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Have the server release the result. No checkpoint, so this cannot be cancelled."""
        self._release()

    def __aiter__(self) -> "Batches":
        return self

    @enable_ki_protection
    async def __anext__(self) -> Columns:
        """Return the next batch.

        A checkpoint. While a large batch is read, other tasks run every few milliseconds. If cancelled, no batch is
        lost: the next call returns it.

        Raises:
            StopAsyncIteration: all batches were returned.
            RayforceWSError: the block was not entered or was left, another task is waiting for a batch, or the
                connection has ended.
            RayforceError: the engine could not return the batch. The stream cannot continue.
        """
        self._check_usable()
        if self._ahead is None and self._reader is None:
            await anyio.lowlevel.checkpoint()
            raise StopAsyncIteration
        self._in_use = True
        try:
            if self._reader is None:
                self._reader = ColumnsReader(await self._receive())
            columns = await finish(self._reader)
        finally:
            self._in_use = False
        self._reader = None
        expected = min(self._batch_size, self._total_rows - self._returned_rows)
        if len(columns) != expected:
            self._state = _State.FAILED
            raise ProtocolError(f"the server sent a batch of {counted(len(columns), 'row')} instead of {expected}")
        self._returned_rows += expected
        return columns

    async def _receive(self) -> memoryview:
        """Return the payload of the next batch, and request the one behind it. A checkpoint.

        If cancelled, nothing has changed.

        Raises:
            RayforceError: as for `__anext__`.
        """
        assert self._ahead is not None
        assert self._exchange is not None
        try:
            payload = reply_payload(await self._exchange.wait(self._ahead), self._query)
            self._ahead = None
            if self._requested_rows < self._total_rows:
                self._request_ahead()
        except Exception:
            self._state = _State.FAILED
            raise
        return payload

    def _check_usable(self) -> None:
        """Raise an error if no batch can be returned now."""
        if self._state is _State.NEW:
            raise RayforceWSError("write 'async with connection.stream(...) as batches' before 'async for'")
        if self._state is _State.ENDED:
            raise RayforceWSError("the 'async with' block of this stream has ended; call stream() again")
        if self._state is _State.FAILED:
            raise RayforceWSError("the stream has failed; call stream() again")
        if self._in_use:
            raise RayforceWSError(
                "another task is entering this stream or waiting for its next batch; a stream belongs to one task"
            )
        self._connection.check_loop()

    async def _read_description(self, payload: memoryview) -> None:
        """Read the number of rows and the types of the columns.

        A checkpoint every few milliseconds; if cancelled, the rest is not read.

        Raises:
            NoColumns: the result has no columns.
            RayforceConversionError: the result contains a type that `fetch` does not know.
            ProtocolError: this is not the description of a result.
        """
        has_rows = payload[: len(_NO_ROWS)] != _NO_ROWS
        if has_rows:
            if len(payload) <= _DESCRIPTION.size:
                raise ProtocolError(_NOT_DESCRIBED)
            kind, _, count, item, _, rows = _DESCRIPTION.unpack_from(payload)
            if (kind, count, item) != (Type.LIST, 3, -Type.I64) or rows < 0:
                raise ProtocolError(_NOT_DESCRIBED)
            self._total_rows = rows
        rest = payload[_DESCRIPTION.size if has_rows else len(_NO_ROWS) :]
        size = SIZED.size + SIZED.unpack_from(rest)[-1] if len(rest) > SIZED.size else 0
        output = string_in(rest[:size])
        if output is None:
            raise ProtocolError(_NOT_DESCRIBED)
        self._output = output
        if not has_rows:
            raise await self._no_columns(rest[size:])
        self._schema = (await finish(ColumnsReader(rest[size:]))).schema

    async def _no_columns(self, payload: memoryview) -> Exception:
        """Return the error for a value without columns. A checkpoint; if cancelled, the value is dropped."""
        try:
            await finish(ColumnsReader(payload))
        except RayforceTypeError as error:
            return NoColumns(
                f"{error}".replace("fetch()", "stream()"), decode_payload(payload, self._query), self._output
            )
        return ProtocolError(_NOT_DESCRIBED)

    def _request_ahead(self) -> None:
        """Request the next batch. Raises `RayforceWSError` if the connection has ended."""
        assert self._exchange is not None
        self._ahead = self._exchange.start(server_call(MessageType.SYNC, NEXT_BATCH, i64(self._stream)))
        self._requested_rows += self._batch_size

    def _release(self) -> None:
        """Give up the batches that were not returned. No checkpoint. Idempotent."""
        if self._state in (_State.NEW, _State.ENDED):
            return
        self._state = _State.ENDED
        self._frame = b""
        ahead, self._ahead, self._reader = self._ahead, None, None
        if self._exchange is not None:
            if ahead is not None:
                self._exchange.cancel(ahead)
            self._exchange.post_soon(server_call(MessageType.ASYNC, END_STREAM, i64(self._stream)))


def open_stream(
    make: type[Batches], exchange: AnyExchange, stream: int, query: Query, frame: bytes, batch_size: int
) -> Batches:
    """Return the batches of a query.

    Args:
        make: the class of the batches.
        exchange: the connection.
        stream: the id of the stream, which is never used again.
        query: as the caller gave it, for errors.
        frame: the request with the query.
        batch_size: rows of each batch.

    Raises:
        RayforceValueError: the batch size is out of range.
    """
    if type(batch_size) is not int or not 1 <= batch_size <= MAX_BATCH_SIZE:
        raise RayforceValueError(
            f"Invalid batch_size: {batch_size!r}. Must be a number of rows, an int between 1 and {MAX_BATCH_SIZE}"
        )
    opening = server_call(MessageType.SYNC, OPEN_STREAM, i64(stream), i64(batch_size), frame[HEADER_SIZE:])
    return make(exchange, stream, query, opening, batch_size)
