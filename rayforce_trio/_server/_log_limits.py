"""Limits on the lines that peers can cause in the log of a server."""

import logging
import math
from collections import OrderedDict

import trio

from .._log_limit import LogLimit

PERIOD = 60.0
"""The period for which the limits apply, in seconds."""

MAX_LINES = {logging.INFO: 300, logging.WARNING: 60, logging.ERROR: 60}
"""How many lines of each level the peers of one network can cause in a period. Others, such as DEBUG, have no limit."""

_MAX_NETWORKS = 4096  # remembered at most; the one that was seen first is forgotten first

logger = logging.getLogger("rayforce_trio.server")


class LogLimits:
    """The limits of one server, for each network and level. So a peer can neither fill the log nor hide others in it.

    When a period ends in which lines were left out, `run` logs how many.
    """

    def __init__(self) -> None:
        self._limits: OrderedDict[tuple[str, int], LogLimit] = OrderedDict()
        self._left_out = trio.Event()  # set when lines are left out that have not been reported

    def __len__(self) -> int:
        return len(self._limits)

    def allow(self, network: str, level: int, now: float) -> bool:
        """Return whether a line may be logged. If not, count it as left out. No checkpoint.

        Args:
            network: the network of the peer: see `network_of`.
            level: the level of the line.
            now: the time on trio's clock.
        """
        if level not in MAX_LINES:
            return True
        limit = self._limits.get((network, level))
        if limit is None:
            if len(self._limits) >= _MAX_NETWORKS * len(MAX_LINES):
                self._report(*self._limits.popitem(last=False))
            limit = self._limits[network, level] = LogLimit(MAX_LINES[level], PERIOD)
        if limit.allow(now):
            return True
        self._left_out.set()
        return False

    async def run(self) -> None:
        """Log how many lines were left out when that is due, until cancelled; then log the rest. A checkpoint."""
        try:
            while True:
                await self._left_out.wait()
                self._left_out = trio.Event()
                while (due := min((limit.report_due for limit in self._limits.values()), default=math.inf)) < math.inf:
                    await trio.sleep_until(due)
                    self._report_all(trio.current_time())
        finally:
            self._report_all(math.inf)

    def _report_all(self, now: float) -> None:
        """Report the lines whose periods have ended, and forget limits that are not in use."""
        for key, limit in list(self._limits.items()):
            if limit.report_due <= now:
                self._report(key, limit)
            if limit.is_idle(now):
                del self._limits[key]

    def _report(self, key: tuple[str, int], limit: LogLimit) -> None:
        network, level = key
        if left_out := limit.take_left_out():
            logger.log(level, "%d lines about connections from %s left out", left_out, network)
