"""WebSocket frames, without I/O: RFC 6455 from section 5 on. The opening handshake is done before.

Extensions are never agreed on, so the reserved bits are zero.
"""

import codecs
import enum
import os
import struct
from dataclasses import dataclass

import numpy

from .._protocol._frames import Frame, announced_size
from .._protocol._violation import ProtocolViolation
from ._masking import Masker, mask

NO_STATUS = 1005
"""What stands for the code of a close frame that has none: section 7.4.1. It is never sent."""

REASON_LIMIT = 123
"""The longest reason a close frame can carry, in bytes of UTF-8: section 5.5."""

_CONTROL_LIMIT = 125  # bytes: section 5.5
_FIRST = 1024 * 1024  # bytes; for what is announced beyond that, memory is taken when so much is there
_KEPT_WHOLE = 64 * 1024  # bytes; a message of more is handed out as a view, to spare a copy
_SPARE_FRAGMENTS = 1024  # a message may have so many fragments, and one more for each _BYTES_PER_FRAGMENT bytes in it
_BYTES_PER_FRAGMENT = 64
_BYTES_PER_CHARACTER = 4  # at most, in UTF-8

_FIN = 0x80
_RESERVED = 0x70
_OPCODE = 0x0F
_MASKED = 0x80
_LENGTH = 0x7F
_LENGTH_16 = 126
_LENGTH_64 = 127

_HEADERS = {127: struct.Struct("!BBQ"), 126: struct.Struct("!BBH")}
_CLOSE_CODE = struct.Struct("!H")

# What may stand in a close frame: section 7.4, and what IANA has registered since.
_CLOSE_CODES = frozenset({*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)})


class Opcode(enum.IntEnum):
    """What a frame is: section 5.2."""

    CONTINUATION = 0
    TEXT = 1
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


_OPCODES = {int(opcode): opcode for opcode in Opcode}


class CloseCode(enum.IntEnum):
    """Why a connection is closed: section 7.4.1."""

    NORMAL_CLOSURE = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    INVALID_DATA = 1007
    POLICY_VIOLATION = 1008
    MESSAGE_TOO_BIG = 1009
    INTERNAL_ERROR = 1011


class WebSocketViolation(ProtocolViolation):
    """The peer sent what it must not; `code` is what the connection is to be closed with."""

    def __init__(self, code: CloseCode, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Ping:
    """To be answered with a pong of the same payload."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to a ping, or a sign of life that nobody asked for."""

    payload: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The peer closes, or answers our close frame; `code` is `NO_STATUS` if it gave none."""

    code: int
    reason: str


Event = Frame | str | Ping | Pong | Close
"""What arrives: a message, or a control frame. A long binary message is a view, of bytes that nobody else changes."""


def frame_header(opcode: Opcode, size: int, *, fin: bool = True, key: bytes = b"") -> bytes:
    """Return the header of a frame with a payload of `size` bytes; `key` is that of its mask, if it has one."""
    first = opcode | (_FIN if fin else 0)
    masked = _MASKED if key else 0
    if size < _LENGTH_16:
        return bytes((first, masked | size)) + key
    length = _LENGTH_16 if size < 1 << 16 else _LENGTH_64
    return _HEADERS[length].pack(first, masked | length, size) + key


def pack_frame(opcode: Opcode, payload: Frame, *, masked: bool, fin: bool = True) -> bytes:
    """Return a whole frame. Every masked one gets a key that cannot be foreseen: section 5.3."""
    if not masked:
        return frame_header(opcode, len(payload), fin=fin) + payload
    key = new_key()
    return frame_header(opcode, len(payload), fin=fin, key=key) + mask(payload, key)


def pack_close(code: int, reason: str, *, masked: bool) -> bytes:
    """Return a close frame; of a reason longer than `REASON_LIMIT`, the beginning. `NO_STATUS` makes an empty one."""
    payload = b"" if code == NO_STATUS else _CLOSE_CODE.pack(code) + shortened(reason).encode()
    return pack_frame(Opcode.CLOSE, payload, masked=masked)


def new_key() -> bytes:
    """Return the key of a mask."""
    return os.urandom(4)


def shortened(reason: str) -> str:
    """Return as much of a reason as a close frame can carry."""
    return reason.encode(errors="replace")[:REASON_LIMIT].decode(errors="ignore")


def too_long(limit: int) -> str:
    """Say that a message is longer than `limit` bytes."""
    return f"a message is longer than the {limit} bytes allowed here (max_message_size)"


def text_too_long(limit: int) -> str:
    """Say that a text message is longer than `limit` characters."""
    return f"a text message is longer than the {limit} characters allowed"


class FrameReader:
    """Turns the bytes a peer sends into messages and control frames.

    Give it what arrives with `feed`, and take what that makes with `next_event`, until that is `None`. While the rest
    of a long frame is awaited, `room` is where it belongs: what is received right there is reported with `filled`,
    instead of fed. After a close frame or a violation, it takes everything and makes nothing of it.

    Args:
        masked: whether the peer is a client, whose frames have to be masked; a server's must not be.
        max_message_size: the longest binary message accepted, in bytes.
        max_text_size: the longest text message accepted, in characters.

    Attributes:
        max_message_size: as given; it may be changed meanwhile.
        max_text_size: the same.
    """

    def __init__(self, *, masked: bool, max_message_size: int, max_text_size: int) -> None:
        self.max_message_size = max_message_size
        self.max_text_size = max_text_size
        self._masked = masked
        self._data = b""
        self._at = 0  # up to here, _data is used
        self._ended = False
        self._message: _Binary | _Text | None = None  # the one that has begun
        self._frame: _Frame | None = None  # that one of its frames which has begun

    @property
    def text_limit(self) -> int:
        """The longest text message accepted at present, in characters."""
        return min(self.max_text_size, self.max_message_size)

    def feed(self, data: bytes) -> None:
        """Take what arrived."""
        if not self._ended:
            self._data = data if self._at == len(self._data) else self._data[self._at :] + data
            self._at = 0

    @property
    def has_bytes(self) -> bool:
        """Whether there may be an event without more bytes."""
        return self._at < len(self._data) or (self._frame is not None and not self._frame.left)

    def get_buffer(self) -> memoryview | None:
        """Where the next bytes belong, if they are surely of the payload of a binary frame; else `None`."""
        if self._frame is None or not isinstance(self._message, _Binary) or self._at < len(self._data) or self._ended:
            return None
        return self._message.get_buffer(self._frame.left)

    def buffer_updated(self, count: int) -> None:
        """Take so many bytes that were received into `room`."""
        assert self._frame is not None
        assert isinstance(self._message, _Binary)
        self._message.buffer_updated(count, self._frame.masker)
        self._frame.left -= count

    def next_event(self) -> Event | None:
        """Return what has arrived next, or `None` until more has.

        Raises:
            WebSocketViolation: the peer broke the protocol, or sent a message that is too long.
        """
        try:
            while not self._ended:
                if self._frame is None:
                    event = self._begin_frame()
                    if event is not None:
                        return event
                    if self._frame is None:
                        return None
                elif self._frame.left:
                    if self._at == len(self._data):
                        return None
                    self._take_payload(self._frame)
                else:
                    finished = self._frame.fin
                    self._frame = None
                    if finished:
                        message, self._message = self._message, None
                        assert message is not None
                        return message.finish()
        except WebSocketViolation:
            self._end()
            raise
        return None

    def _end(self) -> None:
        self._ended = True
        self._data, self._at, self._message, self._frame = b"", 0, None, None

    def _begin_frame(self) -> Event | None:
        """Read a header. Returns the event, if all of it is there; a frame of a longer message is begun."""
        data, at = self._data, self._at
        if len(data) - at < 2:
            return None
        first, second = data[at], data[at + 1]
        fin, opcode = first >= _FIN, _OPCODES.get(first & _OPCODE)
        if first & _RESERVED:
            raise _broken("a frame with reserved bits set, and no extension was agreed on")
        if opcode is None:
            raise _broken(f"a frame with the reserved opcode {first & _OPCODE}")
        if (second >= _MASKED) is not self._masked:
            raise _broken("a frame that is not masked" if self._masked else "a masked frame")
        size, start = second & _LENGTH, at + 2
        if opcode >= Opcode.CLOSE and (size > _CONTROL_LIMIT or not fin):
            raise _broken("a control frame that is fragmented or too long")
        if size >= _LENGTH_16:
            header = _HEADERS[size]
            start = at + header.size
            if len(data) < start:
                return None
            lowest = 1 << 16 if size == _LENGTH_64 else _LENGTH_16
            size = header.unpack_from(data, at)[2]
            if not lowest <= size < 1 << 63:
                raise _broken("a frame whose length is not in the shortest form")
        key = b""
        if self._masked:
            key = data[start : start + 4]
            start += 4
        end = start + size
        if opcode >= Opcode.CLOSE:
            if len(data) < end:
                return None
            self._at = end
            return self._control(opcode, mask(data[start:end], key) if key else data[start:end])
        if len(data) < start:
            return None
        if opcode is Opcode.BINARY and fin and len(data) >= end and size <= _KEPT_WHOLE and self._message is None:
            if size > self.max_message_size:
                raise _too_big(too_long(self.max_message_size))
            self._at = end
            return mask(data[start:end], key) if key else data[start:end]
        self._at = start
        self._message = self._message_of(opcode)
        self._message.begin_frame(size, fin=fin)
        self._frame = _Frame(size, fin, Masker(key) if key else None)
        return None

    def _message_of(self, opcode: Opcode) -> "_Binary | _Text":
        """Return the message that a frame with this opcode belongs to."""
        if opcode is Opcode.CONTINUATION:
            if self._message is None:
                raise _broken("a continuation of nothing")
            return self._message
        if self._message is not None:
            raise _broken("a new message within a fragmented one")
        return _Binary(self) if opcode is Opcode.BINARY else _Text(self)

    def _take_payload(self, frame: "_Frame") -> None:
        assert self._message is not None
        piece = self._data[self._at : self._at + frame.left]
        self._at += len(piece)
        frame.left -= len(piece)
        self._message.append(piece, frame.masker)

    def _control(self, opcode: Opcode, payload: bytes) -> Ping | Pong | Close:
        if opcode is Opcode.PING:
            return Ping(payload)
        if opcode is Opcode.PONG:
            return Pong(payload)
        close = _parse_close(payload)
        self._end()
        return close


class _Frame:
    """A data frame whose header was read."""

    __slots__ = ("fin", "left", "masker")

    def __init__(self, size: int, fin: bool, masker: Masker | None) -> None:
        self.left = size  # bytes of the payload that are still to come
        self.fin = fin
        self.masker = masker


class _Binary:
    """A binary message that is arriving, in one buffer; memory is given to it by the system as it is filled."""

    def __init__(self, limits: FrameReader) -> None:
        self._limits = limits
        self._buffer = memoryview(b"")
        self._size = 0
        self._expected = 0  # how long the buffer has to become
        self._fragments = 0

    def begin_frame(self, size: int, *, fin: bool) -> None:
        """Prepare for a frame, once it is sure that so much may come."""
        needed, limit = self._size + size, self._limits.max_message_size
        if needed > limit:
            raise _too_big(too_long(limit))
        self._fragments += 1
        _check_fragments(self._fragments, needed)
        if needed > len(self._buffer):
            expected = 0 if fin else 2 * len(self._buffer)
            if self._size:
                expected = max(expected, announced_size(self._buffer[: self._size]))
            self._expected = max(needed, min(expected, limit))
            self._enlarge(self._expected if self._size >= _FIRST else min(self._expected, _FIRST))

    def _enlarge(self, size: int) -> None:
        try:
            buffer = numpy.empty(size, numpy.uint8).data
        except MemoryError:
            raise _too_big(f"there is no memory for a message of {self._expected} bytes") from None
        buffer[: self._size] = self._buffer[: self._size]
        self._buffer = buffer

    def get_buffer(self, size: int) -> memoryview | None:
        if self._size == len(self._buffer):
            try:
                self._enlarge(self._expected)
            except WebSocketViolation:
                return None  # it is said when the next bytes are there
        return self._buffer[self._size : self._size + size]

    def buffer_updated(self, count: int, masker: Masker | None) -> None:
        if masker is not None:
            masker.mask_in_place(self._buffer[self._size : self._size + count])
        self._size += count

    def append(self, data: bytes, masker: Masker | None) -> None:
        if self._size + len(data) > len(self._buffer):
            self._enlarge(self._expected)
        self._buffer[self._size : self._size + len(data)] = data
        self.buffer_updated(len(data), masker)

    def finish(self) -> Frame:
        message = self._buffer[: self._size]
        return message if self._size > _KEPT_WHOLE else bytes(message)


class _Text:
    """A text message that is arriving; what is no UTF-8 is noticed as soon as it is there."""

    def __init__(self, limits: FrameReader) -> None:
        self._limits = limits
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._parts: list[str] = []
        self._size = 0
        self._fragments = 0

    def begin_frame(self, size: int, *, fin: bool) -> None:  # noqa: ARG002 - as of a binary message
        if size > _BYTES_PER_CHARACTER * self._limits.text_limit:
            raise _too_big(text_too_long(self._limits.text_limit))
        self._fragments += 1
        _check_fragments(self._fragments, self._size)

    def append(self, data: bytes, masker: Masker | None) -> None:
        if masker is not None:
            unmasked = bytearray(data)
            masker.mask_in_place(memoryview(unmasked))
            data = bytes(unmasked)
        self._decode(data)

    def finish(self) -> str:
        self._decode(b"", final=True)
        return "".join(self._parts)

    def _decode(self, data: bytes, *, final: bool = False) -> None:
        try:
            text = self._decoder.decode(data, final)
            pending, _ = self._decoder.getstate()
            if pending[:1] == b"\xed" and pending[1:] >= b"\xa0":  # half a surrogate, which the decoder keeps back
                pending.decode()
        except UnicodeDecodeError:
            raise WebSocketViolation(CloseCode.INVALID_DATA, "a text message that is not UTF-8") from None
        self._size += len(text)
        if self._size > self._limits.text_limit:
            raise _too_big(text_too_long(self._limits.text_limit))
        self._parts.append(text)


def _parse_close(payload: bytes) -> Close:
    if not payload:
        return Close(NO_STATUS, "")
    if len(payload) < _CLOSE_CODE.size:
        raise _broken("a close frame with half a code")
    (code,) = _CLOSE_CODE.unpack_from(payload)
    if code not in _CLOSE_CODES:
        raise _broken(f"a close frame with the invalid code {code}")
    try:
        return Close(code, payload[_CLOSE_CODE.size :].decode())
    except UnicodeDecodeError:
        raise WebSocketViolation(CloseCode.INVALID_DATA, "a close frame whose reason is not UTF-8") from None


def _check_fragments(fragments: int, size: int) -> None:
    if fragments > _SPARE_FRAGMENTS + size // _BYTES_PER_FRAGMENT:
        raise WebSocketViolation(CloseCode.POLICY_VIOLATION, "a message in too many fragments")


def _broken(what: str) -> WebSocketViolation:
    return WebSocketViolation(CloseCode.PROTOCOL_ERROR, what)


def _too_big(what: str) -> WebSocketViolation:
    return WebSocketViolation(CloseCode.MESSAGE_TOO_BIG, what)
