"""Standard output that is written piece by piece while a connection is in use."""

import io
import os
import stat
import sys
from typing import Any

import anyio

from ._console import encoded, write_bytes

_CHUNK_SIZE = 4096  # bytes: a pipe that is writable takes as many without blocking


class LiveOutput:
    """Writes to standard output without blocking the event loop, even if the reader is slow."""

    def __init__(self) -> None:
        self._descriptor = _descriptor(sys.stdout)

    async def write(self, text: str) -> None:
        """Write a text and flush it; on a terminal, control characters are escaped.

        A checkpoint. If cancelled, a part of the text may be written.

        Raises:
            OutputClosed, CommandFailed: as `write`.
        """
        data = encoded(text)
        for start in range(0, len(data), _CHUNK_SIZE):
            await self._wait_writable()
            write_bytes([data[start : start + _CHUNK_SIZE]])

    async def wait_closed(self) -> None:
        """Wait until the reader closes the pipe; forever if standard output is none. A checkpoint.

        If cancelled, nothing has changed.
        """
        if self._descriptor is None or not stat.S_ISFIFO(os.fstat(self._descriptor).st_mode):
            await anyio.sleep_forever()
            return
        await anyio.wait_readable(self._descriptor)  # the writing end of a pipe becomes readable only by an error

    async def _wait_writable(self) -> None:
        """Wait until a chunk can be written. A checkpoint; if cancelled, nothing has changed."""
        if self._descriptor is not None:
            try:
                await anyio.wait_writable(self._descriptor)
                return
            except PermissionError:  # epoll refuses regular files: they are always writable
                self._descriptor = None
        await anyio.lowlevel.checkpoint()


def _descriptor(stream: Any) -> int | None:
    try:
        return None if stream is None else int(stream.fileno())
    except io.UnsupportedOperation:  # the stream is in memory
        return None
