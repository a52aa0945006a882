"""Lines and the inputs of a shell from standard input."""

import os
from collections.abc import Callable

import anyio

from ._console import UsageError

_READ_SIZE = 64 * 1024  # bytes


class LineReader:
    """Reads lines from a file, pipe or socket.

    Args:
        descriptor: the descriptor of the file, pipe or socket.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._buffer = b""
        self._ended = False

    async def read(self) -> str | None:
        """Return the next line, with its newline if it has one, or `None` at the end.

        A checkpoint unless the line is already in the buffer. If cancelled, the received part of the line is kept.

        Raises:
            UsageError: the line is not UTF-8.
        """
        while b"\n" not in self._buffer and not self._ended:
            await self._receive()
        line, newline, self._buffer = self._buffer.partition(b"\n")
        if not line and not newline:
            return None
        try:
            return (line + newline).decode()
        except UnicodeDecodeError:
            raise UsageError("standard input is not UTF-8") from None

    async def _receive(self) -> None:
        """Read some bytes into the buffer. A checkpoint; if cancelled, nothing is read."""
        try:
            await anyio.wait_readable(self._descriptor)
        except PermissionError:
            await anyio.lowlevel.checkpoint()  # epoll refuses regular files: they are always readable
        data = os.read(self._descriptor, _READ_SIZE)
        self._buffer += data
        self._ended = not data


def _no_prompt(_: bool) -> None:
    """Show nothing."""


class InputReader:
    """Reads the inputs of a shell from a file, pipe or terminal: a line, or several lines if a statement is unfinished.

    Args:
        descriptor: the descriptor of the file, pipe or terminal.
    """

    def __init__(self, descriptor: int) -> None:
        self._lines = LineReader(descriptor)

    async def read(
        self, is_unfinished: Callable[[str], bool], prompt: Callable[[bool], None] = _no_prompt
    ) -> str | None:
        """Return the next input, or `None` at the end.

        A checkpoint unless the input is already in the buffer. If cancelled, the lines of an input that is not complete
        are lost.

        Args:
            is_unfinished: whether an input continues on the next line.
            prompt: called before each line; the argument is whether the line continues an input.

        Raises:
            UsageError: a line is not UTF-8.
        """
        text = ""
        prompt(False)
        while (line := await self._lines.read()) is not None:
            text += line
            if not is_unfinished(text):
                return text
            prompt(True)
        return text or None
