"""Spans of OpenTelemetry. Only this module imports that library, and only if the program has imported it already.

Without a configured tracer provider, `find_tracing` returns `None`, and nothing else in this module is used.
"""

import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from .errors import RayforceValueError

if TYPE_CHECKING:
    from opentelemetry import trace

TEXT_LIMIT = 2000
"""The length to which texts in spans are cut, in characters."""

_SCOPE = "rayforce_trio"
_SYSTEM = "rayforce"

_MAX_STATE_SIZE = 512  # characters; the smallest number that the specification demands
_MAX_MEMBERS = 32
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_MEMBER = re.compile(
    r"(?P<key>[a-z][a-z0-9_\-*/]{0,255}|[a-z0-9][a-z0-9_\-*/]{0,240}@[a-z][a-z0-9_\-*/]{0,13})"
    r"=(?P<value>[ -+\--<>-~]{0,255}[!-+\--<>-~])"
)

Attributes = Mapping[str, str | int]


class TracerProvider(Protocol):
    """A `TracerProvider` of OpenTelemetry, which makes spans and exports them."""

    def get_tracer(self, instrumenting_module_name: str, /) -> Any:
        """Return an object that makes spans."""


class TracedSpan:
    """A span that has begun. It is recorded when it ends, which happens once.

    Attributes:
        span: the span of OpenTelemetry.
    """

    __slots__ = ("_tracing", "span")

    def __init__(self, tracing: "Tracing", span: "trace.Span") -> None:
        self._tracing = tracing
        self.span = span

    def set(self, name: str, value: str | int) -> None:
        """Set an attribute."""
        self.span.set_attribute(name, value)

    def end(self, error: str | None = None, message: str = "") -> None:
        """End the span; with an error, give its kind, and its message, which is recorded only if queries are.

        A message may quote the query.
        """
        if error is not None:
            self._tracing.fail(self.span, error, message)
        self.span.end()

    def trace_headers(self) -> tuple[str, str] | None:
        """Return the `traceparent` and `tracestate` that name this span as a parent; `None` if it has no trace."""
        context = self.span.get_span_context()
        if not context.is_valid:
            return None
        parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
        return parent, context.trace_state.to_header()


class Tracing:
    """Makes spans.

    Args:
        tracer: makes the spans of OpenTelemetry.
        queries: whether spans may have the texts of queries, and messages of errors, which may quote them.

    Attributes:
        queries: as above.
    """

    def __init__(self, tracer: "trace.Tracer", *, queries: bool) -> None:
        from opentelemetry import context, trace

        self.queries = queries
        self._tracer = tracer
        self._trace = trace
        self._no_context = context.Context()

    @contextmanager
    def call(self, operation: str, attributes: Attributes, query: str | None) -> Iterator[TracedSpan]:
        """Make a span of a client's call the current one in the block. It ends with the block, and so with its error.

        Args:
            operation: the name of the call.
            attributes: those of the server.
            query: the text of the query, for spans that may have it.
        """
        span = self.start_call(operation, attributes, query)
        error: str | None = None
        message = ""
        try:
            with self.current(span):
                yield span
        except BaseException as raised:
            error, message = kind_of(raised), f"{raised}"
            raise
        finally:
            span.end(error, message)

    def start_call(self, operation: str, attributes: Attributes, query: str | None) -> TracedSpan:
        """Begin a span of a client's call. Arguments as for `call`. The caller ends it."""
        known = {"db.system.name": _SYSTEM, "db.operation.name": operation, **attributes}
        if query is not None and self.queries:
            known["db.query.text"] = shortened(query)
        span = self._tracer.start_span(f"rayforce {operation}", kind=self._trace.SpanKind.CLIENT, attributes=known)
        return TracedSpan(self, span)

    @contextmanager
    def current(self, span: TracedSpan) -> Iterator[None]:
        """Make a span the current one in the block. Nothing is recorded about errors."""
        with self._trace.use_span(span.span, record_exception=False, set_status_on_exception=False):
            yield

    def current_headers(self) -> tuple[str, str] | None:
        """Return `TracedSpan.trace_headers` of the current span."""
        return TracedSpan(self, self._trace.get_current_span()).trace_headers()

    def event(self, name: str) -> None:
        """Add an event to the current span."""
        self._trace.get_current_span().add_event(name)

    def start_request(self, kind: str, attributes: Attributes, headers: tuple[str, str] | None) -> TracedSpan:
        """Begin a span of a server's request. The caller ends it.

        Args:
            kind: `request` or `post`.
            attributes: those of the request.
            headers: the client's `traceparent` and `tracestate`, which are ignored if they are not valid.
        """
        context = self._no_context
        if headers is not None and (parent := parse_headers(*headers)) is not None:
            context = self._trace.set_span_in_context(self._trace.NonRecordingSpan(self._remote(parent)), context)
        span = self._tracer.start_span(
            f"rayforce {kind}",
            context,
            kind=self._trace.SpanKind.SERVER,
            attributes={"db.system.name": _SYSTEM, **attributes},
        )
        return TracedSpan(self, span)

    def start_part(self, name: str, parent: TracedSpan) -> TracedSpan:
        """Begin the span of a part of a request. The caller ends it."""
        context = self._trace.set_span_in_context(parent.span, self._no_context)
        return TracedSpan(self, self._tracer.start_span(f"rayforce {name}", context))

    def fail(self, span: "trace.Span", error: str, message: str) -> None:
        """Record an error in a span."""
        span.set_attribute("error.type", error)
        description = shortened(message) if message and self.queries else None
        span.set_status(self._trace.Status(self._trace.StatusCode.ERROR, description))

    def _remote(self, parent: "RemoteParent") -> "trace.SpanContext":
        return self._trace.SpanContext(
            parent.trace_id,
            parent.span_id,
            is_remote=True,
            trace_flags=self._trace.TraceFlags(parent.flags),
            trace_state=self._trace.TraceState(list(parent.state.items())),
        )


class RemoteParent:
    """The span of another process, as its `traceparent` and `tracestate` name it."""

    __slots__ = ("flags", "span_id", "state", "trace_id")

    def __init__(self, trace_id: int, span_id: int, flags: int, state: Mapping[str, str]) -> None:
        self.trace_id = trace_id
        self.span_id = span_id
        self.flags = flags
        self.state = state


def parse_headers(traceparent: str, tracestate: str) -> RemoteParent | None:
    """Return the span that a `traceparent` and a `tracestate` name, by the rules of W3C Trace Context.

    `None` if the `traceparent` is not valid. A `tracestate` that is not valid counts as empty. OpenTelemetry's own
    functions log what is not valid, so a client could flood the log.
    """
    found = _PARENT.fullmatch(traceparent)
    if found is None or len(traceparent) > _MAX_STATE_SIZE:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "ff" or (version == "00" and rest is not None) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return RemoteParent(int(trace_id, 16), int(span_id, 16), int(flags, 16), _parse_state(tracestate))


def _parse_state(tracestate: str) -> Mapping[str, str]:
    state: dict[str, str] = {}
    if len(tracestate) > _MAX_STATE_SIZE:
        return state
    members = [member for text in tracestate.split(",") if (member := text.strip(" \t"))]
    for member in members:
        found = _MEMBER.fullmatch(member)
        if found is None or found["key"] in state:
            return {}
        state[found["key"]] = found["value"]
    return state if len(state) <= _MAX_MEMBERS else {}


def kind_of(error: BaseException) -> str:
    """Return the kind of an error for a span: its class, or `cancel` on either event loop."""
    name = type(error).__qualname__
    return "cancel" if name in ("Cancelled", "CancelledError") else name


def shortened(text: str) -> str:
    """Return a text within `TEXT_LIMIT` that can be exported: exporters cannot encode lone surrogates."""
    cut = text if len(text) <= TEXT_LIMIT else f"{text[:TEXT_LIMIT]}..."
    return cut.encode("utf-8", "replace").decode()


def check_provider(provider: object) -> None:
    """Raise `RayforceValueError` if a tracer provider is neither `None` nor one."""
    if provider is None or callable(getattr(provider, "get_tracer", None)):
        return
    raise RayforceValueError(
        f"Invalid tracer_provider: {provider!r:.200}. Must be an OpenTelemetry TracerProvider, or None for the one of "
        "the program"
    )


def find_tracing(provider: TracerProvider | None, *, queries: bool) -> Tracing | None:
    """Return what makes spans, or `None` if they would not be recorded.

    Args:
        provider: makes the tracer; `None`: the provider that the program has set for all libraries, if it has.
        queries: as for `Tracing`.
    """
    if provider is None and "opentelemetry.trace" not in sys.modules:
        return None  # importing it takes long, and a program that has not done so has not set a provider
    try:
        from opentelemetry import trace
    except ImportError:
        return None  # the program has imported another module of this name
    tracer = (provider or trace.get_tracer_provider()).get_tracer(_SCOPE)
    if isinstance(tracer, trace.NoOpTracer | trace.ProxyTracer):
        return None
    return Tracing(tracer, queries=queries)
