"""The counters of a server. They are updated for every request, so an update must be very cheap."""

from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from operator import add
from threading import Lock

from ..statistics import Connections, Histogram, Posts, Requests, Statistics, Streams, Topic

LATENCY_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""The upper bounds of the buckets of latencies, in seconds."""

MAX_LATENCIES = 1024
"""The number of latencies that are collected before they are sorted: together that takes a third of the time."""

MAX_ERROR_CODES = 64
"""The number of error codes that are counted separately. Clients can invent codes."""

MAX_TOPICS = 64
"""The number of topics that are counted separately. Clients can invent topics."""

_OTHER = "other"


class TopicCounters:
    """The numbers of one topic, or of all others: see `statistics.Topic`. The hub changes them directly."""

    __slots__ = ("lost", "subscribers", "updates")

    def __init__(self) -> None:
        self.subscribers = self.updates = self.lost = 0


class Counters:
    """Totals since the server was created. The handler and the connections increase the attributes directly.

    Attributes:
        accepted: accepted TCP connections.
        opened: connections that completed the opening.
        ended: opened connections that have ended.
        refused: refused connections, by HTTP status.
        failed: connections that ended before they were opened, refused or answered.
        probes: answered requests for health or metrics.
        requests: requests that arrived.
        cancelled: requests that their clients cancelled.
        abandoned: requests that were unanswered when their connection ended.
        latencies: the latencies of the latest answers, in seconds; fewer than `MAX_LATENCIES`.
        posts: posts that arrived.
        failed_posts: posts that are known to have failed.
        streams: streams that were opened.
        batches: batches of streams that were returned.
        bytes_in: bytes of messages from clients.
        bytes_out: bytes of messages to clients.
    """

    def __init__(self) -> None:
        self.accepted = self.opened = self.ended = self.failed = self.probes = 0
        self.refused = Counter[int]()
        self.requests = self.cancelled = self.abandoned = 0
        self.latencies: list[float] = []
        self.posts = self.failed_posts = 0
        self.streams = self.batches = 0
        self.bytes_in = self.bytes_out = 0
        self._errors = Counter[str]()
        self._topics: dict[str, TopicCounters] = {}
        self._sorted = Histogram(LATENCY_BOUNDS, (0,) * (len(LATENCY_BOUNDS) + 1), 0.0)
        self._sorting = Lock()

    def error(self, code: str) -> None:
        """Count a request that was answered with an error."""
        known = code in self._errors or len(self._errors) < MAX_ERROR_CODES - 1
        self._errors[code if known else _OTHER] += 1

    def topic(self, name: str) -> TopicCounters:
        """Return the counters of a topic."""
        found = self._topics.get(name)
        if found is None:
            key = name if len(self._topics) < MAX_TOPICS - 1 else _OTHER
            found = self._topics.get(key)
            if found is None:
                found = self._topics[key] = TopicCounters()
        return found

    def answered(self, size: int, latency: float) -> None:
        """Count an answer of `size` bytes to a request that arrived `latency` seconds before."""
        self.bytes_out += size
        self.latencies.append(latency)
        if len(self.latencies) >= MAX_LATENCIES:
            self._sort_latencies()

    def _sort_latencies(self) -> None:
        """Move the collected latencies into the histogram."""
        with self._sorting:
            self._sorted = _with(self._sorted, self.latencies)
            self.latencies = []

    def take(self, *, since: float | None, queued: int) -> Statistics:
        """Return the totals as of now. Not a checkpoint.

        Other threads may call this, so the counter of an outcome is read before the counter of its cause.

        Args:
            since: when the server started, in seconds since 1970; `None` if it does not serve.
            queued: the number of requests and posts that wait.
        """
        with self._sorting:
            latencies = _with(self._sorted, self.latencies.copy())
        abandoned, cancelled, errors = self.abandoned, self.cancelled, dict(self._errors)
        requests = self.requests
        ended, opened = self.ended, self.opened
        refused, failed, probes = dict(self.refused), self.failed, self.probes
        opening = self.accepted - opened - sum(refused.values()) - failed - probes
        return Statistics(
            since,
            Connections(opened - ended, opening, opened, refused, failed, probes),
            Requests(requests, requests - latencies.count - abandoned, cancelled, abandoned, errors),
            Posts(self.posts, self.failed_posts),
            queued,
            latencies,
            self.bytes_in,
            self.bytes_out,
            Streams(self.streams, self.batches),
            {name: Topic(one.subscribers, one.updates, one.lost) for name, one in self._topics.copy().items()},
        )


def _with(histogram: Histogram, values: list[float]) -> Histogram:
    """Return a histogram with more values."""
    ordered = sorted(values)
    below = [bisect_right(ordered, bound) for bound in histogram.bounds] + [len(ordered)]
    added = [count - before for before, count in pairwise([0, *below])]
    return Histogram(histogram.bounds, tuple(map(add, histogram.counts, added)), histogram.sum + sum(ordered))


class CountedConnection:
    """Count the outcome of one accepted connection, exactly once.

    Use it as a context manager around the connection's whole life. A connection without an outcome has failed.

    Attributes:
        has_outcome: whether the connection was opened, refused or answered.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._opened = False
        self.has_outcome = False

    def __enter__(self) -> "CountedConnection":
        self._counters.accepted += 1
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened:
            self._counters.ended += 1
        elif not self.has_outcome:
            self._counters.failed += 1

    def opened(self) -> None:
        """Count it as open until the context ends."""
        self._counters.opened += 1
        self._opened = self.has_outcome = True

    def refused(self, status: int) -> None:
        """Count it as refused with an HTTP status."""
        self._counters.refused[status] += 1
        self.has_outcome = True

    def answered(self) -> None:
        """Count it as an answered HTTP request for health or metrics."""
        self._counters.probes += 1
        self.has_outcome = True
