"""Reading and packing frames: each rule of RFC 6455 from section 5 on, then any conversation in any pieces."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import cycle, pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.cutting import cut
from support.memory import resident_memory
from support.raw import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close_frame, frame
from wsproto.frame_protocol import FrameProtocol

from rayforce_trio._protocol import Header, MessageType
from rayforce_trio._protocol._frames import announced_size
from rayforce_trio._websocket import (
    NO_STATUS,
    REASON_LIMIT,
    Close,
    CloseCode,
    FragmentReceived,
    Ping,
    Pong,
    WebSocketViolation,
    truncate_reason,
)
from rayforce_trio._websocket._frames import Event, Opcode, frame_header, new_key, pack_close, pack_frame, pack_message
from rayforce_trio._websocket._masking import mask
from rayforce_trio._websocket._reader import FrameReader

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")

LIMIT = 1 << 20
KEPT_WHOLE = 64 * 1024
GIGABYTE = 1 << 30
MEGABYTE = 1 << 20
CONTROL = (CLOSE, PING, PONG)
KEY = bytes.fromhex("37fa213d")


@pytest.fixture(params=[True, False], ids=["of a client", "of a server"])
def masked(request: pytest.FixtureRequest) -> bool:
    """Whether the frames are masked: those of a client are, those of a server are not."""
    return bool(request.param)


def reader(masked: bool, *, max_message_size: int = LIMIT, max_text_size: int = LIMIT) -> FrameReader:
    return FrameReader(
        masked=masked,
        max_message_size=max_message_size,
        max_text_size=max_text_size,
        expected_size=announced_size,
    )


def events_of(receiver: FrameReader, data: bytes = b"") -> list[Event]:
    """Feed bytes, and return the events, without those that report a fragment."""
    receiver.feed(data)
    events: list[Event] = []
    while (event := receiver.next_event()) is not None:
        if not isinstance(event, FragmentReceived):
            events.append(event)
    return events


def as_bytes(events: Iterable[Event]) -> list[Event]:
    """Return the events, with bytes in place of views."""
    return [bytes(event) if isinstance(event, memoryview) else event for event in events]


def check_that_it_has_ended(receiver: FrameReader, masked: bool) -> None:
    """Check that the reader ignores further bytes."""
    for data in (b"", frame(b"late", masked=masked), b"\xff" * 20, bytes(20)):
        assert events_of(receiver, data) == []
        assert not receiver.has_bytes
        assert receiver.get_buffer() is None


def violation_of(receiver: FrameReader, data: bytes, masked: bool) -> WebSocketViolation:
    """Return the violation that these bytes cause. The reader ignores everything after it."""
    with pytest.raises(WebSocketViolation) as caught:
        events_of(receiver, data)
    check_that_it_has_ended(receiver, masked)
    return caught.value


def check_refusal(data: bytes, masked: bool, code: CloseCode, what: str) -> None:
    """Check that the last byte of `data` is a violation, in whatever pieces it arrives and whatever surrounds it.

    Args:
        what: a part of the text of the violation.
    """

    def check(receiver: FrameReader, rest: bytes) -> None:
        violation = violation_of(receiver, rest, masked)
        assert violation.code is code
        assert what in str(violation)

    check(reader(masked), data)
    check(reader(masked), data + frame(b"late", masked=masked))
    by_byte = reader(masked)
    for byte in data[:-1]:
        as_bytes(events_of(by_byte, bytes([byte])))
    check(by_byte, data[-1:])
    later = reader(masked)
    assert as_bytes(events_of(later, frame(b"good", masked=masked) + frame(b"", PING, masked=masked))) == [
        b"good",
        Ping(b""),
    ]
    check(later, data)


# The examples of section 5.7

EXAMPLES = [
    (False, "81 05 48 65 6c 6c 6f", ["Hello"]),
    (True, "81 85 37 fa 21 3d 7f 9f 4d 51 58", ["Hello"]),
    (False, "01 03 48 65 6c  80 02 6c 6f", ["Hello"]),
    (False, "89 05 48 65 6c 6c 6f", [Ping(b"Hello")]),
    (True, "8a 85 37 fa 21 3d 7f 9f 4d 51 58", [Pong(b"Hello")]),
    (False, "82 7e 01 00" + "61" * 256, [b"a" * 256]),
    (False, "82 7f 00 00 00 00 00 01 00 00" + "61" * 65536, [b"a" * 65536]),
]


@pytest.mark.parametrize(("masked", "data", "events"), EXAMPLES, ids=[data[:23] for _, data, _ in EXAMPLES])
def test_an_example_of_the_rfc_is_read(masked: bool, data: str, events: list[Event]) -> None:
    assert events_of(reader(masked), bytes.fromhex(data)) == events


def test_an_example_of_the_rfc_is_packed() -> None:
    hello = b"Hello"
    assert pack_frame(Opcode.TEXT, hello, masked=False) == bytes.fromhex("810548656c6c6f")
    assert pack_frame(Opcode.TEXT, hello[:3], masked=False, fin=False) == bytes.fromhex("010348656c")
    assert pack_frame(Opcode.CONTINUATION, hello[3:], masked=False) == bytes.fromhex("80026c6f")
    assert pack_frame(Opcode.PING, hello, masked=False) == bytes.fromhex("890548656c6c6f")
    assert frame_header(Opcode.PONG, 5, key=KEY) + mask(hello, KEY) == bytes.fromhex("8a8537fa213d7f9f4d5158")


@pytest.mark.parametrize(
    ("size", "unmasked", "masked"),
    [
        (0, "82 00", "82 80"),
        (125, "82 7d", "82 fd"),
        (126, "82 7e 00 7e", "82 fe 00 7e"),
        (65535, "82 7e ff ff", "82 fe ff ff"),
        (65536, "82 7f 00 00 00 00 00 01 00 00", "82 ff 00 00 00 00 00 01 00 00"),
        (2**63 - 1, "82 7f 7f ff ff ff ff ff ff ff", "82 ff 7f ff ff ff ff ff ff ff"),
    ],
)
def test_a_length_is_written_in_its_shortest_form(size: int, unmasked: str, masked: str) -> None:
    assert frame_header(Opcode.BINARY, size) == bytes.fromhex(unmasked)
    assert frame_header(Opcode.BINARY, size, key=KEY) == bytes.fromhex(masked) + KEY


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 65537])
def test_a_length_of_each_form_is_read(size: int, masked: bool) -> None:
    payload = (b"0123456789abc" * (size // 13 + 1))[:size]
    assert as_bytes(events_of(reader(masked), pack_frame(Opcode.BINARY, payload, masked=masked))) == [payload]
    assert as_bytes(events_of(reader(masked), frame(payload, masked=masked))) == [payload]


def test_every_masked_frame_has_another_key() -> None:
    """The masked form of zeros is the key."""
    keys = {pack_frame(Opcode.BINARY, bytes(4), masked=True)[-4:] for _ in range(100)}
    assert len(keys) == 100
    assert {len(new_key()) for _ in range(10)} == {4}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_a_child_process_does_not_take_over_the_keys_of_its_parent() -> None:
    script = """
import os
from rayforce_trio._websocket._frames import new_key

new_key()  # from now on there are unused keys
child = os.fork()
if child:
    os.waitpid(child, 0)
print(*[new_key().hex() for _ in range(10)], flush=True)
"""
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60)
    keys = printed.stdout.split()
    assert len(set(keys)) == len(keys) == 20


def test_a_message_is_packed_like_its_frame() -> None:
    for size in (0, 1, 4, 125, 126, 2000, 70_000):
        payload = (b"0123456789abc" * (size // 13 + 1))[:size]
        for message in (payload, memoryview(payload)):
            assert pack_message(message, masked=False) == pack_frame(Opcode.BINARY, payload, masked=False)
            packed = pack_message(message, masked=True)
            assert as_bytes(events_of(reader(True), packed)) == [payload]
            assert len(packed) == len(pack_frame(Opcode.BINARY, payload, masked=True))


def test_a_view_is_packed_like_bytes() -> None:
    for payload in (b"", b"short", bytes(2000)):
        assert pack_frame(Opcode.BINARY, memoryview(payload), masked=False) == frame(payload, masked=False)
        packed = pack_frame(Opcode.BINARY, memoryview(payload), masked=True)
        assert as_bytes(events_of(reader(True), packed)) == [payload]


# Violations of section 5.2: the beginning of a frame, which is refused when its last byte arrives


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", list(Opcode), ids=lambda opcode: opcode.name)
def test_a_reserved_bit_is_refused(rsv: int, opcode: Opcode, masked: bool) -> None:
    check_refusal(frame(b"", opcode, rsv=rsv, masked=masked)[:2], masked, CloseCode.PROTOCOL_ERROR, "reserved bits")


@pytest.mark.parametrize("opcode", [*range(3, 8), *range(11, 16)])
def test_a_reserved_opcode_is_refused(opcode: int, masked: bool) -> None:
    for fin in (True, False):
        data = frame(b"", opcode, fin=fin, masked=masked)[:2]
        check_refusal(data, masked, CloseCode.PROTOCOL_ERROR, f"the reserved opcode {opcode}")


@pytest.mark.parametrize("opcode", list(Opcode), ids=lambda opcode: opcode.name)
def test_a_client_must_mask_its_frames_and_a_server_must_not(opcode: Opcode, masked: bool) -> None:
    what = "a frame that is not masked" if masked else "a masked frame"
    check_refusal(frame(b"", opcode, masked=not masked)[:2], masked, CloseCode.PROTOCOL_ERROR, what)


@pytest.mark.parametrize("size", [0, 1, 125])
def test_a_16_bit_length_that_fits_into_7_bits_is_refused(size: int, masked: bool) -> None:
    data = struct.pack("!BBH", 0x82, 0x80 * masked | 126, size)
    check_refusal(data, masked, CloseCode.PROTOCOL_ERROR, "shortest form")


@pytest.mark.parametrize("size", [0, 125, 126, 65535])
def test_a_64_bit_length_that_fits_into_16_bits_is_refused(size: int, masked: bool) -> None:
    data = struct.pack("!BBQ", 0x82, 0x80 * masked | 127, size)
    check_refusal(data, masked, CloseCode.PROTOCOL_ERROR, "shortest form")


@pytest.mark.parametrize("size", [1 << 63, (1 << 63) + 1, (1 << 64) - 1])
def test_a_length_with_the_highest_bit_set_is_refused(size: int, masked: bool) -> None:
    data = struct.pack("!BBQ", 0x82, 0x80 * masked | 127, size)
    check_refusal(data, masked, CloseCode.PROTOCOL_ERROR, "shortest form")


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_length_in_a_form_that_is_too_long_is_refused_in_a_continuation(opcode: int, masked: bool) -> None:
    begun = frame(b"", opcode, fin=False, masked=masked)
    data = begun + struct.pack("!BBH", 0x80, 0x80 * masked | 126, 125)
    check_refusal(data, masked, CloseCode.PROTOCOL_ERROR, "shortest form")


# Section 5.4: fragments


@pytest.mark.parametrize("fin", [True, False])
def test_a_continuation_of_nothing_is_refused(fin: bool, masked: bool) -> None:
    data = frame(b"", CONTINUATION, fin=fin, masked=masked)
    check_refusal(data, masked, CloseCode.PROTOCOL_ERROR, "a continuation frame without a message to continue")


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_continuation_of_a_complete_message_is_refused(opcode: int, masked: bool) -> None:
    ended = frame(b"a", opcode, fin=False, masked=masked) + frame(b"b", CONTINUATION, masked=masked)
    for before in (ended, frame(b"ab", opcode, masked=masked)):
        data = before + frame(b"", CONTINUATION, masked=masked)
        check_refusal(data, masked, CloseCode.PROTOCOL_ERROR, "a continuation frame without a message to continue")


@pytest.mark.parametrize("begun", [TEXT, BINARY])
@pytest.mark.parametrize("new", [TEXT, BINARY])
@pytest.mark.parametrize("fin", [True, False])
@pytest.mark.parametrize("continued", [0, 2])
def test_a_new_message_within_a_fragmented_one_is_refused(
    begun: int, new: int, fin: bool, continued: int, masked: bool
) -> None:
    data = frame(b"a", begun, fin=False, masked=masked)
    data += frame(b"b", CONTINUATION, fin=False, masked=masked) * continued
    data += frame(b"", new, fin=fin, masked=masked)
    check_refusal(data, masked, CloseCode.PROTOCOL_ERROR, "a new message before the end of a fragmented one")


def test_a_new_message_within_a_fragmented_one_is_refused_if_it_arrives_whole(masked: bool) -> None:
    data = frame(b"a", fin=False, masked=masked) + frame(b"whole", masked=masked)
    assert violation_of(reader(masked), data, masked).code is CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_fragments_make_one_message_even_if_they_are_empty(opcode: int, masked: bool) -> None:
    for parts in ([b"", b""], [b"ab", b"", b"c"], [b"", b"abc"], [b"abc", b""], [b"a", b"b", b"c"]):
        data = b"".join(
            frame(part, CONTINUATION if index else opcode, fin=index == len(parts) - 1, masked=masked)
            for index, part in enumerate(parts)
        )
        expected: Event = b"".join(parts)
        if opcode == TEXT:
            expected = b"".join(parts).decode()
        assert as_bytes(events_of(reader(masked), data)) == [expected]


# Section 5.5: control frames


@pytest.mark.parametrize("opcode", CONTROL)
def test_a_fragmented_control_frame_is_refused(opcode: int, masked: bool) -> None:
    data = frame(b"", opcode, fin=False, masked=masked)[:2]
    check_refusal(data, masked, CloseCode.PROTOCOL_ERROR, "a control frame that is fragmented or too long")


@pytest.mark.parametrize("opcode", CONTROL)
@pytest.mark.parametrize("size", [126, 65535, 65536, 1 << 62])
def test_a_control_frame_of_more_than_125_bytes_is_refused(opcode: int, size: int, masked: bool) -> None:
    data = frame(b"", opcode, size=size, masked=masked)[:2]
    check_refusal(data, masked, CloseCode.PROTOCOL_ERROR, "a control frame that is fragmented or too long")


@pytest.mark.parametrize("size", [0, 1, 124, 125])
def test_pings_and_pongs_are_returned_with_their_payload(size: int, masked: bool) -> None:
    payload = bytes(range(size))
    data = pack_frame(Opcode.PING, payload, masked=masked) + pack_frame(Opcode.PONG, payload, masked=masked)
    assert events_of(reader(masked), data) == [Ping(payload), Pong(payload)]


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_control_frames_between_fragments_are_returned_before_the_message(opcode: int, masked: bool) -> None:
    receiver = reader(masked)
    halves = ("€" * 10).encode()[:14], ("€" * 10).encode()[14:]  # the cut goes through a character
    assert events_of(receiver, frame(halves[0], opcode, fin=False, masked=masked)) == []
    for _ in range(3):
        assert events_of(receiver, pack_frame(Opcode.PING, b"now", masked=masked)) == [Ping(b"now")]
        assert events_of(receiver, frame(b"", CONTINUATION, fin=False, masked=masked)) == []
        assert events_of(receiver, pack_frame(Opcode.PONG, b"", masked=masked)) == [Pong(b"")]
    events = as_bytes(events_of(receiver, frame(halves[1], CONTINUATION, masked=masked)))
    assert events == ["€" * 10 if opcode == TEXT else ("€" * 10).encode()]


def test_a_control_frame_in_the_middle_of_a_frame_is_payload(masked: bool) -> None:
    inner = frame(b"", PING, masked=masked)
    assert events_of(reader(masked), frame(inner, masked=masked)) == [inner]


# Section 5.5.1 and 7: closing

VALID_CODES = [1000, 1001, 1002, 1003, *range(1007, 1015), 3000, 3999, 4000, 4999]
INVALID_CODES = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 32768, 65535]


@pytest.mark.parametrize("code", VALID_CODES)
def test_a_close_frame_has_a_code_and_a_reason(code: int, masked: bool) -> None:
    for reason in ("", "enough", "€" * 41):
        receiver = reader(masked)
        data = frame(struct.pack("!H", code) + reason.encode(), CLOSE, masked=masked)
        assert events_of(receiver, data + frame(b"late", masked=masked)) == [Close(code, reason)]
        check_that_it_has_ended(receiver, masked)


@pytest.mark.parametrize("code", INVALID_CODES)
def test_a_close_frame_with_a_code_that_must_not_be_sent_is_refused(code: int, masked: bool) -> None:
    check_refusal(close_frame(code, masked=masked), masked, CloseCode.PROTOCOL_ERROR, f"the invalid code {code}")


def test_an_empty_close_frame_has_no_status(masked: bool) -> None:
    receiver = reader(masked)
    assert events_of(receiver, frame(b"", CLOSE, masked=masked)) == [Close(NO_STATUS, "")]
    check_that_it_has_ended(receiver, masked)


def test_a_close_frame_of_one_byte_is_refused(masked: bool) -> None:
    check_refusal(frame(b"\x03", CLOSE, masked=masked), masked, CloseCode.PROTOCOL_ERROR, "a code of one byte")


@pytest.mark.parametrize("reason", [b"\xff", b"ok \xe2\x82", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"])
def test_a_close_frame_whose_reason_is_not_utf_8_is_refused(reason: bytes, masked: bool) -> None:
    data = frame(struct.pack("!H", 1000) + reason, CLOSE, masked=masked)
    check_refusal(data, masked, CloseCode.INVALID_DATA, "reason is not UTF-8")


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_close_frame_within_a_fragmented_message_ends_it(opcode: int, masked: bool) -> None:
    receiver = reader(masked)
    data = frame(b"\xe2", opcode, fin=False, masked=masked) + close_frame(1001, masked=masked)
    assert events_of(receiver, data + frame(b"\x82\xac", CONTINUATION, masked=masked)) == [Close(1001, "")]
    check_that_it_has_ended(receiver, masked)


def test_messages_before_a_close_are_returned(masked: bool) -> None:
    data = frame(b"one", masked=masked) + frame(b"two", TEXT, masked=masked) + close_frame(1000, masked=masked)
    assert as_bytes(events_of(reader(masked), data)) == [b"one", "two", Close(1000, "")]


@pytest.mark.parametrize("code", VALID_CODES)
@pytest.mark.parametrize("reason", ["", "enough", "x" * REASON_LIMIT, "€" * (REASON_LIMIT // 3)])
def test_a_packed_close_is_read_as_it_was_meant(code: int, reason: str, masked: bool) -> None:
    assert events_of(reader(masked), pack_close(code, reason, masked=masked)) == [Close(code, reason)]


def test_a_close_without_status_is_packed_empty(masked: bool) -> None:
    packed = pack_close(NO_STATUS, "a reason has no place without a code", masked=masked)
    assert packed[:2] == frame(b"", CLOSE, masked=masked)[:2]
    assert events_of(reader(masked), packed) == [Close(NO_STATUS, "")]


@given(st.text(st.characters(codec=None), max_size=300), st.booleans())
def test_any_reason_is_truncated_to_the_limit(reason: str, masked: bool) -> None:
    (event,) = events_of(reader(masked), pack_close(1000, reason, masked=masked))
    assert isinstance(event, Close)
    whole = reason.encode(errors="replace").decode()
    assert whole.startswith(event.reason)
    assert event.reason == truncate_reason(reason)
    assert event.reason == whole or len(event.reason.encode()) > REASON_LIMIT - 4


# Section 8.1: text must be UTF-8; anything else is refused as soon as it arrives

TELLING = [bytes([byte]) for byte in bytes.fromhex("00 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 ed ef f0 f4 f5 ff")]
"""The first and the last byte of each range that UTF-8 allows at some position of a character."""

ENDINGS = [b"".join(ending) for size in range(4) for ending in product([b"\x80", b"\x90", b"\xa0"], repeat=size)]
"""Any bytes that can be completed to a character are completed by one of these."""


def is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def may_become_text(data: bytes) -> bool:
    return any(is_text(data + ending) for ending in ENDINGS)


def check_text(fragments: list[bytes], masked: bool) -> None:
    """Send a text byte by byte. It arrives, or is refused at the first byte that cannot be part of UTF-8."""
    receiver = reader(masked)
    seen = b""
    for index, fragment in enumerate(fragments):
        last = index == len(fragments) - 1
        opcode = Opcode.CONTINUATION if index else Opcode.TEXT
        packed = pack_frame(opcode, fragment, fin=last, masked=masked)
        header = len(packed) - len(fragment)
        for at, byte in enumerate(packed, 1):
            receiver.feed(bytes([byte]))
            seen += fragment[at - header - 1 : at - header] if at > header else b""
            whole = last and at == len(packed)
            if not (is_text(seen) if whole else may_become_text(seen)):
                violation = violation_of(receiver, b"", masked)
                assert violation.code is CloseCode.INVALID_DATA
                assert str(violation) == "a text message that is not UTF-8"
                return
            assert events_of(receiver) == ([seen.decode()] if whole else [])


@pytest.mark.parametrize("first", TELLING, ids=bytes.hex)
def test_invalid_utf_8_is_refused_at_the_first_wrong_byte(first: bytes, masked: bool) -> None:
    for rest in product(TELLING, repeat=2):
        check_text([first + b"".join(rest)], masked)


@given(st.data(), st.booleans())
def test_invalid_utf_8_is_refused_in_any_fragments(draw: st.DataObject, masked: bool) -> None:
    parts = st.lists(st.sampled_from(TELLING) | st.text(max_size=4).map(str.encode), max_size=8)
    check_text(draw.draw(cut(b"".join(draw.draw(parts)))), masked)


def test_a_binary_message_need_not_be_utf_8(masked: bool) -> None:
    assert events_of(reader(masked), frame(b"\xff\xc0", masked=masked)) == [b"\xff\xc0"]


# Limits, and memory


@pytest.mark.parametrize("size", [LIMIT + 1, 1 << 40, (1 << 63) - 1])
@pytest.mark.parametrize("fin", [True, False])
def test_a_binary_message_beyond_the_limit_is_refused_by_its_header(size: int, fin: bool, masked: bool) -> None:
    data = frame(size=size, fin=fin, masked=masked)
    check_refusal(data, masked, CloseCode.MESSAGE_TOO_BIG, f"longer than the {LIMIT} bytes allowed here")


@pytest.mark.parametrize("limit", [0, 1, 10, 125, 126, 1000, 65536, 70000])
def test_the_longest_binary_message_arrives_and_a_longer_one_does_not(limit: int, masked: bool) -> None:
    receiver = reader(masked, max_message_size=limit)
    assert as_bytes(events_of(receiver, frame(bytes(limit), masked=masked))) == [bytes(limit)]
    violation = violation_of(receiver, frame(bytes(limit + 1), masked=masked), masked)
    assert violation.code is CloseCode.MESSAGE_TOO_BIG


def test_a_message_is_refused_as_too_long_if_there_is_no_memory_for_it(masked: bool) -> None:
    receiver = reader(masked, max_message_size=1 << 63)
    # Memory for the whole message is allocated when its beginning has arrived.
    violation = violation_of(receiver, frame(size=1 << 62, masked=masked) + bytes(2 << 20), masked)
    assert violation.code is CloseCode.MESSAGE_TOO_BIG


def test_fragments_beyond_the_limit_are_refused_by_a_header(masked: bool) -> None:
    begun = frame(bytes(LIMIT // 2), fin=False, masked=masked)
    receiver = reader(masked)
    assert events_of(receiver, begun + frame(bytes(LIMIT // 2), CONTINUATION, fin=False, masked=masked)) == []
    assert events_of(receiver, frame(b"", CONTINUATION, fin=False, masked=masked)) == []
    violation = violation_of(receiver, frame(size=1, opcode=CONTINUATION, masked=masked), masked)
    assert violation.code is CloseCode.MESSAGE_TOO_BIG
    receiver = reader(masked)
    events_of(receiver, begun)
    violation = violation_of(receiver, frame(size=(1 << 63) - 1, opcode=CONTINUATION, masked=masked), masked)
    assert violation.code is CloseCode.MESSAGE_TOO_BIG


def test_the_limits_may_be_changed(masked: bool) -> None:
    receiver = reader(masked, max_message_size=10, max_text_size=5)
    assert receiver.text_limit == 5
    receiver.max_message_size = 20
    receiver.max_text_size = 30
    assert receiver.text_limit == 20  # of characters, none of which is less than a byte
    assert as_bytes(events_of(receiver, frame(bytes(20), masked=masked))) == [bytes(20)]
    assert events_of(receiver, frame(b"x" * 20, TEXT, masked=masked)) == ["x" * 20]
    receiver.max_message_size = 3
    assert violation_of(receiver, frame(bytes(4), masked=masked), masked).code is CloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize("character", ["x", "é", "€", "𝄞"])
def test_the_longest_text_arrives_and_a_longer_one_does_not(character: str, masked: bool) -> None:
    receiver = reader(masked, max_text_size=300)
    assert events_of(receiver, pack_frame(Opcode.TEXT, (character * 300).encode(), masked=masked)) == [character * 300]
    data = pack_frame(Opcode.TEXT, (character * 301).encode(), masked=masked)
    violation = violation_of(receiver, data, masked)
    assert violation.code is CloseCode.MESSAGE_TOO_BIG
    assert "longer than the 300 characters allowed" in str(violation)


def test_a_text_that_must_be_too_long_is_refused_by_its_header(masked: bool) -> None:
    receiver = reader(masked, max_text_size=100)
    assert events_of(receiver, frame(size=400, opcode=TEXT, masked=masked)) == []
    receiver = reader(masked, max_text_size=100)
    data = frame(size=401, opcode=TEXT, masked=masked)
    assert violation_of(receiver, data, masked).code is CloseCode.MESSAGE_TOO_BIG


def test_a_text_is_refused_as_soon_as_it_is_too_long(masked: bool) -> None:
    receiver = reader(masked, max_text_size=100)
    data = frame(b"x" * 200, TEXT, masked=masked)
    assert events_of(receiver, data[:-100]) == []
    assert violation_of(receiver, data[-100:-99], masked).code is CloseCode.MESSAGE_TOO_BIG


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_in_too_many_small_fragments_is_refused(opcode: int, masked: bool) -> None:
    """Control frames between the fragments do not count."""
    between = frame(b"", PING, masked=masked) * 3
    for payload in (b"", b"x"):
        receiver = reader(masked)
        receiver.feed(frame(payload, opcode, fin=False, masked=masked))
        for _ in range(1000):
            assert (
                events_of(receiver, between + frame(payload, CONTINUATION, fin=False, masked=masked)) == [Ping(b"")] * 3
            )
        data = frame(payload, CONTINUATION, fin=False, masked=masked) * 100
        assert violation_of(receiver, data, masked).code is CloseCode.POLICY_VIOLATION


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_message_in_many_longer_fragments_arrives(opcode: int, masked: bool) -> None:
    data = frame(b"x" * 256, opcode, fin=False, masked=masked)
    data += frame(b"x" * 256, CONTINUATION, fin=False, masked=masked) * 3000 + frame(b"", CONTINUATION, masked=masked)
    whole = b"x" * (256 * 3001)
    assert as_bytes(events_of(reader(masked), data)) == [whole.decode() if opcode == TEXT else whole]


def test_the_fragments_of_each_message_are_counted(masked: bool) -> None:
    data = frame(b"", fin=False, masked=masked) + frame(b"", CONTINUATION, masked=masked)
    assert as_bytes(events_of(reader(masked), data * 2000)) == [b""] * 2000


@on_linux
@pytest.mark.parametrize("begun", [b"", Header(0, MessageType.SYNC, GIGABYTE - 16).pack()], ids=["nothing", "a header"])
@pytest.mark.parametrize("fin", [True, False])
def test_an_announced_size_takes_no_memory_before_the_message_arrives(begun: bytes, fin: bool, masked: bool) -> None:
    """Sixty peers announce a gigabyte each: in the header of a frame, or at the beginning of a fragmented message."""
    before = resident_memory()
    receivers = []
    for _ in range(60):
        receiver = reader(masked, max_message_size=GIGABYTE)
        if not fin and begun:
            data = frame(begun, fin=False, masked=masked) + frame(b"x", CONTINUATION, fin=False, masked=masked)
        else:
            data = frame(begun, fin=fin, size=GIGABYTE, masked=masked)
        assert events_of(receiver, data) == []
        receivers.append(receiver)
        # The system may back the beginning of the buffer with a huge page of 2 MB.
        assert resident_memory() - before < 60 * 3 * MEGABYTE


@on_linux
def test_a_long_message_is_in_memory_once(masked: bool) -> None:
    size = 64 * MEGABYTE
    receiver = reader(masked, max_message_size=size)
    receiver.feed(frame(size=size, masked=masked))
    assert receiver.next_event() is None
    before = resident_memory()
    while (buffer := receiver.get_buffer()) is not None:
        count = min(len(buffer), MEGABYTE)
        buffer[:count] = bytes(count)
        receiver.buffer_updated(count)
        event = receiver.next_event()
    assert event is not None
    assert resident_memory() - before < 1.5 * size


# Messages and buffers


@pytest.mark.parametrize("fragments", [1, 2, 5])
def test_a_short_message_is_bytes_and_a_long_one_a_view(fragments: int, masked: bool) -> None:
    for size in (0, 1, 1000, KEPT_WHOLE, KEPT_WHOLE + 1, 2 * KEPT_WHOLE, LIMIT):
        payload = b"x" * size
        part = -(-size // fragments)
        data = b"".join(
            frame(payload[n * part : (n + 1) * part], CONTINUATION if n else BINARY, fin=False, masked=masked)
            for n in range(fragments)
        ) + frame(b"", CONTINUATION, masked=masked)
        for whole in (data, frame(payload, masked=masked)):
            (event,) = events_of(reader(masked), whole)
            assert type(event) is (bytes if size <= KEPT_WHOLE else memoryview)
            assert as_bytes([event]) == [payload]


def test_a_view_does_not_change_when_more_arrives(masked: bool) -> None:
    receiver = reader(masked)
    first, second = b"1" * (KEPT_WHOLE + 1), b"2" * (KEPT_WHOLE + 1)
    events = events_of(receiver, frame(first, masked=masked) + frame(second, masked=masked))
    events += events_of(receiver, frame(first, masked=masked))
    assert as_bytes(events) == [first, second, first]


def test_there_is_a_buffer_for_the_payload_of_a_binary_frame_only(masked: bool) -> None:
    receiver = reader(masked)
    data = pack_frame(Opcode.BINARY, b"0123456789", masked=masked, fin=False)
    header = len(data) - 10

    def size_of_buffer() -> int | None:
        assert events_of(receiver) == []
        place = receiver.get_buffer()
        return None if place is None else len(place)

    assert size_of_buffer() is None
    for byte in data[: header - 1]:
        receiver.feed(bytes([byte]))
        assert size_of_buffer() is None
    receiver.feed(data[header - 1 : header])
    assert size_of_buffer() == 10
    receiver.feed(data[header : header + 3])
    assert size_of_buffer() == 7
    place = receiver.get_buffer()
    assert place is not None
    place[:5] = data[header + 3 : header + 8]
    receiver.buffer_updated(5)
    assert size_of_buffer() == 2
    receiver.feed(data[header + 8 :])
    assert size_of_buffer() is None
    assert events_of(receiver, frame(b"", PING, masked=masked)[:1]) == []
    assert size_of_buffer() is None
    assert events_of(receiver, frame(b"", PING, masked=masked)[1:]) == [Ping(b"")]
    receiver.feed(frame(size=4, opcode=CONTINUATION, masked=masked))
    assert size_of_buffer() == 4
    place = receiver.get_buffer()
    assert place is not None
    place[:] = b"abcd"
    receiver.buffer_updated(4)
    assert as_bytes(events_of(receiver)) == [b"0123456789abcd"]
    assert size_of_buffer() is None
    receiver.feed(frame(size=4, opcode=TEXT, masked=masked))
    assert size_of_buffer() is None


def test_it_tells_whether_there_are_bytes_left(masked: bool) -> None:
    receiver = reader(masked)
    assert not receiver.has_bytes
    receiver.feed(frame(b"one", masked=masked) + frame(b"two", masked=masked))
    assert receiver.has_bytes
    assert receiver.next_event() == b"one"
    assert receiver.has_bytes
    assert receiver.next_event() == b"two"
    assert not receiver.has_bytes


# Any conversation, packed by us or by wsproto, and arriving in any pieces


@dataclass(frozen=True)
class Fragment:
    """A frame to pack; `fin` says whether it is the last of its message."""

    opcode: Opcode
    payload: bytes
    fin: bool = True


Pack = Callable[[list[Fragment], bool], bytes]


def packed_by_us(fragments: list[Fragment], masked: bool) -> bytes:
    packed = []
    for fragment in fragments:
        if fragment.opcode is Opcode.CLOSE:
            packed.append(pack_close(*close_of(fragment.payload), masked=masked))
        else:
            packed.append(pack_frame(fragment.opcode, fragment.payload, fin=fragment.fin, masked=masked))
    return b"".join(packed)


def packed_by_wsproto(fragments: list[Fragment], masked: bool) -> bytes:
    """Pack with wsproto, which counts the frames of a message itself, and takes text as `str`."""
    protocol = FrameProtocol(client=masked, extensions=[])
    is_text = False
    packed = []
    for fragment in fragments:
        match fragment.opcode:
            case Opcode.PING:
                packed.append(protocol.ping(fragment.payload))
            case Opcode.PONG:
                packed.append(protocol.pong(fragment.payload))
            case Opcode.CLOSE:
                code, reason = close_of(fragment.payload)
                packed.append(protocol.close(None if code == NO_STATUS else code, reason or None))
            case opcode:
                is_text = opcode is Opcode.TEXT or (is_text and opcode is Opcode.CONTINUATION)
                payload = fragment.payload.decode() if is_text else fragment.payload
                packed.append(protocol.send_data(payload, fin=fragment.fin))
    return b"".join(packed)


def close_of(payload: bytes) -> tuple[int, str]:
    return (int.from_bytes(payload[:2]), payload[2:].decode()) if payload else (NO_STATUS, "")


@dataclass(frozen=True)
class Conversation:
    """The frames that a peer sends, and the events that must come of them."""

    fragments: list[Fragment]
    events: list[Event]


control = st.builds(
    Fragment, st.sampled_from([Opcode.PING, Opcode.PONG]), st.binary(max_size=10) | st.just(bytes(range(125)))
)
short_binaries = st.binary(max_size=300)
binaries = short_binaries | st.builds(
    lambda size, seed: (seed * (size // len(seed) + 1))[:size],
    st.sampled_from([125, 126, 127, 65535, 65536, 65537, 70_000, 200_000]),
    st.binary(min_size=1, max_size=20),
)
texts = st.text(max_size=60) | st.text(min_size=1, max_size=5).map(lambda text: text * 400)
closes = st.just(b"") | st.builds(
    lambda code, reason: struct.pack("!H", code) + reason.encode()[:REASON_LIMIT].decode(errors="ignore").encode(),
    st.sampled_from([code for code in VALID_CODES if code < 1012 or code >= 3000]),
    st.text(max_size=40),
)


@st.composite
def conversations(draw: st.DrawFn, binaries: st.SearchStrategy[bytes] = binaries) -> Conversation:
    """Make messages in fragments (text is cut between characters), control frames between them, perhaps a close."""
    fragments: list[Fragment] = []
    events: list[Event] = []

    def interrupt() -> None:
        for fragment in draw(st.lists(control, max_size=2)):
            fragments.append(fragment)
            events.append((Ping if fragment.opcode is Opcode.PING else Pong)(fragment.payload))

    for message in draw(st.lists(binaries | texts, max_size=5)):
        interrupt()
        points = sorted(draw(st.lists(st.integers(0, len(message)), max_size=4)))
        for index, (start, end) in enumerate(pairwise([0, *points, len(message)])):
            if index:
                interrupt()
                opcode = Opcode.CONTINUATION
            else:
                opcode = Opcode.TEXT if isinstance(message, str) else Opcode.BINARY
            part = message[start:end]
            payload = part.encode() if isinstance(part, str) else part
            fragments.append(Fragment(opcode, payload, index == len(points)))
        events.append(message)
    interrupt()
    if draw(st.booleans()):
        payload = draw(closes)
        fragments.append(Fragment(Opcode.CLOSE, payload))
        events.append(Close(*close_of(payload)))
    return Conversation(fragments, events)


@st.composite
def unfinished(draw: st.DrawFn, masked: bool) -> bytes:
    """Make the beginning of a frame."""
    data = pack_frame(draw(st.sampled_from(list(Opcode)[1:3])), b"x" * draw(st.sampled_from([1, 300])), masked=masked)
    return data[: draw(st.integers(0, len(data) - 1))]


def deliver(
    receiver: FrameReader, pieces: Iterable[bytes], in_place: Iterable[bool], *, shortcut: bool = False
) -> Iterator[Event]:
    """Let the pieces arrive one by one: some are fed, some are received into the buffer.

    Args:
        shortcut: whether to look for short messages first, with `next_short_message`.
    """
    choices = cycle(in_place)
    for piece in pieces:
        rest = piece
        while rest:
            place = receiver.get_buffer() if next(choices) else None
            if place is None:
                receiver.feed(rest)
                rest = b""
            else:
                count = min(len(place), len(rest))
                place[:count] = rest[:count]
                receiver.buffer_updated(count)
                rest = rest[count:]
            while True:
                event: Event | None = receiver.next_short_message() if shortcut else None
                if event is None:
                    event = receiver.next_event()
                if event is None:
                    break
                if type(event) is not FragmentReceived:
                    yield event


ways = st.lists(st.booleans(), min_size=1, max_size=8)


def test_the_shortcut_returns_only_short_binary_messages(masked: bool) -> None:
    receiver = reader(masked)
    messages = [b"", b"1", bytes(125), bytes(126)]
    receiver.feed(b"".join(frame(message, masked=masked) for message in messages) + frame(b"", PING, masked=masked))
    assert [receiver.next_short_message() for _ in range(5)] == [b"", b"1", bytes(125), None, None]
    assert as_bytes(events_of(receiver)) == [bytes(126), Ping(b"")]
    receiver.feed(frame(b"1", masked=masked)[:-1])
    assert receiver.next_short_message() is None


@given(conversations(), st.booleans(), st.data())
def test_the_shortcut_changes_no_conversation(conversation: Conversation, masked: bool, draw: st.DataObject) -> None:
    pieces = draw.draw(cut(packed_by_us(conversation.fragments, masked)))
    assert as_bytes(deliver(reader(masked), pieces, [False], shortcut=True)) == conversation.events


@pytest.mark.parametrize("pack", [packed_by_us, packed_by_wsproto])
@given(st.data(), conversations(), st.booleans(), ways)
def test_any_conversation_is_read_in_any_pieces(
    pack: Pack, draw: st.DataObject, conversation: Conversation, masked: bool, in_place: list[bool]
) -> None:
    is_closed = bool(conversation.fragments) and conversation.fragments[-1].opcode is Opcode.CLOSE
    trailing = draw.draw(st.binary(max_size=50) if is_closed else unfinished(masked))
    data = pack(conversation.fragments, masked) + trailing
    assert as_bytes(events_of(reader(masked), data)) == conversation.events
    receiver = reader(masked)
    assert as_bytes(deliver(receiver, draw.draw(cut(data)), in_place)) == conversation.events
    if is_closed:
        check_that_it_has_ended(receiver, masked)


@pytest.mark.parametrize("pack", [packed_by_us, packed_by_wsproto])
@settings(max_examples=30)
@given(conversation=conversations(short_binaries), masked=st.booleans(), in_place=ways)
def test_any_conversation_is_read_byte_by_byte(
    pack: Pack, conversation: Conversation, masked: bool, in_place: list[bool]
) -> None:
    data = pack(conversation.fragments, masked)
    pieces = [data[at : at + 1] for at in range(len(data))]
    assert as_bytes(deliver(reader(masked), pieces, in_place)) == conversation.events


# One frame at a time


@given(conversations(), st.booleans())
def test_each_event_is_the_end_of_one_frame(conversation: Conversation, masked: bool) -> None:
    """So the caller can yield to other tasks between two frames."""
    receiver = reader(masked)
    receiver.feed(packed_by_us(conversation.fragments, masked))
    events = list(iter(receiver.next_event, None))
    reported = [type(event) is FragmentReceived for event in events]
    assert reported == [not fragment.fin for fragment in conversation.fragments]


# Limits on what arrives while the connection closes


@given(conversations(), st.booleans(), st.data())
def test_a_limit_that_is_not_reached_changes_no_conversation(
    conversation: Conversation, masked: bool, draw: st.DataObject
) -> None:
    data = packed_by_us(conversation.fragments, masked)
    receiver = reader(masked)
    receiver.limit(len(data), len(data) + len(conversation.fragments) + 1)
    pieces = draw.draw(cut(data))
    assert as_bytes(deliver(receiver, pieces, [False, True])) == conversation.events
    assert not receiver.exhausted


@pytest.mark.parametrize("sizes", [[21], [20, 1], [1] * 21])
def test_more_bytes_than_the_limit_end_the_reader(sizes: list[int], masked: bool) -> None:
    receiver = reader(masked)
    receiver.limit(20, LIMIT)
    data = frame(bytes(100), masked=masked)
    at = 0
    for size in sizes:
        assert not receiver.exhausted
        assert events_of(receiver, data[at : at + size]) == []
        at += size
    assert receiver.exhausted
    check_that_it_has_ended(receiver, masked)


def test_bytes_received_into_the_buffer_count(masked: bool) -> None:
    receiver = reader(masked)
    begun = frame(bytes(10), size=1000, masked=masked)
    receiver.limit(len(begun) + 5, LIMIT)
    assert events_of(receiver, begun) == []
    for _ in range(2):
        assert not receiver.exhausted
        buffer = receiver.get_buffer()
        assert buffer is not None
        receiver.buffer_updated(5)
    assert receiver.exhausted
    check_that_it_has_ended(receiver, masked)


def test_more_frames_than_the_limit_end_the_reader(masked: bool) -> None:
    receiver = reader(masked)
    receiver.limit(LIMIT, 5)
    assert len(events_of(receiver, frame(b"", PING, masked=masked) * 10)) == 5
    assert receiver.exhausted
    check_that_it_has_ended(receiver, masked)


def test_what_arrives_after_the_end_counts(masked: bool) -> None:
    receiver = reader(masked)
    receiver.end()
    assert events_of(receiver, bytes(LIMIT)) == []
    receiver.limit(20, LIMIT)
    for size in (10, 10):
        assert events_of(receiver, bytes(size)) == []
        assert not receiver.exhausted
    assert events_of(receiver, bytes(1)) == []
    assert receiver.exhausted


# Any bytes


@st.composite
def damaged(draw: st.DrawFn, masked: bool) -> bytes:
    """Make valid frames, and change some bytes."""
    data = bytearray(packed_by_us(draw(conversations()).fragments, masked))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, min(len(data), 300)))
        data[at : at + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


@given(st.data(), st.booleans(), ways)
def test_any_bytes_raise_nothing_but_violations_and_no_event_follows_one(
    draw: st.DataObject, masked: bool, in_place: list[bool]
) -> None:
    headers = st.sampled_from([0x01, 0x02, 0x80, 0x81, 0x82, 0x88, 0x89]).map(lambda first: bytes([first]))
    likely = st.builds(lambda first, rest: first + rest, headers, st.binary(max_size=200))
    data = draw.draw(st.binary(max_size=200) | likely | damaged(masked))
    limits = st.sampled_from([0, 10, 1000, LIMIT, GIGABYTE])
    max_message_size, max_text_size = draw.draw(limits), draw.draw(limits)
    whole = outcome(reader(masked, max_message_size=max_message_size, max_text_size=max_text_size), [data], in_place)
    pieces = draw.draw(cut(data))
    in_pieces = outcome(
        reader(masked, max_message_size=max_message_size, max_text_size=max_text_size), pieces, in_place
    )
    assert in_pieces[0] == whole[0]
    with_shortcut = outcome(
        reader(masked, max_message_size=max_message_size, max_text_size=max_text_size), pieces, in_place, shortcut=True
    )
    assert with_shortcut == in_pieces
    # If a text is both too long and not UTF-8, the pieces decide which is found first.
    assert in_pieces[1] == whole[1] or {in_pieces[1], whole[1]} == {CloseCode.MESSAGE_TOO_BIG, CloseCode.INVALID_DATA}


def outcome(
    receiver: FrameReader, pieces: list[bytes], in_place: Iterable[bool], *, shortcut: bool = False
) -> tuple[list[Event], CloseCode | None]:
    """Return the events, and the code of the violation at the end, if there is one."""
    events: list[Event] = []
    arriving = iter(pieces)
    try:
        for event in deliver(receiver, arriving, in_place, shortcut=shortcut):
            events.append(event)
    except WebSocketViolation as violation:
        assert list(deliver(receiver, arriving, in_place, shortcut=shortcut)) == []
        return as_bytes(events), violation.code
    return as_bytes(events), None
