"""What a server counts. On the way of a small request that has to cost next to nothing."""

from bisect import bisect_right
from collections import Counter
from itertools import pairwise
from operator import add
from threading import Lock

from ..statistics import Connections, Histogram, Posts, Requests, Statistics

LATENCY_BOUNDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0),
)
"""The bounds of the histogram of latencies, in seconds."""

MAX_LATENCIES = 1024
"""How many latencies are put by, to be sorted together: that takes a third of the time."""

MAX_ERROR_CODES = 64
"""How many codes of errors are told apart: a client can make up its own."""

_OTHER = "other"


class Counters:
    """Numbers that only grow, since the server was made. Those who serve write to the attributes.

    Attributes:
        accepted: TCP connections.
        opened: of these, such as were open.
        ended: of these, such as ended.
        refused: of those accepted, such as were refused, by HTTP status.
        failed: such as came to nothing else.
        probes: such as asked for health or metrics, and were answered.
        requests: that arrived.
        cancelled: of these, such as their client cancelled.
        abandoned: such as were not answered when their connection ended.
        latencies: of requests that were answered lately, in seconds; with `MAX_LATENCIES` of them, `sort_latencies` is
            to be called.
        posts: that arrived.
        failed_posts: of these, such as are known to have failed.
        bytes_in: of messages from clients.
        bytes_out: of messages to clients.
    """

    def __init__(self) -> None:
        self.accepted = self.opened = self.ended = self.failed = self.probes = 0
        self.refused = Counter[int]()
        self.requests = self.cancelled = self.abandoned = 0
        self.latencies: list[float] = []
        self.posts = self.failed_posts = 0
        self.bytes_in = self.bytes_out = 0
        self._errors = Counter[str]()
        self._sorted = Histogram(LATENCY_BOUNDS, (0,) * (len(LATENCY_BOUNDS) + 1), 0.0)
        self._sorting = Lock()

    def error(self, code: str) -> None:
        """Count a request whose answer is an error."""
        known = code in self._errors or len(self._errors) < MAX_ERROR_CODES - 1
        self._errors[code if known else _OTHER] += 1

    def sort_latencies(self) -> None:
        """Put the latencies into the histogram."""
        with self._sorting:
            self._sorted = _with(self._sorted, self.latencies)
            self.latencies = []

    def take(self, *, since: float | None, queued: int) -> Statistics:
        """Return the numbers of this moment, and those given. No checkpoint.

        Another thread may call this, too: what comes of something is read before what it came of.
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
        )


def _with(histogram: Histogram, values: list[float]) -> Histogram:
    """Return a histogram with more values; fast for many of them."""
    ordered = sorted(values)
    below = [bisect_right(ordered, bound) for bound in histogram.bounds] + [len(ordered)]
    added = [count - before for before, count in pairwise([0, *below])]
    return Histogram(histogram.bounds, tuple(map(add, histogram.counts, added)), histogram.sum + sum(ordered))


class CountedConnection:
    """A connection that was accepted; what it comes to is counted once.

    Use it as a context manager, as long as the connection lasts: if it comes to nothing else, it has failed.

    Attributes:
        settled: whether it was open, refused or answered.
    """

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._opened = False
        self.ready = False

    def __enter__(self) -> "CountedConnection":
        self._counters.accepted += 1
        return self

    def __exit__(self, *_: object) -> None:
        if self._opened:
            self._counters.ended += 1
        elif not self.ready:
            self._counters.failed += 1

    def opened(self) -> None:
        """Count it as open until its end."""
        self._counters.opened += 1
        self._opened = self.ready = True

    def refused(self, status: int) -> None:
        """Count it as refused, with an HTTP status."""
        self._counters.refused[status] += 1
        self.ready = True

    def answered(self) -> None:
        """Count it as a plain request that was answered."""
        self._counters.probes += 1
        self.ready = True
