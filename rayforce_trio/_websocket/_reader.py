"""Reads frames: turns the bytes that a peer sends into messages and control frames."""

import codecs
import math
from collections.abc import Callable
from io import StringIO

import numpy

from ._frames import (
    CONTROL_LIMIT,
    FIN,
    HEADERS,
    LENGTH,
    LENGTH_16,
    LENGTH_64,
    MASKED,
    OPCODE,
    OPCODES,
    RESERVED,
    Close,
    CloseCode,
    Data,
    Event,
    FragmentReceived,
    Opcode,
    Ping,
    Pong,
    WebSocketViolation,
    message_too_long,
    parse_close,
    text_too_long,
)
from ._masking import Masker, mask

_FIRST_ALLOCATION = 1024 * 1024  # bytes; a longer buffer is allocated when this much of the message has arrived
_MAX_COPIED = 64 * 1024  # bytes; a longer message is returned as a view instead of a copy
_FREE_FRAGMENTS = 1024  # a message may have this many fragments, and one more for each _BYTES_PER_FRAGMENT bytes
_BYTES_PER_FRAGMENT = 64
_MAX_BYTES_PER_CHARACTER = 4  # in UTF-8
_KEY_SIZE = 4

# On Python 3.11, looking up a member in its enum takes ten times as long as looking up a global name.
_BINARY, _CLOSE = Opcode.BINARY, Opcode.CLOSE
_WHOLE_BINARY = FIN | _BINARY  # the first byte of a binary message in one frame
_FRAGMENT_RECEIVED = FragmentReceived()


class FrameReader:
    """Reads the frames of one peer.

    Pass received bytes to `feed`, then call `next_event` until it returns `None`. While the rest of a long binary
    frame is missing, `get_buffer` returns the memory where it belongs: bytes received there are reported with
    `buffer_updated` instead of `feed`. After a close frame or a violation, the reader ignores further bytes.

    Each call of `next_event` reads one frame at most, so that the caller can yield to other tasks between two frames.

    Args:
        masked: whether the peer is a client, which must mask its frames; a server must not.
        max_message_size: the longest binary message to accept, in bytes.
        max_text_size: the longest text message to accept, in characters.
        expected_size: estimates the size of a fragmented binary message, in bytes, from its beginning; 0 if unknown.

    Attributes:
        max_message_size: see above; may be changed at any time.
        max_text_size: see above; may be changed at any time.
        exhausted: whether the peer has sent more than `limit` allows. The reader has ended.
    """

    def __init__(
        self,
        *,
        masked: bool,
        max_message_size: int,
        max_text_size: int,
        expected_size: Callable[[memoryview], int] = lambda _beginning: 0,
    ) -> None:
        self.max_message_size = max_message_size
        self.max_text_size = max_text_size
        self.expected_size = expected_size
        self._masked = masked
        self._short_header_size = 2 + (_KEY_SIZE if masked else 0)
        self._mask_bit = MASKED if masked else 0
        self._data = b""
        self._at = 0  # the position in _data up to which it has been read
        self._ended = False
        self.exhausted = False
        self._limited = False  # `end` or `limit` was called
        self._bytes_left = self._frames_left = math.inf
        self._message: _Binary | _Text | None = None  # the message that is arriving
        self._frame: _Frame | None = None  # the frame of that message that is arriving

    @property
    def text_limit(self) -> int:
        """The longest text message accepted at present, in characters."""
        return min(self.max_text_size, self.max_message_size)

    def feed(self, data: bytes) -> None:
        """Take received bytes."""
        if self._limited and not self._accepts(size=len(data)):
            return
        self._data = data if self._at == len(self._data) else self._data[self._at :] + data
        self._at = 0

    @property
    def has_bytes(self) -> bool:
        """Whether `next_event` may return an event before more bytes arrive."""
        return self._at < len(self._data) or (self._frame is not None and not self._frame.left)

    @property
    def unfinished(self) -> int:
        """The size of the part of an unfinished message that has arrived: in bytes, or in characters if it is text."""
        return 0 if self._message is None else self._message.size

    def get_buffer(self) -> memoryview | None:
        """Return where the next bytes belong if they are certain to be payload of a binary frame, else `None`."""
        if self._frame is None or not isinstance(self._message, _Binary) or self._at < len(self._data):
            return None
        return self._message.get_buffer(self._frame.left)

    def buffer_updated(self, count: int) -> None:
        """Take `count` bytes that were received into the buffer."""
        if self._limited and not self._accepts(size=count):  # perhaps since the call of `get_buffer`
            return
        assert self._frame is not None
        assert isinstance(self._message, _Binary)
        self._message.buffer_updated(count, self._frame.masker)
        self._frame.left -= count

    def next_short_message(self) -> bytes | None:
        """Return the message that is next if it is binary, in one short frame, and has arrived whole.

        A shortcut: if this returns `None`, call `next_event`, which returns the same message, but takes longer.
        """
        data, at = self._data, self._at
        start = at + self._short_header_size
        if len(data) < start or data[at] != _WHOLE_BINARY or self._message is not None:
            return None
        size = data[at + 1] - self._mask_bit
        end = start + size
        if not 0 <= size < LENGTH_16 or len(data) < end or size > self.max_message_size:
            return None
        self._at = end
        if not self._masked:
            return data[start:end]
        pattern = int.from_bytes((data[start - _KEY_SIZE : start] * 32)[:size], "little")
        return (int.from_bytes(data[start:end], "little") ^ pattern).to_bytes(size, "little")

    def next_event(self) -> Event | None:
        """Return the next message, control frame or fragment, or `None` if more bytes have to arrive first.

        Raises:
            WebSocketViolation: the peer broke the protocol, or sent a message that is too long.
        """
        if self._limited and not self._accepts(frames=1):
            return None
        try:
            while True:
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
                    if not finished:
                        return _FRAGMENT_RECEIVED
                    message, self._message = self._message, None
                    assert message is not None
                    return message.finish()
        except WebSocketViolation:
            self.end()
            raise

    def end(self) -> None:
        """Drop everything that has arrived, and ignore all that follows."""
        self._ended = self._limited = True
        self._data, self._at, self._message, self._frame = b"", 0, None, None

    def limit(self, size: int, frames: int) -> None:
        """Limit what may still arrive. Beyond the limit, the reader is `exhausted`.

        Args:
            size: the number of bytes, which count even if the reader has ended.
            frames: the number of calls of `next_event`.
        """
        self._limited = True
        self._bytes_left, self._frames_left = size, frames

    def _accepts(self, *, size: int = 0, frames: int = 0) -> bool:
        """Count the bytes that arrive after a call of `end` or `limit`; return whether they are to be read."""
        self._bytes_left -= size
        self._frames_left -= frames
        if self._bytes_left < 0 or self._frames_left < 0:
            self.exhausted = True
            self.end()
        return not self._ended

    def _begin_frame(self) -> Event | None:
        """Read a header.

        Return the event if the frame is a control frame or a short message, and has arrived whole. For any other data
        frame, set `_message` and `_frame`. Do nothing while the header is incomplete.
        """
        data, at = self._data, self._at
        if len(data) - at < 2:
            return None
        first, second = data[at], data[at + 1]
        fin, opcode = first >= FIN, OPCODES.get(first & OPCODE)
        if first & RESERVED:
            raise _protocol_error("a frame with reserved bits set, although no extension was negotiated")
        if opcode is None:
            raise _protocol_error(f"a frame with the reserved opcode {first & OPCODE}")
        if (second >= MASKED) is not self._masked:
            raise _protocol_error("a frame that is not masked" if self._masked else "a masked frame")
        size, start = second & LENGTH, at + 2
        if opcode >= _CLOSE and (size > CONTROL_LIMIT or not fin):
            raise _protocol_error("a control frame that is fragmented or too long")
        if size >= LENGTH_16:
            header = HEADERS[size]
            start = at + header.size
            if len(data) < start:
                return None
            lowest = 1 << 16 if size == LENGTH_64 else LENGTH_16
            size = header.unpack_from(data, at)[2]
            if not lowest <= size < 1 << 63:
                raise _protocol_error("a frame whose length is not in the shortest form")
        key = b""
        if self._masked:
            key = data[start : start + _KEY_SIZE]
            start += _KEY_SIZE
        end = start + size
        if opcode >= _CLOSE:
            if len(data) < end:
                return None
            self._at = end
            return self._control(opcode, mask(data[start:end], key) if key else data[start:end])
        if len(data) < start:
            return None
        if opcode is _BINARY and fin and len(data) >= end and size <= _MAX_COPIED and self._message is None:
            if size > self.max_message_size:
                raise _too_big(message_too_long(self.max_message_size))
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
                raise _protocol_error("a continuation frame without a message to continue")
            return self._message
        if self._message is not None:
            raise _protocol_error("a new message before the end of a fragmented one")
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
        close = parse_close(payload)
        self.end()
        return close


class _Frame:
    """A data frame whose header was read."""

    __slots__ = ("fin", "left", "masker")

    def __init__(self, size: int, fin: bool, masker: Masker | None) -> None:
        self.left = size  # bytes of the payload that have not arrived
        self.fin = fin
        self.masker = masker


class _Binary:
    """A binary message that is arriving. It is collected in one buffer, which the system backs with memory on use."""

    def __init__(self, limits: FrameReader) -> None:
        self._limits = limits
        self._buffer = memoryview(b"")
        self.size = 0
        self._expected = 0  # the size that the buffer will have to have
        self._fragments = 0

    def begin_frame(self, size: int, *, fin: bool) -> None:
        """Prepare for a frame, after checking that its payload is within the limits."""
        needed, limit = self.size + size, self._limits.max_message_size
        if needed > limit:
            raise _too_big(message_too_long(limit))
        self._fragments += 1
        _check_fragments(self._fragments, needed)
        if needed > len(self._buffer):
            expected = 0 if fin else 2 * len(self._buffer)
            if self.size:
                expected = max(expected, self._limits.expected_size(self._buffer[: self.size]))
            self._expected = max(needed, min(expected, limit))
            self._enlarge(self._expected if self.size >= _FIRST_ALLOCATION else min(self._expected, _FIRST_ALLOCATION))

    def _enlarge(self, size: int) -> None:
        try:
            buffer = numpy.empty(size, numpy.uint8).data
        except MemoryError:
            raise _too_big(f"there is no memory for a message of {self._expected} bytes") from None
        buffer[: self.size] = self._buffer[: self.size]
        self._buffer = buffer

    def get_buffer(self, size: int) -> memoryview | None:
        if self.size == len(self._buffer):
            try:
                self._enlarge(self._expected)
            except WebSocketViolation:
                return None  # `append` raises it when the next bytes arrive
        return self._buffer[self.size : self.size + size]

    def buffer_updated(self, count: int, masker: Masker | None) -> None:
        if masker is not None:
            masker.mask_in_place(self._buffer[self.size : self.size + count])
        self.size += count

    def append(self, data: bytes, masker: Masker | None) -> None:
        if self.size + len(data) > len(self._buffer):
            self._enlarge(self._expected)
        self._buffer[self.size : self.size + len(data)] = data
        self.buffer_updated(len(data), masker)

    def finish(self) -> Data:
        message = self._buffer[: self.size]
        return message if self.size > _MAX_COPIED else bytes(message)


class _Text:
    """A text message that is arriving. Bytes that are not UTF-8 are refused as soon as they arrive."""

    def __init__(self, limits: FrameReader) -> None:
        self._limits = limits
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text = StringIO()  # a list would need more memory for short parts
        self.size = 0
        self._fragments = 0

    def begin_frame(self, size: int, *, fin: bool) -> None:  # noqa: ARG002 - the same signature as that of _Binary
        if size > _MAX_BYTES_PER_CHARACTER * self._limits.text_limit:
            raise _too_big(text_too_long(self._limits.text_limit))
        self._fragments += 1
        _check_fragments(self._fragments, self.size)

    def append(self, data: bytes, masker: Masker | None) -> None:
        if masker is not None:
            unmasked = bytearray(data)
            masker.mask_in_place(memoryview(unmasked))
            data = bytes(unmasked)
        self._decode(data)

    def finish(self) -> str:
        self._decode(b"", final=True)
        return self._text.getvalue()

    def _decode(self, data: bytes, *, final: bool = False) -> None:
        try:
            text = self._decoder.decode(data, final)
            pending, _ = self._decoder.getstate()
            if pending[:1] == b"\xed" and pending[1:] >= b"\xa0":  # the decoder accepts the first half of a surrogate
                pending.decode()
        except UnicodeDecodeError:
            raise WebSocketViolation(CloseCode.INVALID_DATA, "a text message that is not UTF-8") from None
        self.size += len(text)
        if self.size > self._limits.text_limit:
            raise _too_big(text_too_long(self._limits.text_limit))
        self._text.write(text)


def _check_fragments(fragments: int, size: int) -> None:
    if fragments > _FREE_FRAGMENTS + size // _BYTES_PER_FRAGMENT:
        raise WebSocketViolation(CloseCode.POLICY_VIOLATION, "a message in too many fragments")


def _protocol_error(text: str) -> WebSocketViolation:
    return WebSocketViolation(CloseCode.PROTOCOL_ERROR, text)


def _too_big(text: str) -> WebSocketViolation:
    return WebSocketViolation(CloseCode.MESSAGE_TOO_BIG, text)
