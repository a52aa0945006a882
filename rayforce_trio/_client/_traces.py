"""The spans of a client's calls to one server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .._addresses import Endpoint
from .._codec import SQL, describe
from .._protocol import TraceNotice
from .._traces import TracedSpan, Tracing


class ClientTraces:
    """Makes the spans of calls to a server.

    Args:
        tracing: makes spans.
        endpoint: the server.
    """

    def __init__(self, tracing: Tracing, endpoint: Endpoint) -> None:
        self._tracing = tracing
        self._attributes: dict[str, str | int]
        if endpoint.socket_path is not None:
            self._attributes = {"server.address": endpoint.socket_path}
        else:
            host, port = endpoint.address
            self._attributes = {"server.address": host, "server.port": port}

    @contextmanager
    def call(self, operation: str, query: Any = None) -> Iterator[TracedSpan]:
        """Make a span of a call the current one in the block. It ends with the block, and so with its error."""
        with self._tracing.call(operation, self._attributes, self._text(query)) as span:
            yield span

    def start(self, operation: str, query: Any) -> TracedSpan:
        """Begin a span of a call. The caller ends it."""
        return self._tracing.start_call(operation, self._attributes, self._text(query))

    @contextmanager
    def inside(self, span: TracedSpan) -> Iterator[None]:
        """Make a span that `start` has begun the current one in the block."""
        with self._tracing.current(span):
            yield

    def current(self) -> TraceNotice | None:
        """Return what tells the server about the current span; `None` if there is no trace."""
        headers = self._tracing.current_headers()
        return None if headers is None else TraceNotice(*headers)

    def retrying(self) -> None:
        """Note in the current span that its request is sent to the next connection."""
        self._tracing.event("rayforce.retry")

    def _text(self, query: Any) -> str | None:
        if query is None or not self._tracing.queries:
            return None
        return str(query) if isinstance(query, str | SQL) else describe(query)
