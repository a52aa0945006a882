import socket
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.cutting import cut
from support.native import native_server

from rayforce_trio._protocol import (
    HEADER_SIZE,
    FrameChunk,
    FrameError,
    Header,
    MessageType,
    NativeHandshake,
    NativeReceiver,
    ProtocolViolation,
    dump_credentials,
    error_code,
)

SECRET = "correct horse"
LARGEST = 253  # bytes that user name and password have together


def frame(payload: bytes, message_type: MessageType = MessageType.RESPONSE, flags: int = 0) -> bytes:
    return Header(flags, message_type, len(payload)).pack() + payload


THREE = frame(b"\xfb\0\3\0\0\0\0\0\0\0")
ERROR = frame(b"\x7ftype\0\0\0\0")

frames = st.builds(
    frame, st.binary(min_size=1, max_size=300), st.sampled_from(MessageType), st.integers(0, 255)
) | st.sampled_from([THREE, ERROR])


def pieces_of(receiver: NativeReceiver, data: bytes = b"") -> list[FrameChunk]:
    """Feed some bytes, and take whatever they make."""
    receiver.feed(data)
    return list(iter(receiver.next_chunk, None))


def joined(pieces: list[FrameChunk]) -> list[bytes]:
    """Put pieces together, up to the end of each frame by their own account."""
    whole, collected = [], b""
    for piece in pieces:
        assert piece.first is not bool(collected)
        collected += piece.data
        assert piece.header.size + HEADER_SIZE - len(collected) == piece.unread
        assert collected.startswith(piece.header.pack())
        if not piece.unread:
            whole.append(collected)
            collected = b""
    assert not collected
    return whole


# Handshake

CREDENTIALS = dump_credentials("ann", SECRET)


def shaken(*answers: bytes) -> NativeHandshake:
    """Return a handshake to which the server has answered so."""
    handshake = NativeHandshake(CREDENTIALS)
    for answer in answers:
        handshake.to_send = b""
        assert len(answer) <= handshake.expects
        handshake.receive(answer)
    return handshake


def test_it_begins_with_the_version() -> None:
    handshake = NativeHandshake(CREDENTIALS)
    assert (handshake.to_send, handshake.expects, handshake.done) == (b"\3\0", 2, False)


@pytest.mark.parametrize("answers", [[b"\3\0"], [b"\3", b"\0"]], ids=str)
def test_a_server_that_wants_no_credentials_is_told_none(answers: list[bytes]) -> None:
    handshake = shaken(*answers)
    assert (handshake.to_send, handshake.done) == (b"", True)


@pytest.mark.parametrize("answers", [[b"\3\1"], [b"\3", b"\1"]], ids=str)
def test_a_server_that_wants_credentials_is_told_them(answers: list[bytes]) -> None:
    handshake = shaken(*answers)
    assert (handshake.to_send, handshake.expects, handshake.done) == (CREDENTIALS, 1, False)
    handshake.to_send = b""
    handshake.receive(b"\0")
    assert (handshake.to_send, handshake.done) == (b"", True)


@pytest.mark.parametrize("answer", [b"\1", b"\2", b"\xff", b""], ids=repr)
def test_refused_credentials_are_told_from_everything_else(answer: bytes) -> None:
    with pytest.raises(ProtocolViolation, match=r"^it refused the user name or the password$"):
        shaken(b"\3\1", answer)


@pytest.mark.parametrize("answers", [[b""], [b"\3", b""]], ids=str)
def test_a_server_that_hangs_up_is_none(answers: list[bytes]) -> None:
    with pytest.raises(ProtocolViolation, match=r"^it hung up in the handshake; "):
        shaken(*answers)


@pytest.mark.parametrize("answer", [b"\2\0", b"\4\1", b"\0\0", b"\xff\1"])
def test_another_wire_version_is_refused(answer: bytes) -> None:
    with pytest.raises(ProtocolViolation, match=f"^it speaks wire version {answer[0]}, and only 3 is spoken here$"):
        shaken(answer)


@pytest.mark.parametrize("answer", [b"HT", b"SS", b"\3\2", b"\r\n"])
def test_what_is_no_hello_is_refused_and_shown(answer: bytes) -> None:
    with pytest.raises(ProtocolViolation, match=f"^it is no Rayforce server: it answered {answer.hex(' ')}$"):
        shaken(answer)


@given(st.lists(st.sampled_from([b"\0", b"\1", b"\2", b"\3"]) | st.binary(min_size=1, max_size=1), max_size=3))
def test_of_all_answers_only_two_are_good(answers: list[bytes]) -> None:
    handshake = NativeHandshake(CREDENTIALS)
    received = b""
    try:
        for answer in answers:
            if not handshake.done:
                handshake.receive(answer)
                received += answer
    except ProtocolViolation:
        assert not handshake.done
        assert received not in (b"\3\0", b"\3\1\0")
    assert handshake.done is (received in (b"\3\0", b"\3\1\0"))


# Credentials


@pytest.mark.parametrize(
    ("user", "password", "data"),
    [
        ("ann", "secret", b"\x0bann:secret\0"),
        ("", "", b"\x02:\0"),
        ("", "a:b", b"\x05:a:b\0"),
        ("é", "ü", b"\x06\xc3\xa9:\xc3\xbc\0"),
    ],
)
def test_credentials_as_they_are_sent(user: str, password: str, data: bytes) -> None:
    assert dump_credentials(user, password) == data


@given(st.text(), st.text())
def test_credentials_are_sent_as_they_are_or_not_at_all(user: str, password: str) -> None:
    try:
        length, *rest = dump_credentials(user, password)
    except ValueError:
        assert ":" in user or "\0" in user + password or len((user + password).encode()) > LARGEST
    else:
        assert length == len(rest) <= 255
        assert bytes(rest).decode() == f"{user}:{password}\0"
        assert bytes(rest).decode()[:-1].split(":", 1) == [user, password]


@pytest.mark.parametrize(
    ("user", "password", "why"),
    [
        ("a:b", SECRET, "holds no colon"),
        ("ann", f"{SECRET}\0", "holds a zero character"),
        ("a\0nn", SECRET, "holds a zero character"),
        ("ann", SECRET * 20, "have at most 253 bytes together"),
        (SECRET * 20, "", "have at most 253 bytes together"),
        ("", "é" * 127, "have at most 253 bytes together"),
        ("ann", f"{SECRET}\udcff", "UTF-8|utf-8"),
        (f"{SECRET}\udcff", "", "UTF-8|utf-8"),
    ],
    ids=ascii,
)
def test_credentials_that_cannot_be_sent_are_refused_without_being_shown(user: str, password: str, why: str) -> None:
    with pytest.raises(ValueError, match=why) as caught:
        dump_credentials(user, password)
    shown = [str(caught.value), repr(caught.value), *traceback.format_exception(caught.value)]
    assert not [text for text in shown if "horse" in text or "é" in text or "\\udcff" in text]


@pytest.mark.parametrize("password", [None, b"secret", 5])
def test_a_password_that_is_no_text_is_refused(password: str) -> None:
    with pytest.raises((TypeError, ValueError, AttributeError)):
        dump_credentials("ann", password)


@pytest.mark.parametrize(
    ("user", "password"),
    [("", "p" * LARGEST), ("u" * (LARGEST - 1), "p"), ("ann", "a:b"), ("", "é" * 100), ("", "p")],
    ids=["long password", "long user", "colon", "not ascii", "short"],
)
def test_a_server_takes_the_credentials_that_can_be_sent(user: str, password: str) -> None:
    with (
        native_server("-u", password) as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as sock,
        sock.makefile("rb") as received,
    ):
        credentials = dump_credentials(user, password)
        handshake = NativeHandshake(credentials)
        sent = []
        while not handshake.done:
            sent.append(handshake.to_send)
            sock.sendall(handshake.to_send)
            handshake.to_send = b""
            handshake.receive(received.read(handshake.expects))
        assert sent == [b"\3\0", credentials]


# Frames in pieces


@given(st.data())
def test_however_it_is_cut_a_stream_gives_the_same_frames(data: st.DataObject) -> None:
    sent = data.draw(st.lists(frames, max_size=5))
    receiver = NativeReceiver()
    pieces = []
    for chunk in data.draw(cut(b"".join(sent))):
        receiver.feed(chunk)
        if data.draw(st.booleans(), "take what there is"):
            pieces += pieces_of(receiver)
    pieces += pieces_of(receiver)
    assert joined(pieces) == sent
    assert not receiver.within_frame


@given(st.data())
def test_the_first_piece_tells_what_the_frame_is(data: st.DataObject) -> None:
    receiver = NativeReceiver()
    sent = data.draw(st.lists(frames, max_size=5))
    pieces = [piece for chunk in data.draw(cut(b"".join(sent))) for piece in pieces_of(receiver, chunk)]
    firsts = [piece for piece in pieces if piece.first]
    assert [piece.header.pack() for piece in firsts] == [each[:HEADER_SIZE] for each in sent]
    for piece, each in zip(firsts, sent, strict=True):
        assert len(piece.data) >= min(len(each), len(ERROR))
        assert error_code(piece.data) == error_code(each)


@given(st.data())
def test_no_more_is_kept_than_the_beginning_of_a_frame(data: st.DataObject) -> None:
    receiver = NativeReceiver()
    kept = 0
    for chunk in data.draw(cut(b"".join(data.draw(st.lists(frames, max_size=5))))):
        kept += len(chunk)
        for piece in pieces_of(receiver, chunk):
            kept -= len(piece.data)
        assert 0 <= kept < 64
    assert kept == 0


@pytest.mark.parametrize("size", [2**40, 2**63 - 1])
def test_a_frame_of_any_size_is_handed_out_as_it_comes(size: int) -> None:
    receiver = NativeReceiver()
    header = Header(0, MessageType.RESPONSE, size)
    (first,) = pieces_of(receiver, header.pack() + bytes(1000))
    assert first == FrameChunk(header, header.pack() + bytes(1000), first=True, unread=size - 1000)
    assert pieces_of(receiver, bytes(5)) == [FrameChunk(header, bytes(5), first=False, unread=size - 1005)]
    assert receiver.within_frame


def test_it_says_whether_it_is_within_a_frame() -> None:
    receiver = NativeReceiver()
    assert not receiver.within_frame
    long = frame(bytes(100))
    for end in range(1, len(long)):
        pieces_of(receiver, long[end - 1 : end])
        assert receiver.within_frame
    pieces_of(receiver, long[-1:])
    assert not receiver.within_frame


def test_until_something_arrives_there_is_no_piece() -> None:
    receiver = NativeReceiver()
    assert pieces_of(receiver) == []
    long = frame(bytes(100))
    assert pieces_of(receiver, long[: HEADER_SIZE - 1]) == []
    assert len(pieces_of(receiver, long[HEADER_SIZE - 1 : -1])) == 1
    assert pieces_of(receiver) == []
    assert len(pieces_of(receiver, long[-1:])) == 1
    assert pieces_of(receiver) == []


@pytest.mark.parametrize(
    ("garbage", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "^not a Rayforce frame: it begins with 48545450"),
        (THREE.replace(b"\3", b"\2", 1), "^wire version 2 is not spoken here"),
        (THREE.replace(b"\2", b"\7", 1), "^unknown message type 7$"),
        (frame(b""), "^a payload of 0 bytes$"),
        (THREE[:15] + b"\xff", "^a payload of -"),
    ],
    ids=["http", "version", "type", "empty", "negative"],
)
@pytest.mark.parametrize(
    "before", [b"", THREE, frame(bytes(1000))], ids=["at once", "after a frame", "after a long one"]
)
def test_what_is_no_frame_is_refused_once_there_is_enough_to_tell(before: bytes, garbage: bytes, why: str) -> None:
    receiver = NativeReceiver()
    assert joined(pieces_of(receiver, before + garbage[: HEADER_SIZE - 1])) == ([before] if before else [])
    receiver.feed(garbage[HEADER_SIZE - 1 :])
    for _ in range(2):
        with pytest.raises(FrameError, match=why):
            receiver.next_chunk()


@given(st.data())
def test_arbitrary_bytes_come_to_pieces_or_a_frame_error(data: st.DataObject) -> None:
    sent = data.draw(st.lists(frames | st.binary(max_size=50), max_size=4).map(b"".join))
    receiver = NativeReceiver()
    received = b""
    try:
        for chunk in data.draw(cut(sent)):
            received += b"".join(piece.data for piece in pieces_of(receiver, chunk))
    except FrameError:
        pass
    assert sent.startswith(received)
