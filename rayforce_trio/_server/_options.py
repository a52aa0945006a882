"""What one connection may take: in time, and in requests."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .._transports import WRITE_STALL_TIMEOUT
from ._access import is_loopback
from ._checks import check_grace, check_limit, check_timeout

QUERY_TIMEOUT = 300.0
"""How long a query may run by default where others than this machine's programs may ask; in seconds."""


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """The options of a server that hold for each of its connections; times are in seconds.

    Raises:
        RayforceValueError: one of them makes no sense.
    """

    open_timeout: float = 5.0
    write_timeout: float = WRITE_STALL_TIMEOUT
    query_timeout: float | Literal["auto"] | None = "auto"
    max_in_flight: int | None = 1024
    drain_timeout: float = 10.0

    def __post_init__(self) -> None:
        for name in ("open_timeout", "write_timeout"):
            check_timeout(name, getattr(self, name))
        if self.query_timeout not in (None, "auto"):
            check_timeout("query_timeout", self.query_timeout, ", 'auto', or None for no limit")
        check_grace("drain_timeout", self.drain_timeout)
        check_limit("max_in_flight", self.max_in_flight)

    def query_timeout_on(self, addresses: Iterable[str]) -> float | None:
        """Return how long a query may run in a server that listens on these IP addresses; `None`: for ever."""
        if self.query_timeout == "auto":
            return None if all(map(is_loopback, addresses)) else QUERY_TIMEOUT
        return self.query_timeout
