"""The connection without I/O: every event in every state, then two connections back to back."""

import struct
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_frame, frame

from rayforce_trio._websocket import (
    NO_STATUS,
    Close,
    CloseCode,
    EndedBy,
    Ending,
    LocalProtocolError,
    Ping,
    Pong,
    State,
    WebSocketConnection,
    WebSocketViolation,
    _connection,
)
from rayforce_trio._websocket._frames import Event
from rayforce_trio._websocket._masking import mask

LIMIT = 1 << 20
LONG = bytes(range(250)) * 400  # in one frame, in more than one piece with the sizes of `small_pieces`
NAMES = {CONTINUATION: "continuation", TEXT: "text", BINARY: "binary", CLOSE: "close", PING: "ping", PONG: "pong"}


@pytest.fixture(params=[True, False], ids=["client", "server"])
def client(request: pytest.FixtureRequest) -> bool:
    """Whether the connection that is tested is the client's end."""
    return bool(request.param)


@contextmanager
def small_pieces() -> Iterator[None]:
    """Let short messages be sent like long ones."""
    with mock.patch.multiple(
        _connection, FRAGMENT_SIZE=100, PIECE_SIZE=40, UNCOPIED_PIECE_SIZE=60, MAX_PACKED=20, MAX_SENT_AT_ONCE=90
    ):
        yield


class End:
    """A connection, and everything that it has sent."""

    def __init__(self, client: bool, *, max_message_size: int = LIMIT) -> None:
        self.connection = WebSocketConnection(client=client, max_message_size=max_message_size, max_text_size=LIMIT)
        self.client = client
        self.wire = b""

    def send_all(self) -> list[str]:
        """Send what there is to send; return the names of the frames that were completed."""
        before = len(frames_in(self.wire)[0])
        while (data := self.connection.data_to_send()) is not None:
            self.take(len(data))
        return [NAMES[opcode] for opcode, _, _ in frames_in(self.wire)[0][before:]]

    def take(self, count: int) -> bytes:
        """Send at most `count` bytes of what there is to send at once."""
        data = bytes(self.connection.data_to_send() or b"")[:count]
        self.wire += data
        if data:
            self.connection.bytes_sent(len(data))
        return data

    def receive(self, payload: bytes = b"", opcode: int = BINARY, *, fin: bool = True) -> object:
        """Let a frame of the peer arrive; return what comes of it."""
        self.connection.receive_data(frame(payload, opcode, masked=not self.client, fin=fin))
        return self.connection.next_event()

    def receive_too_much(self) -> object:
        """Let more arrive than may arrive while the connection closes."""
        for _ in range(LIMIT + _connection.CLOSING_ALLOWANCE >> 20):
            self.connection.receive_data(self._message_of_a_megabyte)
            self.connection.next_event()
        return self.receive()

    @cached_property
    def _message_of_a_megabyte(self) -> bytes:
        return frame(bytes(1 << 20), masked=not self.client)

    def receive_close(self, code: int = 1001) -> object:
        self.connection.receive_data(close_frame(code, masked=not self.client))
        return self.connection.next_event()

    def receive_violation(self) -> object:
        self.connection.receive_data(frame(opcode=3, masked=not self.client))
        return self.connection.next_event()


def frames_in(wire: bytes) -> tuple[list[tuple[int, bytes, bool]], bytes]:
    """Return opcode, payload and FIN of each frame, and the bytes of a frame that is incomplete."""
    frames = []
    while len(wire) >= 2:
        size, at = wire[1] & 0x7F, 2
        if size >= 126:
            at = 4 if size == 126 else 10
            size = int.from_bytes(wire[2:at])
        key = bytes(4)
        if wire[1] & 0x80:
            key = wire[at : at + 4]
            at += 4
        if len(wire) < at + size:
            break
        payload = mask(wire[at : at + size], key)
        frames.append((wire[0] & 0x0F, payload, wire[0] >= 0x80))
        wire = wire[at + size :]
    return frames, wire


# Every event in every state


def in_frame(end: End) -> None:
    end.connection.send(bytes(70))
    end.take(30)


def between_frames(end: End) -> None:
    end.connection.send(bytes(170))
    end.take(1000)
    while frames_in(end.wire)[1]:
        end.take(1000)


def in_parts(end: End) -> None:
    end.connection.send_part(b"part", last=False)
    end.send_all()


def closed_by_us(end: End) -> None:
    end.connection.close(1000, "")
    end.send_all()


def closed_by_peer(end: End) -> None:
    end.receive_close()


def failed(end: End) -> None:
    with pytest.raises(WebSocketViolation):
        end.receive_violation()


def failed_and_told(end: End) -> None:
    failed(end)
    end.connection.close(1002, "")
    end.send_all()


def closed(end: End) -> None:
    closed_by_us(end)
    end.receive_close()


def send_next(end: End) -> bool:
    """Send a short message by the shortcut; the network takes half of it."""
    frame = end.connection.pack_next(b"message")
    if frame is None:
        return False
    end.wire += frame[:4]
    end.connection.keep_unsent(frame[4:])
    return True


STATES: dict[str, Callable[[End], None]] = {
    "open": lambda _: None,
    "in frame": in_frame,
    "between": between_frames,
    "in parts": in_parts,
    "by us": closed_by_us,
    "by peer": closed_by_peer,
    "failed": failed,
    "told": failed_and_told,
    "closed": closed,
}

EVENTS: dict[str, Callable[[End], object]] = {
    "send": lambda end: end.connection.send(b"message"),
    "send text": lambda end: end.connection.send("text"),
    "send long": lambda end: end.connection.send(bytes(170)),
    "send part": lambda end: end.connection.send_part(b"part", last=False),
    "send last": lambda end: end.connection.send_part(b"part", last=True),
    "send short": lambda end: end.connection.send_short(b"message"),
    "send next": send_next,
    "begin": lambda end: end.connection.begin_message(bytes(70)),
    "ping": lambda end: end.connection.ping(),
    "abandon": lambda end: end.connection.abandon(),
    "close": lambda end: end.connection.close(1001, "why"),
    "close 1011": lambda end: end.connection.close(1011, "why"),
    "data": lambda end: end.receive(b"received"),
    "their ping": lambda end: end.receive(b"?", PING),
    "their pong": lambda end: end.receive(b"?", PONG),
    "their close": lambda end: end.receive_close(),
    "fragment": lambda end: end.receive(b"part", fin=False),
    "violation": lambda end: end.receive_violation(),
    "too much": lambda end: end.receive_too_much(),
    "eof": lambda end: end.connection.receive_eof(),
    "lost": lambda end: end.connection.connection_lost("broken"),
    "abort": lambda end: end.connection.abort(),
}

# A cell: the state after the event and after sending what there is to send; the names of the frames that were sent, `B`
# for binary, `T` for text, `C` for continuation, `X` for close, `?` for ping, `!` for pong; and a `*` if the event
# raised an exception, `=` if it returned False.
TABLE = """
            | open      | in frame   | between   | in parts  | by us     | by peer   | failed   | told     | closed
send        | OPEN B    | OPEN B *   | OPEN C *  | OPEN *    | CLOSING * | CLOSING * | FAILED * | FAILED * | CLOSED *
send text   | OPEN T    | OPEN B *   | OPEN C *  | OPEN *    | CLOSING * | CLOSING * | FAILED * | FAILED * | CLOSED *
send long   | OPEN BC   | OPEN B *   | OPEN C *  | OPEN *    | CLOSING * | CLOSING * | FAILED * | FAILED * | CLOSED *
send part   | OPEN B    | OPEN B *   | OPEN C *  | OPEN C    | CLOSING * | CLOSING * | FAILED * | FAILED * | CLOSED *
send last   | OPEN B    | OPEN B *   | OPEN C *  | OPEN C    | CLOSING * | CLOSING * | FAILED * | FAILED * | CLOSED *
send short  | OPEN B    | OPEN B =   | OPEN C =  | OPEN =    | CLOSING * | CLOSING * | FAILED * | FAILED * | CLOSED *
send next   | OPEN B    | OPEN B =   | OPEN C =  | OPEN =    | CLOSING = | CLOSING = | FAILED = | FAILED = | CLOSED =
begin       | OPEN B    | OPEN B =   | OPEN C =  | OPEN =    | CLOSING = | CLOSING = | FAILED = | FAILED = | CLOSED =
ping        | OPEN ?    | OPEN B?    | OPEN ?C   | OPEN ?    | CLOSING   | CLOSING   | FAILED   | FAILED   | CLOSED
abandon     | OPEN      | CLOSED     | OPEN      | OPEN      | CLOSING   | CLOSING   | FAILED   | FAILED   | CLOSED
close       | CLOSING X | CLOSING BX | CLOSING X | CLOSING X | CLOSING   | CLOSED X  | FAILED X | FAILED   | CLOSED
close 1011  | FAILED X  | FAILED BX  | FAILED X  | FAILED X  | CLOSING   | CLOSED X  | FAILED X | FAILED   | CLOSED
data        | OPEN      | OPEN B     | OPEN C    | OPEN      | CLOSING   | CLOSING   | FAILED   | FAILED   | CLOSED
their ping  | OPEN !    | OPEN B!    | OPEN !C   | OPEN !    | CLOSING   | CLOSING   | FAILED   | FAILED   | CLOSED
their pong  | OPEN      | OPEN B     | OPEN C    | OPEN      | CLOSING   | CLOSING   | FAILED   | FAILED   | CLOSED
their close | CLOSING   | CLOSING B  | CLOSING   | CLOSING   | CLOSED    | CLOSING   | FAILED   | FAILED   | CLOSED
fragment    | OPEN      | OPEN B     | OPEN C    | OPEN      | CLOSING   | CLOSING   | FAILED   | FAILED   | CLOSED
violation   | FAILED *  | FAILED B * | FAILED *  | FAILED *  | FAILED *  | CLOSING   | FAILED   | FAILED   | CLOSED
too much    | OPEN      | OPEN B     | OPEN C    | OPEN      | CLOSED    | CLOSING   | CLOSED   | CLOSED   | CLOSED
eof         | CLOSED    | CLOSED     | CLOSED    | CLOSED    | CLOSED    | CLOSING   | CLOSED   | CLOSED   | CLOSED
lost        | CLOSED    | CLOSED     | CLOSED    | CLOSED    | CLOSED    | CLOSED    | CLOSED   | CLOSED   | CLOSED
abort       | CLOSED    | CLOSED     | CLOSED    | CLOSED    | CLOSED    | CLOSED    | CLOSED   | CLOSED   | CLOSED
"""
LETTERS = {"binary": "B", "text": "T", "continuation": "C", "close": "X", "ping": "?", "pong": "!"}

# Who ended the connection, if the event itself ends it; otherwise the state tells.
ENDED_BY = {
    "close": EndedBy.US,
    "close 1011": EndedBy.US,
    "abandon": EndedBy.US,
    "abort": EndedBy.US,
    "their close": EndedBy.PEER,
    "violation": EndedBy.VIOLATION,
    "eof": EndedBy.LOSS,
    "lost": EndedBy.LOSS,
}
ENDED_BEFORE = {
    "by us": EndedBy.US,
    "by peer": EndedBy.PEER,
    "failed": EndedBy.VIOLATION,
    "told": EndedBy.VIOLATION,
    "closed": EndedBy.US,
}


def rows() -> Iterator[tuple[str, str, str]]:
    header, *lines = (line.split("|") for line in TABLE.strip("\n").splitlines())
    states = [name.strip() for name in header[1:]]
    assert states == list(STATES)
    assert [event.strip() for event, *_ in lines] == list(EVENTS)
    for event, *cells in lines:
        for state, cell in zip(states, cells, strict=True):
            yield state, event.strip(), cell.strip()


@pytest.mark.parametrize(("state", "event", "outcome"), list(rows()))
def test_every_event_in_every_state(state: str, event: str, outcome: str, client: bool) -> None:
    with small_pieces():
        end = End(client)
        STATES[state](end)
        try:
            mark = " =" if EVENTS[event](end) is False else ""
        except (LocalProtocolError, WebSocketViolation):
            mark = " *"
        sent = "".join(LETTERS[name] for name in end.send_all())
        connection = end.connection
        assert f"{connection.state.name} {sent}".strip() + mark == outcome
        ended_by = None if connection.state is State.OPEN else ENDED_BEFORE.get(state) or ENDED_BY[event]
        assert (connection.ending and connection.ending.by) == ended_by
        awaits_close = connection.state is State.CLOSING and ended_by is EndedBy.US
        assert connection.receiving is (connection.state is State.OPEN or awaits_close)
        assert connection.data_to_send() is None


# Messages


def test_what_is_sent_arrives(client: bool) -> None:
    end = End(client)
    assert end.connection.send_short(b"one")
    end.connection.send("two €")
    end.connection.send(memoryview(b"three"))
    end.connection.send(LONG)
    assert end.connection.sending
    assert end.send_all() == ["binary", "text", "binary", "binary"]
    assert not end.connection.sending
    assert [payload for _, payload, _ in frames_in(end.wire)[0]] == [b"one", "two €".encode(), b"three", LONG]


def test_a_message_is_produced_slice_by_slice(client: bool) -> None:
    class Produced:
        longest = 0

        def __len__(self) -> int:
            return len(LONG)

        def __getitem__(self, part: slice) -> bytes:
            self.longest = max(self.longest, part.stop - part.start)
            return LONG[part]

    with small_pieces():
        end = End(client)
        produced = Produced()
        assert not end.connection.send_short(produced)
        end.connection.send(produced)
        end.send_all()
    assert b"".join(payload for _, payload, _ in frames_in(end.wire)[0]) == LONG
    assert produced.longest == 40


def test_a_message_that_was_sent_is_not_kept(client: bool) -> None:
    memory = bytearray(LONG)
    end = End(client)
    end.connection.send(memoryview(memory))
    end.send_all()
    memory.clear()  # an error if there is still a view of it


def test_a_message_in_parts_is_one_message(client: bool) -> None:
    with small_pieces():
        end = End(client)
        for part, last in ((b"1", False), (bytes(150), False), (b"", False), (bytes(130), True)):
            end.connection.send_part(part, last=last)
            end.send_all()
        end.connection.send("next")
        end.send_all()
        frames = frames_in(end.wire)[0]
    assert [opcode for opcode, _, _ in frames] == [BINARY, *[CONTINUATION] * 5, TEXT]
    assert [len(payload) for _, payload, _ in frames] == [1, 100, 50, 0, 100, 30, 4]
    assert [fin for _, _, fin in frames] == [*[False] * 5, True, True]


def test_a_long_text_is_sent_in_fragments(client: bool) -> None:
    with small_pieces():
        end = End(client)
        end.connection.send("€" * 50)
        assert end.send_all() == ["text", "continuation"]
    assert b"".join(payload for _, payload, _ in frames_in(end.wire)[0]).decode() == "€" * 50


def test_short_messages_are_buffered_up_to_a_limit(client: bool) -> None:
    end = End(client)
    count = 0
    while end.connection.send_short(bytes(1000)):
        count += 1
    assert count > 50
    data = end.connection.data_to_send()
    assert data is not None
    assert len(data) <= _connection.MAX_BUFFERED
    assert end.send_all() == ["binary"] * count
    assert end.connection.send_short(bytes(1000))


def test_a_short_frame_once_begun_is_finished_before_anything_else(client: bool) -> None:
    end = End(client)
    end.connection.send(b"message")
    end.take(3)
    end.connection.abandon()
    end.connection.ping()
    end.receive(b"?", PING)
    end.connection.send_short(b"next")
    end.connection.close(1000)
    assert end.send_all() == ["binary", "pong", "ping", "binary", "close"]


def test_a_message_that_was_not_begun_can_be_abandoned(client: bool) -> None:
    end = End(client)
    end.connection.send(LONG)
    end.connection.abandon()
    assert end.connection.state is State.OPEN
    end.connection.send(b"next")
    assert end.send_all() == ["binary"]
    assert frames_in(end.wire)[0] == [(BINARY, b"next", True)]


class Unreadable:
    """A message whose bytes cannot be produced, from a position on."""

    def __init__(self, end: int) -> None:
        self._end = end

    def __len__(self) -> int:
        return len(LONG)

    def __getitem__(self, part: slice) -> bytes:
        if part.stop > self._end:
            raise MemoryError
        return LONG[part]


def test_a_message_whose_first_bytes_cannot_be_produced_is_not_begun(client: bool) -> None:
    end = End(client)
    end.connection.send(Unreadable(0))
    with pytest.raises(MemoryError):
        end.send_all()
    end.connection.abandon()
    end.connection.send(b"next")
    assert end.send_all() == ["binary"]


def test_a_message_whose_other_bytes_cannot_be_produced_is_cut(client: bool) -> None:
    with small_pieces():
        end = End(client)
        end.connection.send(Unreadable(len(LONG) - 1))
        with pytest.raises(MemoryError):
            end.send_all()
        end.connection.abandon()
        assert end.connection.state is State.CLOSED


def test_after_a_message_that_was_cut_between_frames_only_control_frames_are_sent(client: bool) -> None:
    with small_pieces():
        end = End(client)
        between_frames(end)
        end.connection.abandon()
        assert not end.connection.send_short(b"late")
        with pytest.raises(LocalProtocolError):
            end.connection.send(b"late")
        with pytest.raises(LocalProtocolError):
            end.connection.send_part(b"late", last=True)
        end.receive(b"?", PING)
        end.connection.ping()
        assert end.send_all() == ["pong", "ping"]
        assert end.receive(b"received") == b"received"
        end.connection.close(1001)
        assert end.send_all() == ["close"]
        assert end.receive_close() == Close(1001, "")
        assert end.connection.state is State.CLOSED


# Pings and pongs


def test_of_many_pings_the_latest_are_answered(client: bool) -> None:
    end = End(client)
    for number in range(1000):
        assert end.receive(str(number).encode(), PING) == Ping(str(number).encode())
    end.send_all()
    expected = [(PONG, str(number).encode(), True) for number in range(1000 - _connection.MAX_PONGS, 1000)]
    assert frames_in(end.wire)[0] == expected


def test_pongs_do_not_pile_up_while_the_peer_takes_nothing(client: bool) -> None:
    end = End(client)
    for _ in range(10_000):
        end.receive(bytes(125), PING)
        data = end.connection.data_to_send()
        assert data is not None
        assert len(data) < _connection.MAX_BUFFERED + 200
    assert set(end.send_all()) == {"pong"}


def test_pings_that_are_not_sent_are_one_ping(client: bool) -> None:
    end = End(client)
    end.connection.send(b"message")
    for _ in range(100):
        end.connection.ping()
    assert end.send_all() == ["binary", "ping"]


def test_a_pong_is_returned(client: bool) -> None:
    assert End(client).receive(b"!", PONG) == Pong(b"!")


# Closing


@pytest.mark.parametrize("code", [*range(1000, 1004), NO_STATUS, *range(1007, 1015), 3000, 4999])
def test_after_a_close_that_reports_an_error_nothing_is_read(code: int, client: bool) -> None:
    reports_an_error = code not in (1000, 1001, NO_STATUS) and code < 3000
    end = End(client)
    end.connection.close(code)
    assert end.connection.state is (State.FAILED if reports_an_error else State.CLOSING)
    assert end.connection.ending == Ending(EndedBy.US, code)
    assert end.receive(b"received") == (None if reports_an_error else b"received")
    assert end.send_all() == ["close"]


@pytest.mark.parametrize("code", [1002, 1013])
def test_a_close_that_reports_an_error_drops_an_unfinished_message(code: int, client: bool) -> None:
    end = End(client)
    end.connection.receive_data(frame(bytes(10), size=1000, masked=not client))
    assert end.connection.next_event() is None
    buffer = end.connection.get_buffer()
    assert buffer is not None
    memory = weakref.ref(buffer.obj)
    end.connection.close(code)
    del buffer
    assert memory() is None


def test_a_large_message_and_full_buffers_of_the_network_may_arrive_before_the_answer_to_a_close(client: bool) -> None:
    """An honest peer sends its close frame behind all that it has begun to send."""
    end = End(client)
    closed_by_us(end)
    messages = [bytes(LIMIT), *[bytes(1 << 20)] * 15]
    assert [len(end.receive(message)) for message in messages] == [len(message) for message in messages]  # type: ignore[arg-type]
    assert end.receive_close() == Close(1001, "")
    assert end.connection.state is State.CLOSED


@pytest.mark.parametrize("opcode", [PING, PONG, BINARY, CONTINUATION])
@pytest.mark.parametrize("shortcut", [False, True])
def test_a_peer_that_sends_small_frames_instead_of_an_answer_is_lost(opcode: int, shortcut: bool, client: bool) -> None:
    end = End(client, max_message_size=1000)
    connection = end.connection
    with mock.patch.multiple(_connection, CLOSING_ALLOWANCE=20_000, MAX_CLOSING_FRAMES=100):
        closed_by_us(end)
    if opcode == CONTINUATION:
        end.receive(fin=False)
    data = frame(b"", opcode, masked=not client, fin=opcode != CONTINUATION) * 1000
    frames = 0
    while connection.state is State.CLOSING:
        connection.receive_data(data)
        while (shortcut and connection.next_short_message() is not None) or connection.next_event() is not None:
            frames += 1
    assert connection.state is State.CLOSED
    assert frames <= 21_000 // len(frame(b"", masked=not client)) if shortcut and opcode == BINARY else frames <= 100
    assert connection.ending == Ending(EndedBy.US, 1000)


@pytest.mark.parametrize(("code", "reason"), [(1000, ""), (1011, "€" * 100), (NO_STATUS, "")])
def test_a_close_carries_code_and_reason(code: int, reason: str, client: bool) -> None:
    end = End(client)
    end.connection.close(code, reason)
    assert end.connection.ending == Ending(EndedBy.US, code, reason)
    end.send_all()
    [(opcode, payload, _)] = frames_in(end.wire)[0]
    assert opcode == CLOSE
    assert payload == (b"" if code == NO_STATUS else struct.pack("!H", code) + ("€" * (len(reason) and 41)).encode())


def test_pings_and_pongs_that_were_not_sent_before_a_close_are_dropped(client: bool) -> None:
    end = End(client)
    end.receive(b"?", PING)
    end.connection.ping()
    end.connection.close(1000)
    assert end.send_all() == ["close"]


def test_messages_arrive_until_the_peer_closes_too(client: bool) -> None:
    end = End(client)
    closed_by_us(end)
    assert end.receive(b"received") == b"received"
    assert end.receive_close(1000) == Close(1000, "")
    assert end.receive(b"late") is None


def test_closes_that_cross_end_the_connection(client: bool) -> None:
    end = End(client)
    end.connection.close(1001)
    assert end.receive_close(1000) == Close(1000, "")
    assert end.connection.state.name == "CLOSING"  # our frame has not been sent
    assert end.send_all() == ["close"]
    assert end.connection.state.name == "CLOSED"
    assert end.connection.ending == Ending(EndedBy.US, 1001)


def test_an_answer_is_sent_although_the_peer_has_sent_everything(client: bool) -> None:
    end = End(client)
    end.receive_close(1000)
    end.connection.receive_eof()
    end.connection.close(1000)
    assert end.send_all() == ["close"]
    assert end.connection.state is State.CLOSED
    assert end.connection.ending == Ending(EndedBy.PEER, 1000)


def test_a_violation_tells_code_and_text_and_can_be_answered(client: bool) -> None:
    end = End(client, max_message_size=3)
    end.receive(b"?", PING)  # no pong is sent any more
    with pytest.raises(WebSocketViolation, match="longer than the 3 bytes"):
        end.receive(b"1234")
    assert end.connection.ending is not None
    assert end.connection.ending.by is EndedBy.VIOLATION
    assert end.connection.ending.code == CloseCode.MESSAGE_TOO_BIG
    assert "longer than the 3 bytes" in end.connection.ending.reason
    end.connection.close(1009, "too long")
    assert end.send_all() == ["close"]
    end.connection.receive_eof()
    assert end.connection.state is State.CLOSED


def test_a_close_waits_for_the_frame_that_is_being_sent_and_for_nothing_else(client: bool) -> None:
    with small_pieces():
        end = End(client)
        end.connection.send(bytes(1000))
        end.take(30)
        end.connection.close(1001)
        assert end.connection.sending
        assert end.send_all() == ["binary", "close"]
        assert end.connection.sending  # the rest will never be sent
        end.connection.abandon()
        assert not end.connection.sending
        assert end.connection.state is State.CLOSING


def test_the_limits_may_be_changed(client: bool) -> None:
    end = End(client, max_message_size=3)
    end.connection.reader.max_message_size = 8
    end.connection.reader.max_text_size = 2
    assert end.receive(b"12345678") == b"12345678"
    with pytest.raises(WebSocketViolation):
        end.receive(b"123", TEXT)


# Two connections back to back


class Conversation(RuleBasedStateMachine):
    """A client and a server, and the bytes that are under way between them.

    `sent[end]` are the messages that `end` has queued and not abandoned, `part[end]` the parts of an unfinished one.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pieces = small_pieces()
        self.pieces.__enter__()
        self.ends = [End(client=True), End(client=False)]
        self.under_way = [b"", b""]  # sent by each end, and not received yet
        self.sent: list[list[object]] = [[], []]
        self.received: list[list[object]] = [[], []]
        self.part = [b"", b""]
        self.corrupted = [False, False]  # what each end has sent

    ends_ = st.integers(0, 1)
    messages = st.binary(max_size=15) | st.integers(0, 350).map(lambda size: (b"0123456789abc" * 27)[:size])

    @rule(end=ends_, message=messages | st.text(max_size=30))
    def send(self, end: int, message: bytes | str) -> None:
        try:
            self.ends[end].connection.send(message)
            self.sent[end].append(message)
        except LocalProtocolError:
            pass

    @rule(end=ends_, message=messages | st.text(max_size=30))
    def send_short(self, end: int, message: bytes | str) -> None:
        try:
            if self.ends[end].connection.send_short(message):
                self.sent[end].append(message)
        except LocalProtocolError:
            pass

    @rule(end=ends_, message=messages | st.text(max_size=30), taken=st.integers(0, 30))
    def send_next(self, end: int, message: bytes | str, taken: int) -> None:
        connection = self.ends[end].connection
        data = connection.pack_next(message)
        if data is not None:
            self.sent[end].append(message)
            self.ends[end].wire += data[:taken]
            self.under_way[end] += data[:taken]
            connection.keep_unsent(data[taken:])

    @rule(end=ends_, message=messages | st.text(max_size=30))
    def begin(self, end: int, message: bytes | str) -> None:
        connection = self.ends[end].connection
        if connection.begin_message(message):
            assert connection.data_to_send() is not None
            self.sent[end].append(message)

    @rule(end=ends_, data=messages, last=st.booleans())
    def send_part(self, end: int, data: bytes, last: bool) -> None:
        try:
            self.ends[end].connection.send_part(data, last=last)
        except LocalProtocolError:
            return
        self.part[end] += data
        if last:
            self.sent[end].append(self.part[end])
            self.part[end] = b""

    @rule(end=ends_)
    def ping(self, end: int) -> None:
        self.ends[end].connection.ping()

    @rule(end=ends_, code=st.sampled_from([1000, 1011, 4000, NO_STATUS]), reason=st.text(max_size=50))
    def close(self, end: int, code: int, reason: str) -> None:
        self.ends[end].connection.close(code, reason)

    @rule(end=ends_)
    def abandon(self, end: int) -> None:
        connection = self.ends[end].connection
        if connection.sending:
            if not self.part[end]:
                self.sent[end].pop()
            self.part[end] = b""
        connection.abandon()

    @rule(end=ends_, counts=st.lists(st.integers(0, 130), min_size=1, max_size=10))
    def transmit(self, end: int, counts: list[int]) -> None:
        """Let the network take some bytes of what an end has to send."""
        for count in counts:
            self.under_way[end] += self.ends[end].take(count)

    @rule(
        end=ends_,
        sizes=st.lists(st.integers(1, 150), min_size=1, max_size=10),
        in_place=st.booleans(),
        shortcut=st.booleans(),
    )
    def deliver(self, end: int, sizes: list[int], in_place: bool, shortcut: bool) -> None:
        """Let some bytes that are under way arrive at the other end."""
        for size in sizes:
            data, self.under_way[end] = self.under_way[end][:size], self.under_way[end][size:]
            self._arrive(1 - end, data, in_place, shortcut)

    @rule(end=ends_)
    @precondition(lambda self: not any(self.corrupted))
    def break_the_protocol(self, end: int) -> None:
        """Send a frame that must not be sent, instead of whatever would follow."""
        if not frames_in(self.ends[end].wire)[1]:
            self.corrupted[end] = True
            self.under_way[end] += frame(opcode=3, masked=end == 0)

    def _arrive(self, end: int, data: bytes, in_place: bool, shortcut: bool) -> None:
        connection = self.ends[end].connection
        while data:
            buffer = connection.get_buffer() if in_place else None
            if buffer is None:
                connection.receive_data(data)
                data = b""
            else:
                count = min(len(buffer), len(data))
                buffer[:count] = data[:count]
                connection.buffer_updated(count)
                data = data[count:]
            try:
                while True:
                    event: Event | None = connection.next_short_message() if shortcut else None
                    if event is None:
                        event = connection.next_event()
                    if event is None:
                        break
                    if isinstance(event, bytes | memoryview | str):
                        self.received[end].append(event)
            except WebSocketViolation:
                assert self.corrupted[1 - end]

    @invariant()
    def what_arrives_is_what_was_sent(self) -> None:
        for end in range(2):
            received, sent = self.received[1 - end], self.sent[end]
            assert received == sent[: len(received)]

    @invariant()
    def each_end_sends_one_close_frame_at_most_and_nothing_after_it(self) -> None:
        for end in self.ends:
            frames, rest = frames_in(end.wire)
            opcodes = [opcode for opcode, _, _ in frames]
            if CLOSE in opcodes:
                assert opcodes.index(CLOSE) == len(opcodes) - 1
                assert rest == b""

    @invariant()
    def memory_is_bounded(self) -> None:
        for end in self.ends:
            assert len(end.connection._outgoing) < _connection.MAX_BUFFERED + 1000
            assert len(end.connection._due_pongs) <= _connection.MAX_PONGS

    def teardown(self) -> None:
        """Close both ends as their owners do, and see what came of the conversation."""
        try:
            for _ in range(4):
                for end in range(2):
                    while data := self.ends[end].take(1000):
                        self.under_way[end] += data
                    data, self.under_way[end] = self.under_way[end], b""
                    self._arrive(1 - end, data, False, False)
                for end in range(2):
                    self.abandon(end)
                    self.close(end, 1000, "")
            # An end that abandoned a message within a frame is closed without a close frame, even after `close`.
            cut = [
                end.connection.state is State.CLOSED and CLOSE not in [frame[0] for frame in frames_in(end.wire)[0]]
                for end in self.ends
            ]
            failed = [end.connection.state is State.FAILED for end in self.ends]
            for end in range(2):
                if cut[1 - end] or failed[1 - end]:
                    self.ends[end].connection.receive_eof()
            for end in range(2):
                connection = self.ends[end].connection
                assert connection.state is State.CLOSED or failed[end]
                if connection.state is State.FAILED:
                    ending = connection.ending
                    assert ending is not None
                    assert ending.by is EndedBy.US if ending.code == 1011 else self.corrupted[1 - end]
                assert connection.data_to_send() is None
                assert not connection.reader.has_bytes
                if not any(self.corrupted) and not cut[1 - end] and not failed[1 - end]:
                    assert self.received[1 - end] == self.sent[end]
            self.what_arrives_is_what_was_sent()
            self.each_end_sends_one_close_frame_at_most_and_nothing_after_it()
        finally:
            self.pieces.__exit__(None, None, None)


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
