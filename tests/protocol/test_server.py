from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import (
    CANCELLED,
    CancelRequested,
    Failure,
    Header,
    MessageType,
    ProtocolViolation,
    Result,
    ServerProtocol,
    ServerRequest,
    dump_cancel,
    dump_error,
    string_frame,
)


def frame(message_type: MessageType, payload: bytes = b"\x7e") -> bytes:
    return Header(0, message_type, len(payload)).pack() + payload


REQUEST = frame(MessageType.SYNC)
POST = frame(MessageType.ASYNC)
RESPONSE = string_frame("value")
BOTH = pytest.mark.parametrize("extended", [True, False], ids=["extended", "baseline"])


def request(server: ServerProtocol, message: bytes | str = REQUEST) -> ServerRequest:
    (event,) = server.receive(message)
    assert isinstance(event, ServerRequest)
    return event


def cancel(server: ServerProtocol, number: int) -> list[ServerRequest]:
    events = server.receive(dump_cancel(number))
    return [event.request for event in events if isinstance(event, CancelRequested)]


@BOTH
def test_requests_are_numbered_in_the_order_of_arrival(extended: bool) -> None:
    server = ServerProtocol(extended=extended)
    requests = [request(server, frame(MessageType.SYNC, bytes([payload]))) for payload in (7, 8, 9)]
    assert [(r.number, r.frame[-1], r.failure) for r in requests] == [(1, 7, None), (2, 8, None), (3, 9, None)]


@BOTH
def test_a_value_is_answered_with_its_frame(extended: bool) -> None:
    server = ServerProtocol(extended=extended)
    assert server.answer(request(server), Result(RESPONSE)) is RESPONSE


@pytest.mark.parametrize(
    ("extended", "failure", "answer"),
    [
        (True, Failure("type", "no"), dump_error(1, "type", "no")),
        (True, Failure("parse", ""), dump_error(1, "parse", "")),
        (False, Failure("type", "no"), string_frame("type: no")),
        (False, Failure("parse", ""), string_frame("parse")),
    ],
)
def test_a_failure_is_answered_as_the_protocol_has_it(extended: bool, failure: Failure, answer: bytes | str) -> None:
    server = ServerProtocol(extended=extended)
    assert server.answer(request(server), failure) == answer


def test_a_post_has_no_number_and_is_not_answered() -> None:
    server = ServerProtocol(extended=True)
    post = request(server, POST)
    assert (post.number, post.frame) == (None, POST)
    assert request(server).number == 1
    with pytest.raises(ValueError, match=r"^a post is not answered$"):
        server.answer(post, Result(RESPONSE))


@pytest.mark.parametrize("message_type", MessageType)
def test_in_the_baseline_every_frame_is_a_request(message_type: MessageType) -> None:
    server = ServerProtocol(extended=False)
    assert request(server, frame(message_type)).number == 1


@pytest.mark.parametrize(
    ("message", "failure"),
    [
        ("(+ 1 2)", Failure("type", "expected a binary message, got text")),
        (dump_cancel(1), Failure("type", "expected a binary message, got text")),
        (b"", Failure("domain", "a frame has a header of 16 bytes, these are 0 bytes")),
        (REQUEST + b"\0", Failure("domain", "the header announces 1 bytes, 2 follow")),
    ],
)
def test_in_the_baseline_nonsense_is_answered_in_its_turn(message: bytes | str, failure: Failure) -> None:
    server = ServerProtocol(extended=False)
    before, nonsense, after = request(server), request(server, message), request(server)
    assert [r.number for r in (before, nonsense, after)] == [1, 2, 3]
    assert (before.failure, nonsense.failure, after.failure) == (None, failure, None)
    assert nonsense.frame == b""
    assert server.answer(before, Result(RESPONSE)) == RESPONSE
    assert server.answer(nonsense, failure) == string_frame(str(failure))


def test_a_cancelled_request_has_its_answer_and_lets_go_of_its_frame() -> None:
    server = ServerProtocol(extended=True)
    first, second = request(server), request(server)
    assert cancel(server, 2) == [second]
    assert second.failure is not None
    assert second.failure.code == CANCELLED == "cancel"
    assert second.frame == b""
    assert (first.failure, first.frame) == (None, REQUEST)
    assert server.answer(second, second.failure) == dump_error(2, "cancel", "the client cancelled the request")


@pytest.mark.parametrize("number", [1, 3, 10**30])
def test_cancelling_what_is_not_open_means_nothing(number: int) -> None:
    """1 is answered; 3 and more are still to come."""
    server = ServerProtocol(extended=True)
    server.answer(request(server), Result(RESPONSE))
    request(server)
    assert cancel(server, number) == []
    assert request(server).failure is None


def test_cancelling_twice_is_cancelling_once() -> None:
    server = ServerProtocol(extended=True)
    request(server)
    assert len(cancel(server, 1)) == 1
    assert cancel(server, 1) == []


def test_what_means_something_to_clients_only_is_ignored() -> None:
    server = ServerProtocol(extended=True)
    request(server)
    assert server.receive(dump_error(1, "type", "no")) == []
    assert server.receive('{"hello": {}}') == []


@pytest.mark.parametrize(
    ("message", "why"),
    [
        (frame(MessageType.RESPONSE), "^a response to nothing that was asked$"),
        (b"\x01\x00", "^a frame has a header of 16 bytes, these are 2 bytes$"),
        (REQUEST + b"\0", "^the header announces 1 bytes, 2 follow$"),
        ("(+ 1 2)", "^a text message that is not JSON$"),
        ("[]", "^a text message that is not a JSON object$"),
        ('{"cancel": true}', "^a request number is a whole number from 1 up$"),
    ],
)
def test_what_a_client_must_not_send_in_the_extended_protocol(message: bytes | str, why: str) -> None:
    server = ServerProtocol(extended=True)
    with pytest.raises(ProtocolViolation, match=why):
        server.receive(message)


messages: st.SearchStrategy[Any] = (
    st.binary()
    | st.text()
    | st.builds(frame, st.sampled_from(MessageType), st.binary(min_size=1))
    | st.builds(dump_error, st.integers(-1, 4), st.text(), st.text())
    | st.builds(dump_cancel, st.integers(-1, 4))
)


@given(st.lists(messages))
def test_arbitrary_messages_raise_nothing_but_violations(arriving: list[bytes | str]) -> None:
    server = ServerProtocol(extended=True)
    numbers = []
    for message in arriving:
        try:
            events = server.receive(message)
        except ProtocolViolation:
            continue
        numbers += [event.number for event in events if isinstance(event, ServerRequest) and event.number is not None]
    assert numbers == list(range(1, len(numbers) + 1))


@given(st.lists(messages))
def test_in_the_baseline_every_message_is_a_request_and_raises_nothing(arriving: list[bytes | str]) -> None:
    server = ServerProtocol(extended=False)
    assert [request(server, message).number for message in arriving] == list(range(1, len(arriving) + 1))
