"""The file, pipe or terminal of a command, read in threads that do not outlive the call that started them."""

import errno
import os
import select
import stat
from collections.abc import Callable
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import TypeVar

import anyio
import anyio.to_thread

from ._console import UsageError
from ._interrupts import background_tasks

T = TypeVar("T")

_STANDARD_INPUT = 0


class InputFile:
    """A file, pipe or terminal for pyarrow, which itself opens a file that has a path.

    Args:
        path: the path; `-` means standard input.

    Attributes:
        name: the name in errors.
        size: in bytes; `None` for a pipe or a terminal.
        path: names the file for pyarrow, if it has a size.
        is_stream: whether pyarrow should read from this object, one byte after the other.
        closed: whether reads have ended, and find nothing more.
        on_close: called by `close` when reads have ended. The default does nothing.

    Raises:
        UsageError: the file cannot be opened.
    """

    def __init__(self, path: str) -> None:
        is_standard_input = path == "-"
        self.name = "standard input" if is_standard_input else path
        self.path = f"/dev/fd/{_STANDARD_INPUT}" if is_standard_input else path
        self.closed = False
        self.on_close: Callable[[], None] = lambda: None
        try:
            self._file = FileIO(os.dup(_STANDARD_INPUT) if is_standard_input else _opened(path))
            ended, end = os.pipe()  # `ended` is readable, since it is at its end, once `end` is closed
        except OSError as error:
            raise UsageError(f"{self.name} cannot be read: {error.strerror}") from None
        self._ended, self._end = FileIO(ended), FileIO(end, "w")
        status = os.fstat(self._file.fileno())
        self.size = status.st_size if stat.S_ISREG(status.st_mode) else None
        self.is_stream = is_standard_input or self.size is None  # another user may own standard input's file
        self._reading = Lock()
        self._beginning = b""
        self._position = 0

    async def call(self, function: Callable[[], T]) -> T:
        """Call a function that reads this file in a thread, and return its result. A checkpoint.

        If cancelled, reads find the end of the file, which ends the function. Only `close` can be called after that.

        Raises:
            Exception: what the function raises.
        """
        job = [function]
        results: list[T] = []
        errors: list[Exception] = []
        has_ended = False

        def run() -> None:
            """Call the function, and put its result or its error into a list, which the caller empties.

            A thread may hold the function that it was given, and the result, for a moment longer than the caller. It
            would then free a reader of pyarrow, perhaps while the process ends, and this would abort the process.
            """
            try:
                results.append(job.pop()())
            except Exception as error:  # noqa: BLE001 - raised below, in the caller's task
                errors.append(error)

        async def end_reads_if_cancelled() -> None:
            """Wait. If cancelled before the function has ended, all reads end."""
            try:
                await anyio.sleep_forever()
            finally:
                if not has_ended:
                    self._end_reads()

        async with background_tasks() as tasks:
            tasks.start_soon(end_reads_if_cancelled)
            try:
                await anyio.to_thread.run_sync(run)
                if errors:
                    raise errors.pop()
                return results.pop()
            finally:
                has_ended = True
                for held in (job, results, errors):
                    held.clear()

    def peek(self, size: int) -> bytes:
        """Return this many bytes from the beginning, fewer only if the file is shorter. Call it before other reads.

        Raises:
            OSError: the file cannot be read.
        """
        self._beginning += self._read(size - len(self._beginning))
        return self._beginning

    def read(self, size: int) -> bytes:
        """Read this many bytes, fewer only at the end: pyarrow infers the types of CSV from a single read.

        Raises:
            OSError: the file cannot be read.
        """
        start, self._beginning = self._beginning[:size], self._beginning[size:]
        data = start + self._read(size - len(start))
        self._position += len(data)
        return data

    def tell(self) -> int:
        """Return how many bytes have been read."""
        return self._position

    def close(self) -> None:
        """End all reads, wait for their end, and close the file. Idempotent."""
        self._end_reads()
        with self._reading:
            self._file.close()
            self._ended.close()
        self.on_close()

    def _read(self, size: int) -> bytes:
        parts = []
        with self._reading:
            while size and self._wait() and (part := os.read(self._file.fileno(), size)):
                parts.append(part)
                size -= len(part)
        return b"".join(parts)

    def _wait(self) -> bool:
        """Wait until there is something to read. Returns False if reads have ended."""
        return not self.closed and self._ended not in select.select([self._file, self._ended], [], [])[0]

    def _end_reads(self) -> None:
        self.closed = True
        self._end.close()


def _opened(path: str) -> int:
    """Open a file. A named pipe need not have a writer yet.

    Raises:
        OSError: the file cannot be opened, or is a directory.
    """
    if Path(path).is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(descriptor, True)
    return descriptor
