"""WebSocket frames: opcodes, close codes, packing (RFC 6455, sections 5 and 7).

No extension is ever negotiated, so the reserved bits are always zero.
"""

import enum
import os
import struct
from dataclasses import dataclass
from typing import Protocol

from .._text import counted
from ._masking import mask

NO_STATUS = 1005
"""The code that stands for a close frame without a code (section 7.4.1). It is never sent."""

REASON_LIMIT = 123
"""The longest reason that a close frame can carry, in bytes of UTF-8 (section 5.5)."""

CONTROL_LIMIT = 125
"""The longest payload of a control frame, in bytes (section 5.5)."""

FIN = 0x80
RESERVED = 0x70
OPCODE = 0x0F
MASKED = 0x80
LENGTH = 0x7F
LENGTH_16 = 126
LENGTH_64 = 127

HEADERS = {LENGTH_64: struct.Struct("!BBQ"), LENGTH_16: struct.Struct("!BBH")}
"""The layout of a header with a long payload length, by the value of its 7-bit length."""

_keys: list[bytes] = []  # unused masking keys
_KEYS_AT_ONCE = 256  # a system call for each key would take longer than everything else

# The codes that a close frame may carry: section 7.4, and those that IANA registered later.
_CLOSE_CODES = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})
_FIRST_LIBRARY_CODE = 3000  # from here on, libraries and applications define the codes
_CLOSE_CODE = struct.Struct("!H")


class Opcode(enum.IntEnum):
    """The kind of a frame (section 5.2)."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


OPCODES = {int(opcode): opcode for opcode in Opcode}

# The headers of binary messages in one short frame, by the size of the payload.
_SHORT_HEADERS = [bytes((FIN | Opcode.BINARY, size)) for size in range(LENGTH_16)]
_SHORT_MASKED_HEADERS = [bytes((FIN | Opcode.BINARY, MASKED | size)) for size in range(LENGTH_16)]


class CloseCode(enum.IntEnum):
    """Why a connection is closed (section 7.4.1)."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011
    TRY_AGAIN_LATER = 1013


Data = bytes | memoryview
"""A binary message, or a part of one. A long message that was received is a view of memory that nobody else changes."""


class Sliceable(Protocol):
    """A payload that is produced slice by slice while it is sent: it has a length, and each slice of it is bytes."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


Payload = Data | Sliceable


class WebSocketError(Exception):
    """The base class of the exceptions of this package."""


class WebSocketViolation(WebSocketError):
    """The peer broke the protocol, or sent a message that is too long.

    Attributes:
        code: the code to close the connection with.
    """

    def __init__(self, code: CloseCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Ping:
    """A ping. A pong with the same payload answers it."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """A pong: the answer to a ping, or unsolicited."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """A close frame. The code is `NO_STATUS` if the frame has none."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True)
class FragmentReceived:
    """A part of a message has arrived whole, and further parts follow. The reader keeps the part."""


Event = Data | str | Ping | Pong | Close | FragmentReceived
"""A whole message, binary or text, or a control frame, or a fragment of a message. Each ends with a frame."""


def reports_failure(code: int) -> bool:
    """Return whether a close code of RFC 6455, or one that IANA registered, reports an error."""
    return CloseCode.PROTOCOL_ERROR <= code < _FIRST_LIBRARY_CODE and code != NO_STATUS


def frame_header(opcode: Opcode, size: int, *, fin: bool = True, key: bytes = b"") -> bytes:
    """Return the header of a frame.

    Args:
        size: the size of the payload in bytes.
        fin: whether the frame is the last one of its message.
        key: the masking key, 4 bytes, or nothing for a frame that is not masked.
    """
    first = opcode | (FIN if fin else 0)
    masked = MASKED if key else 0
    if size < LENGTH_16:
        return bytes((first, masked | size)) + key
    length = LENGTH_16 if size < 1 << 16 else LENGTH_64
    return HEADERS[length].pack(first, masked | length, size) + key


def pack_frame(opcode: Opcode, payload: Data, *, masked: bool, fin: bool = True) -> bytes:
    """Return a whole frame. Every masked frame gets a new, unpredictable key (section 5.3)."""
    if not masked:
        return frame_header(opcode, len(payload), fin=fin) + payload
    key = new_key()
    return frame_header(opcode, len(payload), fin=fin, key=key) + mask(payload, key)


def pack_message(payload: Data, *, masked: bool) -> bytes:
    """Return a frame with a whole binary message. This is `pack_frame`, but faster if the message is short."""
    size = len(payload)
    if size >= LENGTH_16:
        return pack_frame(Opcode.BINARY, payload, masked=masked)
    if not masked:
        return _SHORT_HEADERS[size] + payload
    key = new_key()
    pattern = int.from_bytes((key * 32)[:size], "little")
    return _SHORT_MASKED_HEADERS[size] + key + (int.from_bytes(payload, "little") ^ pattern).to_bytes(size, "little")


def pack_close(code: int, reason: str, *, masked: bool) -> bytes:
    """Return a close frame. A reason longer than `REASON_LIMIT` is truncated; `NO_STATUS` makes an empty frame."""
    payload = b"" if code == NO_STATUS else _CLOSE_CODE.pack(code) + truncate_reason(reason).encode()
    return pack_frame(Opcode.CLOSE, payload, masked=masked)


def parse_close(payload: bytes) -> Close:
    """Return the close frame with this payload.

    Raises:
        WebSocketViolation: the code is incomplete or must not be sent, or the reason is not UTF-8.
    """
    if not payload:
        return Close(NO_STATUS, "")
    if len(payload) < _CLOSE_CODE.size:
        raise WebSocketViolation(CloseCode.PROTOCOL_ERROR, "a close frame with a code of one byte")
    (code,) = _CLOSE_CODE.unpack_from(payload)
    if code not in _CLOSE_CODES:
        raise WebSocketViolation(CloseCode.PROTOCOL_ERROR, f"a close frame with the invalid code {code}")
    try:
        return Close(code, payload[_CLOSE_CODE.size :].decode())
    except UnicodeDecodeError:
        raise WebSocketViolation(CloseCode.INVALID_DATA, "a close frame whose reason is not UTF-8") from None


def new_key() -> bytes:
    """Return a new masking key."""
    while True:
        try:
            return _keys.pop()
        except IndexError:
            block = os.urandom(4 * _KEYS_AT_ONCE)
            _keys.extend(block[start : start + 4] for start in range(0, len(block), 4))


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_keys.clear)  # otherwise both processes would use the same keys


def truncate_reason(reason: str) -> str:
    """Return as much of a reason as a close frame can carry."""
    return reason.encode(errors="replace")[:REASON_LIMIT].decode(errors="ignore")


def message_too_long(limit: int) -> str:
    """Return the text of the error for a binary message that is longer than `limit` bytes."""
    return f"a message is longer than the {counted(limit, 'byte')} allowed here (max_message_size)"


def text_too_long(limit: int) -> str:
    """Return the text of the error for a text message that is longer than `limit` characters."""
    return f"a text message is longer than the {limit} characters allowed here"
