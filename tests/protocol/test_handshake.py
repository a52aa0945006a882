import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import (
    HELLO,
    HELLO_REPLY,
    SUBPROTOCOL,
    ProtocolViolation,
    check_hello,
    check_hello_reply,
    parse_message_limit,
)

messages = st.binary(max_size=4) | st.text(max_size=4)


def test_the_bytes_on_the_wire() -> None:
    assert (HELLO, HELLO_REPLY, SUBPROTOCOL) == (b"\x01\x00", b"\x01", "rayforce.v1")


@pytest.mark.parametrize("version", [0, 1, 2, 255])
def test_any_version_is_accepted(version: int) -> None:
    check_hello(bytes([version, 0]))
    check_hello_reply(bytes([version]))


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("\x01\x00", "^expected a binary handshake, got text$"),
        ("", "^expected a binary handshake, got text$"),
        (b"", "^expected a handshake of 2 bytes, got 0$"),
        (b"\x01", "^expected a handshake of 2 bytes, got 1$"),
        (b"\x01\x00\x00", "^expected a handshake of 2 bytes, got 3$"),
        (b"\x01\x01", "^expected 0x00 as the handshake's second byte, got 0x01$"),
        (b"\x00\xff", "^expected 0x00 as the handshake's second byte, got 0xff$"),
    ],
)
def test_what_is_no_greeting_is_refused(message: bytes | str, why: str) -> None:
    with pytest.raises(ProtocolViolation, match=why):
        check_hello(message)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("\x01", "^expected a binary handshake answer, got text$"),
        (b"", "^expected a handshake answer of 1 byte, got 0$"),
        (b"\x01\x00", "^expected a handshake answer of 1 byte, got 2$"),
    ],
)
def test_what_is_no_answer_to_the_greeting_is_refused(message: bytes | str, why: str) -> None:
    with pytest.raises(ProtocolViolation, match=why):
        check_hello_reply(message)


@given(messages)
def test_exactly_two_bytes_ending_in_zero_are_a_greeting(message: bytes | str) -> None:
    try:
        check_hello(message)
    except ProtocolViolation:
        accepted = False
    else:
        accepted = True
    assert accepted == (isinstance(message, bytes) and len(message) == 2 and message[1] == 0)


@given(messages)
def test_exactly_one_byte_is_an_answer_to_it(message: bytes | str) -> None:
    try:
        check_hello_reply(message)
    except ProtocolViolation:
        accepted = False
    else:
        accepted = True
    assert accepted == (isinstance(message, bytes) and len(message) == 1)


@pytest.mark.parametrize(
    ("value", "limit"),
    [
        ("1", 1),
        ("67108864", 64 * 1024**2),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),
        ("9" * 5000, None),
        ("0", None),
        ("-1", None),
        ("1.5", None),
        ("1, 2", None),
        ("\u0663", None),
        ("many", None),
        ("", None),
        (None, None),
    ],
)
def test_the_limit_in_a_header(value: str | None, limit: int | None) -> None:
    assert parse_message_limit(value) == limit
