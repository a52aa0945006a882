"""The client's side of one connection to a native server, without I/O: handshake, requests, stops and replies.

The client sends `[version, 0]` and the server answers `[version, needs credentials]`. If the second byte is 1, the
client sends the length of its credentials in one byte, and then `user:password` and a zero byte. The server answers 0
if it accepts them; otherwise it answers 1 and closes the connection. Frames follow in both directions. Measured on the
server of rayforce-py 2.4.0 (core 3.0.1).

One byte of TCP urgent data stops the query that the connection is running. The byte carries no request number, so an
exchange has one request in flight. A second byte that arrives before the server has read past the first would break
the connection, so an exchange asks for at most one stop per request.
"""

import enum
from dataclasses import dataclass

from ._frames import (
    COARSE_HEADER,
    FENCE,
    HEADER_SIZE,
    MESSAGE_TYPE_OFFSET,
    RESPONSE_START,
    WIRE_VERSION,
    Frame,
    Header,
    MessageType,
    parse_header,
)
from ._native import NATIVE_MAX_REPLY, NATIVE_MAX_REQUEST
from ._violation import CredentialsRejected, ProtocolViolation

_HELLO_SIZE = 2  # bytes of the server's first answer
_ACCEPTED = 0  # the server's answer to credentials
_MIN_FIRST_CHUNK = 64  # bytes; shorter frames are never divided, so the first chunk always shows an error's code
_MIN_FIRST_PUSH_CHUNK = 512  # bytes; also decompressed, the first chunk of a push shows more than its first 64 bytes
_COPY_LIMIT = 64 * 1024  # bytes; a longer frame is sent in several pieces, because a copy would cost more


class ExchangeState(enum.Enum):
    """The state of a connection to a native server."""

    HANDSHAKING = enum.auto()
    """The server has not accepted the connection yet. One request may wait for that."""

    IDLE = enum.auto()
    """No request is in flight."""

    SENDING = enum.auto()
    """A request has been accepted from the caller and is not completely written."""

    WAITING = enum.auto()
    """The whole request has been written, and its reply has not begun."""

    RECEIVING = enum.auto()
    """The reply has begun and is not complete."""


class CancelAction(enum.Enum):
    """The action that the caller must take after `NativeExchange.cancel`."""

    NOTHING = enum.auto()
    """No request can be stopped, or its stop was already requested."""

    DROP = enum.auto()
    """The request was still waiting for the handshake. It was removed and will never be sent."""

    AFTER_SENDING = enum.auto()
    """The request must be written completely first. `stop_due` becomes true then."""

    STOP_NOW = enum.auto()
    """Send the stop now, and call `stop_sent` if the network accepts it."""


class _Stop(enum.Enum):
    """The stop of the request in flight."""

    NOT_REQUESTED = enum.auto()
    REQUESTED = enum.auto()
    SENT = enum.auto()


# The members that every request needs. On Python 3.11, looking one up in its enum takes ten times as long.
_IDLE, _SENDING, _WAITING = ExchangeState.IDLE, ExchangeState.SENDING, ExchangeState.WAITING
_NOT_REQUESTED, _REQUESTED = _Stop.NOT_REQUESTED, _Stop.REQUESTED
_SYNC = MessageType.SYNC


@dataclass(slots=True)
class FrameChunk:
    """Consecutive bytes of the frame of a reply, or of a push.

    Attributes:
        header: the header of the frame, which may be compressed.
        data: the bytes. The first chunk holds at least the header and an error's code, or the decompressed size.
        first: whether the frame begins with these bytes.
        unread: how many bytes of the frame are still to come.
    """

    header: Header
    data: bytes
    first: bool
    unread: int


class NativeExchange:
    """The states of one connection to a native server.

    The caller performs the I/O. It writes the result of `data_to_send` and reports to `bytes_sent`. It passes received
    bytes to `receive_data` and then calls `next_event` until that returns `None`. While a request awaits a push,
    `next_event` returns the beginning of each push, and the caller calls `accept_push` for the one that is the reply.

    Args:
        credentials: the result of `dump_credentials`. It is sent only if the server asks for it.
        keep_pushes: whether `next_event` also returns the frames that the server pushes. They may come before, between
            and after replies. By default, they are discarded.

    Attributes:
        state: the state of the connection.
    """

    def __init__(self, credentials: bytes, *, keep_pushes: bool = False) -> None:
        self.state = ExchangeState.HANDSHAKING
        self._keep_pushes = keep_pushes
        self._credentials = credentials
        self._credentials_sent = False
        self._outgoing: list[Frame] = [bytes([WIRE_VERSION, 0])]
        self._queued: list[Frame] = []  # a request that waits for the handshake
        self._stop = _Stop.NOT_REQUESTED
        self._received = b""
        self._position = 0  # in `_received`: the events up to here have been returned
        self._awaits_push = False  # a push is the reply to the request in flight
        self._is_reply = False  # whether the frame that is being received is a reply
        self._header: Header | None = None  # of the frame that is being received
        self._unread = 0  # bytes of that frame

    # Requests

    def request(self, frame: Frame) -> None:
        """Begin a request. In HANDSHAKING it waits for the handshake; in IDLE it is to be sent.

        Args:
            frame: a whole frame of any message type.

        Raises:
            RuntimeError: another request is in flight. Nothing changes.
        """
        self._begin([frame] if frame[MESSAGE_TYPE_OFFSET] == _SYNC else _pieces(frame, _SYNC))

    def post(self, frame: Frame) -> None:
        """Begin a post; otherwise like `request`.

        A native server does not answer posts. A request for a constant follows, and its reply shows that the post has
        been evaluated. Until then, a stop hits the post.
        """
        pieces = _pieces(frame, MessageType.ASYNC)
        self._begin([bytes(pieces[0]) + FENCE] if len(frame) <= _COPY_LIMIT else [*pieces, FENCE])

    def request_by_post(self, frame: Frame, behind: bytes) -> None:
        """Begin a request that is sent as a post, and whose reply may be a push; otherwise like `request`.

        Args:
            frame: a post that has the server push the reply to this connection.
            behind: posts that have the server push something else, or a request, because the first post may fail.
        """
        pieces = _pieces(frame, MessageType.ASYNC)
        self._begin([bytes(pieces[0]) + behind] if len(frame) <= _COPY_LIMIT else [*pieces, behind])
        self._awaits_push = True

    def accept_push(self, chunk: FrameChunk) -> None:
        """Record that the push that begins with this chunk, which `next_event` has just returned, is the reply."""
        self._awaits_push = False
        self._is_reply = chunk.unread > 0
        self._stop = _Stop.NOT_REQUESTED
        self.state = ExchangeState.RECEIVING if chunk.unread else ExchangeState.IDLE

    def cancel(self) -> CancelAction:
        """Ask for a stop of the request in flight; returns the action that the caller must take."""
        match self.state:
            case ExchangeState.HANDSHAKING if self._queued:
                self._queued.clear()
                return CancelAction.DROP
            case ExchangeState.SENDING:
                self._stop = _Stop.REQUESTED
                return CancelAction.AFTER_SENDING
            case ExchangeState.WAITING if self._stop is _Stop.NOT_REQUESTED:
                self._stop = _Stop.REQUESTED
                return CancelAction.STOP_NOW
        return CancelAction.NOTHING

    @property
    def has_queued(self) -> bool:
        """Whether a request waits for the handshake."""
        return bool(self._queued)

    @property
    def stop_requested(self) -> bool:
        """Whether a stop of the request in flight was requested, and the reply has not begun."""
        return self._stop is not _NOT_REQUESTED

    @property
    def stop_due(self) -> bool:
        """Whether a stop was requested and is to be sent now."""
        return self._stop is _Stop.REQUESTED and self.state is ExchangeState.WAITING

    def stop_sent(self) -> None:
        """Record that the stop that was due has been sent."""
        self._stop = _Stop.SENT

    def _begin(self, pieces: list[Frame]) -> None:
        if self.state is _IDLE:
            self._outgoing = pieces
            self.state = _SENDING
        elif self.state is ExchangeState.HANDSHAKING and not self._queued:
            self._queued = pieces
        else:
            raise RuntimeError("one request is in flight at a time")
        self._stop = _NOT_REQUESTED
        self._awaits_push = False

    # Sending

    def data_to_send(self) -> Frame:
        """Return the next bytes to write; empty if there are none. Report to `bytes_sent` how many were written."""
        return self._outgoing[0] if self._outgoing else b""

    def bytes_sent(self, count: int) -> bool:
        """Record that the first `count` bytes of `data_to_send` were written; returns whether more is to be written.

        That may also be a stop, if `stop_due` is true.
        """
        outgoing = self._outgoing
        if count < len(outgoing[0]):
            outgoing[0] = memoryview(outgoing[0])[count:]
            return True
        del outgoing[0]
        if outgoing:
            return True
        if self.state is _SENDING:
            self.state = _WAITING
        return self._stop is _REQUESTED

    # Receiving

    @property
    def within_frame(self) -> bool:
        """Whether the beginning of a frame has arrived and its end has not."""
        return bool(self._unread or self._received)

    def receive_reply(self, data: bytes) -> bool:
        """Accept received bytes if they are the whole reply to the request in flight; return whether they are.

        This is a shortcut for `receive_data` and `next_event`, which accept everything else: call them if this returns
        false. The reply is not compressed, and no stop was requested.
        """
        if self.state is not _WAITING or self._stop is not _NOT_REQUESTED or self._received or self._unread:
            return False
        if len(data) <= HEADER_SIZE:
            return False
        beginning, size = COARSE_HEADER.unpack_from(data)
        if beginning != RESPONSE_START or size != len(data) - HEADER_SIZE:
            return False
        self.state = _IDLE
        return True

    def receive_data(self, data: bytes) -> None:
        """Accept received bytes. Call `next_event` afterwards.

        Raises:
            ProtocolViolation: the peer is not a native server, has another version, or rejects the credentials.
        """
        if self._position < len(self._received):
            data = self._received[self._position :] + data
        self._received = data
        self._position = 0
        if self.state is ExchangeState.HANDSHAKING:
            self._handshake()

    def receive_eof(self) -> None:
        """Accept the end of the stream, which is allowed in every state except HANDSHAKING.

        Raises:
            ProtocolViolation: the handshake is not complete.
        """
        if self.state is ExchangeState.HANDSHAKING:
            if self._credentials_sent:
                raise CredentialsRejected("it rejected the user name or the password")
            raise ProtocolViolation(
                "it closed the connection during the handshake, as servers of another kind or version do"
            )

    def next_event(self) -> FrameChunk | None:
        """Return the next chunk of a reply or a push, or `None` until more bytes arrive. Call it after the handshake.

        Raises:
            ProtocolViolation: the server sent something that is not a reply to the request in flight. Nothing more can
                be read.
        """
        while available := len(self._received) - self._position:
            if not self._unread:
                if self._awaits_push and self.state is _SENDING:
                    return None  # the reply may have come, but more will come when everything has been sent
                if available < HEADER_SIZE:
                    return None
                header = parse_header(self._received[self._position : self._position + HEADER_SIZE])
                size = HEADER_SIZE + header.size
                if available < size and available < (_MIN_FIRST_PUSH_CHUNK if self._awaits_push else _MIN_FIRST_CHUNK):
                    return None
                self._check(header)
                self._header = header
                chunk = self._take(header, size, first=True)
                self._is_reply = header.message_type is MessageType.RESPONSE
                if self._awaits_push and not self._is_reply and self.state is _WAITING:
                    return chunk
            else:
                assert self._header is not None
                header = self._header
                chunk = self._take(header, self._unread, first=False)
            if self._is_reply:
                self._is_reply = chunk.unread > 0
                self.state = ExchangeState.RECEIVING if chunk.unread else ExchangeState.IDLE
                self._stop = _Stop.NOT_REQUESTED
                return chunk
            if self._keep_pushes:
                return chunk
        return None

    def _handshake(self) -> None:
        if not self._credentials_sent:
            if len(self._received) < _HELLO_SIZE:
                return
            version, needs_credentials = self._received[:_HELLO_SIZE]
            if needs_credentials > 1:
                answer = self._received[:_HELLO_SIZE].hex(" ")
                raise ProtocolViolation(f"it is not a Rayforce server: it answered {answer}")
            if version != WIRE_VERSION:
                raise ProtocolViolation(f"it has wire version {version}; only version {WIRE_VERSION} is supported")
            self._received = self._received[_HELLO_SIZE:]
            if needs_credentials:
                self._outgoing.append(self._credentials)
                self._credentials_sent = True
        if self._credentials_sent:
            if not self._received:
                return
            if self._received[0] != _ACCEPTED:
                raise CredentialsRejected("it rejected the user name or the password")
            self._received = self._received[1:]
        if self._queued:
            self._outgoing, self._queued = self._queued, []
            self.state = ExchangeState.SENDING
        else:
            self.state = ExchangeState.IDLE

    def _check(self, header: Header) -> None:
        """Raise an error if the server must not send this frame now."""
        if header.message_type is MessageType.SYNC:
            raise ProtocolViolation("it sent a request")
        if header.message_type is MessageType.RESPONSE:
            if self.state is not ExchangeState.WAITING:
                raise ProtocolViolation("it sent a reply without a request")
            if header.size > NATIVE_MAX_REPLY:
                raise ProtocolViolation(f"it sent a reply of {header.size} bytes; the limit is {NATIVE_MAX_REPLY}")
        elif self._keep_pushes and header.size > NATIVE_MAX_REQUEST:
            raise ProtocolViolation(f"it sent an update of {header.size} bytes; the limit is {NATIVE_MAX_REQUEST}")

    def _take(self, header: Header, size: int, *, first: bool) -> FrameChunk:
        """Return the available bytes of a frame of which `size` bytes are to come."""
        data = self._received[self._position : self._position + size]
        self._position += len(data)
        if self._position == len(self._received):
            self._received, self._position = b"", 0  # do not keep a large buffer until more arrives
        self._unread = size - len(data)
        return FrameChunk(header, data, first, self._unread)


def _pieces(frame: Frame, message_type: MessageType) -> list[Frame]:
    """Return the bytes of a frame with another message type, without copying a long one."""
    if frame[MESSAGE_TYPE_OFFSET] == message_type:
        return [frame]
    header = bytearray(frame[:HEADER_SIZE])
    header[MESSAGE_TYPE_OFFSET] = message_type
    if len(frame) <= _COPY_LIMIT:
        return [bytes(header + frame[HEADER_SIZE:])]
    return [bytes(header), memoryview(frame)[HEADER_SIZE:]]
