"""A limit on failed authentication, which slows down guessing."""

from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf

import trio

FAILURES_PER_SECOND = 5

_MAX_NETWORKS = 4096  # remembered at most; the one whose last failure is oldest is forgotten first


class Attempt:
    """One attempt of a peer to authenticate.

    Attributes:
        retry_after: seconds until the peer may try; 0: it may try now.
        failed: the caller sets it if the attempt fails.
    """

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        self.failed = False


class FailureLimit:
    """Allow each network `FAILURES_PER_SECOND` failures within any second."""

    def __init__(self) -> None:
        self._networks: OrderedDict[str, _Network] = OrderedDict()

    def __len__(self) -> int:
        return len(self._networks)

    @asynccontextmanager
    async def attempt(self, name: str) -> AsyncIterator[Attempt]:
        """Make an attempt that lasts until the block ends.

        A checkpoint only if the attempts of the same network in progress could use up its failures: then this one waits
        for them. So any number of valid logins succeed at once, and simultaneous guesses gain nothing. If cancelled
        while it waits, no attempt was made; an attempt that is cancelled has not failed.

        Args:
            name: the name of the network: see `network_of`.
        """
        network = self._networks.setdefault(name, _Network())
        while network.attempts and network.attempts + network.recent_failures() >= FAILURES_PER_SECOND:
            with trio.move_on_at(network.forgets_at):
                await network.ended.wait()
            network = self._networks.setdefault(name, network)  # it may have been forgotten while this waited
        if network.recent_failures() >= FAILURES_PER_SECOND:
            yield Attempt(network.forgets_at - trio.current_time())
            return
        attempt = Attempt(0.0)
        network.start()
        try:
            yield attempt
        finally:
            network.end(failed=attempt.failed)
            self._remember(name, network)

    def _remember(self, name: str, network: "_Network") -> None:
        if network.attempts:
            return
        self._networks.pop(name, None)
        if network.recent_failures():
            self._networks[name] = network
            if len(self._networks) > _MAX_NETWORKS:
                self._networks.popitem(last=False)


class _Network:
    def __init__(self) -> None:
        self.attempts = 0  # in progress
        self.failures: deque[float] = deque(maxlen=FAILURES_PER_SECOND)  # times
        self.ended = trio.Event()

    @property
    def forgets_at(self) -> float:
        """The time at which its oldest failure expires."""
        return self.failures[0] + 1.0 if self.failures else inf

    def recent_failures(self) -> int:
        while self.forgets_at <= trio.current_time():
            self.failures.popleft()
        return len(self.failures)

    def start(self) -> None:
        self.attempts += 1

    def end(self, *, failed: bool) -> None:
        self.attempts -= 1
        if failed:
            self.failures.append(trio.current_time())
        self.ended.set()
        self.ended = trio.Event()
