"""The native server's protocol, without I/O: its handshake over TCP, and its frames in pieces as they arrive.

The client says `[version, 0]`, the server answers `[version, wants credentials]`. To 1 the client answers with one
byte, the length of what follows, and `user:password`, ended by a zero byte; the server answers 0, or 1 and hangs up.
Then come frames. Measured on the server of rayforce-py 2.4.0 (core 3.0.1).
"""

from dataclasses import dataclass

from ._frames import HEADER_SIZE, WIRE_VERSION, Header, parse_header
from ._violation import ProtocolViolation

NATIVE_MAX_REQUEST = 256 * 1024 * 1024
"""The longest payload a native server takes, in bytes; it hangs up at a longer one. Its replies may be longer."""

_HELLO_SIZE = 2  # bytes of its answer to the first two
_CREDENTIALS_LIMIT = 255  # with the zero byte: their length is one byte
_WHOLE_UP_TO = 64  # a frame of so many bytes is never cut, nor is the beginning of a longer one: it tells what it is


def dump_credentials(user: str, password: str) -> bytes:
    """Return what answers a native server that wants credentials.

    Raises:
        ValueError: they cannot be sent; the text says why, and not what they are.
    """
    if not all(isinstance(given, str) for given in (user, password)):
        raise ValueError("both are strings")
    try:
        data = f"{user}:{password}\0".encode()
    except UnicodeEncodeError:  # which would show them
        raise ValueError("a user name and a password are text that UTF-8 can express") from None
    if ":" in user or b"\0" in data[:-1]:
        raise ValueError("a user name holds no colon, and neither it nor a password holds a zero character")
    if len(data) > _CREDENTIALS_LIMIT:
        raise ValueError(f"user name and password have at most {_CREDENTIALS_LIMIT - 2} bytes together")
    return bytes([len(data)]) + data


class NativeHandshake:
    """The client's side of the handshake. It can be left and taken up again at any time.

    Args:
        credentials: what `dump_credentials` returned, in case they are wanted.

    Attributes:
        to_send: what is to be sent next; whoever has sent it clears it.
        done: whether frames may follow.
    """

    def __init__(self, credentials: bytes) -> None:
        self._credentials = credentials
        self._answer = b""
        self.to_send = bytes([WIRE_VERSION, 0])
        self.done = False

    @property
    def expects(self) -> int:
        """How many bytes of the server's are still missing, as far as is known."""
        return max(_HELLO_SIZE - len(self._answer), 1)

    def receive(self, data: bytes) -> None:
        """Take what the server answered, at most `expects` bytes; none if it hung up.

        Raises:
            ProtocolViolation: no native server answers so, it speaks another version, or it refuses the credentials.
        """
        if not data and len(self._answer) < _HELLO_SIZE:
            raise ProtocolViolation("it hung up in the handshake; it is no Rayforce server, or speaks another version")
        if len(self._answer) == _HELLO_SIZE:
            if data != b"\0":
                raise ProtocolViolation("it refused the user name or the password")
            self.done = True
            return
        self._answer += data
        if len(self._answer) == _HELLO_SIZE:
            version, wants_credentials = self._answer
            if wants_credentials > 1:
                raise ProtocolViolation(f"it is no Rayforce server: it answered {self._answer.hex(' ')}")
            if version != WIRE_VERSION:
                raise ProtocolViolation(f"it speaks wire version {version}, and only {WIRE_VERSION} is spoken here")
            if wants_credentials:
                self.to_send = self._credentials
            else:
                self.done = True


@dataclass(frozen=True, slots=True)
class FrameChunk:
    """Some bytes of a frame, its header included.

    Attributes:
        header: of the frame they belong to.
        data: the bytes. The first piece holds the header and what tells an error, or a compressed frame's size.
        first: whether the frame begins with them.
        unread: how many bytes of the frame are still to come.
    """

    header: Header
    data: bytes
    first: bool
    unread: int


class NativeReceiver:
    """Cuts the bytes of a native server into frames, and hands out each frame in pieces, without collecting it."""

    def __init__(self) -> None:
        self._data = b""
        self._at = 0  # up to here, it was handed out
        self._header: Header | None = None
        self._unread = 0

    @property
    def within_frame(self) -> bool:
        """Whether the beginning of a frame has arrived, and its end has not."""
        return bool(self._unread or self._data)

    def feed(self, data: bytes) -> None:
        """Take what arrived; what it makes is had from `next_chunk`."""
        self._data = data if self._at == len(self._data) else self._data[self._at :] + data
        self._at = 0

    def next_chunk(self) -> FrameChunk | None:
        """Return the next piece, or `None` until more has arrived.

        Raises:
            FrameError: what arrived is no Rayforce frame; nothing more can be read.
        """
        if self._unread:
            assert self._header is not None
            return self._take(self._header, self._unread, first=False) if self._at < len(self._data) else None
        there = len(self._data) - self._at
        if there < HEADER_SIZE:
            return None
        header = parse_header(self._data[self._at : self._at + HEADER_SIZE])
        size = HEADER_SIZE + header.size
        if there < min(size, _WHOLE_UP_TO):
            return None
        self._header = header
        return self._take(header, size, first=True)

    def _take(self, header: Header, left: int, *, first: bool) -> FrameChunk:
        data = self._data[self._at : self._at + left]
        self._at += len(data)
        if self._at == len(self._data):
            self._data, self._at = b"", 0  # it may be large, and the next may be long in coming
        self._unread = left - len(data)
        return FrameChunk(header, data, first, self._unread)
