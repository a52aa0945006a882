"""What a server tells of itself: see `WSServer.statistics`. Plain numbers, which stay as they are."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Connections", "Histogram", "Posts", "Requests", "Statistics"]


@dataclass(frozen=True, slots=True)
class Connections:
    """Connections, from the TCP connection on. Each is counted as what it came to, once.

    Attributes:
        open: how many are open: let in, and not ended.
        opening: how many are neither open yet nor refused.
        total: how many were ever open, those that are included.
        refused: how many were refused, by HTTP status.
        failed: how many ended before they were open, without being refused: the peer left, or took too long.
        probes: how many were requests for `/healthz` or `/metrics`, and were answered.
    """

    open: int
    opening: int
    total: int
    refused: Mapping[int, int]
    failed: int
    probes: int


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests, which are to be answered. `total` is those in flight, those abandoned and those in the latencies.

    Attributes:
        total: how many arrived.
        in_flight: how many have arrived and are not answered yet.
        cancelled: how many their client cancelled, whatever they came to.
        abandoned: how many were not answered when their connection ended.
        errors: how many were answered with an error, by its code, `cancel` among them. There are 64 codes at most; the
            last is `other`, for whatever else there was.
    """

    total: int
    in_flight: int
    cancelled: int
    abandoned: int
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Posts:
    """Posts, which are not answered.

    Attributes:
        total: how many arrived.
        failed: how many are known to have ended in an error; not every engine tells.
    """

    total: int
    failed: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often values fell between bounds.

    Attributes:
        bounds: the upper bounds, in ascending order; a value that equals one is below it.
        counts: how many values fell below each bound and not below the one before; one more for those above all.
        sum: of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Statistics:
    """A server's numbers at one moment. What is counted is counted since the server was made.

    Attributes:
        since: when it began to serve, in seconds since 1970 (UTC); `None` while it does not.
        connections: see `Connections`.
        requests: see `Requests`.
        posts: see `Posts`.
        queued: how many requests and posts have arrived and wait for those of their connection before them.
        latencies: the time from a request's arrival until the network was given the whole reply, in seconds. Requests
            that the server has not read yet have not arrived.
        bytes_in: the length of all messages from clients, in bytes, without what WebSocket and TLS add.
        bytes_out: the same of the messages to clients.
    """

    since: float | None
    connections: Connections
    requests: Requests
    posts: Posts
    queued: int
    latencies: Histogram
    bytes_in: int
    bytes_out: int
