"""A WebSocket connection after its opening handshake, without I/O (RFC 6455, sections 5 to 7).

Received bytes go in, messages come out; messages go in, bytes to send come out. This module decides what may be sent
when: it answers pings, finishes a frame before it begins another one, and performs the closing handshake.

    event                   OPEN                 CLOSING                     FAILED              CLOSED
    send, send_part,        message is queued    LocalProtocolError          LocalProtocolError  LocalProtocolError
    send_short
    pack_next               frame is returned    None                        None                None
                            if none is before
    begin                   message is queued    False                       False               False
                            if none is before
    ping, or a ping         ping or pong is      ignored                     ignored             ignored
    arrives                 queued
    close                   CLOSING, close       a close frame is queued     as in CLOSING       ignored
                            frame is queued      unless one was before
    close with the code     FAILED, close        as above                    as in CLOSING       ignored
    of an error             frame is queued
    abandon                 a message not begun is dropped; after one cut between two frames, only control frames
                            and a close are sent; after one cut within a frame: CLOSED
    a message arrives       returned             returned                    ignored             ignored
    a close frame arrives   CLOSING              CLOSED, once our close      ignored             ignored
                                                 frame is sent
    a violation arrives     FAILED               FAILED                      ignored             ignored
    receive_eof             CLOSED               CLOSED; ignored if the      CLOSED              ignored
                                                 peer's close has arrived
    connection_lost, abort  CLOSED               CLOSED                      CLOSED              ignored
    our close frame is sent                      CLOSED, if the peer's       ignored
                                                 close has arrived
    too much arrives        cannot happen        CLOSED, if the peer's       CLOSED              ignored
                                                 close has not arrived

In CLOSING, messages arrive only until the close frame of the peer does. `close` alone sends a close frame: after a
close frame or a violation of the peer, the owner of the connection calls it with the code and the reason to answer.

The peer may have sent a lot before it learns of a close or a violation. All of that has to be received, or the system
would reset the connection, and the peer might lose the close frame. But an attacker may never stop. So after a close of
this side or a violation, `max_message_size` and `CLOSING_ALLOWANCE` bytes may arrive, in `MAX_CLOSING_FRAMES` frames.
"""

import enum
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from ._frames import (
    NO_STATUS,
    Close,
    Event,
    Opcode,
    Payload,
    Ping,
    WebSocketError,
    WebSocketViolation,
    frame_header,
    new_key,
    pack_close,
    pack_frame,
    pack_message,
    reports_failure,
)
from ._masking import Masker
from ._reader import FrameReader

FRAGMENT_SIZE = 8 * 1024 * 1024
"""A longer message is sent in fragments of this many bytes. Pings, pongs and a close are sent between them."""

PIECE_SIZE = 112 * 1024
"""A long frame that is masked, or produced while it is sent, is sent in pieces of this many bytes.

glibc gets blocks of 128 KiB and more from the system, and returns them at once. That takes longer than everything else.
"""

UNCOPIED_PIECE_SIZE = 256 * 1024
"""A long frame that is sent straight from memory, without a mask, is sent in pieces of this many bytes."""

MAX_BUFFERED = 64 * 1024
"""Short messages and pongs are buffered up to about this many bytes."""

MAX_SENT_AT_ONCE = 1024 * 1024
"""`begin_message` accepts messages of up to this many bytes. They fit into one fragment."""

MAX_PONGS = 64
"""If more pings than this wait for a pong, only the latest are answered (section 5.5.3)."""

CLOSING_ALLOWANCE = 16 * 1024 * 1024
"""Bytes that may arrive, besides one message, while the connection closes: what the network and the peer have buffered.

Linux buffers at most 6 MiB that were received and 4 MiB that are to be sent, unless it is configured otherwise.
"""

MAX_CLOSING_FRAMES = 256 * 1024
"""Frames that may arrive while the connection closes. Linux has buffers for this many requests of 40 bytes."""

MAX_PACKED = 16 * 1024
"""Up to this many bytes of a message are copied behind a frame header, to send both together."""

_NOTHING = memoryview(b"")


class State(enum.Enum):
    """The state of a connection."""

    OPEN = "messages can be sent and received"
    CLOSING = "one side has closed: no messages can be sent"
    FAILED = "the peer broke the protocol, or this side reported an error: nothing that arrives is read"
    CLOSED = "nothing can be sent or received: close the network connection"


# On Python 3.11, looking up a member in its enum takes ten times as long as looking up a global name.
_OPEN, _CLOSING = State.OPEN, State.CLOSING
_BINARY, _TEXT = Opcode.BINARY, Opcode.TEXT


class EndedBy(enum.Enum):
    """The cause of the end of a connection."""

    US = "this side closed it"
    PEER = "the peer closed it"
    VIOLATION = "the peer broke the protocol"
    LOSS = "the network connection was lost"


@dataclass(frozen=True, slots=True)
class Ending:
    """The end of a connection, with the `code` and `reason` of the close frame, the violation or the loss."""

    by: EndedBy
    code: int = NO_STATUS
    reason: str = ""


class LocalProtocolError(WebSocketError):
    """This side must not send a message now. If the connection has ended, `ending` of the connection says why."""


class WebSocketConnection:
    """One end of a connection.

    Pass received bytes to `receive_data`, then call `next_event` until it returns `None`. While the rest of a long
    binary frame is missing, `get_buffer` returns the memory where it belongs: report bytes received there with
    `buffer_updated` instead. Call `receive_eof` when the peer has sent everything, and `connection_lost` or `abort`
    when the network connection breaks or is closed.

    After each call that queues something, and after `next_event`, send what `data_to_send` returns, and report how much
    the network took with `bytes_sent`. At most one message may be in progress at a time.

    There are two shortcuts for short messages: `next_short_message` returns one without `next_event`, and `pack_next`
    packs one without the queue. If they return `None`, use the general methods. `begin_message` is for longer messages
    that are sent without waiting.

    In the state FAILED, end the sending side of the network connection when there is nothing more to send, and then
    read until the peer ends its own.

    Args:
        client: whether this end is the client, whose frames are masked.
        max_message_size: the longest binary message to accept, in bytes.
        max_text_size: the longest text message to accept, in characters.
        expected_size: see `FrameReader`.

    Attributes:
        state: see `State`.
        ending: how the connection ended; `None` while it is open. The first cause counts.
        receiving: whether messages may still arrive.
        reader: reads the frames of the peer; its limits may be changed at any time.
    """

    # Slots for what is read when an update is sent to each of many clients, as fewer reads miss the cache then.
    __slots__ = ("__dict__", "__weakref__", "_control_due", "_message", "_mid_message", "_outgoing", "state")

    def __init__(
        self,
        *,
        client: bool,
        max_message_size: int,
        max_text_size: int,
        expected_size: Callable[[memoryview], int] = lambda _beginning: 0,
    ) -> None:
        self.state = _OPEN
        self.ending: Ending | None = None
        self.receiving = True
        self._client = client
        self.reader = reader = FrameReader(
            masked=not client,
            max_message_size=max_message_size,
            max_text_size=max_text_size,
            expected_size=expected_size,
        )
        # Bound here because every read calls them.
        self.receive_data = reader.feed
        self.next_short_message = reader.next_short_message
        self.get_buffer = reader.get_buffer
        self.buffer_updated = reader.buffer_updated
        # Sending
        self._outgoing = bytearray()  # frames; the first may have been sent in part
        self._message: _OutgoingMessage | None = None  # a long message that is being sent
        self._piece = _NOTHING  # the unsent rest of a piece of its current frame
        self._in_frame = False  # that frame has begun: nothing else can be sent before its end
        self._mid_message = False  # the last data frame that has begun does not end its message
        self._abandoned = False  # the rest of that message will never be sent
        self._control_due = False  # one of the following is to be sent
        self._due_pongs = deque[bytes](maxlen=MAX_PONGS)
        self._ping_due = False
        self._close_frame = b""
        self._close_called = False
        self._close_written = False  # the close frame is in _outgoing, or was sent

    # Receiving

    def next_event(self) -> Event | None:
        """Return the next message, control frame or fragment, or `None` if more bytes have to arrive first.

        A ping has been answered and a close frame has changed the state already; both are returned for information.
        Each call reads one frame at most: yield to other tasks between the calls.

        Raises:
            WebSocketViolation: the peer broke the protocol, or sent a message that is too long.
        """
        try:
            event = self.reader.next_event()
        except WebSocketViolation as violation:
            self._stop_receiving(State.FAILED, Ending(EndedBy.VIOLATION, violation.code, str(violation)))
            self._limit_reading()
            raise
        if type(event) is bytes:
            return event
        if event is None:
            if self.reader.exhausted:
                self.connection_lost("the peer sent too much while the connection was closing")
            return None
        if isinstance(event, Ping):
            if self.state is _OPEN:
                self._due_pongs.append(event.payload)
                self._control_due = True
        elif isinstance(event, Close):
            self._stop_receiving(State.CLOSING, Ending(EndedBy.PEER, event.code, event.reason))
            self._close_if_done()
        return event

    def receive_eof(self) -> None:
        """Handle the end of the peer's stream."""
        if self.state is _CLOSING and not self.receiving:
            return  # the peer has closed, and can still receive the answer
        self.connection_lost("the peer disconnected without closing the connection")

    def connection_lost(self, reason: str) -> None:
        """Handle the loss of the network connection."""
        self._disconnect(Ending(EndedBy.LOSS, reason=reason))

    def abort(self) -> None:
        """End the connection from this side, without telling the peer."""
        self._disconnect(Ending(EndedBy.US))

    # Sending

    @property
    def sending(self) -> bool:
        """Whether a long message is in progress: part of it has not been sent. The end of the connection cuts it."""
        return self._message is not None

    def send(self, message: Payload | str) -> None:
        """Queue a message. If it is long, keep it until it is sent (see `sending`), or call `abandon`.

        Raises:
            LocalProtocolError: the connection is not open, or another message is in progress or was cut off.
        """
        if self._mid_message:
            raise LocalProtocolError("the message before this one is unfinished")
        if isinstance(message, str):
            self._send(_TEXT, message.encode(), last=True)
        else:
            self._send(_BINARY, message, last=True)

    def send_part(self, data: Payload, *, last: bool, text: bool = False) -> None:
        """Queue the next part of a binary message, or of the UTF-8 of a text message. Otherwise like `send`."""
        self._send(_TEXT if text else _BINARY, data, last=last)

    def send_short(self, message: Payload | str) -> bool:
        """Queue a short message. If this returns False, nothing was queued; call `send` instead.

        Raises:
            LocalProtocolError: the connection is not open.
        """
        if self.state is not _OPEN:
            raise LocalProtocolError("the connection is not open")
        opcode = _BINARY
        if isinstance(message, str):
            opcode, message = _TEXT, message.encode()
        elif not isinstance(message, (bytes, memoryview)):
            return False
        if self._message is not None or self._mid_message or len(self._outgoing) + len(message) > MAX_BUFFERED:
            return False
        if self._control_due:
            self._queue_control_frames()
        if opcode is _BINARY:
            self._outgoing += pack_message(message, masked=self._client)
        else:
            self._outgoing += pack_frame(opcode, message, masked=self._client)
        return True

    def pack_next(self, message: Payload | str) -> bytes | None:
        """Return the frame of a short binary message, to be sent at once, if nothing has to be sent before it.

        A shortcut: if this returns `None`, nothing has happened, and `send_short` does the same by way of the queue.
        Pass the bytes of the frame that the network does not take to `keep_unsent`.
        """
        if type(message) is not bytes or len(message) > MAX_PACKED or not self.can_begin():
            return None
        return pack_message(message, masked=self._client)

    def keep_unsent(self, data: bytes) -> None:
        """Queue the rest of the frame that `pack_next` has just returned."""
        self._outgoing += data

    def begin_message(self, message: Payload | str, *, any_size: bool = False) -> bool:
        """Queue a message to be sent at once, if nothing has to be sent before it. A text needs `any_size`.

        Unless any size is allowed, the message must fit into a frame.

        If this returns False, nothing has happened. Otherwise call `data_to_send` next, and send what it returns: that
        call begins the frame, so that a close does not cut it.
        """
        opcode = _BINARY
        if isinstance(message, str) and any_size:
            opcode, message = _TEXT, message.encode()
        if type(message) is not bytes or not self.can_begin() or (len(message) > MAX_SENT_AT_ONCE and not any_size):
            return False
        self._message = _OutgoingMessage(opcode, message, True)
        return True

    @property
    def within_message(self) -> bool:
        """Whether a message has been sent or queued in part."""
        return self._message is not None or self._mid_message

    def can_begin(self) -> bool:
        """Return whether a message can be sent, and nothing has to be sent before it."""
        return not (
            self._outgoing
            or self._control_due
            or self._message is not None
            or self._mid_message
            or self.state is not _OPEN
        )

    def abandon(self) -> None:
        """Give up the long message that is in progress, if any. The rest of its current frame can never be sent."""
        if self._message is None:
            return
        self._message = None
        if self._in_frame:
            self.abort()
        self._abandoned = self._mid_message

    def ping(self) -> None:
        """Queue a ping, unless one is queued already."""
        if self.state is _OPEN:
            self._ping_due = self._control_due = True

    def close(self, code: int, reason: str = "") -> None:
        """Start the closing handshake, or answer the close frame or the violation of the peer.

        The frame that is being sent is finished first. Do nothing if called before. After a code that reports an error,
        nothing that arrives is read.

        Args:
            code: a code that may be sent, or `NO_STATUS`.
            reason: truncated to `REASON_LIMIT` bytes of UTF-8.
        """
        if self._close_called or self.state is State.CLOSED:
            return
        self._close_called = True
        if self.state is _OPEN:
            self.ending = Ending(EndedBy.US, code, reason)
            if reports_failure(code):
                self._stop_receiving(State.FAILED, self.ending)
                self.reader.end()
            else:
                self.state = State.CLOSING
                self._drop_pings_and_pongs()
            self._limit_reading()
        self._close_frame = pack_close(code, reason, masked=self._client)
        self._control_due = True

    def data_to_send(self) -> bytearray | memoryview | None:
        """Return the bytes to send next, or `None` if there are none.

        They are valid until `bytes_sent` is called, which must be before the next call of this method.
        """
        if self._in_frame:
            if not self._piece and not self._outgoing:
                assert self._message is not None
                self._piece = self._message.next_piece()
            return self._piece or self._outgoing
        if self._control_due:
            self._queue_control_frames()
        if not self._outgoing:
            if self._message is None or self.state is not _OPEN:
                return None
            self._begin_frame()
        return self._outgoing

    def bytes_sent(self, count: int) -> None:
        """Remove the first `count` bytes of the result of `data_to_send`: the network took them."""
        if self._piece:
            self._piece = self._piece[count:] or _NOTHING  # an empty view would still keep the whole message
        else:
            del self._outgoing[:count]
        if self._in_frame:
            self._end_frame_if_done()
        elif self.state is _CLOSING:
            self._close_if_done()

    def _send(self, opcode: Opcode, data: Payload, *, last: bool) -> None:
        if self.state is not _OPEN or self._abandoned:
            raise LocalProtocolError("the connection is not open, or a message was cut")
        if self._message is not None:
            raise LocalProtocolError("another message is being sent")
        if len(data) > MAX_PACKED:
            self._message = _OutgoingMessage(opcode, data, last)
            return
        if self._control_due:
            self._queue_control_frames()
        self._outgoing += pack_frame(self._opcode(opcode), data[:], fin=last, masked=self._client)
        self._mid_message = not last

    def _opcode(self, opcode: Opcode) -> Opcode:
        return Opcode.CONTINUATION if self._mid_message else opcode

    def _queue_control_frames(self) -> None:
        self._control_due = False
        while self._due_pongs and len(self._outgoing) < MAX_BUFFERED:
            self._outgoing += pack_frame(Opcode.PONG, self._due_pongs.popleft(), masked=self._client)
        if self._due_pongs:
            self._control_due = True  # the peer takes no bytes at present
        if self._ping_due:
            self._ping_due = False
            self._outgoing += pack_frame(Opcode.PING, b"", masked=self._client)
        if self._close_frame:
            self._outgoing += self._close_frame
            self._close_frame = b""
            self._close_written = True

    def _drop_pings_and_pongs(self) -> None:
        self._due_pongs.clear()
        self._ping_due = False
        self._control_due = bool(self._close_frame)

    # The long message that is being sent

    def _begin_frame(self) -> None:
        message = self._message
        assert message is not None
        message.frame_end = min(message.at + FRAGMENT_SIZE, len(message.data))
        fin = message.last and message.frame_end == len(message.data)
        key = new_key() if self._client else b""
        message.masker = Masker(key) if key else None
        header = frame_header(self._opcode(message.opcode), message.frame_end - message.at, fin=fin, key=key)
        piece = message.next_piece(MAX_PACKED)  # if this raises an error, the frame has not begun
        self._outgoing += header
        self._outgoing += piece
        self._in_frame = True
        self._mid_message = not fin

    def _end_frame_if_done(self) -> None:
        message = self._message
        assert message is not None
        if self._piece or self._outgoing or message.at < message.frame_end:
            return
        self._in_frame = False
        if message.at == len(message.data):
            self._message = None

    # The end

    def _close_if_done(self) -> None:
        if self._close_written and not self._outgoing and not self.receiving:
            self.state = State.CLOSED

    def _stop_receiving(self, state: State, ending: Ending) -> None:
        self.state = state
        self.receiving = False
        self.ending = self.ending or ending
        self._drop_pings_and_pongs()

    def _limit_reading(self) -> None:
        self.reader.limit(self.reader.max_message_size + CLOSING_ALLOWANCE, MAX_CLOSING_FRAMES)

    def _disconnect(self, ending: Ending) -> None:
        self._close_frame = b""
        self._stop_receiving(State.CLOSED, ending)
        self.reader.end()
        self._outgoing = bytearray()
        self._piece = _NOTHING
        self._in_frame = False


class _OutgoingMessage:
    """A long message, or a long part of one, that is sent frame by frame and piece by piece.

    Attributes:
        at: the position of the next piece.
        frame_end: the end of the current frame.
        masker: the masker of the current frame, if it is masked.
    """

    __slots__ = ("_buffer", "_is_memory", "at", "data", "frame_end", "last", "masker", "opcode")

    def __init__(self, opcode: Opcode, data: Payload, last: bool) -> None:
        self.opcode = opcode
        self.data = memoryview(data) if isinstance(data, bytes) else data
        self._is_memory = isinstance(self.data, memoryview)
        self.last = last
        self.at = 0
        self.frame_end = 0
        self.masker: Masker | None = None
        self._buffer: memoryview | None = None

    def next_piece(self, size: int | None = None) -> memoryview:
        """Return the next bytes of the current frame, masked if need be; valid until the next call.

        Args:
            size: the largest number of bytes to return; `None`: the size of a piece.
        """
        if size is None:
            size = UNCOPIED_PIECE_SIZE if self._is_memory and self.masker is None else PIECE_SIZE
        piece = memoryview(self.data[self.at : min(self.at + size, self.frame_end)])
        self.at += len(piece)
        if self.masker is not None:
            if self._buffer is None:
                self._buffer = memoryview(bytearray(PIECE_SIZE))
            self.masker.mask_into(self._buffer, piece)
            piece = self._buffer[: len(piece)]
        return piece
