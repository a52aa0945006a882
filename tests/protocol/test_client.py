from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from rayforce_trio._protocol import (
    Action,
    ClientProtocol,
    ClientRequest,
    ClientRequestState,
    Failure,
    Header,
    LazyFrame,
    MessageType,
    Outgoing,
    ProtocolViolation,
    RequestPipeline,
    Result,
    TraceNotice,
    dump_cancel,
    dump_error,
    dump_trace,
    join_verbose,
    parse_frame,
    string_frame,
)
from rayforce_trio._protocol._client import MAX_IN_FLIGHT, MAX_IN_FLIGHT_BYTES, MAX_UNCONFIRMED_POSTS
from rayforce_trio._protocol._frames import FENCE
from rayforce_trio._protocol._unconfirmed import FENCE_INTERVAL


def frame(message_type: MessageType, payload: bytes = b"\x7e") -> bytes:
    return Header(0, message_type, len(payload)).pack() + payload


REQUEST = frame(MessageType.SYNC)
POST = frame(MessageType.ASYNC)
BOTH = pytest.mark.parametrize("extended", [True, False], ids=["extended", "baseline"])


def drain(client: ClientProtocol) -> list[Outgoing]:
    return list(iter(client.next_outgoing, None))


def sent(client: ClientProtocol, count: int = 1) -> list[ClientRequest]:
    requests = [client.submit(REQUEST) for _ in range(count)]
    assert [outgoing.request for outgoing in drain(client)] == requests
    return requests


@BOTH
def test_nothing_asked_nothing_sent(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    assert client.next_outgoing() is None
    assert client.pending == 0


@BOTH
def test_requests_are_sent_and_numbered_in_the_order_submitted(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    requests = [client.submit(REQUEST) for _ in range(3)]
    assert [request.number for request in requests] == [None] * 3
    assert drain(client) == [Outgoing(REQUEST, request) for request in requests]
    assert [request.number for request in requests] == [1, 2, 3]


@BOTH
def test_a_reply_belongs_to_the_oldest_request(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    requests = sent(client, 3)
    for index, request in enumerate(requests):
        reply = string_frame(str(index))
        assert client.receive(reply) is request
        assert request.reply == Result(reply)


@BOTH
def test_pending_counts_what_is_queued_or_unanswered(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    _, cancelled = sent(client, 2)
    client.submit(REQUEST)
    client.cancel(cancelled)
    assert client.pending == 3
    client.receive(string_frame(""))
    client.receive(string_frame(""))
    assert client.pending == 1


@BOTH
def test_a_request_that_was_sent_lets_go_of_its_frame(extended: bool) -> None:
    """A large request must not be kept until its reply is there."""
    (request,) = sent(ClientProtocol(extended=extended))
    assert request.frame == b""


@BOTH
def test_a_request_cancelled_before_it_was_sent_never_is(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    first, second, third = (client.submit(REQUEST) for _ in range(3))
    client.cancel(second)
    assert [outgoing.request for outgoing in drain(client)] == [first, third]
    assert (first.number, second.number, third.number) == (1, None, 2)


def test_a_request_cancelled_after_it_was_sent_is_cancelled_on_the_server() -> None:
    client = ClientProtocol(extended=True)
    _, second = sent(client, 2)
    client.submit(REQUEST)
    client.cancel(second)
    assert [outgoing.message for outgoing in drain(client)] == [dump_cancel(2), REQUEST]


def test_the_baseline_has_no_cancel() -> None:
    client = ClientProtocol(extended=False)
    (request,) = sent(client)
    client.cancel(request)
    assert drain(client) == []


@BOTH
def test_the_reply_of_a_cancelled_request_is_discarded(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    first, second = sent(client, 2)
    client.cancel(first)
    assert client.receive(string_frame("first")) is None
    assert client.receive(string_frame("second")) is second
    assert second.reply == Result(string_frame("second"))


@BOTH
def test_cancelling_twice_is_cancelling_once(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    (request,) = sent(client)
    client.cancel(request)
    drain(client)
    client.cancel(request)
    assert drain(client) == []


@BOTH
def test_cancelling_what_was_answered_means_nothing(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    (request,) = sent(client)
    assert client.receive(string_frame("")) is not None
    client.cancel(request)
    assert drain(client) == []
    assert client.pending == 0


@BOTH
def test_cancelling_what_was_never_sent_twice_means_nothing(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    request = client.submit(REQUEST)
    client.cancel(request)
    client.cancel(request)
    assert drain(client) == []


def test_a_post_has_no_number_and_no_reply() -> None:
    client = ClientProtocol(extended=True)
    post, request = client.post(POST), client.submit(REQUEST)
    assert drain(client) == [Outgoing(POST, post), Outgoing(REQUEST, request)]
    assert (post.number, request.number) == (None, 1)
    assert client.receive(string_frame("")) is request
    assert request.reply == Result(string_frame(""))


def test_a_baseline_server_answers_posts_and_the_answer_is_discarded() -> None:
    client = ClientProtocol(extended=False)
    post, request = client.post(POST), client.submit(REQUEST)
    drain(client)
    assert (post.number, request.number) == (1, 2)
    assert client.receive(string_frame("of the post")) is None
    assert client.receive(string_frame("")) is request
    assert request.reply == Result(string_frame(""))


@BOTH
def test_a_post_cancelled_before_it_was_sent_never_is(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    client.cancel(client.post(POST))
    assert drain(client) == []


@BOTH
def test_a_post_that_was_sent_cannot_be_cancelled(extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    post = client.post(POST)
    drain(client)
    client.cancel(post)
    assert drain(client) == []


def test_an_error_message_is_the_reply_of_its_request() -> None:
    client = ClientProtocol(extended=True)
    first, second = sent(client, 2)
    client.cancel(second)
    assert client.receive(dump_error(1, "type", "no")) is first
    assert first.reply == Failure("type", "no")
    assert client.receive(dump_error(2, "cancel", "")) is None
    assert client.pending == 0


def test_a_push_is_no_reply() -> None:
    client = ClientProtocol(extended=True)
    (request,) = sent(client)
    assert client.receive(frame(MessageType.ASYNC)) is None
    assert client.receive(string_frame("")) is request
    assert request.reply == Result(string_frame(""))


@pytest.mark.parametrize(
    ("reply", "stopped"),
    [
        *((dump_error(1, code, ""), 1) for code in ("cancel", "timeout", "busy", "closing")),
        (join_verbose(b"printed", Failure("cancel", "")).frame, 1),
        (dump_error(1, "type", ""), 0),
        (join_verbose(b"printed", Failure("type", "")).frame, 0),
        (join_verbose(b"printed", Result(string_frame("value"))).frame, 0),
        (string_frame("value"), 0),
        (frame(MessageType.RESPONSE), 0),
    ],
)
def test_a_cancelled_request_counts_as_stopped_if_its_reply_says_so(reply: Any, stopped: int) -> None:
    client = ClientProtocol(extended=True)
    (request,) = sent(client)
    client.cancel(request)
    assert client.stopped == 0
    assert client.receive(reply) is None
    assert client.stopped == stopped


def test_an_error_of_a_request_that_was_not_cancelled_is_not_a_stop() -> None:
    client = ClientProtocol(extended=True)
    sent(client)
    assert client.receive(dump_error(1, "cancel", "")) is not None
    assert client.stopped == 0


@pytest.mark.parametrize(
    ("reply", "output"),
    [
        (join_verbose(b"printed", Failure("cancel", "")).frame, "printed"),
        (join_verbose(b"printed", Result(string_frame("value"))).frame, ""),  # it was not stopped
        (dump_error(1, "cancel", ""), ""),
    ],
)
def test_the_output_of_a_stopped_request_is_kept(reply: Any, output: str) -> None:
    client = ClientProtocol(extended=True)
    (request,) = sent(client)
    client.cancel(request)
    client.receive(reply)
    assert client.stopped_output == output


def test_a_cancelled_request_that_was_not_sent_counts_as_stopped() -> None:
    client = ClientProtocol(extended=True)
    client.cancel(client.submit(REQUEST))
    assert client.stopped == 1


def test_a_control_message_of_a_later_version_is_no_reply() -> None:
    client = ClientProtocol(extended=True)
    sent(client)
    assert client.receive('{"hello": {}}') is None
    assert client.receive(dump_cancel(1)) is None  # means something to servers only
    assert client.pending == 1


@pytest.mark.parametrize("message_type", MessageType)
def test_the_baseline_ignores_the_message_type(message_type: MessageType) -> None:
    client = ClientProtocol(extended=False)
    (request,) = sent(client)
    assert client.receive(frame(message_type)) is request
    assert request.reply == Result(frame(message_type))


@pytest.mark.parametrize(
    ("extended", "message", "why"),
    [
        (True, frame(MessageType.SYNC), "^a request from the server$"),
        (True, b"", "^a frame needs a header of 16 bytes, but has 0 bytes$"),
        (False, REQUEST[:-1], "^the header announces 1 byte, but 0 follow$"),
        (True, "", "^a text message that is not JSON$"),
        (False, "{}", "^a text message, which the baseline protocol does not have$"),
        (True, dump_error(2, "type", ""), "^an error for request 2 out of order$"),
        (True, '{"error": {"request": 1}}', "^an error must have a request number, a code and a message$"),
    ],
)
def test_what_a_server_must_not_send_changes_nothing(extended: bool, message: bytes | str, why: str) -> None:
    client = ClientProtocol(extended=extended)
    (request,) = sent(client)
    with pytest.raises(ProtocolViolation, match=why):
        client.receive(message)
    assert client.receive(string_frame("")) is request
    assert request.reply == Result(string_frame(""))


@pytest.mark.parametrize(
    ("extended", "message", "why"),
    [
        (True, string_frame(""), "^a reply without a request$"),
        (False, string_frame(""), "^a reply without a request$"),
        (True, dump_error(1, "type", ""), "^an error for request 1 out of order$"),
    ],
)
def test_a_reply_to_nothing_is_refused(extended: bool, message: bytes | str, why: str) -> None:
    client = ClientProtocol(extended=extended)
    client.submit(REQUEST)  # not sent, so not asked
    with pytest.raises(ProtocolViolation, match=why):
        client.receive(message)


messages: st.SearchStrategy[Any] = (
    st.binary()
    | st.text()
    | st.builds(frame, st.sampled_from(MessageType), st.binary(min_size=1))
    | st.builds(dump_error, st.integers(-1, 4), st.text(), st.text())
    | st.builds(dump_cancel, st.integers(-1, 4))
)


@given(st.booleans(), st.integers(0, 3), st.lists(messages))
def test_arbitrary_messages_raise_nothing_but_violations(
    extended: bool, asked: int, arriving: list[bytes | str]
) -> None:
    client = ClientProtocol(extended=extended)
    requests = sent(client, asked)
    answered = []
    for message in arriving:
        try:
            received = client.receive(message)
        except ProtocolViolation:
            continue
        if received is not None:
            answered.append(received)
    assert answered == requests[: len(answered)]


@BOTH
def test_requests_beyond_the_window_wait_for_replies(extended: bool) -> None:
    """And one that is cancelled while it waits is never sent."""
    protocol = ClientProtocol(extended=extended)
    requests = [protocol.submit(REQUEST) for _ in range(MAX_IN_FLIGHT + 3)]
    assert len(drain(protocol)) == MAX_IN_FLIGHT
    protocol.cancel(requests[-2])
    for next_in_turn in (requests[-3], requests[-1]):
        assert protocol.receive(string_frame("reply")) is not None
        assert [outgoing.request for outgoing in drain(protocol)] == [next_in_turn]


def test_a_cancel_is_sent_although_the_window_is_full() -> None:
    protocol = ClientProtocol(extended=True)
    requests = [protocol.submit(REQUEST) for _ in range(MAX_IN_FLIGHT + 1)]
    drain(protocol)
    protocol.cancel(requests[0])
    assert [outgoing.message for outgoing in drain(protocol)] == [dump_cancel(1)]


def test_large_requests_fill_the_window_sooner_and_one_alone_may_have_any_size() -> None:
    protocol = ClientProtocol(extended=True)
    huge = REQUEST + bytes(MAX_IN_FLIGHT_BYTES)
    protocol.submit(huge)
    protocol.submit(REQUEST)
    assert [outgoing.message for outgoing in drain(protocol)] == [huge]
    protocol.receive(string_frame("reply"))
    assert [outgoing.message for outgoing in drain(protocol)] == [REQUEST]


def test_what_is_abandoned_is_neither_sent_nor_answered() -> None:
    protocol = ClientProtocol(extended=True)
    asked, cancelled, _ = (protocol.submit(REQUEST) for _ in range(3))
    protocol.next_outgoing()
    protocol.next_outgoing()
    protocol.cancel(cancelled)
    protocol.abandon()
    assert protocol.next_outgoing() is None
    assert protocol.receive(string_frame("reply")) is None
    assert asked.state is ClientRequestState.DONE


# A request that is alone


def state_of(protocol: ClientProtocol) -> tuple[object, ...]:
    """Return all that decides what a protocol does from now on, without the identities of its requests."""
    queued, unanswered = list(protocol._queued), list(protocol._unanswered)
    return (
        [(request.frame, request.is_post, request.state) for request in queued],
        [(request.frame, request.is_post, request.state, request.number, request.size) for request in unanswered],
        list(protocol._controls),
        protocol._unanswered_bytes,
        (protocol._unconfirmed.count, protocol._unconfirmed.size, list(protocol._unconfirmed._groups)),
        protocol._last_number,
        protocol.stopped,
    )


steps = st.lists(st.sampled_from(["submit", "post", "send", "cancel", "reply", "abandon"]))


@given(st.booleans(), steps, steps)
def test_a_request_alone_is_the_same_as_one_that_is_queued_and_sent(
    extended: bool, before: list[str], afterwards: list[str]
) -> None:
    """It is possible if and only if nothing else is under way."""
    shortcut, general = (ClientProtocol(extended=extended) for _ in range(2))
    requests: dict[ClientProtocol, list[ClientRequest]] = {shortcut: [], general: []}

    def perform(protocol: ClientProtocol, step: str) -> object:
        match step:
            case "submit":
                requests[protocol].append(protocol.submit(REQUEST))
            case "post":
                requests[protocol].append(protocol.post(POST))
            case "send":
                outgoing = protocol.next_outgoing()
                return outgoing and outgoing.message
            case "cancel":
                for request in requests[protocol][-1:]:
                    protocol.cancel(request)
            case "reply":
                try:
                    received = protocol.receive(string_frame("reply"))
                except ProtocolViolation as violation:
                    return str(violation)
                return received and requests[protocol].index(received)
            case "abandon":
                protocol.abandon()
        return None

    for step in before:
        assert perform(shortcut, step) == perform(general, step)
    idle = not (general.pending or general.has_outgoing)
    alone = shortcut.submit_alone(REQUEST)
    assert (alone is not None) is idle
    if alone is None:
        assert state_of(shortcut) == state_of(general)
        return
    requests[shortcut].append(alone)
    requests[general].append(general.submit(REQUEST))
    assert general.next_outgoing() == Outgoing(REQUEST, requests[general][-1])
    assert state_of(shortcut) == state_of(general)
    for step in afterwards:
        assert perform(shortcut, step) == perform(general, step)
        assert state_of(shortcut) == state_of(general)


@BOTH
@pytest.mark.parametrize(
    "message",
    [frame(kind) for kind in MessageType] + [Header(f, MessageType.RESPONSE, 1).pack() + b"\x7e" for f in (1, 2, 4)],
)
@pytest.mark.parametrize("view", [False, True])
def test_a_response_without_flags_is_a_reply_like_others(extended: bool, message: bytes, view: bool) -> None:
    """It takes a shortcut, whose result is the same."""
    client = ClientProtocol(extended=extended)
    (request,) = sent(client)
    header = parse_frame(message)
    arrived = memoryview(message) if view else message
    if extended and header.message_type is MessageType.SYNC:
        with pytest.raises(ProtocolViolation):
            client.receive(arrived)
    elif extended and header.message_type is MessageType.ASYNC:
        assert client.receive(arrived) is None
    else:
        assert client.receive(arrived) is request
        assert request.reply == Result(message)


# Every event in every state of a request

EVENTS: dict[str, Callable[[ClientProtocol, ClientRequest], object]] = {
    "send": lambda protocol, _: protocol.next_outgoing(),
    "cancel": lambda protocol, request: protocol.cancel(request),
    "reply": lambda protocol, _: protocol.receive(string_frame("reply")),
    "abandon": lambda protocol, _: protocol.abandon(),
}

QUEUED, SENT, DISCARDED, DONE = ClientRequestState

# The events that lead to a state, the next event, the state after it, and how many requests count as stopped.
TRANSITIONS = [
    ((), "send", SENT, 0),
    ((), "cancel", DONE, 1),
    ((), "abandon", DONE, 0),
    (("send",), "cancel", DISCARDED, 0),
    (("send",), "reply", DONE, 0),
    (("send",), "abandon", DISCARDED, 0),
    (("send",), "send", SENT, 0),
    (("send", "cancel"), "reply", DONE, 0),
    (("send", "cancel"), "cancel", DISCARDED, 0),
    (("send", "cancel"), "abandon", DISCARDED, 0),
    (("send", "cancel"), "send", DISCARDED, 0),
    (("cancel",), "send", DONE, 1),
    (("cancel",), "cancel", DONE, 1),
    (("cancel",), "abandon", DONE, 1),
    (("send", "reply"), "cancel", DONE, 0),
    (("send", "reply"), "abandon", DONE, 0),
    (("send", "reply"), "send", DONE, 0),
]


@BOTH
@pytest.mark.parametrize(("before", "event", "state", "stopped"), TRANSITIONS)
def test_an_event_in_a_state_of_a_request(
    extended: bool, before: tuple[str, ...], event: str, state: ClientRequestState, stopped: int
) -> None:
    protocol = ClientProtocol(extended=extended)
    request = protocol.submit(REQUEST)
    assert request.state is QUEUED
    for each in (*before, event):
        EVENTS[each](protocol, request)
    assert (request.state, protocol.stopped) == (state, stopped)
    assert protocol.pending == (state in (SENT, DISCARDED))


@BOTH
@pytest.mark.parametrize("before", [(), ("cancel",), ("send", "reply"), ("send", "cancel", "reply"), ("abandon",)])
def test_a_reply_that_no_request_awaits_is_a_violation_and_changes_nothing(
    extended: bool, before: tuple[str, ...]
) -> None:
    protocol = ClientProtocol(extended=extended)
    request = protocol.submit(REQUEST)
    for each in before:
        EVENTS[each](protocol, request)
    state = request.state
    with pytest.raises(ProtocolViolation, match="a reply without a request"):
        EVENTS["reply"](protocol, request)
    assert request.state is state


@pytest.mark.parametrize(
    ("extended", "after_sending", "pending"), [(True, DONE, 0), (False, DISCARDED, 1)], ids=["extended", "baseline"]
)
def test_a_post_awaits_no_reply(extended: bool, after_sending: ClientRequestState, pending: int) -> None:
    protocol = ClientProtocol(extended=extended)
    post = protocol.post(POST)
    assert post.state is QUEUED
    protocol.next_outgoing()
    assert (post.state, protocol.pending) == (after_sending, pending)
    protocol.cancel(post)
    assert (post.state, protocol.has_outgoing) == (after_sending, False)
    if pending:
        assert protocol.receive(string_frame("reply")) is None
        assert post.state is DONE


@BOTH
def test_a_post_that_is_cancelled_before_it_was_sent_is_never_sent(extended: bool) -> None:
    protocol = ClientProtocol(extended=extended)
    post = protocol.post(POST)
    protocol.cancel(post)
    assert (post.state, protocol.next_outgoing()) == (DONE, None)


# Posts, which are confirmed by the replies to requests


def messages_of(client: ClientProtocol) -> list[bytes | str]:
    return [outgoing.message for outgoing in drain(client)]


def test_posts_are_followed_by_a_fence_whose_reply_lets_others_follow() -> None:
    client = ClientProtocol(extended=True)
    posts = [client.post(POST) for _ in range(3 * MAX_UNCONFIRMED_POSTS)]
    first = messages_of(client)
    assert first == [POST] * FENCE_INTERVAL + [FENCE] + [POST] * (MAX_UNCONFIRMED_POSTS - FENCE_INTERVAL)
    assert (posts[MAX_UNCONFIRMED_POSTS].state, client.pending) == (QUEUED, 2 * MAX_UNCONFIRMED_POSTS)
    assert client.receive(string_frame("")) is None
    assert messages_of(client) == [FENCE] + [POST] * FENCE_INTERVAL
    assert client.receive(string_frame("")) is None
    assert messages_of(client) == [FENCE] + [POST] * (MAX_UNCONFIRMED_POSTS - FENCE_INTERVAL)
    assert client.stopped == 0


def test_a_post_that_is_cancelled_while_it_is_held_back_is_never_sent() -> None:
    client = ClientProtocol(extended=True)
    posts = [client.post(POST) for _ in range(MAX_UNCONFIRMED_POSTS + 2)]
    drain(client)
    client.cancel(posts[-2])
    client.receive(string_frame(""))
    assert [outgoing.request for outgoing in drain(client)][-1] is posts[-1]
    assert (posts[-2].state, client.pending) == (DONE, 0)


@pytest.mark.parametrize("reply", [string_frame(""), dump_error(1, "busy", "no"), dump_error(1, "closing", "no")])
def test_any_reply_to_the_fence_confirms(reply: bytes | str) -> None:
    """An error is sent in its turn, too."""
    client = ClientProtocol(extended=True)
    for _ in range(MAX_UNCONFIRMED_POSTS + 1):
        client.post(POST)
    drain(client)
    assert client.receive(reply) is None
    assert messages_of(client) == [FENCE, POST]
    assert client.stopped == 0


def test_the_reply_to_a_request_confirms_the_posts_before_it() -> None:
    client = ClientProtocol(extended=True)
    expected = []
    for _ in range(5):
        request = client.submit(REQUEST)
        expected.append(REQUEST)
        for _ in range(FENCE_INTERVAL):
            client.post(POST)
            expected.append(POST)
        assert messages_of(client) == expected[-FENCE_INTERVAL - 1 :]
        assert client.receive(string_frame("")) is request


def test_a_request_waits_for_the_reply_to_the_fence() -> None:
    """A server may allow only one unanswered request."""
    client = ClientProtocol(extended=True)
    for _ in range(FENCE_INTERVAL + 1):
        client.post(POST)
    request = client.submit(REQUEST)
    post = client.post(POST)
    assert FENCE in messages_of(client)
    assert client.submit_alone(REQUEST) is None
    assert client.receive(string_frame("")) is None
    assert [outgoing.request for outgoing in drain(client)] == [request, post]
    assert request.number == 2
    client.cancel(request)
    assert messages_of(client) == [dump_cancel(2)]


def test_no_fence_is_sent_while_a_request_is_unanswered() -> None:
    client = ClientProtocol(extended=True)
    (request,) = sent(client)
    for _ in range(MAX_UNCONFIRMED_POSTS + 1):
        client.post(POST)
    assert messages_of(client) == [POST] * MAX_UNCONFIRMED_POSTS
    client.cancel(request)
    assert messages_of(client) == [dump_cancel(1)]
    assert client.receive(dump_error(1, "cancel", "")) is None
    assert messages_of(client) == [FENCE]
    client.receive(string_frame(""))
    assert messages_of(client) == [POST]


@pytest.mark.parametrize("kind", ["post", "request", "alone"])
def test_large_posts_are_held_back_sooner_and_one_alone_may_have_any_size(kind: str) -> None:
    client = ClientProtocol(extended=True)
    huge = POST + bytes(MAX_IN_FLIGHT_BYTES)
    client.post(huge)
    assert messages_of(client) == [huge]
    if kind == "alone":
        assert client.submit_alone(huge) is None
    following = client.post(huge) if kind == "post" else client.submit(huge)
    assert messages_of(client) == [FENCE]
    client.receive(string_frame(""))
    assert [outgoing.request for outgoing in drain(client)] == [following]


def test_a_baseline_server_answers_posts_so_there_is_no_fence() -> None:
    client = ClientProtocol(extended=False)
    for _ in range(2 * MAX_IN_FLIGHT):
        client.post(POST)
    assert messages_of(client) == [POST] * MAX_IN_FLIGHT


TRACE = TraceNotice("00-a-b-01", "c=d")


@BOTH
@pytest.mark.parametrize("is_post", [False, True], ids=["request", "post"])
def test_the_trace_of_a_request_is_sent_directly_before_it(is_post: bool, extended: bool) -> None:
    client = ClientProtocol(extended=extended)
    before, after = client.submit(REQUEST), client.submit(REQUEST)
    traced = client.post(POST, TRACE) if is_post else client.submit(REQUEST, TRACE)
    client.cancel(after)
    assert drain(client) == [
        Outgoing(REQUEST, before),
        Outgoing(dump_trace(TRACE), None),
        Outgoing(POST if is_post else REQUEST, traced),
    ]


def test_a_request_that_is_cancelled_behind_its_trace_is_sent_before_the_cancel() -> None:
    client = ClientProtocol(extended=True)
    traced = client.submit(REQUEST, TRACE)
    other = client.submit(REQUEST)
    assert client.next_outgoing() == Outgoing(dump_trace(TRACE), None)
    assert traced.state is ClientRequestState.SENT
    assert client.submit_alone(REQUEST) is None
    client.cancel(traced)
    assert client.has_outgoing
    assert drain(client) == [Outgoing(REQUEST, traced), Outgoing(dump_cancel(1), None), Outgoing(REQUEST, other)]
    assert client.receive(dump_error(1, "cancel", "")) is None
    assert client.receive(dump_error(2, "type", "")) is other


def test_a_request_that_is_cancelled_before_its_trace_was_sent_leaves_nothing() -> None:
    client = ClientProtocol(extended=True)
    client.cancel(client.submit(REQUEST, TRACE))
    assert drain(client) == []


@pytest.mark.parametrize("is_post", [False, True], ids=["request", "post"])
def test_a_request_whose_trace_alone_was_sent_counts_as_not_sent_if_the_connection_ends(is_post: bool) -> None:
    client = ClientProtocol(extended=True)
    traced = client.post(POST, TRACE) if is_post else client.submit(REQUEST, TRACE)
    assert client.next_outgoing() == Outgoing(dump_trace(TRACE), None)
    assert traced.frame == b""
    client.abandon()
    assert traced.frame == (POST if is_post else REQUEST)
    assert drain(client) == []
    assert not client.has_outgoing


def test_a_fence_does_not_come_between_a_trace_and_its_request() -> None:
    client = ClientProtocol(extended=True)
    for _ in range(FENCE_INTERVAL):
        client.post(POST)
    traced = client.post(POST, TRACE)
    messages = [outgoing.message for outgoing in drain(client)]
    assert messages.index(dump_trace(TRACE)) == len(messages) - 2
    assert messages[-1] == POST
    assert FENCE in messages
    assert traced.state is ClientRequestState.DONE


class Publishing(RuleBasedStateMachine):
    """A client that sends requests and posts, and a server that evaluates them in order."""

    def __init__(self) -> None:
        super().__init__()
        self.client = ClientProtocol(extended=True)
        self.server = RequestPipeline(extended=True, max_in_flight=MAX_IN_FLIGHT)
        self.submitted: list[ClientRequest] = []
        self.cancelled: list[ClientRequest] = []
        self.sent: list[ClientRequest] = []

    @rule(count=st.integers(1, 2000))
    def post(self, count: int) -> None:
        self.submitted += [self.client.post(POST) for _ in range(count)]

    @rule(count=st.integers(1, 600))
    def submit(self, count: int) -> None:
        self.submitted += [self.client.submit(REQUEST) for _ in range(count)]

    @precondition(lambda self: self.submitted)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(self.submitted[-2000:]))
        if request.state is QUEUED:
            self.cancelled.append(request)
        self.client.cancel(request)

    @rule()
    def send(self) -> None:
        while (outgoing := self.client.next_outgoing()) is not None:
            if outgoing.request is not None and outgoing.message != FENCE:
                self.sent.append(outgoing.request)
            self.server.receive(outgoing.message)

    @rule(count=st.integers(1, 2000))
    def evaluate(self, count: int) -> None:
        for _ in range(count):
            if self.server.due is Action.START:
                self.server.performing()
                assert self.server.current is not None
                if self.server.current.number is None:
                    self.server.post_done()
                else:
                    self.server.replied(Result(string_frame("value")))
            elif self.server.due is Action.SEND:
                assert self.server.message is not None
                assert not isinstance(self.server.message, LazyFrame)
                self.client.receive(self.server.message)
                self.server.sent()

    @invariant()
    def the_server_never_has_too_much_and_refuses_nothing(self) -> None:
        assert not self.server.is_full
        assert self.server.busy == 0

    @invariant()
    def the_fence_is_alone(self) -> None:
        assert self.client._fence is None or list(self.client._unanswered) == [self.client._fence]

    def teardown(self) -> None:
        for _ in range(len(self.submitted) + 2):
            self.send()
            self.evaluate(2000)
            if not self.client.pending:
                break
        assert [request for request in self.submitted if request not in set(self.cancelled)] == self.sent
        assert all(request.state is DONE for request in self.submitted)


def test_a_client_never_sends_more_than_a_server_accepts_and_sends_everything_in_order() -> None:
    run_state_machine_as_test(Publishing, settings=settings(max_examples=40, stateful_step_count=20))
