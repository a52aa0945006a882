"""The numbers that `WSServer.statistics` returns. Later events do not change them."""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Connections", "Histogram", "Posts", "Requests", "Statistics", "Streams", "Topic"]


@dataclass(frozen=True, slots=True)
class Connections:
    """Numbers of connections. Each accepted TCP connection is counted once: as opened, refused, failed or a probe.

    Attributes:
        open: connections that are open now.
        opening: connections that are being opened now.
        total: connections that were opened, including those that are open now.
        refused: connections that were refused, by HTTP status.
        failed: connections that ended before they were open, without a refusal: the peer left or timed out.
        probes: requests for `/healthz`, `/metrics` or `/rayforce.js` that were answered.
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
        in_flight: requests that are unanswered now.
        cancelled: requests that their clients cancelled, with any outcome.
        abandoned: requests that were unanswered when their connection ended.
        errors: requests that were answered with an error, by error code, including `cancel`. At most 64 codes are
            counted separately; all others are counted as `other`.
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
        bounds: the inclusive upper bounds of the buckets, in ascending order.
        counts: the number of values in each bucket. There is one more than bounds: the values above all bounds.
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
        total: streams that were opened, which means that the engine evaluated their queries.
        batches: batches that were returned.
    """

    total: int
    batches: int


@dataclass(frozen=True, slots=True)
class Topic:
    """Numbers of one topic.

    Attributes:
        subscribers: subscriptions of clients now.
        updates: updates for clients. A value that is published to three subscribers counts three times.
        lost: updates, among these, that were dropped because clients read too slowly.
    """

    subscribers: int
    updates: int
    lost: int


@dataclass(frozen=True, slots=True)
class Statistics:
    """The numbers of a server at one moment. Totals count from the creation of the `WSServer`.

    Attributes:
        since: the time at which the server started to listen, in seconds since 1970 (UTC); `None` while it is not
            running.
        connections: numbers of connections.
        requests: numbers of requests.
        posts: numbers of posts.
        queued: requests and posts that wait for earlier ones of their connection.
        latencies: the seconds from the arrival of each request until its whole reply was handed to the network. A
            request arrives when the server reads it.
        bytes_in: bytes of all messages from clients, without the overhead of WebSocket and TLS.
        bytes_out: bytes of all messages to clients, without that overhead.
        streams: numbers of results in batches.
        topics: numbers of each topic to which clients have subscribed, by name. At most 64 topics are counted
            separately; all others are counted as `other`.
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
