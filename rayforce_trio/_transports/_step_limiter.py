"""A limit on the openings that continue in one round of the event loop. On trio."""

import time
from collections.abc import Callable

import trio

ROUND_SHARE = 1e-3
"""Seconds that the steps of all openings may take together in one round; one step is always allowed.

Measured: a step of a TLS handshake with an ECDSA key takes 0.1 to 0.8 ms, and parsing a request 0.15 ms.
"""

MAX_STEPS = 16
"""The largest number of steps in one round."""

_DECAY = 0.9
_SHORTEST = 1e-6


class StepLimiter:
    """Limit the steps of openings in a round. Hold it in `async with` for each step, and do not wait in the block.

    Many openings then do not delay the open connections. They do not starve either if the open connections make each
    round long, because as many short steps go on in a round as fit into `ROUND_SHARE`.

    Args:
        clock: returns the processor time of this thread, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.thread_time) -> None:
        self._clock = clock
        self._steps = trio.CapacityLimiter(1)
        self._started_at = 0.0
        self._duration = 0.0  # of the slowest of the latest steps

    async def __aenter__(self) -> None:
        """Wait until a step is allowed. A checkpoint; if cancelled, no step was allowed."""
        await self._steps.acquire()
        self._started_at = self._clock()

    async def __aexit__(self, *_: object) -> None:
        """End the step. Not a checkpoint, so it cannot be cancelled."""
        self._duration = max(self._clock() - self._started_at, _DECAY * self._duration)
        self._steps.total_tokens = max(1, int(min(MAX_STEPS, ROUND_SHARE / max(self._duration, _SHORTEST))))
        self._steps.release()
