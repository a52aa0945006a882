"""Limits on the number of connections: in total, from one network, and during the opening handshake."""

import math
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from weakref import WeakValueDictionary

import trio

from .._addresses import network_of
from .._transports import Refusal, refuse
from ._checks import check_limit

OPENING_WAIT_TIMEOUT = 1.0
"""Seconds that a peer waits for another opening to end, if `max_unauthenticated` connections are opening."""

MAX_REJECTING = 32
"""The number of peers that can be sent a rejection at the same time; the connections of others are just closed."""

_RETRY_AFTER = "5"  # seconds; every opening that is in progress now has ended by then


class ConnectionLimits:
    """The limits of a server, and the connections that count towards them.

    Args:
        max_connections: the limit on all connections, including those that are opening; `None`: no limit.
        max_per_address: the limit on connections from one IPv4 address or one /64 network of IPv6.
        max_unauthenticated: the limit on connections that are opening. One network can have half of them.

    Raises:
        RayforceValueError: a limit is not a positive int.
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
        self._per_network: Counter[str] = Counter()
        self._openings = None if max_unauthenticated is None else trio.Semaphore(max_unauthenticated)
        self._share = ((max_unauthenticated or 0) + 1) // 2
        self._openings_per_network: WeakValueDictionary[str, trio.Semaphore] = WeakValueDictionary()
        self._rejecting = 0

    def refusal(self, address: str) -> Refusal | None:
        """Return the refusal of one more connection from an address; `None` if it is within the limits."""
        if self._max_connections is not None and self._connections >= self._max_connections:
            return _refusal("This server has reached its limit of connections (max_connections).")
        if self._max_per_address is not None and self._per_network[network_of(address)] >= self._max_per_address:
            return _refusal(
                "This server has reached its limit of connections from your address (max_connections_per_address)."
            )
        return None

    @contextmanager
    def connection(self, address: str) -> Iterator[None]:
        """Count a connection until the block ends."""
        network = network_of(address)
        self._connections += 1
        self._per_network[network] += 1
        try:
            yield
        finally:
            self._connections -= 1
            self._per_network[network] -= 1
            if not self._per_network[network]:
                del self._per_network[network]

    @asynccontextmanager
    async def opening(self, address: str) -> AsyncIterator[Refusal | None]:
        """Count a connection as opening until the block ends. Yields its refusal, or `None`.

        If too many connections are opening, this waits up to `OPENING_WAIT_TIMEOUT`: a burst of connections normally
        opens within that second. A checkpoint only in that case. If cancelled, the connection no longer counts.
        """
        held: list[trio.Semaphore] = []
        refusal = None
        deadline = math.inf
        try:
            for openings in self._openings_for(address):
                if openings.value:
                    openings.acquire_nowait()
                else:
                    deadline = min(deadline, trio.current_time() + OPENING_WAIT_TIMEOUT)
                    with trio.move_on_at(deadline) as wait:
                        await openings.acquire()
                    if wait.cancelled_caught:
                        refusal = _refusal(
                            "This server has reached its limit of opening connections (max_unauthenticated)."
                        )
                        break
                held.append(openings)
            yield refusal
        finally:
            for openings in held:
                openings.release()

    def _openings_for(self, address: str) -> list[trio.Semaphore]:
        """Return the semaphores that an opening holds: that of its network first, which leaves the rest to others."""
        if self._openings is None:
            return []
        share = trio.Semaphore(self._share)
        return [self._openings_per_network.setdefault(network_of(address), share), self._openings]

    async def reject(self, stream: trio.SocketStream, refusal: Refusal, tls: ssl.SSLContext | None) -> None:
        """Send a refusal to a peer, and close its connection within about a second, even if cancelled. A checkpoint."""
        if self._rejecting >= MAX_REJECTING:
            stream.socket.close()
            await trio.lowlevel.checkpoint()
            return
        self._rejecting += 1
        try:
            await refuse(stream, refusal, tls=tls)
        finally:
            self._rejecting -= 1


def _refusal(reason: str) -> Refusal:
    return Refusal(503, f"{reason} Try again later.", (("Retry-After", _RETRY_AFTER),))
