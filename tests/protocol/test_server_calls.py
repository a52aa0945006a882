"""Server calls: which frames are calls of the server, and what each of them means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import (
    END_STREAM,
    MAX_BATCH_SIZE,
    MAX_ID,
    NEXT_BATCH,
    OPEN_STREAM,
    PUBLISH,
    SNAPSHOT,
    TAKE_ROWS,
    EndStream,
    Failure,
    Header,
    MessageType,
    NextBatch,
    OpenStream,
    Publish,
    Snapshot,
    TakeRows,
    is_server_call,
    parse_server_call,
    query_frame,
)
from rayforce_trio._values._payloads import call, i64, name, quoted, string, symbol

POSTS = (END_STREAM,)
QUERY = string("(+ 1 2)")


def frame(payload: bytes) -> bytes:
    return Header(0, MessageType.SYNC, len(payload)).pack() + payload


def server_call(function: str, *arguments: bytes) -> bytes:
    return frame(call(function, *arguments))


VALID = [
    (server_call(SNAPSHOT, i64(1), QUERY), Snapshot(1, memoryview(QUERY))),
    (server_call(PUBLISH, string("é"), i64(7)), Publish("é", memoryview(i64(7)))),
    (server_call(OPEN_STREAM, i64(MAX_ID), i64(MAX_BATCH_SIZE), QUERY), OpenStream(MAX_ID, MAX_BATCH_SIZE, QUERY)),
    (server_call(NEXT_BATCH, i64(2)), NextBatch(2)),
    (server_call(TAKE_ROWS, i64(2), i64(0), i64(MAX_BATCH_SIZE)), TakeRows(2, 0, MAX_BATCH_SIZE)),
    (server_call(TAKE_ROWS, i64(2), i64(MAX_ID), i64(1)), TakeRows(2, MAX_ID, 1)),
    (server_call(END_STREAM, i64(2)), EndStream(2)),
]


@pytest.mark.parametrize(("message", "expected"), VALID, ids=[type(expected).__name__ for _, expected in VALID])
@pytest.mark.parametrize("received_as", [bytes, memoryview])
def test_a_call_with_its_arguments(message: bytes, expected: object, received_as: type) -> None:
    received = received_as(message)
    assert is_server_call(received)
    assert parse_server_call(received, is_post=isinstance(expected, EndStream)) == expected


@pytest.mark.parametrize(
    "message",
    [
        query_frame("(.ws.batch 1)", MessageType.SYNC, 0),
        server_call(".ipc.post", i64(1)),
        server_call(".w", i64(1)),
        frame(symbol(".ws.batch")),
        frame(quoted(call(NEXT_BATCH, i64(1)))),
        frame(i64(1)),
        frame(b"\x7e"),
        frame(b"\x63" + server_call(NEXT_BATCH, i64(1))[17:]),
    ],
    ids=["text", "other function", "short name", "quoted name", "quoted call", "number", "null", "no list"],
)
def test_other_requests_are_for_the_engine(message: bytes) -> None:
    assert not is_server_call(message)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (server_call(".ws.other", i64(1)), "name: this server has no function '.ws.other'"),
        (server_call(".ws." + 100 * "x"), "name: this server has no function '.ws.xxx"),
        (server_call(NEXT_BATCH, i64(1))[:-14], "name: this server has no function"),
        (server_call(".ws.\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), i64(1)), "name: "),
        (server_call(NEXT_BATCH), r"type: \.ws\.batch: expected 1 argument, got 0"),
        (server_call(NEXT_BATCH, i64(1), i64(2)), "expected 1 argument, got 2"),
        (server_call(NEXT_BATCH, i64(0)), "the id of the stream must be an I64 between 1 and"),
        (server_call(NEXT_BATCH, i64(-1)), "the id of the stream must be an I64"),
        (server_call(NEXT_BATCH, string("1")), "the id of the stream must be an I64"),
        (server_call(NEXT_BATCH, name("x")), "the id of the stream is missing"),
        (server_call(NEXT_BATCH, i64(1)) + b"\x7e", "1 byte after the last argument"),
        (server_call(OPEN_STREAM, i64(1), i64(0), QUERY), "the batch size must be an I64 between 1 and"),
        (server_call(OPEN_STREAM, i64(1), i64(MAX_BATCH_SIZE + 1), QUERY), "the batch size must be"),
        (server_call(OPEN_STREAM, i64(1), i64(1), b""), "the query is missing"),
        (server_call(PUBLISH, symbol("t"), i64(1)), "the topic must be a String"),
        (server_call(PUBLISH, symbol(""), b""), "the topic is missing"),
        (server_call(PUBLISH, string(b"\xff"), i64(1)), "the topic is not UTF-8"),
        (server_call(PUBLISH, string(""), i64(1)), "the topic must not be empty"),
        (server_call(PUBLISH, string("t"), b""), "the value is missing"),
        (server_call(PUBLISH, string("t")[:2] + b"\xff" * 8 + b"tttttttt", i64(1)), "the topic must be a String"),
        (server_call(TAKE_ROWS, i64(1), i64(-1), i64(1)), "the first row must be an I64 between 0 and"),
        (server_call(TAKE_ROWS, i64(1), i64(0), i64(0)), "the number of rows must be an I64 between 1 and"),
        (server_call(TAKE_ROWS, i64(1), i64(0), i64(MAX_BATCH_SIZE + 1)), "the number of rows must be"),
        (server_call(TAKE_ROWS, i64(1), i64(0)), "expected 3 arguments, got 2"),
    ],
)
def test_an_invalid_call_is_an_error(message: bytes, text: str) -> None:
    assert is_server_call(message)
    failure = parse_server_call(message)
    assert isinstance(failure, Failure)
    with pytest.raises(ValueError, match=text):
        raise ValueError(str(failure))


def test_the_end_of_a_stream_may_be_a_request() -> None:
    assert parse_server_call(server_call(END_STREAM, i64(2)), is_post=False) == EndStream(2)


def test_a_request_that_is_sent_as_a_post_is_an_error() -> None:
    failure = parse_server_call(server_call(NEXT_BATCH, i64(1)), is_post=True)
    assert failure == Failure("type", ".ws.batch must be sent as a request")


@given(st.sampled_from([message for message, _ in VALID]), st.integers(0, 200), st.binary(max_size=40))
def test_any_bytes_are_a_call_or_an_error(message: bytes, cut: int, rest: bytes) -> None:
    damaged = message[: max(cut, 34)] + rest
    if is_server_call(damaged):
        assert parse_server_call(damaged) is not None


@given(st.binary(max_size=60))
def test_any_payload_can_be_examined(payload: bytes) -> None:
    if is_server_call(message := frame(payload)):
        parse_server_call(message)
