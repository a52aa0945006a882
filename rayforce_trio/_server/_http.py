"""What is answered to those who want no connection: `GET /healthz`, and `GET /metrics` if that was asked for."""

from collections.abc import Callable
from typing import Protocol

import trio

from .._transports import HttpResponse, OpeningRequest, Refusal
from ..errors import RayforceWSError
from ..statistics import Statistics
from ._authorizer import Authorizer
from ._checks import check_flag
from ._log import ConnectionLog

HEALTH = "/healthz"
METRICS = "/metrics"

_WELL = HttpResponse(200, b"ok\n")
_UNWELL = HttpResponse(503, b"unavailable\n")
_NO_METRICS = Refusal(404, "This server shows no metrics. To have them, start it with metrics.")
_NOTHING = Refusal(
    426, "This is a Rayforce server over WebSocket, and the request asks for no WebSocket.", (("Upgrade", "websocket"),)
)


class Reporting(Protocol):
    """What can be asked for its numbers."""

    def statistics(self) -> Statistics: ...


class HttpEndpoints:
    """Answers plain requests.

    Args:
        server: whose metrics are meant.
        is_well: whether clients can be sent to the server.
        authorizer: says who may see the metrics.
        metrics: whether anybody may.

    Raises:
        RayforceValueError: `metrics` is no bool.
        RayforceWSError: the library is missing that metrics need.
    """

    def __init__(
        self, server: Reporting, is_well: Callable[[], bool], authorizer: Authorizer, *, metrics: bool
    ) -> None:
        check_flag("metrics", metrics)
        self._is_well = is_well
        self._authorizer = authorizer
        self._page = _metrics_of(server) if metrics else None

    async def answer(
        self, request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> HttpResponse | Refusal:
        """Return the answer to a request, or why it is refused. A checkpoint if somebody has to be asked who they are,
        with arguments as for `Authorizer.decide`.

        Whoever asks for the health is told: it is one word, and who asks is often known by an IP address alone.
        """
        path = request.path.partition("?")[0]
        if path == HEALTH:
            return _WELL if self._is_well() else _UNWELL
        if path == METRICS:
            if self._page is None:
                return _NO_METRICS
            refusal = await self._authorizer.decide_about_reader(request, opening, log)
            return refusal or HttpResponse(200, *self._page.written(request.headers.get("accept", "")))
        return _NOTHING


class _Page(Protocol):
    def written(self, accept: str) -> tuple[bytes, str]: ...


def _metrics_of(server: Reporting) -> _Page:
    try:
        from .. import prometheus  # only here: it needs an optional dependency
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "prometheus_client":
            raise
        raise RayforceWSError(
            "metrics=True needs the prometheus_client library; install it with: pip install 'rayforce-trio[prometheus]'"
        ) from error
    return prometheus.Page(server)
