"""Answers to plain HTTP requests: `GET /healthz`, `GET /healthz?deep`, and three that a server can do without.

These are `GET /metrics`, `GET /rayforce.js`, which is the client for JavaScript, and `GET /console`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import trio

from .._checks import check_flag
from .._transports import HttpResponse, OpeningRequest, Refusal
from ..errors import RayforceWSError
from ..statistics import Statistics
from ._authorizer import REFUSAL_TIMEOUT, Authorizer
from ._console import is_from_browser, load_console
from ._log import ConnectionLog
from ._probing import PROBE_TIMEOUT, EngineProbes

HEALTH_PATH = "/healthz"
METRICS_PATH = "/metrics"
JAVASCRIPT_PATH = "/rayforce.js"
CONSOLE_PATH = "/console"

_JAVASCRIPT = Path(__file__).parents[1] / "javascript" / "rayforce.js"
_JAVASCRIPT_HEADERS = (
    ("Cache-Control", "public, max-age=3600"),
    ("Access-Control-Allow-Origin", "*"),  # the origins that may load it are checked before
    ("X-Content-Type-Options", "nosniff"),
)

_HEALTHY = HttpResponse(200, b"ok\n")
_UNHEALTHY = HttpResponse(503, b"unavailable\n")
_NO_METRICS = Refusal(404, "This server has no metrics page. To enable it, start the server with metrics.")
_NO_JAVASCRIPT = Refusal(
    404, "This server does not serve its JavaScript client. To enable that, start the server with serve_javascript."
)
_NO_CONSOLE = Refusal(404, "This server has no console. To enable it, start the server with console.")
_NO_UPGRADE = Refusal(
    426,
    "This is a Rayforce server over WebSocket, and this request does not ask for a WebSocket. A proxy in between has "
    "to pass on the headers Upgrade and Connection.",
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
        authorizer: decides which clients may see the metrics and query the engines.
        metrics: whether the server has metrics.
        javascript: whether the server serves the client for JavaScript.
        console: whether the server has the console.

    Raises:
        RayforceValueError: `metrics`, `javascript` or `console` is not a bool.
        RayforceWSError: the library that metrics need is not installed.
    """

    def __init__(
        self,
        server: Reporting,
        is_healthy: Callable[[], bool],
        authorizer: Authorizer,
        *,
        metrics: bool,
        javascript: bool,
        console: bool,
    ) -> None:
        check_flag("metrics", metrics)
        check_flag("serve_javascript", javascript)
        check_flag("console", console)
        self._is_healthy = is_healthy
        self._authorizer = authorizer
        self._probes = EngineProbes(authorizer.engines)
        self._metrics = _metrics_of(server) if metrics else None
        self._javascript = (
            HttpResponse(200, _JAVASCRIPT.read_bytes(), "text/javascript; charset=utf-8", _JAVASCRIPT_HEADERS)
            if javascript
            else _NO_JAVASCRIPT
        )
        self._console = load_console() if console else None

    async def answer(
        self, request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> HttpResponse | Refusal:
        """Return the response to a request, or its refusal.

        A checkpoint if the client has to be authenticated or engines are queried; arguments and cancellation are as for
        `Authorizer.decide`. Every client may ask for the health, if no engine is queried: it is one word, and load
        balancers do not authenticate. The client for JavaScript is no secret: whoever passes the checks that need no
        credentials may load it.
        """
        path, _, query = request.path.partition("?")
        if path == HEALTH_PATH and _is_deep(query):
            refusal = await self._authorizer.authorize_page(request, opening, log)
            return refusal or await self._deep_health(opening)
        if path == HEALTH_PATH:
            return self._health()
        if path == METRICS_PATH:
            if self._metrics is None:
                return _NO_METRICS
            refusal = await self._authorizer.authorize_page(request, opening, log)
            return refusal or HttpResponse(200, *self._metrics.render(request.headers.get("accept", "")))
        if path == JAVASCRIPT_PATH:
            return self._authorizer.check_origin(request) or self._javascript
        if path == CONSOLE_PATH:
            return await self._show_console(request, opening, log)
        if path == "/" and self._console is not None and is_from_browser(request):
            return self._authorizer.check_origin(request) or _to_console(request)
        return _NO_UPGRADE

    async def _show_console(
        self, request: OpeningRequest, opening: trio.CancelScope, log: ConnectionLog
    ) -> HttpResponse | Refusal:
        """Return the console, or the refusal of the client. A checkpoint if the client has to be authenticated.

        If cancelled, the client was not answered.
        """
        if self._console is None:
            return _NO_CONSOLE
        refusal = await self._authorizer.authorize_page(request, opening, log)
        if refusal is None:
            return self._console.console
        return self._console.refusal(refusal, request, accepts_passwords=self._authorizer.accepts_passwords)

    async def _deep_health(self, opening: trio.CancelScope) -> HttpResponse:
        """Query the engines. A checkpoint; if cancelled, the queries of this call are stopped.

        The deadline of the opening is extended, so that the response can be sent.
        """
        opening.deadline = max(opening.deadline, trio.current_time() + PROBE_TIMEOUT + REFUSAL_TIMEOUT)
        failures = await self._probes.failures()
        if failures:
            return HttpResponse(503, "".join(f"{line}\n" for line in failures).encode())
        return self._health()

    def _health(self) -> HttpResponse:
        return _HEALTHY if self._is_healthy() else _UNHEALTHY


def _to_console(request: OpeningRequest) -> HttpResponse:
    """Return a redirect. Its link is relative, since a proxy may serve this server under another path."""
    location = request.link_prefix + CONSOLE_PATH[1:]
    return HttpResponse(302, b"", headers=(("Location", location), ("Cache-Control", "no-store")))


def _is_deep(query: str) -> bool:
    return any(item.partition("=")[0] == "deep" for item in query.split("&"))


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
