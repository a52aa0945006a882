"""A server's statistics for Prometheus, by its client library: `pip install 'rayforce-trio[prometheus]'`."""

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
        """Return its numbers."""


class Collector(_Collector):
    """Turns what `WSServer.statistics` returns into metrics, whenever its registry is asked for them.

    Register it with a `prometheus_client.CollectorRegistry`, and have that served in any way the library has, from
    another thread if need be. A registry takes the collector of one server.

    Args:
        server: the `WSServer`.
    """

    def __init__(self, server: Server) -> None:
        self._server = server

    def describe(self) -> Iterator[Metric]:
        """Yield the metrics, so that a registry can tell that it has them already."""
        return self.collect()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as `prometheus_client` wants them."""
        now = self._server.statistics()
        connections, requests, posts = now.connections, now.requests, now.posts
        yield _gauge("start_time_seconds", "When the server began to serve, since 1970; 0 while it does not", now.since)
        yield _gauge("connections", "Connections that are open", connections.open)
        yield _gauge("connections_opening", "Connections that are not open yet", connections.opening)
        yield _counter("connections_opened", "Connections that were ever open", connections.total)
        yield _counters(
            "connections_refused", "Connections that were refused, by HTTP status", "status", connections.refused
        )
        yield _counter("connections_failed", "Connections that ended before they were open", connections.failed)
        yield _counter("probes", "Requests for health or metrics that were answered", connections.probes)
        yield _counter("requests", "Requests that arrived", requests.total)
        yield _gauge("requests_in_flight", "Requests that are not answered yet", requests.in_flight)
        yield _counter("requests_cancelled", "Requests that their client cancelled", requests.cancelled)
        yield _counter("requests_abandoned", "Requests whose connection ended first", requests.abandoned)
        yield _counters("request_errors", "Requests answered with an error, by its code", "code", requests.errors)
        yield _histogram("request_duration_seconds", "From arrival until the reply was sent", now.latencies)
        yield _counter("posts", "Posts that arrived", posts.total)
        yield _counter("posts_failed", "Posts that are known to have failed", posts.failed)
        yield _gauge("queued", "Requests and posts that wait for those before them", now.queued)
        yield _counter("received_bytes", "Length of all messages from clients", now.bytes_in)
        yield _counter("sent_bytes", "Length of all messages to clients", now.bytes_out)


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
            accept: the request's header of that name.
        """
        encode, content_type = choose_encoder(accept)
        return encode(self._collector), content_type


def _gauge(name: str, text: str, value: float | None) -> Metric:
    return GaugeMetricFamily(f"rayforce_{name}", text, value=value or 0)


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
