"""The spans that a program records with the SDK of OpenTelemetry, kept in memory."""

from collections.abc import Iterator
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import ReadableSpan, Span, SpanProcessor, TracerProvider


class Recorder(SpanProcessor):
    """Keeps the spans of a tracer provider.

    Attributes:
        provider: the tracer provider.
        started: the spans that have begun, in order.
        ended: the spans that have ended, in order.
    """

    def __init__(self, **options: Any) -> None:
        self.provider = TracerProvider(shutdown_on_exit=False, **options)
        self.provider.add_span_processor(self)
        self.started: list[Span] = []
        self.ended: list[ReadableSpan] = []

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - as the SDK calls it
        self.started.append(span)

    def on_end(self, span: ReadableSpan) -> None:
        self.ended.append(span)

    @property
    def open(self) -> list[Span]:
        """The spans that have not ended."""
        return [span for span in self.started if span.is_recording()]

    def named(self, name: str) -> list[ReadableSpan]:
        """Return the spans with this name that have ended, in the order in which they began."""
        return sorted((span for span in self.ended if span.name == name), key=lambda span: span.start_time or 0)

    def one(self, name: str) -> ReadableSpan:
        """Return the only span with this name that has ended."""
        (span,) = self.named(name)
        return span

    def tree(self) -> list[str]:
        """Return a line for each span that has ended, indented by its depth, in the order in which they began."""
        return list(self._lines(None, ""))

    def _lines(self, parent: int | None, indent: str) -> Iterator[str]:
        for span in sorted(self.ended, key=lambda span: span.start_time or 0):
            if (span.parent.span_id if span.parent else None) == parent:
                assert span.context is not None
                error = (span.attributes or {}).get("error.type", "")
                yield f"{indent}{span.name} {error}".rstrip()
                yield from self._lines(span.context.span_id, indent + "  ")

    def text(self) -> str:
        """Return everything that the spans tell, as one text."""
        return "\n".join(span.to_json() for span in self.ended)
