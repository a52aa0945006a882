"""The output of an engine process: logged line by line, within limits; the last lines are kept for errors."""

import logging
import math
from collections import deque
from collections.abc import Mapping

import trio

from .._tasks import TimeSlice, enable_ki_protection
from .._text import counted, escape_controls
from ._output_limit import OutputLimit

LINE_LIMIT = 8 * 1024
"""The longest line that is logged as one record, in bytes."""

LOG_PERIOD = 60.0
"""The period for which the following limits apply, in seconds."""

MAX_LINES = 300
"""The number of lines that are logged in a period. A query can print any number of lines."""

MAX_WARNINGS = 60
"""The number of lines reporting a problem that are logged in a period, besides `MAX_LINES` others.

A query can print such lines, too. But a query that prints other lines cannot crowd out the engine's own warnings.
"""

MAX_LOGGED_SIZE = 128 * 1024
"""The number of bytes of each kind of line that are logged in a period."""

_KEPT_LINES = 50
_KEPT_SIZE = 64 * 1024  # bytes
_READ_SIZE = 64 * 1024  # bytes, the usual size of a pipe
_SPLIT_SIZE = 4 * 1024  # bytes that are split into lines at once; this takes much less than a time slice
_WARNING_PREFIXES = (b"ipc: ", b"error: ", b"log: ERROR", b"log: WARN")  # "ipc: " reports a post that failed

logger = logging.getLogger("rayforce_trio.engine")


def output_limits() -> dict[int, OutputLimit]:
    """Return the limits on the lines of each level that an engine's processes, one after the other, can log."""
    return {
        logging.INFO: OutputLimit(MAX_LINES, LOG_PERIOD, MAX_LOGGED_SIZE),
        logging.WARNING: OutputLimit(MAX_WARNINGS, LOG_PERIOD, MAX_LOGGED_SIZE),
    }


class Output:
    """Logs the output of one process.

    Clients can make the process print any amount at any speed. All of it is read without delay, but only `MAX_LINES`
    and `MAX_WARNINGS` lines are logged in each period. Then one line tells how many lines were left out.

    Args:
        address: the address that the process is to listen on.
        limits: the result of `output_limits`. The processes of an engine share one, so that a client cannot reset the
            limits by ending the process.

    Attributes:
        listening: set when the process has printed that it listens.
        ended: set when the output has ended.
    """

    def __init__(self, address: str = "", limits: Mapping[int, OutputLimit] | None = None) -> None:
        self._announcement = f"listening on {address}".encode()
        self.listening = trio.Event()
        self.ended = trio.Event()
        self._last_lines: deque[bytes] = deque()
        self._kept_size = 0
        self._limits = output_limits() if limits is None else limits

    def __str__(self) -> str:
        """Return the last lines."""
        return "\n".join(map(_printable, self._last_lines))

    @enable_ki_protection
    async def log_all(self, stream: trio.abc.ReceiveStream, name: str) -> None:
        """Log the lines of a stream until it ends. A checkpoint; if cancelled, lines that were not logged are lost.

        Args:
            stream: the output.
            name: the name of the process, which begins each record.
        """
        time_slice = TimeSlice()
        rest = b""
        try:
            while data := await self._receive(stream, name):
                time_slice.start()
                for start in range(0, len(data), _SPLIT_SIZE):
                    *lines, rest = (rest + data[start : start + _SPLIT_SIZE]).split(b"\n")
                    for line in lines:
                        self._log(self._log_long(line, name), name)
                        if time_slice.is_used_up:
                            await trio.lowlevel.checkpoint()
                            time_slice.start()
                    rest = self._log_long(rest, name)
            self._log(rest, name)
        finally:
            self._report_left_out(name)
        self.ended.set()

    async def _receive(self, stream: trio.abc.ReceiveStream, name: str) -> bytes:
        """Receive some output, and report lines that were left out when that is due.

        A checkpoint. If cancelled, no output is lost.
        """
        while True:
            report_due = min(limit.report_due for limit in self._limits.values())
            with trio.move_on_at(report_due):
                return bytes(await stream.receive_some(_READ_SIZE))
            self._report_left_out(name, trio.current_time())

    def _log_long(self, line: bytes, name: str) -> bytes:
        """Log a line in parts while it is longer than the limit; returns the rest."""
        while len(line) > LINE_LIMIT:
            self._log(line[:LINE_LIMIT], name)
            line = line[LINE_LIMIT:]
        return line

    def _log(self, line: bytes, name: str) -> None:
        """Keep a line, and log it if the limits allow that."""
        line = line.rstrip()
        if not line:
            return
        self._keep(line)
        if not self.listening.is_set() and self._announcement in line:
            self.listening.set()  # the output of scripts may precede the announcement on the line
        level = logging.WARNING if line.startswith(_WARNING_PREFIXES) else logging.INFO
        if self._limits[level].allow(trio.current_time(), len(line)):
            logger.log(level, "%s: %s", name, _printable(line))

    def _keep(self, line: bytes) -> None:
        self._last_lines.append(line)
        self._kept_size += len(line)
        while len(self._last_lines) > _KEPT_LINES or self._kept_size > _KEPT_SIZE:
            self._kept_size -= len(self._last_lines.popleft())

    def _report_left_out(self, name: str, now: float = math.inf) -> None:
        """Log how many lines were left out, if that is due at this time."""
        for level, limit in self._limits.items():
            if limit.report_due <= now and (left_out := limit.take_left_out()):
                logger.log(level, "%s: %s left out", name, counted(left_out, "line"))


def _printable(line: bytes) -> str:
    return escape_controls(line.decode("utf-8", "replace"))
