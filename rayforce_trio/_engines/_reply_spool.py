"""A queue for the bytes of a long reply, between an engine that must not wait and a client that may be slow."""

import os
import tempfile
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import IO

import trio

MEMORY_LIMIT = 512 * 1024
"""The number of bytes of a reply that are kept in memory. A single chunk may be longer."""

WAIT_LIMIT = 0.25
"""The total time that a client may delay the engine with one reply before the rest goes to a file, in seconds."""

_READ_SIZE = 256 * 1024

_COMPRESSED_SIZE = 64 * 1024
"""The number of bytes that are decompressed at once. They can become 64 times as many."""

_NOTHING = memoryview(b"")


class ReplySpool:
    """The bytes of one reply, first in, first out. One task puts and another one gets.

    A native server evaluates nothing while a peer does not read its reply. So `put` waits for the client only for
    `WAIT_LIMIT` seconds in total; later bytes go to an unnamed temporary file, and memory stays bounded. Call `close`
    at the end, when no `put` is in progress. A `get` may still read the file.

    Args:
        decompress: applied to all bytes in `get`. It may return no bytes, and may raise an error.
    """

    def __init__(self, decompress: Callable[[bytes], bytes] | None = None) -> None:
        self._decompress = decompress
        self._compressed = _NOTHING  # the rest of a chunk that `get` has begun to decompress
        self._chunks: deque[bytes] = deque()
        self._size = 0  # bytes in `_chunks`
        self._wait_left = WAIT_LIMIT
        self._file: IO[bytes] | None = None
        self._written = 0  # bytes
        self._read = 0
        self._reading = False  # a thread reads the file
        self._closed = False
        self._changed = trio.Event()

    @property
    def stored(self) -> int:
        """The number of stored bytes, in memory and in the file. The file also keeps bytes that have been read."""
        return self._size + self._written

    def close(self) -> None:
        """Discard the bytes and close the file, as soon as no thread reads it. No checkpoint. Idempotent."""
        self._closed = True
        if self._file is not None and not self._reading:
            self._file.close()

    async def put(self, data: bytes) -> None:
        """Append some bytes. A checkpoint only if memory is full; if cancelled, they may be lost.

        Raises:
            OSError: the file cannot be created, or the file system is full.
        """
        while self._written == self._read and self._size and self._size + len(data) > MEMORY_LIMIT:
            if self._wait_left <= 0:
                break
            since = trio.current_time()
            with trio.move_on_after(self._wait_left):
                await self._change()
            self._wait_left -= trio.current_time() - since
        else:
            if self._written == self._read:  # otherwise the bytes in the file come first
                self._chunks.append(data)
                self._size += len(data)
                self._changed.set()
                return
        await self._write(data)
        self._changed.set()

    async def get(self) -> bytes:
        """Return the next bytes, at least one. A checkpoint only if it has to wait; if cancelled, some may be lost.

        Raises the errors of `decompress`.
        """
        if self._decompress is None:
            return await self._next()
        data = b""
        while not data:
            compressed = self._compressed or memoryview(await self._next())
            self._compressed = compressed[_COMPRESSED_SIZE:] or _NOTHING  # an empty view would keep the chunk
            data = self._decompress(bytes(compressed[:_COMPRESSED_SIZE]))
        return data

    async def _next(self) -> bytes:
        """Return the next bytes as they were put. Checkpoints and cancellation are those of `get`."""
        while not self._chunks:
            if self._file is not None and self._read < self._written:
                return await self._read_back(self._file)
            await self._change()
        data = self._chunks.popleft()
        self._size -= len(data)
        self._changed.set()
        return data

    async def _write(self, data: bytes) -> None:
        """Append to the file. A checkpoint; if cancelled, a part may have been written."""
        if self._file is None:
            try:
                self._file = await trio.to_thread.run_sync(tempfile.TemporaryFile)
            except FileNotFoundError as error:
                text = f"{error.strerror}; set TMPDIR to a writable directory"
                raise FileNotFoundError(error.errno, text) from None
        view = memoryview(data)
        while view:
            count = await trio.to_thread.run_sync(os.pwrite, self._file.fileno(), view, self._written)
            self._written += count
            view = view[count:]

    async def _read_back(self, file: IO[bytes]) -> bytes:
        """Return the next bytes of the file. A checkpoint; if cancelled, nothing is lost."""
        await trio.lowlevel.checkpoint_if_cancelled()  # `close` may have closed the file then
        size = min(_READ_SIZE, self._written - self._read)
        self._reading = True
        try:
            data = await trio.to_thread.run_sync(partial(os.pread, file.fileno(), size, self._read))
        finally:
            self._reading = False
            if self._closed:
                file.close()
        self._read += len(data)
        return data

    async def _change(self) -> None:
        """Wait for the other task. A checkpoint; if cancelled, nothing is lost."""
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()
