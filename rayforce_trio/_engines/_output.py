"""What an engine process prints: to the log, line by line, and the end of it kept for errors."""

import logging
from collections import deque

import trio

LINE_LIMIT = 8 * 1024
"""The longest line logged as one, in bytes."""

_KEPT_LINES = 50
_READ_SIZE = 64 * 1024
_TROUBLE = ("ipc: ", "error: ", "log: ERROR", "log: WARN")  # "ipc: " begins what is said of a post that failed

logger = logging.getLogger("rayforce_trio.engine")


class Output:
    """Reads the output of one process.

    Attributes:
        listening: set once the process has said that it listens.
        ended: set once it has closed its output.
    """

    def __init__(self) -> None:
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
                self._log(line, name)
            while len(rest) > LINE_LIMIT:
                self._log(rest[:LINE_LIMIT], name)
                rest = rest[LINE_LIMIT:]
        if rest:
            self._log(rest, name)
        self.ended.set()

    def _log(self, line: bytes, name: str) -> None:
        text = line.decode("utf-8", "replace").rstrip()
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        if text:
            self._last_lines.append(text)
            logger.log(logging.WARNING if text.startswith(_TROUBLE) else logging.INFO, "%s: %s", name, text)
        if text.startswith("listening on "):
            self.listening.set()
