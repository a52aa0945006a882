"""Limits on the number of connections, in total and from one network."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .._addresses import network_of
from .._transports import Refusal
from ._checks import check_limit

_RETRY_AFTER = 5  # seconds


class ConnectionLimits:
    """The limits of a server, and the connections that count towards them: those of authorized clients.

    Args:
        max_connections: the limit on all connections; `None`: no limit.
        max_per_address: the limit on connections from one IPv4 address or one /64 network of IPv6.

    Raises:
        RayforceValueError: a limit is not a positive int.
    """

    def __init__(self, max_connections: int | None, max_per_address: int | None) -> None:
        check_limit("max_connections", max_connections)
        check_limit("max_connections_per_address", max_per_address)
        self._max_connections = max_connections
        self._max_per_address = max_per_address
        self._connections = 0
        self._per_network: Counter[str] = Counter()

    def refusal(self, address: str) -> Refusal | None:
        """Return the refusal of one more connection from an address; `None` if it is within the limits."""
        if self._max_connections is not None and self._connections >= self._max_connections:
            return too_many("This server has reached its limit of connections (max_connections).")
        if self._max_per_address is not None and self._per_network[network_of(address)] >= self._max_per_address:
            return too_many(
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


def too_many(reason: str, retry_after: int = _RETRY_AFTER) -> Refusal:
    """Return the refusal of a connection beyond a limit; `retry_after` is in seconds."""
    return Refusal(503, f"{reason} Try again later.", (("Retry-After", str(retry_after)),))
