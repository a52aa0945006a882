import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import (
    HEADER_SIZE,
    MESSAGE_TYPE_OFFSET,
    FrameError,
    Header,
    MessageType,
    error_code,
    is_null,
    parse_frame,
    parse_header,
    string_frame,
)

# As rayforce-py 2.4.0 serializes 3: an I64 atom.
THREE = bytes.fromhex("fadeface 03 00 00 00 0a00000000000000 fb 00 0300000000000000")

flags = st.integers(0, 255)
sizes = st.integers(1, 2**63 - 1)
types = st.sampled_from(MessageType)


def with_byte(offset: int, value: int) -> bytes:
    return THREE[:offset] + bytes([value]) + THREE[offset + 1 :]


def with_payload(payload: bytes) -> bytes:
    return Header(0, MessageType.RESPONSE, len(payload)).pack() + payload


def test_the_header_of_a_frame_from_the_engine() -> None:
    assert parse_frame(THREE) == Header(flags=0, message_type=MessageType.ASYNC, size=10)


@pytest.mark.parametrize("message_type", MessageType)
def test_the_message_type_is_where_its_offset_says(message_type: MessageType) -> None:
    assert parse_frame(with_byte(MESSAGE_TYPE_OFFSET, message_type)).message_type is message_type


@given(flags, types, sizes)
def test_what_was_packed_is_parsed(flags: int, message_type: MessageType, size: int) -> None:
    header = Header(flags, message_type, size)
    assert len(header.pack()) == HEADER_SIZE
    assert parse_header(header.pack()) == header


@given(flags, types, sizes, st.binary(min_size=1))
def test_what_follows_a_header_does_not_change_it(
    flags: int, message_type: MessageType, size: int, following: bytes
) -> None:
    header = Header(flags, message_type, size)
    assert parse_header(header.pack() + following) == header


@pytest.mark.parametrize("length", range(HEADER_SIZE))
def test_a_header_cut_short_is_refused(length: int) -> None:
    with pytest.raises(FrameError, match=f"^a frame needs a header of 16 bytes, but has {length} bytes?$"):
        parse_header(THREE[:length])


@pytest.mark.parametrize(
    ("frame", "why"),
    [
        (with_byte(0, 0), "^not a Rayforce frame: it begins with 00deface, not fadeface$"),
        (with_byte(3, 0xFF), "^not a Rayforce frame: it begins with fadefaff, not fadeface$"),
        (b"GET / HTTP/1.1\r\n", "^not a Rayforce frame: it begins with 47455420"),
        (with_byte(4, 2), "^wire version 2 is not supported; expected 3$"),
        (with_byte(4, 4), "^wire version 4 is not supported; expected 3$"),
        (with_byte(6, 1), "^big-endian frames are not supported$"),
        (with_byte(7, 3), "^unknown message type 3$"),
        (with_byte(7, 255), "^unknown message type 255$"),
        (with_byte(8, 0), "^the header announces a payload of 0 bytes$"),
        (with_byte(15, 0x80), r"^the header announces a payload of -\d+ bytes$"),
    ],
)
def test_a_header_that_is_not_supported_is_refused(frame: bytes, why: str) -> None:
    with pytest.raises(FrameError, match=why):
        parse_header(frame)


@pytest.mark.parametrize(
    ("frame", "follow"), [(THREE[:-1], 9), (THREE[:HEADER_SIZE], 0), (THREE + b"\0", 11), (THREE + THREE, 36)]
)
def test_a_frame_of_another_length_than_announced_is_refused(frame: bytes, follow: int) -> None:
    with pytest.raises(FrameError, match=f"^the header announces 10 bytes, but {follow} follow$"):
        parse_frame(frame)


@pytest.mark.parametrize(("flags", "compressed"), [(0, False), (1, True), (2, False), (4, False), (7, True)])
def test_the_lowest_flag_says_compressed(flags: int, compressed: bool) -> None:
    assert Header(flags, MessageType.RESPONSE, 1).compressed is compressed


@given(st.binary() | st.binary(min_size=9).map(lambda rest: b"\xfa\xde\xfa\xce\x03\x00\x00" + rest))
def test_arbitrary_bytes_raise_nothing_but_frame_errors(data: bytes) -> None:
    for parse in (parse_header, parse_frame):
        try:
            header = parse(data)
        except FrameError:
            continue
        assert header.pack() == data[:HEADER_SIZE]


@pytest.mark.parametrize(
    ("payload", "null"), [(b"\x7e", True), (b"\x7e\x00", False), (b"\x7f", False), (b"\xfb" + bytes(9), False)]
)
def test_only_the_null_object_is_null(payload: bytes, null: bool) -> None:
    assert is_null(with_payload(payload)) is null


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x7ftype\0\0\0", "type"),
        (b"\x7fcancel\0", "cancel"),
        (b"\x7fdomain\0\0", "domain"),
        (b"\x7fseven77\0", "seven77"),
        (b"\x7f", ""),
        (b"\x7f\0\0\0\0\0\0\0\0", ""),
        (b"\x7f\xff\xfe", "\ufffd\ufffd"),
        (b"\x7ftype\0\0\0\0and more", "type"),
        (b"\x7e", None),
        (b"\xf3type", None),
    ],
)
def test_the_error_code_in_a_frame(payload: bytes, code: str | None) -> None:
    assert error_code(with_payload(payload)) == code


@given(st.binary(min_size=1))
def test_every_payload_has_an_error_code_or_none(payload: bytes) -> None:
    assert (error_code(with_payload(payload)) is not None) == (payload[0] == 0x7F)


@given(st.text())
def test_a_string_frame_is_a_response_that_holds_the_text(text: str) -> None:
    frame = string_frame(text)
    assert parse_frame(frame).message_type is MessageType.RESPONSE
    code, attributes, length = struct.unpack_from("<bBq", frame, HEADER_SIZE)
    assert (code, attributes, length) == (-13, 0, len(text.encode()))
    assert frame[HEADER_SIZE + 10 :].decode() == text


def test_a_lone_surrogate_in_a_string_frame_is_replaced() -> None:
    assert string_frame("a\ud800b").endswith(b"a?b")
