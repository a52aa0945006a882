"""What one connection may take: in time, and in requests."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeGuard

from .._transports import WRITE_STALL_TIMEOUT
from ..errors import RayforceValueError
from ._access import is_loopback

QUERY_TIMEOUT = 300.0
"""How long a query may run by default where others than this machine's programs may ask; in seconds."""


@dataclass(frozen=True, slots=True)
class Bounds:
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
            _check_positive(name, getattr(self, name), "")
        if self.query_timeout not in (None, "auto"):
            _check_positive("query_timeout", self.query_timeout, ", 'auto', or None for no limit")
        check_grace("drain_timeout", self.drain_timeout)
        in_flight = self.max_in_flight
        if in_flight is not None and (type(in_flight) is not int or in_flight < 1):
            raise RayforceValueError(
                f"Invalid max_in_flight: {in_flight!r}. Must be a number above 0, or None for no limit"
            )

    def query_timeout_on(self, addresses: Iterable[str]) -> float | None:
        """Return how long a query may run in a server that listens on these IP addresses; `None`: for ever."""
        if self.query_timeout == "auto":
            return None if all(map(is_loopback, addresses)) else QUERY_TIMEOUT
        return self.query_timeout


def check_grace(name: str, seconds: object) -> None:
    """Raise `RayforceValueError` if something is no number of seconds, 0 included."""
    if not _is_number(seconds) or not seconds >= 0:
        raise RayforceValueError(f"Invalid {name}: {seconds!r}. Must be a number of seconds, 0 or above")


def _check_positive(name: str, seconds: object, others: str) -> None:
    if not _is_number(seconds) or not seconds > 0:
        raise RayforceValueError(f"Invalid {name}: {seconds!r}. Must be a number of seconds above 0{others}")


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)
