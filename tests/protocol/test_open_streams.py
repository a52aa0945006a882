"""The streams of a connection: every event in every state."""

from collections.abc import Callable

import pytest

from rayforce_trio._protocol import (
    MAX_STREAM_BYTES,
    MAX_STREAMS,
    Failure,
    NextBatch,
    OpenStream,
    OpenStreams,
    Rows,
    StreamState,
    TakeRows,
)

Event = Callable[[OpenStreams], object]

UNKNOWN = Failure("domain", "the connection has no stream 1")
TWICE = Failure("domain", "the connection already has a stream 1")
FINISHED = Failure("domain", "all rows of stream 1 have already been sent")


def opening(stream: int = 1, batch_size: int = 4) -> OpenStream:
    return OpenStream(stream, batch_size, b"")


def none() -> OpenStreams:
    return OpenStreams()


def in_opening() -> OpenStreams:
    streams = OpenStreams()
    assert streams.open(opening()) is None
    return streams


def in_open(rows: int = 6) -> OpenStreams:
    streams = in_opening()
    assert streams.opened(1, rows, 8 * rows) is None
    return streams


def in_finished() -> OpenStreams:
    streams = in_open()
    streams.returned(1, Rows(0, 6))
    return streams


STATES: dict[StreamState | None, Callable[[], OpenStreams]] = {
    None: none,
    StreamState.OPENING: in_opening,
    StreamState.OPEN: in_open,
    StreamState.FINISHED: in_finished,
}


def open_it(streams: OpenStreams) -> object:
    return streams.open(opening())


def next_rows(streams: OpenStreams) -> object:
    return streams.next_rows(NextBatch(1))


def take_rows(streams: OpenStreams) -> object:
    return streams.take_rows(TakeRows(1, 5, 1))


def remove(streams: OpenStreams) -> object:
    streams.remove(1)
    return None


@pytest.mark.parametrize(
    ("state", "event", "outcome", "after"),
    [
        (None, open_it, None, StreamState.OPENING),
        (None, next_rows, UNKNOWN, None),
        (None, take_rows, UNKNOWN, None),
        (None, remove, None, None),
        (StreamState.OPENING, open_it, TWICE, StreamState.OPENING),
        (StreamState.OPENING, next_rows, UNKNOWN, StreamState.OPENING),
        (StreamState.OPENING, take_rows, UNKNOWN, StreamState.OPENING),
        (StreamState.OPENING, remove, None, None),
        (StreamState.OPEN, open_it, TWICE, StreamState.OPEN),
        (StreamState.OPEN, next_rows, Rows(0, 4), StreamState.OPEN),
        (StreamState.OPEN, take_rows, Rows(5, 1), StreamState.OPEN),
        (StreamState.OPEN, remove, None, None),
        (StreamState.FINISHED, open_it, TWICE, StreamState.FINISHED),
        (StreamState.FINISHED, next_rows, FINISHED, StreamState.FINISHED),
        (StreamState.FINISHED, take_rows, Rows(5, 1), StreamState.FINISHED),
        (StreamState.FINISHED, remove, None, None),
    ],
)
def test_every_event_in_every_state(state: StreamState | None, event: Event, outcome: object, after: object) -> None:
    streams = STATES[state]()
    assert streams.state(1) is state
    assert event(streams) == outcome
    assert streams.state(1) is after


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(0, [Rows(0, 0)]), (3, [Rows(0, 3)]), (4, [Rows(0, 4)]), (9, [Rows(0, 4), Rows(4, 4), Rows(8, 1)])],
)
def test_the_batches_have_all_rows_once(rows: int, expected: list[Rows]) -> None:
    streams, batches = in_open(rows), []
    while streams.state(1) is StreamState.OPEN:
        batch = streams.next_rows(NextBatch(1))
        assert isinstance(batch, Rows)
        batches.append(batch)
        streams.returned(1, batch)
    assert batches == expected


def test_a_result_without_rows_remains_until_its_end() -> None:
    streams = in_opening()
    streams.has_no_rows(1)
    assert streams.state(1) is StreamState.FINISHED
    streams.remove(1)
    assert streams.state(1) is None


@pytest.mark.parametrize(("first", "size"), [(0, 7), (5, 2), (6, 1), (2**62, 1)])
def test_rows_that_do_not_exist_are_an_error(first: int, size: int) -> None:
    refusal = in_open().take_rows(TakeRows(1, first, size))
    assert isinstance(refusal, Failure)
    assert (refusal.code, refusal.message.partition(",")[0]) == ("domain", "stream 1 has 6 rows")


def test_rows_can_be_taken_in_any_order_beside_the_batches() -> None:
    streams = in_open()
    assert streams.take_rows(TakeRows(1, 2, 4)) == Rows(2, 4)
    assert streams.take_rows(TakeRows(1, 0, 6)) == Rows(0, 6)
    assert streams.next_rows(NextBatch(1)) == Rows(0, 4)


def test_rows_that_were_not_returned_are_returned_next() -> None:
    streams = in_open()
    assert streams.next_rows(NextBatch(1)) == streams.next_rows(NextBatch(1)) == Rows(0, 4)


def test_the_number_of_streams_is_bounded() -> None:
    streams = OpenStreams()
    for number in range(1, MAX_STREAMS + 1):
        assert streams.open(opening(number)) is None
    refusal = streams.open(opening(100))
    assert refusal is not None
    assert refusal.code == "limit"
    streams.remove(1)
    assert streams.open(opening(100)) is None


def test_the_bytes_of_several_streams_are_bounded() -> None:
    streams = OpenStreams()
    streams.open(opening(1))
    assert streams.opened(1, 10, 2 * MAX_STREAM_BYTES) is None  # one stream may have any size
    streams.open(opening(2))
    refusal = streams.opened(2, 10, 80)
    assert refusal is not None
    assert (refusal.code, streams.state(2)) == ("limit", None)
    streams.remove(1)
    for number in (3, 4):
        streams.open(opening(number))
        assert streams.opened(number, 10, MAX_STREAM_BYTES // 2) is None
