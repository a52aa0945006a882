"""The options that apply to each connection of a server."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .._addresses import is_on_this_machine
from ._checks import check_grace, check_limit, check_reply_size, check_size_option, check_timeout

REMOTE_QUERY_TIMEOUT = 300.0
"""Seconds that a query may run by default if the server listens on an address that other machines can reach."""


@dataclass(frozen=True, slots=True)
class SubscriptionOptions:
    """The arguments of `WSServer` of the same names; times are in seconds.

    Raises:
        RayforceValueError: one of them is out of range.
    """

    resume_window: float = 60.0
    max_topic_history: int = 8 * 1024**2
    max_subscription_buffer: int = 8 * 1024**2
    max_subscriptions: int | None = 1024
    max_topics: int | None = 10_000

    def __post_init__(self) -> None:
        check_grace("resume_window", self.resume_window)
        check_size_option("max_topic_history", self.max_topic_history, lowest=0)
        check_size_option("max_subscription_buffer", self.max_subscription_buffer, lowest=1)
        for name in ("max_subscriptions", "max_topics"):
            check_limit(name, getattr(self, name))


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """The arguments of `WSServer` of the same names; times are in seconds.

    Raises:
        RayforceValueError: one of them is out of range.
    """

    open_timeout: float
    write_timeout: float
    query_timeout: float | Literal["auto"] | None
    max_in_flight: int | None
    drain_timeout: float
    drain_delay: float = 0.0
    max_reply_size: int | None = None
    max_buffered_bytes: int | None = None
    max_spooled_bytes: int | None = None

    def __post_init__(self) -> None:
        for name in ("open_timeout", "write_timeout"):
            check_timeout(name, getattr(self, name))
        if self.query_timeout not in (None, "auto"):
            check_timeout("query_timeout", self.query_timeout, ", 'auto', or None for no limit")
        for name in ("drain_timeout", "drain_delay"):
            check_grace(name, getattr(self, name))
        for name in ("max_in_flight", "max_buffered_bytes", "max_spooled_bytes"):
            check_limit(name, getattr(self, name))
        check_reply_size(self.max_reply_size)

    def query_timeout_on(self, addresses: Iterable[str]) -> float | None:
        """Return how long a query may run if the server listens on these IP addresses; `None`: without limit."""
        if self.query_timeout == "auto":
            return None if all(map(is_on_this_machine, addresses)) else REMOTE_QUERY_TIMEOUT
        return self.query_timeout
