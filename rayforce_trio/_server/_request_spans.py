"""The spans of the requests of one connection. They follow the states that the pipeline gives to the requests."""

from .._protocol import (
    END_STREAM,
    NEXT_BATCH,
    OPEN_STREAM,
    PUBLISH,
    SNAPSHOT,
    TAKE_ROWS,
    EndStream,
    Frame,
    NextBatch,
    OpenStream,
    Publish,
    RequestState,
    ServerRequest,
    Snapshot,
    TakeRows,
    TraceNotice,
)
from .._traces import TEXT_LIMIT, TracedSpan, Tracing
from ._log import text_of

ABANDONED = "abandoned"
"""The kind of error of a request that was not answered, or a post that was not carried out: the connection ended."""

_NAMES = {
    OpenStream: OPEN_STREAM,
    NextBatch: NEXT_BATCH,
    TakeRows: TAKE_ROWS,
    EndStream: END_STREAM,
    Publish: PUBLISH,
    Snapshot: SNAPSHOT,
}


class TracedRequest(ServerRequest):
    """A request whose span ends when it is done. While the engine evaluates it, there is a second span."""

    __slots__ = ("_done", "_engine", "_spans", "_state", "span")

    def __init__(self, spans: "RequestSpans", span: TracedSpan, number: int | None, frame: Frame, now: float) -> None:
        self.span = span
        self._spans = spans
        self._engine: TracedSpan | None = None
        self._state = RequestState.QUEUED
        self._done = False  # it was answered or carried out
        super().__init__(number, frame, now)

    @property
    def state(self) -> RequestState:
        """Its place in the pipeline."""
        return self._state

    @state.setter
    def state(self, state: RequestState) -> None:
        if self._engine is not None and state is not RequestState.RUNNING:
            self._end_engine()
            self._done = self.number is None
        elif self._engine is None and state is RequestState.RUNNING:
            if self.call is not None:
                self.span.set("rayforce.call", _NAMES[type(self.call)])
            self._engine = self._spans.tracing.start_part("engine", self.span)
        self._state = state
        if state is RequestState.DONE:
            self.end()

    def answered(self, size: int) -> None:
        """Report that the answer has been sent, and its size in bytes."""
        self._done = True
        self.span.set("rayforce.response.size", size)

    def end(self) -> None:
        """End the spans. Idempotent."""
        if self._engine is not None:
            self._end_engine(ABANDONED)
        if self._spans.forget(self):
            failure = self.failure
            if failure is not None:
                self.span.end(failure.code, failure.message)
            else:
                self.span.end(None if self._done else ABANDONED)

    def _end_engine(self, error: str | None = None) -> None:
        engine, self._engine = self._engine, None
        assert engine is not None
        engine.end(error)


class RequestSpans:
    """Makes the requests of a connection, each with a span, and ends the spans that the pipeline leaves open.

    Args:
        tracing: makes spans.
        connection: the number of the connection.

    Attributes:
        tracing: as above.
    """

    def __init__(self, tracing: Tracing, connection: int) -> None:
        self.tracing = tracing
        self._connection = connection
        self._open = set[TracedRequest]()

    def request(self, number: int | None, frame: Frame, now: float, trace: TraceNotice | None) -> TracedRequest:
        """Return a request that has arrived; see `RequestPipeline`."""
        attributes: dict[str, str | int] = {
            "rayforce.connection.id": self._connection,
            "rayforce.request.size": len(frame),
        }
        if number is not None:
            attributes["rayforce.request.number"] = number
        if self.tracing.queries and (text := text_of(frame, TEXT_LIMIT)):
            attributes["db.query.text"] = text
        headers = None if trace is None else (trace.traceparent, trace.tracestate)
        span = self.tracing.start_request("post" if number is None else "request", attributes, headers)
        request = TracedRequest(self, span, number, frame, now)
        self._open.add(request)
        return request

    def forget(self, request: TracedRequest) -> bool:
        """Return whether the span of a request is open, and remember that it is not any more."""
        if request not in self._open:
            return False
        self._open.remove(request)
        return True

    def close(self) -> None:
        """End the spans that are open, because the connection has ended. Idempotent."""
        for request in self._open.copy():
            request.end()
