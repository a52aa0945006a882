"""The output of an engine process: logged line by line; the last lines are kept for errors."""

import logging
from collections import deque

import trio

from .._tasks import enable_ki_protection
from .._text import escape_controls

LINE_LIMIT = 8 * 1024
"""The longest line that is logged as one record, in bytes."""

_KEPT_LINES = 50
_READ_SIZE = 64 * 1024
_WARNING_PREFIXES = ("ipc: ", "error: ", "log: ERROR", "log: WARN")  # "ipc: " reports a post that failed

logger = logging.getLogger("rayforce_trio.engine")


class Output:
    """Logs the output of one process.

    Args:
        address: the address that the process is to listen on.

    Attributes:
        listening: set when the process has printed that it listens.
        ended: set when the output has ended.
    """

    def __init__(self, address: str = "") -> None:
        self._announcement = f"listening on {address}"
        self.listening = trio.Event()
        self.ended = trio.Event()
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def __str__(self) -> str:
        """Return the last lines."""
        return "\n".join(self._last_lines)

    @enable_ki_protection
    async def log_all(self, stream: trio.abc.ReceiveStream, name: str) -> None:
        """Log the lines of a stream until it ends. A checkpoint; if cancelled, an incomplete line is lost.

        Args:
            stream: the output.
            name: the name of the process, which begins each record.
        """
        rest = b""
        while data := await stream.receive_some(_READ_SIZE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._log(self._log_long(line, name), name)
            rest = self._log_long(rest, name)
        self._log(rest, name)
        self.ended.set()

    def _log_long(self, line: bytes, name: str) -> bytes:
        """Log a line in parts while it is longer than the limit; returns the rest."""
        while len(line) > LINE_LIMIT:
            self._log(line[:LINE_LIMIT], name)
            line = line[LINE_LIMIT:]
        return line

    def _log(self, line: bytes, name: str) -> None:
        text = escape_controls(line.decode("utf-8", "replace").rstrip())
        if text:
            self._last_lines.append(text)
            logger.log(logging.WARNING if text.startswith(_WARNING_PREFIXES) else logging.INFO, "%s: %s", name, text)
        if self._announcement in text:  # the output of scripts and queries may precede it on the line
            self.listening.set()
