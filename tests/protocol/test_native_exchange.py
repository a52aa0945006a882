"""The exchange with a native server: every event in every state, and any division of the byte stream."""

import socket
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cutting import cut
from support.exchanges import REQUEST, send_all, send_request, waiting_exchange
from support.native import native_server

from rayforce_trio._protocol import (
    HEADER_SIZE,
    NATIVE_MAX_REPLY,
    CancelAction,
    ExchangeState,
    FrameChunk,
    FrameError,
    Header,
    MessageType,
    NativeExchange,
    ProtocolViolation,
    dump_credentials,
    error_code,
    parse_header,
)

HANDSHAKING, IDLE, SENDING, WAITING, RECEIVING = ExchangeState
NOTHING, DROP, AFTER_SENDING, STOP_NOW = CancelAction

CREDENTIALS = dump_credentials("ann", "secret")
HELLO = b"\3\0"


def frame(payload: bytes, message_type: MessageType = MessageType.RESPONSE, flags: int = 0) -> bytes:
    return Header(flags, message_type, len(payload)).pack() + payload


THREE = frame(b"\xfb\0\3\0\0\0\0\0\0\0")
ERROR = frame(b"\x7ftype\0\0\0\0")
LONG = frame(bytes(1000))
PUSH = frame(bytes(1000), MessageType.ASYNC)
POST = frame(b"post", MessageType.ASYNC)


# Steps, and paths of steps to each state


def send_some(exchange: NativeExchange) -> None:
    """Write all but the last byte of the next piece."""
    assert exchange.bytes_sent(len(exchange.data_to_send()) - 1)


def receive(exchange: NativeExchange, data: bytes) -> list[FrameChunk]:
    """Receive some bytes; returns the chunks that they complete."""
    exchange.receive_data(data)
    return list(iter(exchange.next_event, None))


def request(exchange: NativeExchange) -> None:
    exchange.request(REQUEST)


def post(exchange: NativeExchange) -> None:
    exchange.post(POST)


def cancel(exchange: NativeExchange) -> CancelAction:
    return exchange.cancel()


def stop_sent(exchange: NativeExchange) -> None:
    assert exchange.stop_due
    exchange.stop_sent()


def greeted(exchange: NativeExchange) -> None:
    """The server needs no credentials."""
    send_all(exchange)
    assert receive(exchange, b"\3\0") == []


def asked_for_credentials(exchange: NativeExchange) -> None:
    send_all(exchange)
    assert receive(exchange, b"\3\1") == []


def accepted(exchange: NativeExchange) -> None:
    """The server has received the credentials and accepts them."""
    assert send_all(exchange) == CREDENTIALS
    assert receive(exchange, b"\0") == []


def reply_begins(exchange: NativeExchange) -> list[FrameChunk]:
    return receive(exchange, LONG[:100])


def reply_ends(exchange: NativeExchange) -> list[FrameChunk]:
    return receive(exchange, LONG[100:])


def reply(exchange: NativeExchange) -> list[FrameChunk]:
    return receive(exchange, THREE)


def push(exchange: NativeExchange) -> list[FrameChunk]:
    return receive(exchange, PUSH)


def server_requests(exchange: NativeExchange) -> list[FrameChunk]:
    return receive(exchange, REQUEST)


def garbage(exchange: NativeExchange) -> list[FrameChunk]:
    return receive(exchange, bytes(64))


def eof(exchange: NativeExchange) -> None:
    exchange.receive_eof()


Step = Callable[[NativeExchange], object]

PATHS: dict[str, tuple[ExchangeState, list[Step]]] = {
    "new": (HANDSHAKING, []),
    "new, with a request": (HANDSHAKING, [request]),
    "asked for credentials": (HANDSHAKING, [asked_for_credentials]),
    "asked for credentials, with a request": (HANDSHAKING, [asked_for_credentials, request]),
    "new, with a request that was dropped": (HANDSHAKING, [request, cancel]),
    "idle": (IDLE, [greeted]),
    "idle after credentials": (IDLE, [asked_for_credentials, accepted]),
    "idle after a reply": (IDLE, [greeted, request, send_all, reply]),
    "idle after a long reply": (IDLE, [greeted, request, send_all, reply_begins, reply_ends]),
    "idle after a stop": (IDLE, [greeted, request, send_all, cancel, stop_sent, reply]),
    "idle after a stop that was never sent": (IDLE, [greeted, request, send_all, cancel, reply]),
    "idle after a cancel without a request": (IDLE, [greeted, cancel]),
    "sending": (SENDING, [greeted, request]),
    "sending the rest": (SENDING, [greeted, request, send_some]),
    "sending a post": (SENDING, [greeted, post]),
    "sending what had waited for the handshake": (SENDING, [request, greeted]),
    "sending what had waited for credentials": (SENDING, [request, asked_for_credentials, accepted]),
    "sending, cancelled": (SENDING, [greeted, request, cancel]),
    "sending after a cancel without a request": (SENDING, [greeted, cancel, request]),
    "waiting": (WAITING, [greeted, request, send_all]),
    "waiting for a post": (WAITING, [greeted, post, send_all]),
    "waiting after a push": (WAITING, [greeted, request, send_all, push]),
    "waiting, the stop due": (WAITING, [greeted, request, send_all, cancel]),
    "waiting, cancelled while sending": (WAITING, [greeted, request, send_some, cancel, send_all]),
    "waiting, stopped": (WAITING, [greeted, request, send_all, cancel, stop_sent]),
    "receiving": (RECEIVING, [greeted, request, send_all, reply_begins]),
    "receiving after a stop": (RECEIVING, [greeted, request, send_all, cancel, stop_sent, reply_begins]),
    "receiving, the stop never sent": (RECEIVING, [greeted, request, send_all, cancel, reply_begins]),
}


def at(path: str) -> NativeExchange:
    """Return an exchange to which the events of a path have happened."""
    state, steps = PATHS[path]
    exchange = NativeExchange(CREDENTIALS)
    for step in steps:
        step(exchange)
    assert exchange.state is state
    return exchange


def paths_in(*states: ExchangeState) -> list[str]:
    return [path for path, (state, _) in PATHS.items() if state in states]


each_path = pytest.mark.parametrize("path", PATHS)


# Every event in every state


NEW_REQUEST = {
    "new": HANDSHAKING,
    "asked for credentials": HANDSHAKING,
    "new, with a request that was dropped": HANDSHAKING,
    **dict.fromkeys(paths_in(IDLE), SENDING),
}
"""The paths after which a request can begin, and the state after that."""


@each_path
@pytest.mark.parametrize("begin", [request, post])
def test_begin(path: str, begin: Step) -> None:
    exchange = at(path)
    if path in NEW_REQUEST:
        begin(exchange)
        assert exchange.state is NEW_REQUEST[path]
        assert not exchange.stop_due
    else:
        before = exchange.data_to_send()
        with pytest.raises(RuntimeError, match="one request is in flight at a time"):
            begin(exchange)
        assert (exchange.state, exchange.data_to_send()) == (PATHS[path][0], before)


CANCEL = {
    "new, with a request": DROP,
    "asked for credentials, with a request": DROP,
    **dict.fromkeys(paths_in(SENDING), AFTER_SENDING),
    "waiting": STOP_NOW,
    "waiting for a post": STOP_NOW,
    "waiting after a push": STOP_NOW,
}


@each_path
def test_cancel(path: str) -> None:
    """At most one stop is sent for each request, and none that could hit the next one."""
    exchange = at(path)
    state, due = exchange.state, exchange.stop_due
    action = exchange.cancel()
    assert action is CANCEL.get(path, NOTHING)
    assert exchange.state is state
    assert exchange.stop_due is (due or action is STOP_NOW)
    assert exchange.cancel() is (AFTER_SENDING if action is AFTER_SENDING else NOTHING)


@each_path
def test_a_stop_is_due_once_the_request_is_written_and_until_it_is_sent(path: str) -> None:
    assert at(path).stop_due is (path in ("waiting, the stop due", "waiting, cancelled while sending"))


@pytest.mark.parametrize("cancelled", [False, True])
@pytest.mark.parametrize("path", paths_in(SENDING))
def test_the_last_byte_sent_makes_the_stop_due(path: str, cancelled: bool) -> None:
    exchange = at(path)
    if cancelled:
        exchange.cancel()
    cancelled = cancelled or path == "sending, cancelled"
    send_some(exchange)
    assert (exchange.state, exchange.stop_due) == (SENDING, False)
    assert exchange.bytes_sent(1) is cancelled
    assert (exchange.state, exchange.stop_due) == (WAITING, cancelled)


@pytest.mark.parametrize(
    ("before", "begun"),
    [([], False), ([request], True), ([request, send_some], True), ([request, send_all], True)],
    ids=["before it begins", "before it is written", "in the middle", "once it is written"],
)
def test_a_stop_that_arrives_just_as_a_request_begins(before: list[Step], begun: bool) -> None:
    """It stops that request if the request has begun, and is forgotten otherwise."""
    exchange = at("idle")
    for step in before:
        step(exchange)
    exchange.cancel()
    if not begun:
        request(exchange)
    send_all(exchange)
    assert exchange.stop_due is begun


def test_a_stop_that_arrives_with_the_reply_does_not_hit_the_next_request() -> None:
    exchange = at("waiting")
    reply(exchange)
    assert exchange.cancel() is NOTHING
    send_request(exchange)
    assert not exchange.stop_due


@pytest.mark.parametrize("path", paths_in(WAITING))
def test_the_reply_ends_the_request_and_its_stop(path: str) -> None:
    exchange = at(path)
    assert reply(exchange) == [FrameChunk(parse_header(THREE), THREE, first=True, unread=0)]
    assert (exchange.state, exchange.stop_due, exchange.within_frame) == (IDLE, False, False)


@pytest.mark.parametrize("path", paths_in(WAITING))
def test_a_long_reply_comes_in_chunks(path: str) -> None:
    exchange = at(path)
    header = parse_header(LONG)
    assert receive(exchange, LONG[:100]) == [FrameChunk(header, LONG[:100], first=True, unread=len(LONG) - 100)]
    assert (exchange.state, exchange.stop_due, exchange.within_frame) == (RECEIVING, False, True)
    assert receive(exchange, LONG[100:101]) == [FrameChunk(header, LONG[100:101], first=False, unread=len(LONG) - 101)]
    assert receive(exchange, LONG[101:]) == [FrameChunk(header, LONG[101:], first=False, unread=0)]
    assert (exchange.state, exchange.within_frame) == (IDLE, False)


@each_path
@pytest.mark.parametrize(
    "data",
    [
        THREE,
        ERROR,
        LONG,
        LONG[:100],
        THREE[:16],
        THREE[:5],
        THREE + THREE,
        PUSH,
        POST,
        REQUEST,
        bytes(64),
        frame(b"x", flags=1),
    ],
    ids=[
        "value",
        "error",
        "long",
        "part",
        "header",
        "part of a header",
        "two",
        "push",
        "post",
        "request",
        "garbage",
        "compressed",
    ],
)
def test_the_shortcut_for_a_whole_reply_does_the_same(path: str, data: bytes) -> None:
    """It is taken if the reply is whole and was not to be stopped, and otherwise changes nothing."""
    exchange, general = at(path), at(path)
    taken = path in ("waiting", "waiting for a post", "waiting after a push") and data in (THREE, ERROR, LONG)
    before = vars(exchange).copy()
    assert exchange.receive_reply(data) is taken
    if taken:
        (chunk,) = receive(general, data)
        assert (chunk.data, chunk.first, chunk.unread) == (data, True, 0)
        assert vars(exchange) | {"_header": None} == vars(general) | {"_header": None}
    else:
        assert vars(exchange) == before


def test_a_compressed_reply_is_returned_as_it_is() -> None:
    exchange = at("waiting")
    compressed = frame(bytes(100), flags=1)
    (chunk,) = receive(exchange, compressed)
    assert (chunk.header.compressed, chunk.data) == (True, compressed)


@pytest.mark.parametrize("path", paths_in(IDLE, SENDING))
@pytest.mark.parametrize("data", [THREE, LONG[:100], ERROR], ids=["whole", "in part", "error"])
def test_a_reply_without_a_request_is_a_violation(path: str, data: bytes) -> None:
    with pytest.raises(ProtocolViolation, match=r"^it sent a reply without a request$"):
        receive(at(path), data)


@pytest.mark.parametrize("path", paths_in(IDLE, SENDING, WAITING))
def test_a_request_from_the_server_is_a_violation(path: str) -> None:
    with pytest.raises(ProtocolViolation, match=r"^it sent a request$"):
        server_requests(at(path))


@pytest.mark.parametrize("path", paths_in(IDLE, SENDING, WAITING))
def test_pushes_are_discarded_in_every_state(path: str) -> None:
    exchange = at(path)
    state, due = exchange.state, exchange.stop_due
    for data in (PUSH, PUSH[:5], PUSH[5:500], PUSH[500:] + POST):
        assert receive(exchange, data) == []
        assert exchange.within_frame is (0 < len(data) < 500)
        assert (exchange.state, exchange.stop_due) == (state, due)


@pytest.mark.parametrize("path", paths_in(RECEIVING))
def test_pushes_are_discarded_after_a_reply(path: str) -> None:
    exchange = at(path)
    (chunk,) = receive(exchange, LONG[100:] + PUSH + POST)
    assert (chunk.data, chunk.unread, exchange.state) == (LONG[100:], 0, IDLE)


@pytest.mark.parametrize("path", paths_in(IDLE, SENDING, WAITING))
def test_garbage_is_a_violation_and_stays_one(path: str) -> None:
    exchange = at(path)
    with pytest.raises(FrameError, match="not a Rayforce frame"):
        garbage(exchange)
    for _ in range(2):
        with pytest.raises(FrameError, match="not a Rayforce frame"):
            exchange.next_event()


@pytest.mark.parametrize(("size", "allowed"), [(NATIVE_MAX_REPLY, True), (NATIVE_MAX_REPLY + 1, False)])
def test_the_longest_reply(size: int, allowed: bool) -> None:
    exchange = at("waiting")
    exchange.receive_data(Header(0, MessageType.RESPONSE, size).pack() + bytes(100))
    if allowed:
        chunk = exchange.next_event()
        assert chunk is not None
        assert chunk.unread == size - 100
    else:
        with pytest.raises(ProtocolViolation, match=f"^it sent a reply of {size} bytes; the limit is {size - 1}$"):
            exchange.next_event()


EOF_ERRORS = {
    **dict.fromkeys(
        paths_in(HANDSHAKING),
        "^it closed the connection during the handshake, as servers of another",
    ),
    "asked for credentials": "^it rejected the user name or the password$",
    "asked for credentials, with a request": "^it rejected the user name or the password$",
}


@each_path
def test_eof_is_a_violation_only_during_the_handshake(path: str) -> None:
    exchange = at(path)
    if path in EOF_ERRORS:
        with pytest.raises(ProtocolViolation, match=EOF_ERRORS[path]):
            eof(exchange)
    else:
        eof(exchange)


# Handshake


def test_the_handshake_begins_with_the_version() -> None:
    exchange = NativeExchange(CREDENTIALS)
    assert (exchange.data_to_send(), exchange.state) == (HELLO, HANDSHAKING)


@pytest.mark.parametrize("path", paths_in(HANDSHAKING))
@pytest.mark.parametrize("cuts", [[2], [1, 1]], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("needs_credentials", [False, True])
def test_credentials_are_sent_only_to_a_server_that_needs_them(
    path: str, cuts: list[int], needs_credentials: bool
) -> None:
    exchange = at(path)
    has_request = exchange.cancel() is DROP
    if has_request:
        request(exchange)
    if "credentials" in path:
        needs_credentials = True
    else:
        assert send_all(exchange) == HELLO
        answer = b"\3\1" if needs_credentials else b"\3\0"
        for cut_size in cuts:
            assert exchange.state is HANDSHAKING
            exchange.receive_data(answer[:cut_size])
            answer = answer[cut_size:]
    if needs_credentials:
        assert exchange.state is HANDSHAKING
        assert send_all(exchange) == CREDENTIALS
        exchange.receive_data(b"\0")
    assert exchange.state is (SENDING if has_request else IDLE)
    assert send_all(exchange) == (REQUEST if has_request else b"")


@pytest.mark.parametrize("data", [PUSH, PUSH[:9]], ids=["whole", "in part"])
@pytest.mark.parametrize("answer", [b"\3\0", b"\3\1\0"], ids=["without credentials", "with credentials"])
def test_frames_may_follow_the_handshake_at_once(answer: bytes, data: bytes) -> None:
    exchange = NativeExchange(CREDENTIALS)
    assert receive(exchange, answer + data) == []
    assert (exchange.state, exchange.within_frame) == (IDLE, len(data) < len(PUSH))


@pytest.mark.parametrize("answer", [b"\1", b"\2", b"\xff"], ids=repr)
@pytest.mark.parametrize("at_once", [False, True])
def test_rejected_credentials(answer: bytes, at_once: bool) -> None:
    exchange = NativeExchange(CREDENTIALS)
    if not at_once:
        exchange.receive_data(b"\3\1")
    with pytest.raises(ProtocolViolation, match=r"^it rejected the user name or the password$"):
        exchange.receive_data(b"\3\1" + answer if at_once else answer)


@pytest.mark.parametrize("answer", [b"\2\0", b"\4\1", b"\0\0", b"\xff\1"])
def test_another_wire_version_is_a_violation(answer: bytes) -> None:
    with pytest.raises(ProtocolViolation, match=f"^it has wire version {answer[0]}; only version 3 is supported$"):
        NativeExchange(CREDENTIALS).receive_data(answer)


@pytest.mark.parametrize("answer", [b"HT", b"SS", b"\3\2", b"\r\n"])
def test_another_greeting_is_a_violation_that_quotes_it(answer: bytes) -> None:
    match = f"^it is not a Rayforce server: it answered {answer.hex(' ')}$"
    with pytest.raises(ProtocolViolation, match=match):
        NativeExchange(CREDENTIALS).receive_data(answer)


@given(st.data())
def test_only_two_answers_complete_the_handshake(data: st.DataObject) -> None:
    answer = data.draw(st.lists(st.sampled_from(range(4)) | st.integers(0, 255), max_size=3).map(bytes))
    exchange = NativeExchange(CREDENTIALS)
    received = b""
    try:
        for piece in data.draw(cut(answer)):
            if exchange.state is HANDSHAKING:
                received += piece
                exchange.receive_data(piece)
    except ProtocolViolation:
        assert exchange.state is HANDSHAKING
    complete = received.startswith((b"\3\0", b"\3\1\0"))
    assert (exchange.state is IDLE) is complete


@pytest.mark.parametrize(
    ("user", "password"),
    [("", "p" * 253), ("u" * 252, "p"), ("ann", "a:b"), ("", "é" * 100), ("", "p")],
    ids=["long password", "long user", "colon", "not ascii", "short"],
)
def test_a_server_accepts_every_kind_of_credentials(user: str, password: str) -> None:
    with (
        native_server("-u", password) as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as sock,
    ):
        exchange = NativeExchange(dump_credentials(user, password))
        while exchange.state is HANDSHAKING:
            sock.sendall(send_all(exchange))
            exchange.receive_data(sock.recv(100))
        assert exchange.state is IDLE


# Requests


def sent(begin: Callable[[NativeExchange], None]) -> bytes:
    exchange = at("idle")
    begin(exchange)
    return send_all(exchange)


@pytest.mark.parametrize("size", [1, 100, 64 * 1024 - HEADER_SIZE, 64 * 1024, 300_000])
@pytest.mark.parametrize("message_type", MessageType)
@pytest.mark.parametrize("kind", [bytes, memoryview])
def test_requests_and_posts_have_their_message_type_whatever_the_frame_has(
    size: int, message_type: MessageType, kind: Callable[[bytes], bytes]
) -> None:
    payload = bytes(range(256)) * (size // 256) + bytes(size % 256)
    given_frame = kind(frame(payload, message_type, flags=4))
    fence = sent(lambda exchange: exchange.post(POST)).removeprefix(POST)
    assert parse_header(fence).message_type is MessageType.SYNC
    assert fence[HEADER_SIZE:] == b"\xfb\0" + bytes(8)  # the value 0
    assert sent(lambda exchange: exchange.request(given_frame)) == frame(payload, MessageType.SYNC, flags=4)
    assert sent(lambda exchange: exchange.post(given_frame)) == frame(payload, MessageType.ASYNC, flags=4) + fence


@pytest.mark.parametrize("message_type", MessageType)
def test_a_long_request_is_not_copied(message_type: MessageType) -> None:
    long = frame(bytes(100_000), message_type)
    exchange = at("idle")
    exchange.request(long)
    pieces = []
    while data := exchange.data_to_send():
        pieces.append(data)
        exchange.bytes_sent(len(data))
    last = pieces[-1]
    assert last is long or (isinstance(last, memoryview) and last.obj is long)


@given(st.binary(min_size=1, max_size=100), st.sampled_from(MessageType), st.booleans(), st.lists(st.integers(0, 50)))
def test_a_request_can_be_written_in_any_pieces(
    payload: bytes, message_type: MessageType, is_post: bool, counts: list[int]
) -> None:
    exchange = at("idle")
    begin = exchange.post if is_post else exchange.request
    begin(frame(payload, message_type))
    written = b""
    while data := exchange.data_to_send():
        assert exchange.state is SENDING
        count = min(counts.pop(0), len(data)) if counts else len(data)
        written += data[:count]
        exchange.bytes_sent(count)
    assert exchange.state is WAITING
    assert written.startswith(frame(payload, MessageType.ASYNC if is_post else MessageType.SYNC))


# The byte stream


@dataclass
class Conversation:
    """An exchange whose client sends a request whenever none is in flight."""

    exchange: NativeExchange = field(default_factory=waiting_exchange)
    chunks: list[FrameChunk] = field(default_factory=list)

    def receive(self, data: bytes) -> None:
        self.exchange.receive_data(data)
        while (chunk := self.exchange.next_event()) is not None:
            self.chunks.append(chunk)
            if self.exchange.state is IDLE:
                send_request(self.exchange)

    @property
    def frames(self) -> list[bytes]:
        """The frames that the chunks make, each checked against its header."""
        whole, collected = [], b""
        for chunk in self.chunks:
            assert chunk.first is not bool(collected)
            collected += chunk.data
            assert chunk.header.size + HEADER_SIZE - len(collected) == chunk.unread
            assert collected.startswith(chunk.header.pack())
            if not chunk.unread:
                whole.append(collected)
                collected = b""
        assert not collected
        return whole


replies = st.builds(frame, st.binary(min_size=1, max_size=300), flags=st.integers(0, 255)) | st.sampled_from(
    [THREE, ERROR]
)
pushes = st.builds(frame, st.binary(min_size=1, max_size=300), st.just(MessageType.ASYNC))


@given(st.data())
def test_any_division_of_the_stream_gives_the_same_replies(data: st.DataObject) -> None:
    frames = data.draw(st.lists(replies | pushes, max_size=6))
    conversation = Conversation()
    for piece in data.draw(cut(b"".join(frames))):
        conversation.receive(piece)
    assert conversation.frames == [each for each in frames if parse_header(each).message_type is MessageType.RESPONSE]
    assert (conversation.exchange.state, conversation.exchange.within_frame) == (WAITING, False)


@given(st.data())
def test_the_first_chunk_shows_whether_the_reply_is_an_error(data: st.DataObject) -> None:
    sent = data.draw(st.lists(replies, max_size=5))
    conversation = Conversation()
    for piece in data.draw(cut(b"".join(sent))):
        conversation.receive(piece)
    firsts = [chunk for chunk in conversation.chunks if chunk.first]
    for chunk, each in zip(firsts, sent, strict=True):
        assert len(chunk.data) >= min(len(each), len(ERROR))
        assert error_code(chunk.data) == error_code(each)


@given(st.data())
def test_only_the_beginning_of_a_frame_is_kept(data: st.DataObject) -> None:
    conversation = Conversation()
    received = 0
    for piece in data.draw(cut(b"".join(data.draw(st.lists(replies, max_size=5))))):
        received += len(piece)
        conversation.receive(piece)
        assert 0 <= received - sum(len(chunk.data) for chunk in conversation.chunks) < 64


def test_within_a_frame() -> None:
    conversation = Conversation()
    assert not conversation.exchange.within_frame
    for end in range(1, len(LONG)):
        conversation.receive(LONG[end - 1 : end])
        assert conversation.exchange.within_frame
    conversation.receive(LONG[-1:])
    assert not conversation.exchange.within_frame


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "^not a Rayforce frame"),
        (THREE.replace(b"\3", b"\2", 1), "wire version 2"),
        (THREE.replace(b"\2", b"\7", 1), "message type 7"),
        (frame(b""), "payload of 0 bytes"),
        (THREE[:15] + b"\xff", "payload of -"),
    ],
    ids=["http", "version", "type", "empty", "negative"],
)
@pytest.mark.parametrize("before", [b"", THREE, LONG], ids=["at once", "after a frame", "after a long one"])
def test_an_invalid_header_is_a_violation_once_it_is_complete(before: bytes, data: bytes, why: str) -> None:
    conversation = Conversation()
    conversation.receive(before + data[: HEADER_SIZE - 1])
    assert conversation.frames == ([before] if before else [])
    with pytest.raises(FrameError, match=why):
        conversation.receive(data[HEADER_SIZE - 1 :])


@given(st.data())
def test_arbitrary_bytes_give_chunks_or_a_violation(data: st.DataObject) -> None:
    sent = data.draw(st.lists(replies | st.binary(max_size=50), max_size=4).map(b"".join))
    conversation = Conversation()
    try:
        for piece in data.draw(cut(sent)):
            conversation.receive(piece)
    except ProtocolViolation:
        pass
    assert b"".join(chunk.data for chunk in conversation.chunks) in sent


# Any order of events


@given(st.data())
def test_no_order_of_events_sends_two_stops_or_a_stop_without_a_request(data: st.DataObject) -> None:
    """Compare the exchange with a model that counts."""
    exchange = NativeExchange(CREDENTIALS)
    stops = replies_begun = requests = 0
    handshake = b"\3\0"
    for _ in range(data.draw(st.integers(0, 40))):
        state = exchange.state
        events = ["cancel"]
        if state is IDLE or (state is HANDSHAKING and requests == replies_begun):
            events += ["request", "post"]
        if exchange.data_to_send():
            events.append("send")
        if exchange.stop_due:
            events.append("stop")
        if state is HANDSHAKING and not exchange.data_to_send():
            events.append("hello")
        if state not in (HANDSHAKING, RECEIVING):
            events.append("push")
        if state is WAITING:
            events += ["reply", "reply begins"]
        if state is RECEIVING:
            events.append("reply ends")
        match data.draw(st.sampled_from(events)):
            case "cancel":
                if exchange.cancel() is DROP:
                    requests -= 1
            case "request":
                request(exchange)
                requests += 1
            case "post":
                post(exchange)
                requests += 1
            case "send":
                exchange.bytes_sent(data.draw(st.integers(0, len(exchange.data_to_send()))))
            case "stop":
                stop_sent(exchange)
                stops += 1
            case "hello":
                exchange.receive_data(handshake)
            case "push":
                push(exchange)
            case "reply":
                reply(exchange)
                replies_begun += 1
                stops = 0
            case "reply begins":
                reply_begins(exchange)
                replies_begun += 1
                stops = 0
            case "reply ends":
                reply_ends(exchange)
        assert stops <= 1
        assert requests - replies_begun in (0, 1)
        assert (requests == replies_begun) is (
            exchange.state in (IDLE, RECEIVING) or (exchange.state is HANDSHAKING and requests == 0)
        )
        assert not exchange.stop_due or exchange.state is WAITING


# A reply that is pushed


BEHIND = frame(b"behind", MessageType.ASYNC)


def awaiting_push() -> NativeExchange:
    exchange = at("idle")
    exchange.request_by_post(POST, BEHIND)
    assert send_all(exchange) == POST + BEHIND
    assert exchange.state is WAITING
    return exchange


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_request_by_post_is_sent_with_what_follows(size: int) -> None:
    exchange = at("idle")
    exchange.request_by_post(frame(bytes(size), MessageType.SYNC), BEHIND)
    assert send_all(exchange) == frame(bytes(size), MessageType.ASYNC) + BEHIND


def test_a_push_that_is_accepted_is_the_reply() -> None:
    exchange = awaiting_push()
    (chunk,) = receive(exchange, PUSH)
    assert (chunk.data, exchange.state) == (PUSH, WAITING)
    exchange.accept_push(chunk)
    assert exchange.state is IDLE
    assert receive(exchange, PUSH) == []
    exchange.request(REQUEST)
    send_all(exchange)
    assert receive(exchange, PUSH) == []
    assert len(receive(exchange, THREE)) == 1


def test_a_long_push_that_is_accepted_arrives_in_chunks() -> None:
    exchange = awaiting_push()
    assert receive(exchange, PUSH[:511]) == []
    (chunk,) = receive(exchange, PUSH[511:600])
    exchange.accept_push(chunk)
    assert (chunk.data, chunk.unread, exchange.state) == (PUSH[:600], len(PUSH) - 600, RECEIVING)
    (chunk,) = receive(exchange, PUSH[600:] + PUSH)
    assert (chunk.data, chunk.first, exchange.state) == (PUSH[600:], False, IDLE)


def test_pushes_that_are_not_accepted_are_discarded() -> None:
    exchange = awaiting_push()
    (chunk,) = receive(exchange, PUSH[:600])
    assert chunk.first
    assert receive(exchange, PUSH[600:]) == []
    assert exchange.state is WAITING
    chunks = receive(exchange, PUSH + PUSH)
    assert [chunk.data for chunk in chunks] == [PUSH, PUSH]


def test_a_push_that_arrives_while_something_is_to_be_sent_waits() -> None:
    exchange = at("idle")
    exchange.request_by_post(POST, BEHIND)
    send_some(exchange)
    assert receive(exchange, PUSH) == []
    send_all(exchange)
    chunks = receive(exchange, PUSH)
    assert [chunk.data for chunk in chunks] == [PUSH, PUSH]


def test_a_reply_to_a_request_behind_the_post_is_the_reply_too() -> None:
    exchange = awaiting_push()
    assert len(receive(exchange, PUSH)) == 1
    assert len(receive(exchange, THREE)) == 1
    assert exchange.state is IDLE


def test_a_request_by_post_is_stopped_like_any_request() -> None:
    exchange = awaiting_push()
    assert exchange.cancel() is STOP_NOW
    exchange.stop_sent()
    assert exchange.stop_requested
    (chunk,) = receive(exchange, PUSH)
    assert exchange.stop_requested
    exchange.accept_push(chunk)
    assert not exchange.stop_requested
