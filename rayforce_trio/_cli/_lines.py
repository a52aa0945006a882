"""Expressions from standard input, where it is no terminal."""

import os

import anyio

from ._brackets import is_unfinished
from ._exits import UsageError

_READ_SIZE = 64 * 1024


class Lines:
    """Reads expressions: each a line, or as many as it takes to close its brackets.

    Args:
        descriptor: the file, pipe or socket to read.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""
        self._ended = False

    async def read(self) -> str | None:
        """Return the next expression, `None` at the end. A checkpoint; if cancelled, what came is kept.

        Raises:
            UsageError: it is not UTF-8.
        """
        expression = ""
        while (line := await self._line()) is not None:
            expression += line
            if not is_unfinished(expression):
                return expression
        return expression or None

    async def _line(self) -> str | None:
        while b"\n" not in self._rest and not self._ended:
            await self._receive()
        line, newline, self._rest = self._rest.partition(b"\n")
        if not line and not newline:
            return None
        try:
            return (line + newline).decode()
        except UnicodeDecodeError:
            raise UsageError("standard input is not UTF-8") from None

    async def _receive(self) -> None:
        try:
            await anyio.wait_readable(self._descriptor)
        except PermissionError:
            await anyio.lowlevel.checkpoint()  # a file on a disk: there is always something to read
        data = os.read(self._descriptor, _READ_SIZE)
        self._rest += data
        self._ended = not data
