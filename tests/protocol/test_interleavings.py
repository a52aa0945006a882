"""The server's request pipeline under any sequence of events: it starts, stops and answers the right requests."""

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.spans import Recorder

from rayforce_trio._protocol import (
    COMPRESSED_FLAG,
    Action,
    CancelRequested,
    ConnectionState,
    Failure,
    Header,
    MessageType,
    NewRequest,
    Outcome,
    RequestPipeline,
    RequestState,
    Result,
    ServerRequest,
    dump_cancel,
    parse_control,
    string_frame,
)
from rayforce_trio._protocol._control import ErrorNotice
from rayforce_trio._server._request_spans import RequestSpans, TracedRequest
from rayforce_trio._traces import find_tracing

MAX_IN_FLIGHT = 3


@dataclass
class Evaluation:
    """A request or post in the engine.

    Attributes:
        stops: how often the engine was asked to stop it.
        parts: how many parts of its reply have not been read.
    """

    request: ServerRequest
    stops: int = 0
    parts: int | None = None


class Interleavings(RuleBasedStateMachine):
    """A client that sends anything, an engine that takes any time, and the I/O code between them."""

    def __init__(self) -> None:
        super().__init__()
        self.server = RequestPipeline(
            extended=True, max_in_flight=MAX_IN_FLIGHT, query_timeout=1.0, new_traced=self.new_traced()
        )
        self.arrived: list[ServerRequest] = []
        self.started: list[ServerRequest] = []
        self.answers: list[int] = []
        self.engine: Evaluation | None = None
        self.ahead: dict[int, Evaluation] = {}  # by the tickets of requests whose turn has not come
        self.performing: Action | None = None
        self.draining = self.leaves = self.gone = self.stopped = False

    def new_traced(self) -> NewRequest | None:
        return None

    # The client

    @rule(kind=st.sampled_from(["request", "post", "invalid"]), size=st.integers(1, 100))
    def send(self, kind: str, size: int) -> None:
        message_type = MessageType.ASYNC if kind == "post" else MessageType.SYNC
        flags = COMPRESSED_FLAG if kind == "invalid" else 0
        request = self.server.receive(Header(flags, message_type, size).pack() + bytes(size))
        assert isinstance(request, ServerRequest)
        if self.draining or self.gone or self.stopped or (self.leaves and request.number is not None):
            assert request.outcome is Outcome.CLOSING
        self.arrived.append(request)

    @precondition(lambda self: self.arrived)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(1, len(self.arrived) + 1), "number")
        cancelled = self.server.receive(dump_cancel(number))
        if cancelled is None:
            return
        assert isinstance(cancelled, CancelRequested)
        assert cancelled.request.number == number
        assert cancelled.request.outcome is Outcome.CANCELLED
        assert cancelled.running == (cancelled.request in self.started)
        if cancelled.running:
            self.stop_engine(cancelled.request)

    # The I/O code, which performs actions at once or over some time

    def can_perform(self) -> bool:
        return self.performing is None and self.server.due not in (Action.NOTHING, Action.CLOSE)

    @precondition(can_perform)
    @rule()
    def perform(self) -> None:
        self.performing = self.server.due
        if self.performing is Action.START:
            self.start()
        self.server.performing()

    def start(self) -> None:
        request = self.server.current
        assert request is not None
        assert self.engine is None
        if request.ticket:
            self.engine = self.ahead.pop(request.ticket)
            assert self.engine.request is request
        else:
            assert not self.ahead or self.leaves or self.gone
            self.engine = self.evaluate(request)

    def evaluate(self, request: ServerRequest) -> Evaluation:
        assert not self.stopped
        assert not (self.leaves or self.gone) or request.number is None
        assert request.outcome is Outcome.NONE
        assert request not in self.started
        self.started.append(request)
        return Evaluation(request)

    @rule()
    def start_ahead(self) -> None:
        request = self.server.next_ahead()
        if request is None:
            return
        assert self.server.current is not None
        assert None not in (request.number, self.server.current.number)
        ticket = len(self.started) + 1
        self.ahead[ticket] = self.evaluate(request)
        self.server.started_ahead(ticket)

    def reporting(self, *actions: Action) -> bool:
        """Whether the end of one of these actions may be reported: it is being performed, or is performed at once."""
        return (self.performing or self.server.due) in actions

    @precondition(lambda self: self.reporting(Action.START))
    @rule(reply=st.sampled_from(["value", "failure", "stopped", "parts"]))
    def reply(self, reply: str) -> None:
        if self.performing is None:
            assert self.server.current is not None
            if self.server.current.number is None:
                return  # a post always takes some time
            self.start()
        self.performing = None
        assert self.engine is not None
        if self.engine.request.number is None:
            self.engine = None
            self.server.post_done()
        elif reply == "parts":
            self.engine.parts = 2
            self.server.replied(Result(b"begin"), 2)
        else:
            self.engine = None
            code = "cancel" if reply == "stopped" else "type"
            self.server.replied(Result(string_frame("value")) if reply == "value" else Failure(code, ""))

    @precondition(lambda self: self.reporting(Action.READ_PART))
    @rule()
    def read_part(self) -> None:
        self.performing = None
        assert self.engine is not None
        assert self.engine.parts is not None
        self.engine.parts -= 1
        unread = self.engine.parts
        if not unread:
            self.engine = None
        self.server.part_received(b"part", unread)

    @precondition(lambda self: self.reporting(Action.SEND, Action.SEND_PART))
    @rule(fails=st.booleans())
    def sent(self, fails: bool) -> None:
        self.performing = None
        current, message = self.server.current, self.server.message
        assert current is not None
        assert current.number is not None
        assert message is not None
        if isinstance(message, str):
            (notice,) = parse_control(message)
            assert isinstance(notice, ErrorNotice)
            assert notice.number == current.number
        if fails:
            self.gone = True
            self.server.send_failed()
            return
        if not self.server.unread:
            self.answers.append(current.number)
        self.server.sent()

    # What else can happen

    @rule(data=st.data())
    def time_out(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from([0, *self.ahead]), "ticket")
        if self.server.timed_out(ticket) is Action.STOP_ENGINE:
            self.stop_engine(self.ahead[ticket].request if ticket else None)

    @rule(how=st.sampled_from(["drain", "client leaves", "client gone", "stop", "engine lost"]))
    def end(self, how: str) -> None:
        if how == "drain":
            self.draining = True
            self.server.drain()
        elif how == "client leaves":
            self.leaves = True
            if self.server.client_leaves() is Action.STOP_ENGINE:
                self.stop_engine()
        elif how == "client gone":
            self.gone = True
            if self.server.client_gone() is Action.STOP_ENGINE:
                self.stop_engine()
        else:
            if how == "engine lost":
                self.server.engine_lost()
            elif self.server.stop() is Action.STOP_ENGINE:
                self.stop_engine()
            self.stopped = True

    def stop_engine(self, request: ServerRequest | None = None) -> None:
        """Have the engine stop the request it runs, which must be the one that is meant."""
        assert not self.stopped
        request = request or self.server.current
        evaluations = [self.engine, *self.ahead.values()]
        (evaluation,) = [one for one in evaluations if one is not None and one.request is request]
        assert evaluation.parts is None
        evaluation.stops += 1
        assert evaluation.stops == 1

    # What must be true at any time, and in the end

    @invariant()
    def requests_are_answered_once_and_in_order(self) -> None:
        assert self.answers == list(range(1, len(self.answers) + 1))
        assert self.server.answered == len(self.answers)

    @invariant()
    def requests_and_posts_are_started_in_order(self) -> None:
        positions = [self.arrived.index(request) for request in self.started]
        assert positions == sorted(positions)

    @invariant()
    def the_queue_is_counted(self) -> None:
        queue = self.server._queue
        assert self.server._queued_bytes == sum(len(request.frame) for request in queue) >= 0
        assert list(self.server._queued_numbers.values()) == [one for one in queue if one.number is not None]

    def teardown(self) -> None:
        while self.performing or self.can_perform():
            if self.reporting(Action.START):
                if self.performing is None:
                    self.perform()
                self.reply("value")
            elif self.reporting(Action.READ_PART):
                self.read_part()
            else:
                self.sent(fails=False)
        done = self.server.state is ConnectionState.CLOSED
        assert done == (self.draining or self.gone or self.stopped)
        assert all(request.state is RequestState.DONE for request in self.arrived)
        if self.stopped:
            return
        on_time = [request for request in self.arrived if request.outcome is not Outcome.CLOSING]
        posts = [request for request in on_time if request.number is None]
        assert [request for request in self.started if request.number is None] == posts
        if not (self.leaves or self.gone):
            assert set(self.answers) >= {request.number for request in on_time} - {None}
            never_started = (Outcome.INVALID, Outcome.BUSY)
            assert not [request for request in self.started if request.outcome in never_started]


def test_each_request_is_answered_once_in_order_and_stops_hit_no_other() -> None:
    run_state_machine_as_test(Interleavings, settings=settings())


class Traced(Interleavings):
    """The same with a span for each request, and one for its time in the engine."""

    def new_traced(self) -> NewRequest:
        self.recorder = Recorder()
        tracing = find_tracing(self.recorder.provider, queries=False)
        assert tracing is not None
        self.spans = RequestSpans(tracing, 1)
        return self.spans.request

    @invariant()
    def the_spans_follow_the_states(self) -> None:
        running = 0
        for request in self.arrived:
            assert isinstance(request, TracedRequest)
            assert request.span.span.is_recording() == (request.state is not RequestState.DONE)
            running += request.state is RequestState.RUNNING
        engine = [span for span in self.recorder.open if span.name == "rayforce engine"]
        assert len(engine) == running

    def teardown(self) -> None:
        super().teardown()
        self.spans.close()
        assert not self.recorder.open
        assert len(self.recorder.ended) == len(self.recorder.started)
        assert len(self.recorder.named("rayforce engine")) <= len(self.started)


def test_each_span_ends_once_whatever_happens_to_its_request() -> None:
    run_state_machine_as_test(Traced, settings=settings())
