"""What an engine process prints: to the log, line by line, and the end of it kept for errors."""

import logging
from collections import deque

import trio

from .._text import escape_controls

LINE_LIMIT = 8 * 1024
"""The longest line logged as one, in bytes."""

_KEPT_LINES = 50
_READ_SIZE = 64 * 1024
_TROUBLE = ("ipc: ", "error: ", "log: ERROR", "log: WARN")  # "ipc: " begins what is said of a post that failed

logger = logging.getLogger("rayforce_trio.engine")


class Output:
    """Reads the output of one process.

    Args:
        address: where the process is to listen.

    Attributes:
        listening: set once the process has said that it listens.
        ended: set once it has closed its output.
    """

    def __init__(self, address: str = "") -> None:
        self._announcement = f"listening on {address}"
        self.listening = trio.Event()
        self.ended = trio.Event()
        self._last_lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def __str__(self) -> str:
        """The last lines."""
        return "\n".join(self._last_lines)

    async def log_all(self, stream: trio.abc.ReceiveStream, name: str) -> None:
        """Log what comes from `stream`, until it ends; `name` says whose it is."""
        rest = b""
        while data := await stream.receive_some(_READ_SIZE):
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._log(self._log_long(line, name), name)
            rest = self._log_long(rest, name)
        self._log(rest, name)
        self.ended.set()

    def _log_long(self, line: bytes, name: str) -> bytes:
        """Log what a line has beyond the limit, and return the rest of it."""
        while len(line) > LINE_LIMIT:
            self._log(line[:LINE_LIMIT], name)
            line = line[LINE_LIMIT:]
        return line

    def _log(self, line: bytes, name: str) -> None:
        text = escape_controls(line.decode("utf-8", "replace").rstrip())
        if text:
            self._last_lines.append(text)
            logger.log(logging.WARNING if text.startswith(_TROUBLE) else logging.INFO, "%s: %s", name, text)
        if self._announcement in text:  # what scripts and queries print may stand before it on the line
            self.listening.set()
