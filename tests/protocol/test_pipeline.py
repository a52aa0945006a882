"""The server's request pipeline: its messages, its bounds, and every event in every state."""

from collections import deque
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import (
    COMPRESSED_FLAG,
    MAX_WAITING_POSTS,
    VERBOSE_FLAG,
    Action,
    CancelRequested,
    ConnectionState,
    Failure,
    Frame,
    Header,
    HelloNotice,
    MessageType,
    NextBatch,
    Outcome,
    ProtocolViolation,
    Reply,
    RequestPipeline,
    RequestState,
    Result,
    ServerRequest,
    TraceNotice,
    UnsubscribeNotice,
    dump_cancel,
    dump_error,
    dump_hello,
    dump_trace,
    dump_unsubscribe,
    join_verbose,
    split_verbose,
    string_frame,
)
from rayforce_trio._protocol._pipeline import REQUEST_OVERHEAD
from rayforce_trio._values._payloads import call, i64


def frame(message_type: MessageType, payload: bytes = b"\x7e", flags: int = 0) -> bytes:
    return Header(flags, message_type, len(payload)).pack() + payload


REQUEST = frame(MessageType.SYNC)
POST = frame(MessageType.ASYNC)
COMPRESSED = frame(MessageType.SYNC, flags=COMPRESSED_FLAG)
RESPONSE = string_frame("value")
VALUE = Result(RESPONSE)
CANCELLED = Failure("cancel", "the client cancelled the request")
CLOSING = Failure("closing", "the server is shutting down, and did not start the query")
STOPPED = Failure("cancel", "")
"""The engine's reply to a request that it stopped."""

BOTH = pytest.mark.parametrize("extended", [True, False], ids=["extended", "baseline"])


def receive(server: RequestPipeline, message: bytes | str = REQUEST) -> ServerRequest:
    arrived = server.receive(message)
    assert isinstance(arrived, ServerRequest)
    return arrived


def run(server: RequestPipeline, message: bytes | str = REQUEST) -> ServerRequest:
    """Have a request or post arrive and the engine start it."""
    request = receive(server, message)
    assert (server.current, server.due) == (request, Action.START)
    server.performing()
    return request


def answer(server: RequestPipeline, reply: Reply = VALUE) -> object:
    """Report the engine's reply to the current request; return the answer, which is sent."""
    server.replied(reply)
    return sent(server)


def sent(server: RequestPipeline) -> object:
    """Send the message that is due, and return it."""
    assert server.due is Action.SEND
    message = server.message
    server.sent()
    return message


def cancel(server: RequestPipeline, number: int) -> CancelRequested | None:
    arrived = server.receive(dump_cancel(number))
    assert not isinstance(arrived, ServerRequest)
    return arrived


# Messages


@BOTH
def test_requests_are_numbered_in_the_order_of_arrival(extended: bool) -> None:
    server = RequestPipeline(extended=extended)
    requests = [receive(server, frame(MessageType.SYNC, bytes([payload]))) for payload in (7, 8, 9)]
    assert [(r.number, r.frame[-1], r.failure) for r in requests] == [(1, 7, None), (2, 8, None), (3, 9, None)]


@BOTH
def test_a_value_is_answered_with_its_frame(extended: bool) -> None:
    server = RequestPipeline(extended=extended)
    request = run(server)
    assert answer(server) is RESPONSE
    assert (request.state, request.failure, server.answered) == (RequestState.DONE, None, 1)


@pytest.mark.parametrize(
    ("extended", "failure", "message"),
    [
        (True, Failure("type", "no"), dump_error(1, "type", "no")),
        (True, Failure("parse", ""), dump_error(1, "parse", "")),
        (False, Failure("type", "no"), string_frame("type: no")),
        (False, Failure("parse", ""), string_frame("parse")),
    ],
)
def test_a_failure_is_answered_in_the_form_of_the_protocol(
    extended: bool, failure: Failure, message: bytes | str
) -> None:
    server = RequestPipeline(extended=extended)
    request = run(server)
    assert answer(server, failure) == message
    assert request.failure is failure


def test_a_post_has_no_number_and_is_not_answered() -> None:
    server = RequestPipeline(extended=True)
    post = run(server, POST)
    assert (post.number, post.frame) == (None, POST)
    assert receive(server).number == 1
    with pytest.raises(ValueError, match=r"^no request is running$"):
        server.replied(VALUE)
    server.post_done()
    assert (post.state, server.message, server.due) == (RequestState.DONE, None, Action.START)


@pytest.mark.parametrize("message_type", MessageType)
def test_in_the_baseline_every_frame_is_a_request(message_type: MessageType) -> None:
    server = RequestPipeline(extended=False)
    assert receive(server, frame(message_type)).number == 1


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        ("(+ 1 2)", Failure("type", "expected a binary message, got text")),
        (dump_cancel(1), Failure("type", "expected a binary message, got text")),
        (b"", Failure("domain", "a frame needs a header of 16 bytes, but has 0 bytes")),
        (REQUEST + b"\0", Failure("domain", "the header announces 1 byte, but 2 follow")),
        (COMPRESSED, Failure("nyi", "compressed requests are not supported")),
    ],
)
def test_in_the_baseline_an_invalid_message_is_answered_in_its_turn(message: bytes | str, failure: Failure) -> None:
    server = RequestPipeline(extended=False)
    run(server)
    invalid, after = receive(server, message), receive(server)
    assert (invalid.number, invalid.outcome, invalid.failure, invalid.frame) == (2, Outcome.INVALID, failure, b"")
    assert (after.number, after.failure) == (3, None)
    assert answer(server) == RESPONSE
    assert sent(server) == string_frame(str(failure))
    assert (server.current, server.due) == (after, Action.START)


@pytest.mark.parametrize("busy", [False, True])
def test_an_invalid_request_is_answered_without_the_engine_and_an_invalid_post_is_dropped(busy: bool) -> None:
    server = RequestPipeline(extended=True)
    if busy:
        run(server)
    post = receive(server, frame(MessageType.ASYNC, flags=COMPRESSED_FLAG))
    request = receive(server, COMPRESSED)
    assert (post.state, post.outcome, str(post.failure)) == (
        RequestState.DONE,
        Outcome.INVALID,
        "nyi: compressed requests are not supported",
    )
    if busy:
        answer(server)
    assert request.number is not None
    assert sent(server) == dump_error(request.number, "nyi", "compressed requests are not supported")


def test_messages_for_clients_only_are_ignored() -> None:
    server = RequestPipeline(extended=True)
    run(server)
    assert server.receive(dump_error(1, "type", "no")) is None
    assert server.receive('{"hello": {}}') is None


VIOLATIONS = [
    (frame(MessageType.RESPONSE), "^a reply from the client, but the server has sent no request$"),
    (b"\x01\x00", "^a frame needs a header of 16 bytes, but has 2 bytes$"),
    (REQUEST + b"\0", "^the header announces 1 byte, but 2 follow$"),
    ("(+ 1 2)", "^a text message that is not JSON$"),
    ("[]", "^a text message that is not a JSON object$"),
    ('{"cancel": true}', "^a request number must be an integer above 0$"),
]


@pytest.mark.parametrize(("message", "reason"), VIOLATIONS)
def test_a_message_that_a_client_must_not_send_changes_nothing(message: bytes | str, reason: str) -> None:
    server = RequestPipeline(extended=True)
    with pytest.raises(ProtocolViolation, match=reason):
        server.receive(message)
    assert server.due is Action.NOTHING
    assert receive(server).number == 1


messages: st.SearchStrategy[Any] = (
    st.binary()
    | st.text()
    | st.builds(frame, st.sampled_from(MessageType), st.binary(min_size=1))
    | st.builds(dump_error, st.integers(-1, 4), st.text(), st.text())
    | st.builds(dump_cancel, st.integers(-1, 4))
)


@given(st.lists(messages))
def test_arbitrary_messages_raise_nothing_but_violations(arriving: list[bytes | str]) -> None:
    server = RequestPipeline(extended=True)
    numbers = []
    for message in arriving:
        try:
            arrived = server.receive(message)
        except ProtocolViolation:
            continue
        if isinstance(arrived, ServerRequest) and arrived.number is not None:
            numbers.append(arrived.number)
    assert numbers == list(range(1, len(numbers) + 1))


@given(st.lists(messages))
def test_in_the_baseline_every_message_is_a_request_and_raises_nothing(arriving: list[bytes | str]) -> None:
    server = RequestPipeline(extended=False)
    assert [receive(server, message).number for message in arriving] == list(range(1, len(arriving) + 1))


# Cancelled requests


def test_a_cancelled_request_that_waits_keeps_its_place_is_not_started_and_lets_go_of_its_frame() -> None:
    server = RequestPipeline(extended=True)
    first, second = run(server), receive(server)
    assert cancel(server, 2) == CancelRequested(second, running=False)
    assert (second.outcome, second.failure, second.frame) == (Outcome.CANCELLED, CANCELLED, b"")
    assert (first.outcome, first.frame) == (Outcome.NONE, REQUEST)
    answer(server)
    assert sent(server) == dump_error(2, "cancel", "the client cancelled the request")


@pytest.mark.parametrize("reply", [STOPPED, VALUE], ids=["stopped", "value"])
def test_a_cancelled_request_that_runs_is_stopped_once_and_answered_with_the_reply_of_the_engine(reply: Reply) -> None:
    server = RequestPipeline(extended=True)
    request = run(server)
    assert cancel(server, 1) == CancelRequested(request, running=True)
    assert cancel(server, 1) is None
    assert (server.timed_out(), server.stop()) == (Action.NOTHING, Action.NOTHING)
    server = RequestPipeline(extended=True)
    run(server)
    cancel(server, 1)
    assert answer(server, reply) == (RESPONSE if reply is VALUE else dump_error(1, "cancel", ""))


def test_a_request_that_is_cancelled_before_the_engine_has_started_it_is_never_started() -> None:
    """The worker task was told to start it, but has not run yet."""
    server = RequestPipeline(extended=True)
    request = receive(server)
    assert server.due is Action.START
    assert cancel(server, 1) == CancelRequested(request, running=False)
    assert (server.due, server.message) == (Action.SEND, dump_error(1, "cancel", "the client cancelled the request"))


@pytest.mark.parametrize("number", [1, 4, 10**30])
def test_cancelling_a_request_that_is_not_open_does_nothing(number: int) -> None:
    """1 is answered; 4 and more have not arrived."""
    server = RequestPipeline(extended=True)
    run(server)
    answer(server)
    run(server)
    receive(server)
    assert cancel(server, number) is None
    assert receive(server).outcome is Outcome.NONE


def test_cancelling_a_request_that_waits_twice_is_cancelling_it_once() -> None:
    server = RequestPipeline(extended=True)
    run(server)
    receive(server)
    assert cancel(server, 2) is not None
    assert cancel(server, 2) is None


# Requests that run for too long


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (STOPPED, Failure("timeout", "the query ran for more than 2 seconds and was stopped (query_timeout)")),
        (Failure("type", "no"), Failure("type", "no")),
        (VALUE, VALUE),
    ],
)
def test_a_request_that_timed_out_says_so_unless_the_engine_finished_first(reply: Reply, expected: Reply) -> None:
    server = RequestPipeline(extended=True, query_timeout=2.0)
    request = run(server)
    assert server.timed_out() is Action.STOP_ENGINE
    assert request.outcome is Outcome.TIMED_OUT
    assert server.timed_out() is Action.NOTHING
    assert cancel(server, 1) is None
    if isinstance(expected, Failure):
        assert answer(server, reply) == dump_error(1, expected.code, expected.message)
    else:
        assert answer(server, reply) is expected.frame


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (STOPPED, Failure("timeout", "the query ran for more than 2 seconds and was stopped (query_timeout)")),
        (Failure("type", ""), Failure("type", "")),
    ],
)
def test_a_verbose_request_that_timed_out_keeps_its_output(reply: Reply, expected: Failure) -> None:
    server = RequestPipeline(extended=True, query_timeout=2.0)
    run(server, frame(MessageType.SYNC, flags=VERBOSE_FLAG))
    server.timed_out()
    message = answer(server, join_verbose(b"printed", reply))
    assert isinstance(message, bytes)
    assert split_verbose(message) == ("printed", expected)


def test_a_verbose_reply_without_an_error_or_that_cannot_be_read_is_passed_on() -> None:
    for reply in (join_verbose(b"printed", VALUE), VALUE):
        server = RequestPipeline(extended=True, query_timeout=2.0)
        run(server, frame(MessageType.SYNC, flags=VERBOSE_FLAG))
        server.timed_out()
        assert answer(server, reply) is reply.frame


# Replies in parts


@pytest.mark.parametrize("gone", [False, True])
def test_a_reply_in_parts_is_read_to_its_end_even_if_the_client_is_gone(gone: bool) -> None:
    server = RequestPipeline(extended=True)
    run(server)
    server.replied(Result(b"abc"), 5)
    assert (server.due, server.message) == (Action.SEND_PART, b"abc")
    server.performing()
    if gone:
        server.client_gone()
    server.sent()
    for data, unread in ((b"de", 3), (b"fgh", 0)):
        assert server.due is Action.READ_PART
        server.performing()
        server.part_received(data, unread)
        if not gone:
            assert (server.due, server.message, server.unread) == (Action.SEND_PART, data, unread)
            server.sent()
    assert (server.due, server.answered) == (Action.CLOSE, 0) if gone else (Action.NOTHING, 1)


# Bounds


def test_requests_beyond_max_in_flight_are_refused_in_their_turn_and_posts_never() -> None:
    server = RequestPipeline(extended=True, max_in_flight=2)
    run(server)
    second, refused, post, refused_too = (receive(server, message) for message in (REQUEST, REQUEST, POST, REQUEST))
    assert [r.outcome for r in (second, post)] == [Outcome.NONE] * 2
    assert [(r.outcome, r.frame) for r in (refused, refused_too)] == [(Outcome.BUSY, b"")] * 2
    assert server.busy == 2
    answer(server)
    assert server.current is second
    answer(server)
    limit = "this connection has reached its limit of 2 unanswered requests (max_in_flight)"
    assert sent(server) == dump_error(3, "busy", limit)
    assert server.current is post
    server.performing()
    server.post_done()
    assert sent(server) == dump_error(4, "busy", limit)
    assert run(server).outcome is Outcome.NONE


def test_a_request_whose_answer_is_being_sent_is_no_longer_in_flight() -> None:
    """A client that has received the answer may send the next request before the server notices."""
    server = RequestPipeline(extended=True, max_in_flight=1)
    run(server)
    server.replied(VALUE)
    server.performing()
    assert receive(server).outcome is Outcome.NONE


@pytest.fixture
def two_may_wait(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Lower a limit, "posts" or "bytes"; return a message of which two may wait."""
    if request.param == "posts":
        monkeypatch.setattr("rayforce_trio._protocol._pipeline.MAX_WAITING_POSTS", 2)
        return POST
    limit = 2 * (len(REQUEST) + REQUEST_OVERHEAD)
    monkeypatch.setattr("rayforce_trio._protocol._pipeline.MAX_WAITING_BYTES", limit)
    return REQUEST


@pytest.mark.parametrize("two_may_wait", ["posts", "bytes"], indirect=True)
def test_a_full_queue_says_so_until_there_is_room(two_may_wait: bytes) -> None:
    server = RequestPipeline(extended=True)
    run(server)
    full = []
    for _ in range(3):
        receive(server, two_may_wait)
        full.append(server.is_full)
    assert full == [False, False, True]
    answer(server)
    assert not server.is_full
    assert server.queued == 2


def test_any_number_of_requests_may_wait_to_be_refused() -> None:
    """A cancel behind them is read."""
    server = RequestPipeline(extended=True, max_in_flight=1)
    first = run(server)
    for _ in range(5 * MAX_WAITING_POSTS):
        assert receive(server).outcome is Outcome.BUSY
    assert not server.is_full
    assert cancel(server, 1) == CancelRequested(first, running=True)


def wait(server: RequestPipeline, intervals: int) -> None:
    for _ in range(intervals):
        assert server.is_full
        server.waited()


@pytest.mark.parametrize("two_may_wait", ["posts", "bytes"], indirect=True)
def test_a_client_with_too_much_waiting_is_disconnected_if_nothing_is_finished_for_half_a_second(
    two_may_wait: bytes,
) -> None:
    reason = "more than 2 posts are waiting" if two_may_wait is POST else r"more than \d+ bytes are waiting"
    server = RequestPipeline(extended=True)
    run(server)
    for message in (POST, two_may_wait, two_may_wait, two_may_wait, two_may_wait):
        receive(server, message)
    wait(server, 4)
    answer(server)
    wait(server, 1)  # one is finished
    server.performing()
    if server.current is not None and server.current.number is None:
        server.post_done()
        receive(server)
        receive(server, two_may_wait)
    wait(server, 4)
    with pytest.raises(ProtocolViolation, match=f"^{reason} for the engine$") as violation:
        server.waited()
    assert violation.value.code == 1008


@pytest.mark.parametrize("two_may_wait", ["posts"], indirect=True)
def test_a_client_that_only_posts_gets_ten_seconds(two_may_wait: bytes) -> None:
    """It has nothing to cancel, and the engine may be busy for others."""
    server = RequestPipeline(extended=True)
    run(server, POST)
    for _ in range(3):
        receive(server, two_may_wait)
    wait(server, 99)
    with pytest.raises(ProtocolViolation, match=r"^more than 2 posts are waiting"):
        server.waited()


@pytest.mark.parametrize("two_may_wait", ["posts"], indirect=True)
def test_a_client_that_receives_an_answer_is_not_disconnected(two_may_wait: bytes) -> None:
    server = RequestPipeline(extended=True)
    run(server)
    for _ in range(3):
        receive(server, two_may_wait)
    server.replied(VALUE)
    wait(server, 1000)


@pytest.mark.parametrize("two_may_wait", ["posts"], indirect=True)
def test_the_posts_of_a_client_that_leaves_are_accepted_while_others_are_carried_out(two_may_wait: bytes) -> None:
    server = RequestPipeline(extended=True)
    request = run(server)
    receive(server)
    for _ in range(3):
        receive(server, two_may_wait)
    assert server.client_leaves() is Action.STOP_ENGINE
    assert request.outcome is Outcome.CANCELLED
    assert (server.state, server.queued) == (ConnectionState.LEAVING, 3)
    wait(server, 1000)
    server.replied(STOPPED)
    for done in range(5):
        assert not server.is_full
        assert receive(server).state is RequestState.DONE  # a request, which is dropped
        if done < 3:
            receive(server, two_may_wait)
        server.performing()
        server.post_done()
    assert server.queued == 0
    server.performing()
    server.post_done()
    assert (server.state, server.due) == (ConnectionState.LEAVING, Action.NOTHING)
    assert run(server, POST).state is RequestState.RUNNING
    server.client_gone()
    server.post_done()
    assert (server.state, server.due) == (ConnectionState.CLOSED, Action.CLOSE)


def test_one_request_of_any_size_may_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._protocol._pipeline.MAX_WAITING_BYTES", 10)
    server = RequestPipeline(extended=True)
    run(server)
    receive(server)
    assert not server.is_full
    receive(server)
    assert server.is_full


def test_cancelling_a_request_that_waits_gives_room(monkeypatch: pytest.MonkeyPatch) -> None:
    large = frame(MessageType.SYNC, bytes(10 * REQUEST_OVERHEAD))
    monkeypatch.setattr("rayforce_trio._protocol._pipeline.MAX_WAITING_BYTES", 5 * len(large) // 2)
    server = RequestPipeline(extended=True)
    run(server)
    for _ in range(3):
        receive(server, large)
    assert server.is_full
    cancel(server, 3)
    assert not server.is_full


# The end


# A request that is started ahead of its turn


def with_two(*events: str) -> tuple[RequestPipeline, ServerRequest]:
    """Return a pipeline with a request that runs, and the request behind it, to which some events happened."""
    server = RequestPipeline(extended=True, query_timeout=1.0)
    run(server)
    second = receive(server)
    for event in events:
        AHEAD_EVENTS[event](server)
    return server, second


AHEAD_EVENTS: dict[str, Callable[[RequestPipeline], object]] = {
    "ahead": lambda server: server.started_ahead(7),
    "answer": answer,
    "performing": lambda server: server.performing(),
    "cancel": lambda server: server.receive(dump_cancel(2)),
    "timed out": lambda server: server.timed_out(7),
    "drain": lambda server: server.drain(),
    "leaves": lambda server: server.client_leaves(),
    "client gone": lambda server: server.client_gone(),
    "stop": lambda server: server.stop(),
    "engine lost": lambda server: server.engine_lost(),
}

# `answer` is the answer to the request whose turn it is. The columns are the states of the second request: it waits,
# was started `ahead`, has its `turn`, or its reply is awaited in its turn (`run`); `stopped`: the engine was told to
# stop it. The cells are the states after an event. `!`: the engine is to stop the request; `.`: the state is the same;
# `x`: a `ValueError`; `refused`: it will be answered without the engine; `done`: it was answered or dropped.
AHEAD_TABLE = """
            waiting  ahead       ahead-stopped  turn       turn-stopped  run       run-stopped
ahead       ahead    x           x              x          x             x         x
answer      start    turn        turn-stopped   done       done          done      done
performing  x        x           x              run        run-stopped   x         x
cancel      refused  ahead-stopped!  .          turn-stopped!  .         run-stopped!  .
timed out   .        ahead-stopped!  .          turn-stopped!  .         run-stopped!  .
drain       .        .           .              .          .             .         .
leaves      done     done        done           done       done          run-stopped!  .
client gone done     done        done           done       done          run-stopped!  .
stop        done     done        done           done!      done          run-stopped!  .
engine lost done     done        done           done       done          .         .
"""

AHEAD_ROUTES = {
    "waiting": [],
    "ahead": ["ahead"],
    "ahead-stopped": ["ahead", "cancel"],
    "turn": ["ahead", "answer"],
    "turn-stopped": ["ahead", "answer", "cancel"],
    "run": ["ahead", "answer", "performing"],
    "run-stopped": ["ahead", "answer", "performing", "cancel"],
}


def observe_second(server: RequestPipeline, request: ServerRequest) -> str:
    if request.state is RequestState.DONE:
        return "done"
    if request.failure is not None:
        return "refused"
    if request.state is RequestState.QUEUED:
        return "start" if server.current is request else "waiting"
    assert (request.state, request.ticket) == (RequestState.RUNNING, 7)
    state = "ahead" if server.current is not request else "turn" if server.due is Action.START else "run"
    return state if request.outcome is Outcome.NONE else f"{state}-stopped"


@pytest.mark.parametrize("state", AHEAD_ROUTES)
def test_every_event_for_a_request_that_is_started_ahead(state: str) -> None:
    index = list(AHEAD_ROUTES).index(state)
    head, *rows = AHEAD_TABLE.strip("\n").split("\n")
    assert head.split()[index] == state
    assert [row[:12].strip() for row in rows] == list(AHEAD_EVENTS)
    for row in rows:
        event = row[:12].strip()
        server, second = with_two(*AHEAD_ROUTES[state])
        assert observe_second(server, second) == state
        concerns_first = event in ("leaves", "client gone", "stop") and server.current is not second
        try:
            result = AHEAD_EVENTS[event](server)
        except ValueError:
            cell = "x"
        else:
            after = observe_second(server, second)
            stops = result is Action.STOP_ENGINE or (isinstance(result, CancelRequested) and result.running)
            stops = stops and not concerns_first
            cell = "." if (after, stops) == (state, False) else after + "!" * stops
        assert cell == row[12:].split()[index], event


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("reply", [VALUE, STOPPED])
def test_a_request_that_was_started_ahead_is_answered_with_its_reply(stopped: bool, reply: Reply) -> None:
    server, _ = with_two("ahead", *["cancel"] * stopped, "answer")
    assert answer(server, reply) == (RESPONSE if reply is VALUE else dump_error(2, "cancel", ""))
    assert server.due is Action.NOTHING


def test_a_request_ahead_times_out_while_an_answer_with_the_same_ticket_is_being_sent() -> None:
    server, _ = with_two("ahead", "answer")
    server.replied(VALUE)
    third = receive(server)
    server.started_ahead(7)
    assert server.timed_out(7) is Action.STOP_ENGINE
    assert third.outcome is Outcome.TIMED_OUT
    assert server.timed_out(7) is Action.NOTHING


def test_requests_are_started_ahead_in_order_except_those_that_are_answered_without_the_engine() -> None:
    server = RequestPipeline(extended=True)
    assert server.next_ahead() is None
    first = receive(server)
    requests = [receive(server) for _ in range(4)]
    assert server.next_ahead() is None  # the first one has not started
    server.performing()
    assert server.next_ahead() is requests[0]
    cancel(server, 3)
    receive(server, COMPRESSED)
    tickets = {}
    for ticket in (1, 2, 3):
        request = server.next_ahead()
        assert request is not None
        tickets[request.number] = ticket
        server.started_ahead(ticket)
    assert tickets == {2: 1, 4: 2, 5: 3}
    assert server.next_ahead() is None
    with pytest.raises(ValueError, match=r"^no request can be started ahead$"):
        server.started_ahead(4)
    last = receive(server)
    assert server.next_ahead() is last
    assert server.current is first
    answers = [answer(server)]
    while server.current is not last:
        answers.append(sent(server) if server.due is Action.SEND else answer(server))
    assert len(answers) == 6
    assert server.next_ahead() is None


def test_refused_requests_are_skipped_in_several_steps_when_others_are_started_ahead() -> None:
    server = RequestPipeline(extended=True)
    run(server)
    for _ in range(200):
        receive(server, COMPRESSED)
    last = receive(server)
    steps = []
    while server.next_ahead() is None:
        steps.append(server.ahead)
    assert steps == [64, 128, 192]
    assert server.next_ahead() is last


def test_a_post_never_runs_beside_a_request() -> None:
    server = RequestPipeline(extended=True)
    run(server)
    receive(server, POST)
    last = receive(server)
    assert server.next_ahead() is None
    answer(server)
    server.performing()
    assert server.next_ahead() is None
    server.post_done()
    assert server.current is last


def test_a_connection_that_drains_finishes_what_has_arrived_and_refuses_the_rest_in_its_turn() -> None:
    server = RequestPipeline(extended=True)
    run(server)
    second, post = receive(server), receive(server, POST)
    server.drain()
    late, late_post, later = receive(server), receive(server, POST), receive(server)
    assert [(r.outcome, r.failure) for r in (late, later)] == [(Outcome.CLOSING, CLOSING)] * 2
    assert (late_post.state, late_post.outcome, server.late_posts) == (RequestState.DONE, Outcome.CLOSING, 1)
    answer(server)
    assert server.current is second
    answer(server)
    assert server.current is post
    server.performing()
    server.post_done()
    assert server.state is ConnectionState.CLOSING
    assert sent(server) == dump_error(3, CLOSING.code, CLOSING.message)
    assert sent(server) == dump_error(4, CLOSING.code, CLOSING.message)
    assert (server.state, server.due) == (ConnectionState.CLOSED, Action.CLOSE)


def test_a_client_that_keeps_sending_does_not_delay_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is accepted once its first refused request is the next to be answered, and the reader is not held up."""
    monkeypatch.setattr("rayforce_trio._protocol._pipeline.MAX_WAITING_BYTES", 2 * REQUEST_OVERHEAD)
    server = RequestPipeline(extended=True)
    run(server)
    server.drain()
    for _ in range(5):
        receive(server)
    assert server.is_full
    answer(server)
    assert not server.is_full
    dropped = receive(server)
    assert (dropped.state, dropped.outcome) == (RequestState.DONE, Outcome.CLOSING)
    for _ in range(5):
        assert not server.is_full
        sent(server)
    assert server.due is Action.CLOSE
    assert server.unanswered == 1


def test_when_the_client_is_gone_only_posts_are_carried_out() -> None:
    server = RequestPipeline(extended=True)
    request = run(server)
    first_post, dropped, second_post = receive(server, POST), receive(server), receive(server, POST)
    assert server.client_gone() is Action.STOP_ENGINE
    assert server.client_gone() is Action.NOTHING
    assert (request.outcome, dropped.state, dropped.frame) == (Outcome.CANCELLED, RequestState.DONE, b"")
    server.replied(STOPPED)
    for post in (first_post, second_post):
        assert server.current is post
        server.performing()
        server.post_done()
    assert (server.due, server.answered, server.unanswered) == (Action.CLOSE, 0, 2)


def test_a_stop_drops_everything_and_reports_that_are_still_to_come_change_nothing() -> None:
    server = RequestPipeline(extended=True)
    running, waiting = run(server), receive(server, POST)
    assert server.unfinished == 2
    assert server.stop() is Action.STOP_ENGINE
    assert (running.outcome, waiting.state) == (Outcome.CLOSING, RequestState.DONE)
    server.replied(VALUE)
    assert (server.due, server.message, server.unfinished) == (Action.CLOSE, None, 0)


# Every event in every state

EVENTS: dict[str, Callable[[RequestPipeline], object]] = {
    "request": lambda server: server.receive(REQUEST),
    "post": lambda server: server.receive(POST),
    "invalid": lambda server: server.receive(COMPRESSED),
    "at once": lambda server: server.answered_at_once(),
    "cancel": lambda server: server.receive(dump_cancel((server.current and server.current.number) or 999)),
    "performing": lambda server: server.performing(),
    "reply": lambda server: server.replied(VALUE),
    "first part": lambda server: server.replied(VALUE, 10),
    "next part": lambda server: server.part_received(b"x", 5),
    "last part": lambda server: server.part_received(b"x", 0),
    "sent": lambda server: server.sent(),
    "send failed": lambda server: server.send_failed(),
    "post done": lambda server: server.post_done(),
    "timed out": lambda server: server.timed_out(),
    "waited": lambda server: server.waited(),
    "drain": lambda server: server.drain(),
    "leaves": lambda server: server.client_leaves(),
    "client gone": lambda server: server.client_gone(),
    "stop": lambda server: server.stop(),
    "engine lost": lambda server: server.engine_lost(),
}

# The columns are states: of the connection (S: serving, L: leaving, D: draining, C: closing, X: closed), and of the
# current request or post: `start`, `send`, `part` and `read` are due; `run`, `sending`, `parting` and `reading` are
# being performed; `stopped` runs, but the engine has been told to stop it.
# The cells are the states after the event. `!`: the engine is stopped; `+`: the request waits in the queue; `.`: the
# state is the same; `x`: a `ValueError`, since the I/O code reports something that it has not been asked to do.
TABLE = """
            S:idle     S:start    S:startp   S:run      S:stopped  S:runp     S:stoppedp
request     start      +          +          +          +          +          +
post        startp     +          +          +          +          +          +
invalid     send       +          +          +          +          +          +
at once     .          x          x          x          x          x          x
cancel      .          send       .          stopped!   .          .          .
performing  x          run        runp       x          x          x          x
reply       x          send       x          send       send       x          x
first part  x          part       x          part       part       x          x
next part   x          x          x          x          x          x          x
last part   x          x          x          x          x          x          x
sent        x          x          x          x          x          x          x
send failed x          x          x          x          x          x          x
post done   x          x          x          x          x          idle       idle
timed out   .          .          .          stopped!   .          stoppedp!  .
waited      .          .          .          .          .          .          .
drain       X:idle     D:start    D:startp   D:run      D:stopped  D:runp     D:stoppedp
leaves      L:idle     L:idle     L:startp   L:stopped! L:stopped  L:runp     L:stoppedp
client gone X:idle     X:idle     C:startp   C:stopped! C:stopped  C:runp     C:stoppedp
stop        X:idle     X:idle     X:idle     X:stopped! X:stopped  X:stoppedp!X:stoppedp
engine lost X:idle     X:idle     X:idle     X:run      X:stopped  X:runp     X:stoppedp

            S:send     S:sending  S:part     S:parting  S:read     S:reading
request     +          +          +          +          +          +
post        +          +          +          +          +          +
invalid     +          +          +          +          +          +
at once     x          x          x          x          x          x
cancel      .          .          .          .          .          .
performing  sending    x          parting    x          reading    x
reply       x          x          x          x          x          x
first part  x          x          x          x          x          x
next part   x          x          x          x          part       part
last part   x          x          x          x          send       send
sent        idle       idle       read       read       x          x
send failed X:idle     X:idle     C:read     C:read     x          x
post done   x          x          x          x          x          x
timed out   .          .          .          .          .          .
waited      .          .          .          .          .          .
drain       D:send     D:sending  D:part     D:parting  D:read     D:reading
leaves      L:idle     L:sending  L:read     L:parting  L:read     L:reading
client gone X:idle     C:sending  C:read     C:parting  C:read     C:reading
stop        X:idle     X:sending  X:idle     X:parting  X:idle     X:reading
engine lost X:idle     X:sending  X:idle     X:parting  X:idle     X:reading

            L:idle     L:startp   L:stopped  L:runp     L:stoppedp
request     .          .          .          .          .
post        startp     +          +          +          +
invalid     .          .          .          .          .
at once     x          x          x          x          x
cancel      .          .          .          .          .
performing  x          runp       x          x          x
reply       x          x          idle       x          x
first part  x          x          read       x          x
next part   x          x          x          x          x
last part   x          x          x          x          x
sent        x          x          x          x          x
send failed x          x          x          x          x
post done   x          x          x          idle       idle
timed out   .          .          .          stoppedp!  .
waited      .          .          .          .          .
drain       X:idle     C:startp   C:stopped  C:runp     C:stoppedp
leaves      .          .          .          .          .
client gone X:idle     C:startp   C:stopped  C:runp     C:stoppedp
stop        X:idle     X:idle     X:stopped  X:stoppedp!X:stoppedp
engine lost X:idle     X:idle     X:stopped  X:runp     X:stoppedp

            L:sending  L:parting  L:read     L:reading
request     .          .          .          .
post        +          +          +          +
invalid     .          .          .          .
at once     x          x          x          x
cancel      .          .          .          .
performing  x          x          reading    x
reply       x          x          x          x
first part  x          x          x          x
next part   x          x          .          read
last part   x          x          idle       idle
sent        idle       read       x          x
send failed X:idle     C:read     x          x
post done   x          x          x          x
timed out   .          .          .          .
waited      .          .          .          .
drain       C:sending  C:parting  C:read     C:reading
leaves      .          .          .          .
client gone C:sending  C:parting  C:read     C:reading
stop        X:sending  X:parting  X:idle     X:reading
engine lost X:sending  X:parting  X:idle     X:reading

            D:start    D:startp   D:run      D:stopped  D:runp     D:stoppedp D:send
request     +          +          +          +          +          +          +
post        .          .          .          .          .          .          .
invalid     +          +          +          +          +          +          +
at once     x          x          x          x          x          x          x
cancel      send       .          stopped!   .          .          .          .
performing  run        runp       x          x          x          x          sending
reply       send       x          send       send       x          x          x
first part  part       x          part       part       x          x          x
next part   x          x          x          x          x          x          x
last part   x          x          x          x          x          x          x
sent        x          x          x          x          x          x          X:idle
send failed x          x          x          x          x          x          X:idle
post done   x          x          x          x          X:idle     X:idle     x
timed out   .          .          stopped!   .          stoppedp!  .          .
waited      .          .          .          .          .          .          .
drain       .          .          .          .          .          .          .
leaves      X:idle     C:startp   C:stopped! C:stopped  C:runp     C:stoppedp X:idle
client gone X:idle     C:startp   C:stopped! C:stopped  C:runp     C:stoppedp X:idle
stop        X:idle     X:idle     X:stopped! X:stopped  X:stoppedp!X:stoppedp X:idle
engine lost X:idle     X:idle     X:run      X:stopped  X:runp     X:stoppedp X:idle

            D:sending  D:part     D:parting  D:read     D:reading
request     +          +          +          +          +
post        .          .          .          .          .
invalid     +          +          +          +          +
at once     x          x          x          x          x
cancel      .          .          .          .          .
performing  x          parting    x          reading    x
reply       x          x          x          x          x
first part  x          x          x          x          x
next part   x          x          x          part       part
last part   x          x          x          send       send
sent        X:idle     read       read       x          x
send failed X:idle     C:read     C:read     x          x
post done   x          x          x          x          x
timed out   .          .          .          .          .
waited      .          .          .          .          .
drain       .          .          .          .          .
leaves      C:sending  C:read     C:parting  C:read     C:reading
client gone C:sending  C:read     C:parting  C:read     C:reading
stop        X:sending  X:idle     X:parting  X:idle     X:reading
engine lost X:sending  X:idle     X:parting  X:idle     X:reading

            C:startp   C:stopped  C:runp     C:stoppedp C:send     C:sending  C:parting
request     .          .          .          .          .          .          .
post        .          .          .          .          .          .          .
invalid     .          .          .          .          .          .          .
at once     x          x          x          x          x          x          x
cancel      .          .          .          .          .          .          .
performing  runp       x          x          x          sending    x          x
reply       x          X:idle     x          x          x          x          x
first part  x          read       x          x          x          x          x
next part   x          x          x          x          x          x          x
last part   x          x          x          x          x          x          x
sent        x          x          x          x          X:idle     X:idle     read
send failed x          x          x          x          X:idle     X:idle     read
post done   x          x          X:idle     X:idle     x          x          x
timed out   .          .          stoppedp!  .          .          .          .
waited      .          .          .          .          .          .          .
drain       .          .          .          .          .          .          .
leaves      .          .          .          .          X:idle     .          .
client gone .          .          .          .          X:idle     .          .
stop        X:idle     X:stopped  X:stoppedp!X:stoppedp X:idle     X:sending  X:parting
engine lost X:idle     X:stopped  X:runp     X:stoppedp X:idle     X:sending  X:parting

            C:read     C:reading
request     .          .
post        .          .
invalid     .          .
at once     x          x
cancel      .          .
performing  reading    x
reply       x          x
first part  x          x
next part   .          read
last part   X:idle     X:idle
sent        x          x
send failed x          x
post done   x          x
timed out   .          .
waited      .          .
drain       .          .
leaves      .          .
client gone .          .
stop        X:idle     X:reading
engine lost X:idle     X:reading

            X:idle     X:run      X:stopped  X:runp     X:stoppedp X:sending  X:parting
request     .          .          .          .          .          .          .
post        .          .          .          .          .          .          .
invalid     .          .          .          .          .          .          .
at once     x          x          x          x          x          x          x
cancel      .          .          .          .          .          .          .
performing  x          x          x          x          x          x          x
reply       x          idle       idle       x          x          x          x
first part  x          idle       idle       x          x          x          x
next part   x          x          x          x          x          x          x
last part   x          x          x          x          x          x          x
sent        x          x          x          x          x          idle       idle
send failed x          x          x          x          x          idle       idle
post done   x          x          x          idle       idle       x          x
timed out   .          .          .          .          .          .          .
waited      .          .          .          .          .          .          .
drain       .          .          .          .          .          .          .
leaves      .          .          .          .          .          .          .
client gone .          .          .          .          .          .          .
stop        .          .          .          .          .          .          .
engine lost .          .          .          .          .          .          .

            X:reading
request     .
post        .
invalid     .
at once     x
cancel      .
performing  x
reply       x
first part  x
next part   idle
last part   idle
sent        x
send failed x
post done   x
timed out   .
waited      .
drain       .
leaves      .
client gone .
stop        .
engine lost .
"""

ROUTES = {
    "idle": [],
    "start": ["request"],
    "startp": ["post"],
    "run": ["request", "performing"],
    "stopped": ["request", "performing", "timed out"],
    "runp": ["post", "performing"],
    "stoppedp": ["post", "performing", "timed out"],
    "send": ["request", "reply"],
    "sending": ["request", "reply", "performing"],
    "part": ["request", "first part"],
    "parting": ["request", "first part", "performing"],
    "read": ["request", "first part", "sent"],
    "reading": ["request", "first part", "sent", "performing"],
}
"""The events that lead to each state of the current request."""


def route(state: str) -> list[str]:
    """Return the events that lead to a state."""
    connection, _, request = state.partition(":")
    refused = ["request", "performing", "request", "drain", "request", "cancel", "reply", "sent", "reply", "sent"]
    match connection, request:
        case "S", _:
            return ROUTES[request]
        case "D", _:
            return [*ROUTES[request], "drain"]
        case "L", "stopped":
            return [*ROUTES["run"], "leaves"]
        case "L", _:
            return [*ROUTES[request], "leaves"]
        case "C", "send":
            return refused
        case "C", "sending":
            return [*refused, "performing"]
        case "C", "stopped":
            return [*ROUTES["run"], "client gone"]
        case "C", _:
            return [*ROUTES[request], "client gone"]
    return [*ROUTES[request], "engine lost"]


def at(state: str) -> RequestPipeline:
    server = RequestPipeline(extended=True, query_timeout=1.0)
    for event in route(state):
        EVENTS[event](server)
    return server


def observe(server: RequestPipeline) -> str:
    """Return the state of a pipeline as the table names it."""
    connection = "X" if server.state is ConnectionState.CLOSED else server.state.name[0]
    request = server.current
    if request is None:
        return f"{connection}:idle"
    kind = "p" if request.number is None else ""
    due = server.due not in (Action.NOTHING, Action.CLOSE)
    if request.state is RequestState.QUEUED:
        return f"{connection}:start{kind}"
    if request.state is RequestState.RUNNING:
        return f"{connection}:{'run' if request.outcome is Outcome.NONE else 'stopped'}{kind}"
    if server.message is None:
        return f"{connection}:{'read' if due else 'reading'}"
    return f"{connection}:{'part' if server.unread else 'send'}{'' if due else 'ing'}"


def everything(server: RequestPipeline) -> list[object]:
    """Return all that a pipeline knows, in a form that can be compared."""
    requests = [server.current, *server._queue]
    known = {name: value for name, value in vars(server).items() if name not in ("current", "_queue")}
    known["_queued_numbers"] = list(server._queued_numbers)
    return [known, [r and (r.number, r.frame, r.failure, r.state, r.outcome) for r in requests]]


def happen(server: RequestPipeline, event: str) -> str:
    """Let an event happen; return the cell of the table."""
    before, state, queued = everything(server), observe(server), server.queued
    try:
        result = EVENTS[event](server)
    except ValueError:
        assert everything(server) == before
        return "x"
    after = observe(server)
    stops = result is Action.STOP_ENGINE or (isinstance(result, CancelRequested) and result.running)
    if after == state:
        assert not stops
        return "+" if server.queued > queued else "."
    return (after[2:] if after[0] == state[0] else after) + "!" * stops


def cells() -> Iterator[tuple[str, str, str]]:
    """Yield state, event and cell."""
    for block in TABLE.strip("\n").split("\n\n"):
        head, *rows = block.split("\n")
        for row in rows:
            event = row[:12].strip()
            yield from zip(head.split(), [event] * len(head.split()), row[12:].replace("!", "! ").split(), strict=True)


CELLS = {(state, event): cell for state, event, cell in cells()}
STATES = list(dict.fromkeys(state for state, _ in CELLS))


def test_the_table_is_complete() -> None:
    assert len(STATES) == 51
    assert set(CELLS) == {(state, event) for state in STATES for event in EVENTS}


@pytest.mark.parametrize("state", STATES)
def test_every_event_in_every_state(state: str) -> None:
    reached = at(state)
    assert observe(reached) == state
    assert reached.queued == 0
    assert {event: happen(deepcopy(reached), event) for event in EVENTS} == {
        event: CELLS[state, event] for event in EVENTS
    }


@given(st.booleans(), st.lists(messages | st.just(REQUEST) | st.sampled_from(list(EVENTS))))
def test_the_shortcut_for_a_plain_request_has_the_same_effects_as_its_steps(
    extended: bool, steps: list[bytes | str]
) -> None:
    shortcut, general = (RequestPipeline(extended=extended, max_in_flight=3, query_timeout=1.0) for _ in range(2))
    for step in steps:
        if shortcut.is_plain(step):
            shortcut.answered_at_once()
            request = receive(general, step)
            assert (request.failure, general.current, general.due) == (None, request, Action.START)
            assert answer(general) is RESPONSE
        else:
            event = EVENTS[step] if step in EVENTS else partial(RequestPipeline.receive, message=step)
            assert outcome(event, shortcut) == outcome(event, general)
        assert everything(shortcut) == everything(general)


def outcome(event: Callable[[RequestPipeline], object], server: RequestPipeline) -> str:
    """Let an event happen; return what it returned or raised, in a form that can be compared."""
    try:
        result = event(server)
    except (ValueError, ProtocolViolation) as error:
        return repr(error)
    return repr(result)


@pytest.mark.parametrize(
    ("message", "extended", "baseline"),
    [
        (REQUEST, True, True),
        (POST, False, True),
        (RESPONSE, False, True),
        (frame(MessageType.SYNC, flags=VERBOSE_FLAG), False, False),
        (COMPRESSED, False, False),
        (memoryview(REQUEST), False, False),
        (REQUEST + b"\0", False, False),
        (REQUEST[:-1], False, False),
        (b"", False, False),
        (dump_cancel(1), False, False),
    ],
)
def test_a_plain_request_is_valid_short_and_has_no_flags(message: bytes | str, extended: bool, baseline: bool) -> None:
    assert RequestPipeline(extended=True).is_plain(message) is extended
    assert RequestPipeline(extended=False).is_plain(message) is baseline


@pytest.mark.parametrize("state", STATES)
def test_a_request_is_plain_only_if_it_can_be_started_at_once(state: str) -> None:
    assert at(state).is_plain(REQUEST) is (state == "S:idle")


def check(server: RequestPipeline) -> None:
    """Check what is true at any time."""
    current, queue = server.current, server._queue
    assert server._queued_bytes == sum(len(request.frame) for request in queue)
    assert list(server._queued_numbers.values()) == [request for request in queue if request.number is not None]
    assert server.unfinished == server.queued + (current is not None)
    assert all(request.state is RequestState.QUEUED for request in queue)
    assert (server.message is not None) <= (current is not None and current.state is RequestState.STREAMING)
    match server.state:
        case ConnectionState.SERVING:
            assert (server.due is Action.NOTHING) >= (current is None)
            assert all(request.outcome is not Outcome.CLOSING for request in queue)
        case ConnectionState.LEAVING:
            assert (server.due is Action.NOTHING) >= (current is None)
            assert all(request.number is None for request in queue)
        case ConnectionState.DRAINING:
            assert current is not None
        case ConnectionState.CLOSING:
            assert current is not None
            assert not server.is_full
        case ConnectionState.CLOSED:
            assert not queue
            assert not server.is_full
    assert (server.due is Action.CLOSE) == (server.state is ConnectionState.CLOSED)
    if server.due is Action.START:
        assert current is not None
        assert (current.state, current.failure) == (RequestState.QUEUED, None)
        gone = server.state in (ConnectionState.LEAVING, ConnectionState.CLOSING)
        assert not gone or current.number is None
    if server.due in (Action.SEND, Action.SEND_PART):
        assert server.message is not None


def test_there_are_no_other_states_and_what_waits_behind_a_request_changes_none() -> None:
    """All that can be reached with one or two requests or posts in the queue."""
    start = RequestPipeline(extended=True, query_timeout=1.0)
    found, todo, reached = {repr(summary(start))}, deque([start]), set[str]()
    while todo:
        server = todo.popleft()
        state = observe(server)
        reached.add(state)
        for event in EVENTS:
            after = deepcopy(server)
            cell, expected = happen(after, event), CELLS[state, event]
            check(after)
            # A request in the queue is the next one, instead of an idle or closed connection.
            if server.queued == 0 or not expected.endswith("idle"):
                assert cell == expected, (state, event)
            if after.queued <= 1 and repr(summary(after)) not in found:
                found.add(repr(summary(after)))
                todo.append(after)
    assert reached == set(STATES)


def summary(server: RequestPipeline) -> object:
    current = server.current
    return observe(server), current and current.outcome, [(r.number is None, r.outcome) for r in server._queue]


# Server calls


BATCH = frame(MessageType.SYNC, call(".ws.batch", i64(1)))


def after_hello() -> RequestPipeline:
    server = RequestPipeline(extended=True)
    server.receive(dump_hello(["streams"]))
    server.notices.clear()
    return server


def test_what_a_client_announces_is_kept_in_order() -> None:
    server = RequestPipeline(extended=True)
    assert server.receive(dump_unsubscribe(1)) is None  # nothing is known of it before the hello
    assert server.receive('{"later": 1, "hello": {"features": ["streams"]}, "unsubscribe": 2}') is None
    assert (server.has_hello, list(server.notices)) == (
        True,
        [HelloNotice(frozenset(["streams"])), UnsubscribeNotice(2)],
    )


def test_a_server_call_is_one_only_after_the_hello() -> None:
    server = RequestPipeline(extended=True)
    assert server.is_plain(BATCH)
    assert receive(server, BATCH).call is None
    server = after_hello()
    assert not server.is_plain(BATCH)
    assert server.is_plain(REQUEST)
    assert receive(server, BATCH).call == NextBatch(1)
    assert receive(server).call is None


def test_a_server_call_is_answered_like_any_request() -> None:
    server = after_hello()
    request = run(server, BATCH)
    assert answer(server) is RESPONSE
    assert (request.number, request.state, request.call, server.answered) == (1, RequestState.DONE, None, 1)


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        (frame(MessageType.SYNC, call(".ws.other")), Failure("name", "this server has no function '.ws.other'")),
        (frame(MessageType.SYNC, call(".ws.end", i64(1))), Failure("type", ".ws.end must be sent as a post")),
        (BATCH[:5] + bytes([VERBOSE_FLAG]) + BATCH[6:], Failure("nyi", "this function of the server prints nothing")),
    ],
)
def test_an_invalid_server_call_is_answered_with_an_error(message: bytes, failure: Failure) -> None:
    server = after_hello()
    request = receive(server, message)
    assert (request.outcome, request.call) == (Outcome.INVALID, None)
    assert request.failure is not None
    assert request.failure.code == failure.code
    assert request.failure.message.startswith(failure.message)
    assert sent(server) == dump_error(1, request.failure.code, request.failure.message)


def test_an_invalid_server_call_in_a_post_is_dropped() -> None:
    server = after_hello()
    post = receive(server, frame(MessageType.ASYNC, call(".ws.batch", i64(1))))
    assert (post.state, post.outcome) == (RequestState.DONE, Outcome.INVALID)


def test_nothing_is_started_ahead_beside_a_server_call() -> None:
    server = after_hello()
    run(server)
    receive(server, BATCH)
    receive(server)
    assert server.next_ahead() is None
    answer(server)
    server.performing()
    assert server.next_ahead() is None


def test_a_server_call_is_cancelled_like_any_request() -> None:
    server = after_hello()
    running, queued = run(server, BATCH), receive(server, BATCH)
    assert cancel(server, 2) == CancelRequested(queued, running=False)
    assert queued.call is None
    assert cancel(server, 1) == CancelRequested(running, running=True)
    assert answer(server, STOPPED) == dump_error(1, "cancel", "")


def test_a_trace_belongs_to_the_next_request_or_post() -> None:
    seen: list[tuple[int | None, TraceNotice | None]] = []

    def new(number: int | None, frame: Frame, now: float, trace: TraceNotice | None) -> ServerRequest:
        seen.append((number, trace))
        return ServerRequest(number, frame, now)

    server = RequestPipeline(extended=True, new_traced=new)
    first, second, third = TraceNotice("a"), TraceNotice("b", "x=y"), TraceNotice("c")
    for message in (
        *(dump_trace(first), REQUEST, POST),
        *(dump_trace(first), dump_trace(second), dump_cancel(1), POST),
        *(dump_trace(third), REQUEST),
    ):
        server.receive(message)
    assert seen == [(1, first), (None, None), (None, second), (2, third)]
    assert not server.notices


def test_a_server_without_traces_ignores_them() -> None:
    server = RequestPipeline(extended=True)
    assert server.receive(dump_trace(TraceNotice("a"))) is None
    assert server.is_plain(REQUEST)
    with pytest.raises(ProtocolViolation):
        server.receive('{"trace": 1}')
