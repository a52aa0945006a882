"""Keep a whole reply of the engine, and cut it into batches."""

import mmap
import os
import tempfile
from collections.abc import Callable
from typing import IO

import trio

from .._engines import Session
from .._protocol import HEADER_SIZE, Failure, Frame, Header, LazyFrame, MessageType, Result, split_payload, too_large
from .._tasks import run_in_time_slices
from .._values._batches import BatchedValue, Pieces, batched_value
from .._values._payloads import NULL, Buffer, i64, list_of
from .._values._reader import NotColumns, UnknownType
from ..errors import RayforceConversionError

_KEPT_WHOLE = 1024 * 1024  # bytes; a longer batch is sent in slices, without a copy


async def spool(session: Session, reply: Result, on_stored: Callable[[int], None]) -> "SpooledValue | Result | Failure":
    """Receive the rest of a reply, and find the columns of the value. Long replies are kept in an unnamed file.

    If there are no columns, return the result that is a list of null, the printed text and the value.

    A checkpoint. If cancelled, the reply is dropped, and only `aclose` of the session may be called.

    Args:
        session: the session that returned the reply.
        reply: a list of the printed text and the value, which may be incomplete.
        on_stored: called with the number of bytes that are kept in addition to those before.

    Raises:
        EngineError: the engine is lost.
    """
    if not session.unread and len(reply.frame) > session.max_reply_size:
        await trio.lowlevel.checkpoint()
        return too_large(len(reply.frame), session.max_reply_size)
    payload: Frame = reply.frame[HEADER_SIZE:]
    if session.unread:
        received = await _receive_into_file(session, bytes(payload), on_stored)
        if isinstance(received, Failure):
            return received
        payload = received
    else:
        on_stored(len(payload))
    split = split_payload(payload)
    if isinstance(split, Failure):
        return split
    output, payload = split
    value = await _read(payload)
    if value is None:
        pieces = _beginning(NULL, output)
        pieces.add(payload)
        return _result(pieces)
    if isinstance(value, Failure):
        return value
    on_stored(value.index_size)
    return SpooledValue(value, output, len(payload) + value.index_size)


async def _receive_into_file(session: Session, beginning: bytes, on_stored: Callable[[int], None]) -> Frame | Failure:
    """Return the payload of a reply, mapped from a file. A checkpoint; if cancelled, as `spool`.

    If the file cannot be written, the reply is still received, because the engine waits for that.
    """
    file: IO[bytes] | None = None
    data, problem = beginning, None
    try:
        while True:
            if problem is None:
                try:
                    if file is None:
                        file = await trio.to_thread.run_sync(tempfile.TemporaryFile)
                    await trio.to_thread.run_sync(_write, file, data)
                    on_stored(len(data))
                except OSError as error:
                    hint = "; set TMPDIR to a writable directory" if isinstance(error, FileNotFoundError) else ""
                    problem = Failure(
                        "io", f"the server cannot store the result in a temporary file: {error.strerror}{hint}"
                    )
            if not session.unread:
                break
            data = await session.receive_some()
        if problem is not None:
            return problem
        assert file is not None
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))  # keeps the file open itself
    finally:
        if file is not None:
            file.close()


def _write(file: IO[bytes], data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file.fileno(), view) :]


async def _read(payload: Buffer) -> BatchedValue | Failure | None:
    """Find the columns of a payload; return `None` if there are none.

    A checkpoint every few milliseconds; if cancelled, the columns are dropped.
    """
    try:
        return await run_in_time_slices(batched_value(payload))
    except NotColumns:
        return None
    except (UnknownType, RayforceConversionError) as error:
        return Failure("type", f"the result cannot be divided into batches: {error}")


def _beginning(rows: Buffer, output: Buffer) -> Pieces:
    """Return the beginning of a description: a list of the number of rows and the printed text, before the value."""
    pieces = Pieces(HEADER_SIZE)
    pieces.add(list_of([rows, NULL, NULL])[: -2 * len(NULL)])
    pieces.add(output)
    return pieces


def _result(pieces: Pieces) -> Result:
    """Return the result whose payload is in pieces, after room for the header. A long one is not copied."""
    size = len(pieces)
    pieces.begin_with(Header(0, MessageType.RESPONSE, size - HEADER_SIZE).pack())
    return Result(pieces.copy(0, size) if size <= _KEPT_WHOLE else LazyFrame(size, pieces.copy))


class SpooledValue:
    """A value that is kept on the server.

    Args:
        value: the value.
        output: the payload of the text that its query printed.
        size: how many bytes the value takes.

    Attributes:
        size: as given.
    """

    def __init__(self, value: BatchedValue, output: Buffer, size: int) -> None:
        self._value = value
        self._output = output
        self.size = size

    def __len__(self) -> int:
        return len(self._value)

    async def description(self) -> Result:
        """Return the number of rows, the printed text and the value without its rows.

        A checkpoint if there are many columns; if cancelled, the value can still be used.
        """
        return await self._cut(0, 0, _beginning(i64(len(self)), self._output))

    async def batch(self, start: int, count: int) -> Result:
        """Return some rows. A checkpoint if there are many columns; if cancelled, the value can still be used."""
        return await self._cut(start, start + count, Pieces(HEADER_SIZE))

    async def release(self) -> None:
        """Free the memory. A checkpoint if there are many columns; if cancelled, the rest is freed with this object."""
        await run_in_time_slices(self._value.release())

    async def _cut(self, start: int, stop: int, pieces: Pieces) -> Result:
        """Return some pieces followed by some rows. A checkpoint and cancellation as `batch`."""
        await run_in_time_slices(self._value.cut(start, stop, pieces))
        return _result(pieces)
