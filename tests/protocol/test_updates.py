"""Updates on their way to clients, and pushes of engines."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import (
    Header,
    MessageType,
    ProtocolViolation,
    Push,
    Update,
    parse_push,
    parse_update,
    update_frame,
)
from rayforce_trio._values._payloads import call, i64, list_of, name, quoted, string

numbers = st.integers(1, 2**63 - 1)


def frame(payload: bytes) -> bytes:
    return Header(0, MessageType.ASYNC, len(payload)).pack() + payload


def push(topic: bytes = b"topic", sequence: bytes = i64(7), value: bytes = quoted(i64(5))) -> bytes:
    return frame(call("upd", string(topic), sequence, value))


@given(numbers, numbers, st.integers(0, 2**63 - 1), st.binary(min_size=1))
def test_an_update_arrives_as_it_was_sent(number: int, sequence: int, lost: int, payload: bytes) -> None:
    update = Update(number, sequence, lost, payload)
    assert parse_update(update_frame(update)) == update


@pytest.mark.parametrize(
    "other",
    [
        frame(b""),
        frame(i64(5)),
        frame(list_of([i64(1), i64(2)])),
        frame(bytes(100)),
        push(),
        push(value=quoted(bytes(99))),
    ],
    ids=["nothing", "an atom", "a list", "zeros", "a push", "a long push"],
)
def test_frames_that_are_no_updates(other: bytes) -> None:
    assert parse_update(other) is None


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_read_or_refused(payload: bytes) -> None:
    parse_update(frame(payload))
    parse_push(frame(payload))


def test_a_push_is_read() -> None:
    assert parse_push(push("tré".encode())) == Push("tré", 7, i64(5))


@pytest.mark.parametrize(
    "other",
    [
        frame(i64(5)),
        frame(call("other", string("topic"), i64(7), quoted(i64(5)))),
        frame(call("upd", i64(7), i64(7), quoted(i64(5)))),
        push(sequence=string("seven")),
        push(value=call("other", i64(5))),
        push(value=list_of([name("quote")])),
    ],
    ids=["an atom", "another function", "no topic", "no number", "not quoted", "no value"],
)
def test_frames_that_are_no_pushes(other: bytes) -> None:
    assert parse_push(other) is None


_BEGINNING = len(frame(list_of([b"", b"", b"", b""]))) + len(name("upd"))


@pytest.mark.parametrize("size", range(_BEGINNING, _BEGINNING + len(string("topic") + i64(7)) - 1))
def test_a_push_that_is_cut_off_is_damaged(size: int) -> None:
    with pytest.raises(ProtocolViolation, match="a damaged update"):
        parse_push(push()[:size])


def test_a_topic_that_is_not_utf_8_is_damaged() -> None:
    with pytest.raises(ProtocolViolation, match="a damaged update"):
        parse_push(push(b"\xff"))
