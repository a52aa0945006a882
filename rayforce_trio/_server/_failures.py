"""How often one peer may fail to say who it is: guessing is slowed down."""

from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf

import trio

FAILURES_PER_SECOND = 5

_MAX_NETWORKS = 4096  # that are remembered; whichever failed longest ago is forgotten first


class Attempt:
    """An attempt of a peer to say who it is.

    Attributes:
        retry_after: seconds after which to try again; 0: now.
        failed: to be set if the attempt has failed.
    """

    def __init__(self, retry_after: float) -> None:
        self.retry_after = retry_after
        self.failed = False


class FailureLimit:
    """Allows a network `FAILURES_PER_SECOND` failures in any second."""

    def __init__(self) -> None:
        self._networks: OrderedDict[str, _Network] = OrderedDict()

    def __len__(self) -> int:
        return len(self._networks)

    @asynccontextmanager
    async def attempt(self, name: str) -> AsyncIterator[Attempt]:
        """Make an attempt as long as the block lasts.

        A checkpoint if others of the network are making so many that, should they fail, this one is one too many: it
        waits for them. So right attempts never count, however many come at once, and wrong ones gain nothing by it.

        Args:
            name: of the network: see `network_of`.
        """
        network = self._networks.setdefault(name, _Network())
        while network.attempts and network.attempts + network.recent_failures() >= FAILURES_PER_SECOND:
            with trio.move_on_at(network.forgets_at):
                await network.ended.wait()
            network = self._networks.setdefault(name, network)  # it may have been forgotten meanwhile
        if network.recent_failures() >= FAILURES_PER_SECOND:
            yield Attempt(network.forgets_at - trio.current_time())
            return
        attempt = Attempt(0.0)
        network.begin()
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
        self.attempts = 0  # under way
        self.failures: deque[float] = deque(maxlen=FAILURES_PER_SECOND)  # when
        self.ended = trio.Event()

    @property
    def forgets_at(self) -> float:
        """When the first of its failures counts no more."""
        return self.failures[0] + 1.0 if self.failures else inf

    def recent_failures(self) -> int:
        while self.forgets_at <= trio.current_time():
            self.failures.popleft()
        return len(self.failures)

    def begin(self) -> None:
        self.attempts += 1

    def end(self, *, failed: bool) -> None:
        self.attempts -= 1
        if failed:
            self.failures.append(trio.current_time())
        self.ended.set()
        self.ended = trio.Event()
