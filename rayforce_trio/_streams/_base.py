"""The interface of the byte streams."""

import operator
from abc import abstractmethod
from collections.abc import Awaitable

import anyio.abc
import anyio.lowlevel
import trio
from anyio import BrokenResourceError, BusyResourceError, ClosedResourceError

READ_SIZE = 64 * 1024
"""The number of bytes received at once, unless the caller asks for another number."""

STREAM_ERRORS = (BrokenResourceError, ClosedResourceError, trio.ClosedResourceError)
"""What the methods of a stream that broke or is closed raise. Only `wait_readable` raises an exception of trio's."""

_CHUNK = 1024 * 1024  # bytes; `send_all` offers the network this much at once


class ByteStream(anyio.abc.AsyncResource):
    """A connection that carries bytes in both directions.

    One task may receive and one may send at a time. Methods raise `anyio.BrokenResourceError` if the connection broke,
    with the `OSError` as its cause, and `anyio.ClosedResourceError` once the stream is closed.
    """

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether `close` was called."""

    @abstractmethod
    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Send as much as the network takes without waiting, and return the number of bytes sent. No checkpoint.

        The next call must begin with the bytes that were not sent. The caller may change or reuse the memory of the
        bytes that were sent.
        """

    @abstractmethod
    async def wait_writable(self) -> None:
        """Wait until the network may take more. A checkpoint; cancelling it changes nothing."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all the bytes. A checkpoint.

        If cancelled, an unknown part of the bytes has been sent, so nothing meaningful can follow.
        """
        await self._checkpoint()
        with memoryview(data) as view:
            sent = 0
            while True:
                with view[sent : sent + _CHUNK] as chunk:
                    sent += self.send_nowait(chunk)
                if sent == len(view):
                    return
                await self.wait_writable()

    @abstractmethod
    def wait_readable(self) -> Awaitable[None]:
        """Return an awaitable that waits until `receive_nowait` may return bytes. Awaiting it is a checkpoint.

        Cancelling it changes nothing. It is the event loop's own awaitable where that is possible, because a coroutine
        around it would take time for every small message. So it may raise `trio.ClosedResourceError` and
        `trio.BusyResourceError` instead of anyio's: see `STREAM_ERRORS`.
        """

    @abstractmethod
    def wake_reader(self) -> None:
        """Wake the task that is in `wait_readable`, although no bytes may have arrived. No checkpoint.

        The task resumes later, and may get a `trio.ClosedResourceError`, although the stream is open. A task that is in
        `wait_writable` may wake, too.
        """

    @abstractmethod
    def receive_nowait(self, max_bytes: int) -> bytes | None:
        """Return bytes that have arrived; `b""` means that the peer sends no more. No checkpoint.

        If this returns `None`, call `wait_readable`.
        """

    @abstractmethod
    def receive_into_nowait(self, buffer: memoryview) -> int | None:
        """Write bytes that have arrived to the beginning of the buffer, and return their number. No checkpoint.

        0 means that the peer sends no more. If this returns `None`, call `wait_readable`.

        Args:
            buffer: at least one byte of writable memory.
        """

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return them; `b""` means that the peer sends no more. A checkpoint.

        If cancelled, no bytes are lost.

        Args:
            max_bytes: the largest number of bytes to return; `None`: `READ_SIZE`.

        Raises:
            ValueError: `max_bytes` is below 1.
        """
        size = READ_SIZE if max_bytes is None else check_max_bytes(max_bytes)
        while True:
            try:
                await self.wait_readable()
            except (trio.ClosedResourceError, trio.BusyResourceError) as error:
                raise anyio_error(error) from None
            data = self.receive_nowait(size)
            if data is not None:
                return data

    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes, write them to the beginning of the buffer and return their number. A checkpoint.

        0 means that the peer sends no more. If cancelled, no bytes are lost.

        Args:
            buffer: at least one byte of writable memory.
        """
        while True:
            try:
                await self.wait_readable()
            except (trio.ClosedResourceError, trio.BusyResourceError) as error:
                raise anyio_error(error) from None
            count = self.receive_into_nowait(buffer)
            if count is not None:
                return count

    def peer_is_gone(self) -> bool:
        """Return whether the peer has closed its side, or the connection broke. No checkpoint.

        On Linux, this is known before the bytes that the peer has sent are received; elsewhere only afterwards.
        """
        return self.closed

    @abstractmethod
    async def send_eof(self) -> None:
        """Tell the peer that no more bytes follow; receiving is still possible. A checkpoint. Idempotent.

        If cancelled, the peer may not have been told; call it again.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the connection at once. No checkpoint. Idempotent.

        Tasks that wait for the connection get a `ClosedResourceError`.
        """

    async def aclose(self) -> None:
        """Close the connection at once, even if cancelled. A checkpoint. Idempotent."""
        self.close()
        await self._checkpoint()

    async def _checkpoint(self) -> None:
        """Yield to other tasks. A checkpoint; if cancelled, nothing has changed.

        The streams of one event loop have a faster one.
        """
        await anyio.lowlevel.checkpoint()


def check_max_bytes(max_bytes: int) -> int:
    """Return `max_bytes`. Raises `ValueError` if it is below 1."""
    if operator.index(max_bytes) < 1:
        raise ValueError("max_bytes must be at least 1")
    return max_bytes


def closed_error() -> ClosedResourceError:
    """Return the error for the use of a stream that is closed."""
    return ClosedResourceError("this stream is closed")


def anyio_error(error: trio.ClosedResourceError | trio.BusyResourceError) -> ClosedResourceError | BusyResourceError:
    """Return anyio's error in place of trio's."""
    return closed_error() if isinstance(error, trio.ClosedResourceError) else BusyResourceError("waiting on")
