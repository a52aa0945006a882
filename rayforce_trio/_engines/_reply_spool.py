"""Replies on their way from an engine that must not wait to a client that may be slow."""

import os
import tempfile
from collections import deque
from functools import partial
from typing import IO

import trio

MEMORY_LIMIT = 512 * 1024
"""How much of a reply is kept in memory, in bytes; one piece is always taken."""

PATIENCE = 0.25
"""How long a reply may hold up its engine, all in all, before the rest of it goes to a file; in seconds."""

_READ_SIZE = 256 * 1024


class ReplySpool:
    """The bytes of one reply, first in, first out, for one task that puts and one that gets.

    A native server evaluates nothing while one of its peers does not read a reply. So the one who puts waits only
    `PATIENCE`; what the client is too slow for goes to a file that has no name, and memory stays bounded. Close
    it in the end.
    """

    def __init__(self) -> None:
        self._pieces: deque[bytes] = deque()
        self._size = 0
        self._patience = PATIENCE
        self._file: IO[bytes] | None = None
        self._written = 0
        self._read = 0
        self._changed = trio.Event()

    def close(self) -> None:
        """Forget the bytes, and give back the file. Idempotent."""
        if self._file is not None:
            self._file.close()

    async def put(self, data: bytes) -> None:
        """Append some bytes. A checkpoint only if there is no room in memory; if cancelled, they may be lost.

        Raises:
            OSError: there is no room in the file system, either.
        """
        while self._written == self._read and self._size and self._size + len(data) > MEMORY_LIMIT:
            if self._patience <= 0:
                break
            since = trio.current_time()
            with trio.move_on_after(self._patience):
                await self._change()
            self._patience -= trio.current_time() - since
        else:
            if self._written == self._read:  # else what is in the file comes first
                self._pieces.append(data)
                self._size += len(data)
                self._changed.set()
                return
        await self._write(data)
        self._changed.set()

    async def get(self) -> bytes:
        """Take the next bytes. A checkpoint only if it has to wait; if cancelled, some may be lost."""
        while not self._pieces:
            if self._file is not None and self._read < self._written:
                return await self._read_back(self._file)
            await self._change()
        data = self._pieces.popleft()
        self._size -= len(data)
        self._changed.set()
        return data

    async def _write(self, data: bytes) -> None:
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
        size = min(_READ_SIZE, self._written - self._read)
        data = await trio.to_thread.run_sync(partial(os.pread, file.fileno(), size, self._read))
        self._read += len(data)
        return data

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()
