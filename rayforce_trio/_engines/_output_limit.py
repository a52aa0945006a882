"""A limit on the lines of an engine process that are logged. Without I/O: the caller logs, and supplies the time."""

import math


class OutputLimit:
    """Allow a number of lines and of bytes in each period, and count the lines beyond that.

    So the log of an event that others can cause in any number has a bounded size, and says how many lines are missing.
    A period begins with the first line after the period before.

    Usage: log a line only if `allow` returns true. When `report_due` has come, or the source of the lines has ended,
    log the result of `take_left_out` in one line, unless it is 0.

    Args:
        lines: how many lines are allowed in a period.
        period: the length of a period, in seconds.
        size: how many bytes are allowed in a period; the last line may exceed this.

    Attributes:
        report_due: when the number of lines left out should be logged; infinite if there is nothing to report.
    """

    def __init__(self, lines: int, period: float, size: float = math.inf) -> None:
        self._lines = lines
        self._size = size
        self._period = period
        self._period_end = -math.inf
        self._lines_left = 0
        self._size_left = 0.0
        self._left_out = 0
        self.report_due = math.inf

    def allow(self, now: float, size: int = 0) -> bool:
        """Return whether a line may be logged. If not, count it as left out.

        Args:
            now: the time, in seconds on any clock that does not go backwards.
            size: the size of the line, in bytes.
        """
        if now >= self._period_end:
            self._period_end = now + self._period
            self._lines_left = self._lines
            self._size_left = self._size
        if self._lines_left > 0 and self._size_left > 0:
            self._lines_left -= 1
            self._size_left -= size
            return True
        if not self._left_out:
            self.report_due = self._period_end
        self._left_out += 1
        return False

    def take_left_out(self) -> int:
        """Return how many lines have been left out since the last call."""
        left_out, self._left_out, self.report_due = self._left_out, 0, math.inf
        return left_out
