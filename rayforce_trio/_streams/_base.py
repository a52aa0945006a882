"""The interface of the byte streams."""

import operator
from abc import abstractmethod

import anyio.abc
import anyio.lowlevel

READ_SIZE = 64 * 1024
"""The number of bytes received at once, unless the caller asks for another number."""

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
        """Wait until the network takes more. A checkpoint; cancelling it changes nothing."""

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
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for bytes and return them; `b""` means that the peer sends no more. A checkpoint.

        If cancelled, no bytes are lost.

        Args:
            max_bytes: the largest number of bytes to return; `None`: `READ_SIZE`.

        Raises:
            ValueError: `max_bytes` is below 1.
        """

    @abstractmethod
    async def receive_into(self, buffer: memoryview) -> int:
        """Wait for bytes, write them to the beginning of the buffer and return their number. A checkpoint.

        0 means that the peer sends no more. If cancelled, no bytes are lost, but the buffer may have been written to.

        Args:
            buffer: at least one byte of writable memory.
        """

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


def check_max_bytes(max_bytes: int | None) -> int:
    """Return how many bytes to receive at most: `READ_SIZE` for `None`. Raises `ValueError` below 1."""
    if max_bytes is None:
        return READ_SIZE
    if operator.index(max_bytes) < 1:
        raise ValueError("max_bytes must be at least 1")
    return max_bytes
