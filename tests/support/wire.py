"""Read the bytes of one direction of a WebSocket connection: the HTTP head, then frames. No I/O.

The reader accepts frames that break RFC 6455, so that tests can look at them.
"""

import re
from dataclasses import dataclass
from functools import cached_property

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

_CONTENT_LENGTH = re.compile(r"content-length:\s*(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Head:
    """An HTTP request or response.

    Attributes:
        lines: the start line and the headers, without line ends.
        body: the body; empty before a WebSocket connection.
    """

    lines: tuple[str, ...]
    body: bytes = b""

    @cached_property
    def raw(self) -> bytes:
        """The bytes on the wire."""
        return "\r\n".join([*self.lines, "", ""]).encode("latin-1") + self.body

    @property
    def headers(self) -> list[tuple[str, str]]:
        """The headers in their order, with names in lower case."""
        pairs = (line.partition(":") for line in self.lines[1:])
        return [(name.lower(), value.strip()) for name, _, value in pairs]

    @property
    def starts_websocket(self) -> bool:
        """Whether frames follow, if this is a response; whether the client asked for that, if it is a request."""
        if self.lines[0].startswith("HTTP/"):
            return self.lines[0].split()[1] == "101"
        return any(name == "upgrade" for name, _ in self.headers)


@dataclass(frozen=True)
class Frame:
    """A WebSocket frame.

    Attributes:
        opcode: 0 to 15, as in RFC 6455, section 5.2.
        final: whether the frame ends its message.
        payload: the payload without its mask.
        raw: the bytes on the wire.
    """

    opcode: int
    final: bool
    payload: bytes
    raw: bytes


def take_frame(buffer: bytearray) -> Frame | None:
    """Remove the first frame from a buffer and return it, or `None` while it is not complete."""
    if len(buffer) < 2:
        return None
    first, second = buffer[:2]
    start, size = 2, second & 0x7F
    if size >= 126:
        start = 4 if size == 126 else 10
        if len(buffer) < start:
            return None
        size = int.from_bytes(buffer[2:start])
    if masked := second >= 0x80:
        start += 4
    if len(buffer) < start + size:
        return None
    raw = bytes(buffer[: start + size])
    del buffer[: start + size]
    payload = raw[start:]
    if masked and any(mask := raw[start - 4 : start]):
        key = (mask * (size // 4 + 1))[:size]
        payload = (int.from_bytes(payload) ^ int.from_bytes(key)).to_bytes(size)
    return Frame(first & 0x0F, first >= 0x80, payload, raw)


class WireReader:
    """Turn the bytes of one direction into a head and frames.

    Attributes:
        rest: the bytes that do not make a complete head or frame yet.
    """

    def __init__(self) -> None:
        self.rest = bytearray()
        self._head: Head | None = None

    def feed(self, data: bytes) -> list[Head | Frame]:
        """Take the next bytes and return the head and the frames that they complete."""
        self.rest += data
        found: list[Head | Frame] = []
        if self._head is None:
            self._head = self._take_head()
            found += [] if self._head is None else [self._head]
        if self._head is not None and self._head.starts_websocket:
            while (frame := take_frame(self.rest)) is not None:
                found.append(frame)
        return found

    def _take_head(self) -> Head | None:
        text, end, body = bytes(self.rest).partition(b"\r\n\r\n")
        if not end:
            return None
        head = Head(tuple(text.decode("latin-1").split("\r\n")))
        if not head.starts_websocket:
            size = sum(int(match[1]) for line in head.lines[1:] if (match := _CONTENT_LENGTH.match(line)))
            if len(body) < size:
                return None
            head = Head(head.lines, body[:size])
        del self.rest[: len(head.raw)]
        return head
