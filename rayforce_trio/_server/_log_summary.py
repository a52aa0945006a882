"""Limits on the lines that peers can cause in a server's log, and the summary of the lines left out. Without I/O."""

import logging
from collections import Counter, OrderedDict
from math import inf

NETWORK_BURST, NETWORK_RATE = 50, 10
"""The number of lines that one network can cause at once, and in each second after that."""

TOTAL_BURST, TOTAL_RATE = 200, 20
"""The number of lines that all networks together can cause at once, and in each second after that."""

LINE_SIZE = 200
"""Bytes; a longer line, such as one with a traceback, counts as several."""

REPORT_INTERVAL = 1.0
"""Seconds from the first line that is left out to the summary."""

MAX_NETWORKS = 1024
"""The number of networks that are remembered."""

MAX_KINDS = 1024
"""The number of pairs of a kind and a network that are counted separately until the next summary."""

_SHOWN = 5  # the number of pairs in a summary
_OTHERS = ("others", "")


class _Bucket:
    """A leaky bucket: it takes lines until it is full, and empties at a steady rate.

    Lines that did not fit count, too: while they keep arriving faster than the rate, no line fits.
    """

    __slots__ = ("_at", "_burst", "_level", "_rate")

    def __init__(self, burst: float, rate: float) -> None:
        self._burst = burst
        self._rate = rate
        self._level = 0.0
        self._at = -inf

    def take(self, cost: float, now: float) -> bool:
        """Add a line, and return whether it fits."""
        self._level = max(0.0, self._level - self._rate * (now - self._at))
        self._at = now
        if self._level + 1 <= self._burst:
            self._level += cost
            return True
        self._level = max(self._level, min(self._level + 1, self._burst + self._rate))
        return False


class LogSummary:
    """Decides which lines are logged, and counts the others by their kind and their network.

    Errors have limits of their own, so other lines, which a peer can cause in any number, cannot hide a fault of the
    server.

    Attributes:
        report_due: when the result of `take` should be logged, in seconds; infinite if no line was left out.
    """

    def __init__(self) -> None:
        self._totals = {is_error: _Bucket(TOTAL_BURST, TOTAL_RATE) for is_error in (False, True)}
        self._networks: OrderedDict[tuple[bool, str], _Bucket] = OrderedDict()
        self._left_out: Counter[tuple[str, str]] = Counter()
        self._level = 0
        self.report_due = inf

    def allow(self, kind: str, network: str, level: int, size: int, now: float) -> bool:
        """Return whether a line may be logged. If not, count it as left out.

        Args:
            kind: the name of the line in the summary. There is a limited number of kinds.
            network: the network of the peer that caused the line.
            level: the level of the line; the summary has the highest one.
            size: the length of the line.
            now: the time in seconds, on a clock that does not go backwards.
        """
        is_error = level >= logging.ERROR
        bucket = self._networks.pop((is_error, network), None) or _Bucket(NETWORK_BURST, NETWORK_RATE)
        self._networks[is_error, network] = bucket
        if len(self._networks) > MAX_NETWORKS:
            self._networks.popitem(last=False)
        cost = max(1.0, size / LINE_SIZE)
        if bucket.take(cost, now) and self._totals[is_error].take(cost, now):
            return True
        if not self._left_out:
            self.report_due = now + REPORT_INTERVAL
        key = (kind, network)
        self._left_out[key if key in self._left_out or len(self._left_out) < MAX_KINDS else _OTHERS] += 1
        self._level = max(self._level, level)
        return False

    def take(self) -> tuple[int, str]:
        """Return the level and the text of the summary of all lines left out since the last call.

        The text is empty if no line was left out.
        """
        left_out, level = self._left_out, self._level
        self._left_out, self._level, self.report_due = Counter(), 0, inf
        if not left_out:
            return 0, ""
        shown = [item for item in left_out.most_common(_SHOWN + 1) if item[0] != _OTHERS][:_SHOWN]
        parts = [f'{count:,} "{kind}" from {network}' for (kind, network), count in shown]
        others = left_out.total() - sum(count for _, count in shown)
        if others:
            parts.append(f"{others:,} more")
        return level, f"lines left out in the last second: {left_out.total():,} ({', '.join(parts)})"
