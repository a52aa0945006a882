"""The numbers that `WSServer.statistics` returns. They are snapshots: later events do not change them."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Connections", "Histogram", "Posts", "Requests", "Statistics", "Streams", "Topic"]


@dataclass(frozen=True, slots=True)
class Connections:
    """Numbers of connections. Each accepted TCP connection has exactly one outcome.

    Attributes:
        open: connections that are open now.
        opening: connections that are neither open nor refused yet.
        total: connections that were opened, including those that are open now.
        refused: refused connections, by HTTP status.
        failed: connections that ended before they were opened, without a refusal: the peer left, or timed out.
        probes: answered requests for `/healthz` or `/metrics`.
    """

    open: int
    opening: int
    total: int
    refused: Mapping[int, int]
    failed: int
    probes: int


@dataclass(frozen=True, slots=True)
class Requests:
    """Numbers of requests. `total` is the sum of `in_flight`, `abandoned` and the count of latencies.

    Attributes:
        total: requests that arrived.
        in_flight: requests that are unanswered.
        cancelled: requests that their clients cancelled, whatever their outcome.
        abandoned: requests that were unanswered when their connection ended.
        errors: requests that were answered with an error, by error code, including `cancel`. At most 64 codes are
            counted; all others are counted as `other`.
    """

    total: int
    in_flight: int
    cancelled: int
    abandoned: int
    errors: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Posts:
    """Numbers of posts, which are not answered.

    Attributes:
        total: posts that arrived.
        failed: posts that are known to have failed. Not every engine reports it.
    """

    total: int
    failed: int


@dataclass(frozen=True, slots=True)
class Histogram:
    """A histogram.

    Attributes:
        bounds: the upper bounds of the buckets, inclusive, in ascending order.
        counts: the number of values in each bucket; the last one counts the values above all bounds.
        sum: the sum of all values.
    """

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float

    @property
    def count(self) -> int:
        """The number of values."""
        return sum(self.counts)


@dataclass(frozen=True, slots=True)
class Streams:
    """Numbers of results in batches.

    Attributes:
        total: streams that were opened: the engine has evaluated their queries.
        batches: batches that were returned.
    """

    total: int
    batches: int


@dataclass(frozen=True, slots=True)
class Topic:
    """Numbers of one topic.

    Attributes:
        subscribers: subscriptions of clients at present.
        updates: updates for clients: a value that is published to three subscribers counts three times.
        lost: those of the updates that were dropped because clients read too slowly.
    """

    subscribers: int
    updates: int
    lost: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """A server's numbers at one moment. Totals count from the creation of the server.

    Attributes:
        since: when the server started, in seconds since 1970 (UTC); `None` while it is not running.
        connections: see `Connections`.
        requests: see `Requests`.
        posts: see `Posts`.
        queued: requests and posts that have arrived and wait for earlier ones of their connection.
        latencies: seconds from the arrival of a request until its whole reply was given to the network. A request
            arrives when the server reads it.
        bytes_in: bytes of all messages from clients, without the overhead of WebSocket and TLS.
        bytes_out: bytes of all messages to clients, without that overhead.
        streams: see `Streams`.
        topics: the topics that clients have subscribed to, by name: see `Topic`. At most 64 are counted; all others are
            counted as `other`.
    """

    since: float | None
    connections: Connections
    requests: Requests
    posts: Posts
    queued: int
    latencies: Histogram
    bytes_in: int
    bytes_out: int
    streams: Streams
    topics: Mapping[str, Topic]
