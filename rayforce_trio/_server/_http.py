"""Answers to plain HTTP requests: `GET /healthz`, and `GET /metrics` if the server has metrics."""

from collections.abc import Callable
from typing import Protocol

import trio

from .._transports import HttpResponse, OpeningRequest, Refusal
from ..errors import RayforceWSError
from ..statistics import Statistics
from ._authorizer import Authorizer
from ._checks import check_flag
from ._log import ConnectionLog

HEALTH_PATH = "/healthz"
METRICS_PATH = "/metrics"

_HEALTHY = HttpResponse(200, b"ok\n")
_UNHEALTHY = HttpResponse(503, b"unavailable\n")
_NO_METRICS = Refusal(404, "This server has no metrics. To enable them, start it with metrics.")
_NO_UPGRADE = Refusal(
    426,
    "This is a Rayforce server over WebSocket, and this request does not ask for a WebSocket.",
    (("Upgrade", "websocket"),),
)


class Reporting(Protocol):
    """A server that returns statistics."""

    def statistics(self) -> Statistics: ...


class HttpEndpoints:
    """Answer plain HTTP requests.

    Args:
        server: the server whose metrics are shown.
        is_healthy: returns whether the server can accept clients.
        authorizer: decides which clients may see the metrics.
        metrics: whether the server has metrics.

    Raises:
        RayforceValueError: `metrics` is not a bool.
        RayforceWSError: the library that metrics need is not installed.
    """

    def __init__(
        self, server: Reporting, is_healthy: Callable[[], bool], authorizer: Authorizer, *, metrics: bool
    ) -> None:
        check_flag("metrics", metrics)
        self._is_healthy = is_healthy
        self._authorizer = authorizer
        self._metrics = _metrics_of(server) if metrics else None

    async def answer(
        self, request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> HttpResponse | Refusal:
        """Return the response to a request, or its refusal.

        A checkpoint if the client has to be authenticated; arguments and cancellation are as for `Authorizer.decide`.
        Every client may ask for the health: it is one word, and load balancers do not authenticate.
        """
        path = request.path.partition("?")[0]
        if path == HEALTH_PATH:
            return _HEALTHY if self._is_healthy() else _UNHEALTHY
        if path == METRICS_PATH:
            if self._metrics is None:
                return _NO_METRICS
            refusal = await self._authorizer.authorize_metrics(request, opening, log)
            return refusal or HttpResponse(200, *self._metrics.render(request.headers.get("accept", "")))
        return _NO_UPGRADE


class _MetricsPage(Protocol):
    def render(self, accept: str) -> tuple[bytes, str]: ...


def _metrics_of(server: Reporting) -> _MetricsPage:
    try:
        from .. import prometheus  # only here: it needs an optional dependency
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "prometheus_client":
            raise
        raise RayforceWSError(
            "metrics=True needs the prometheus_client library; install it with: pip install 'rayforce-trio[prometheus]'"
        ) from error
    return prometheus.Page(server)
