"""How many connections at once: in all, of one peer, and such as are not open yet."""

import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

import trio

from .._addresses import network_of
from .._transports import Refusal, refuse
from ._checks import check_limit

OPENING_PATIENCE = 1.0
"""How long a peer waits until one of those before it is open or gone, if too many are opening; in seconds."""

MAX_TURNED_AWAY = 32
"""How many peers are told at the same time that they are too many; others find the connection closed."""

_RETRY_AFTER = "5"  # seconds; then every opening that is under way now has come to its end


class ConnectionLimits:
    """The limits of a server, and what counts towards them.

    Args:
        max_connections: connections in all, those that are opening included; `None`: no limit.
        max_per_address: of these, from one IPv4 address or one /64 of IPv6.
        max_unauthenticated: of these, such as are opening; one network has half of them at most.

    Raises:
        RayforceValueError: a limit is no number above 0.
    """

    def __init__(
        self, max_connections: int | None, max_per_address: int | None, max_unauthenticated: int | None
    ) -> None:
        check_limit("max_connections", max_connections)
        check_limit("max_connections_per_address", max_per_address)
        check_limit("max_unauthenticated", max_unauthenticated)
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._connections = 0
        self._of_network: Counter[str] = Counter()
        self._openings = None if max_unauthenticated is None else trio.Semaphore(max_unauthenticated)
        self._share = ((max_unauthenticated or 0) + 1) // 2
        self._openings_of_network: WeakValueDictionary[str, trio.Semaphore] = WeakValueDictionary()
        self._turned_away = 0

    def refusal(self, address: str) -> Refusal | None:
        """Return why one more connection from an address is refused, or `None`."""
        if self._max_connections is not None and self._connections >= self._max_connections:
            return _refusal("This server has as many connections as it takes (max_connections).")
        if self._max_per_address is not None and self._of_network[network_of(address)] >= self._max_per_address:
            return _refusal(
                "This server has as many connections from your address as it takes (max_connections_per_address)."
            )
        return None

    @contextmanager
    def connection(self, address: str) -> Iterator[None]:
        """Count a connection as long as the block lasts."""
        network = network_of(address)
        self._connections += 1
        self._of_network[network] += 1
        try:
            yield
        finally:
            self._connections -= 1
            self._of_network[network] -= 1
            if not self._of_network[network]:
                del self._of_network[network]

    @asynccontextmanager
    async def opening(self, address: str) -> AsyncIterator[Refusal | None]:
        """Count a connection as opening as long as the block lasts; yields why it is refused, or `None`.

        A checkpoint. If too many are opening, it waits for a second: others come all at once, and are open in no time.
        """
        async with AsyncExitStack() as held:
            with trio.move_on_after(OPENING_PATIENCE) as patience:
                for openings in self._openings_for(address):
                    await held.enter_async_context(openings)
            if patience.cancelled_caught:
                yield _refusal("This server has as many connections opening as it takes (max_unauthenticated).")
            else:
                yield None

    def _openings_for(self, address: str) -> list[trio.Semaphore]:
        """Return what a connection that opens takes: first of its network's, so that others get the rest."""
        if self._openings is None:
            return []
        share = trio.Semaphore(self._share)
        return [self._openings_of_network.setdefault(network_of(address), share), self._openings]

    async def turn_away(self, stream: trio.SocketStream, refusal: Refusal, tls: ssl.SSLContext | None) -> None:
        """Tell a peer that it is one too many, within a second, and close its connection. A checkpoint."""
        if self._turned_away >= MAX_TURNED_AWAY:
            stream.socket.close()
            await trio.lowlevel.checkpoint()
            return
        self._turned_away += 1
        try:
            await refuse(stream, refusal, tls=tls)
        finally:
            self._turned_away -= 1


def _refusal(why: str) -> Refusal:
    return Refusal(503, f"{why} Try again later.", (("Retry-After", _RETRY_AFTER),))
