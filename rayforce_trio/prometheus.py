"""The statistics of a server as Prometheus metrics. Install with `pip install 'rayforce-trio[prometheus]'`."""

from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Protocol

from .statistics import Histogram, Statistics

try:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector as _Collector
    from prometheus_client.utils import floatToGoString
except ImportError as _error:
    raise ImportError(
        "rayforce_trio.prometheus needs the prometheus_client library; "
        "install it with: pip install 'rayforce-trio[prometheus]'",
        name=_error.name,
    ) from _error

__all__ = ["Collector"]


class Server(Protocol):
    """A server with statistics."""

    def statistics(self) -> Statistics:
        """Return the current numbers."""


class Collector(_Collector):
    """Collect the statistics of a `WSServer` as metrics each time its registry is scraped.

    Register it with a `prometheus_client.CollectorRegistry`, which that library can serve in several ways, also in
    another thread. A registry can hold the collector of only one server.

    Args:
        server: the `WSServer`. It may be running or not.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics, with which a registry detects duplicates."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Yield the current metrics."""
        now = self._server.statistics()
        connections, requests, posts = now.connections, now.requests, now.posts
        yield _gauge(
            "start_time_seconds", "When the server started, in seconds since 1970; 0 while it is not running", now.since
        )
        yield _gauge("connections", "Open connections", connections.open)
        yield _gauge("connections_opening", "Connections that are being opened", connections.opening)
        yield _counter("connections_opened", "Connections that were opened", connections.total)
        yield _counters("connections_refused", "Refused connections, by HTTP status", "status", connections.refused)
        yield _counter("connections_failed", "Connections that ended before they were opened", connections.failed)
        yield _counter("probes", "Answered requests for health or metrics", connections.probes)
        yield _counter("requests", "Requests that arrived", requests.total)
        yield _gauge("requests_in_flight", "Unanswered requests", requests.in_flight)
        yield _counter("requests_cancelled", "Requests that their clients cancelled", requests.cancelled)
        yield _counter(
            "requests_abandoned", "Requests that were unanswered when their connection ended", requests.abandoned
        )
        yield _counters("request_errors", "Requests answered with an error, by error code", "code", requests.errors)
        yield _histogram(
            "request_duration_seconds", "Seconds from the arrival of a request until its reply was sent", now.latencies
        )
        yield _counter("posts", "Posts that arrived", posts.total)
        yield _counter("posts_failed", "Posts that are known to have failed", posts.failed)
        yield _gauge("queued", "Requests and posts that wait for earlier ones", now.queued)
        yield _counter("received_bytes", "Bytes of all messages from clients", now.bytes_in)
        yield _counter("sent_bytes", "Bytes of all messages to clients", now.bytes_out)
        yield _counter("streams", "Streams that were opened", now.streams.total)
        yield _counter("batches", "Batches of streams that were returned", now.streams.batches)
        topics = now.topics
        yield _gauges("subscribers", "Subscriptions", "topic", {name: one.subscribers for name, one in topics.items()})
        yield _counters(
            "updates", "Updates for subscribers", "topic", {name: one.updates for name, one in topics.items()}
        )
        yield _counters(
            "updates_lost",
            "Updates that were dropped because clients read too slowly",
            "topic",
            {name: one.lost for name, one in topics.items()},
        )


class Page:
    """Render the metrics of a server for HTTP.

    Args:
        server: the `WSServer`.
    """

    def __init__(self, server: Server) -> None:
        self._collector = Collector(server)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the metrics and their content type.

        Args:
            accept: the Accept header of the request.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._collector), content_type


def _gauge(name: str, text: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"rayforce_{name}", text, value=value or 0)


def _gauges(name: str, text: str, label: str, values: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(f"rayforce_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


def _counter(name: str, text: str, value: int) -> Metric:
    return CounterMetricFamily(f"rayforce_{name}", text, value=value)


def _counters(name: str, text: str, label: str, values: Mapping[int, int] | Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"rayforce_{name}", text, labels=[label])
    for key, value in values.items():
        family.add_metric([str(key)], value)
    return family


def _histogram(name: str, text: str, histogram: Histogram) -> Metric:
    bounds = [*map(floatToGoString, histogram.bounds), "+Inf"]
    buckets = list(zip(bounds, accumulate(histogram.counts), strict=True))
    return HistogramMetricFamily(f"rayforce_{name}", text, buckets=buckets, sum_value=histogram.sum)
