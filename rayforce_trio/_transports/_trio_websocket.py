"""WebSocket under trio, after the opening handshake: the protocol does the frames, this module the I/O.

It starts no task of its own: whoever owns the connection reads, writes and runs `run`.
"""

import copy
import math
from collections import deque
from contextlib import suppress

import trio

from .._addresses import os_error_text
from .._protocol import Frame, LazyFrame
from .._streams import READ_SIZE, BrokenResourceError, ByteStream, ClosedResourceError
from .._tasks import TimeSlice, race
from .._websocket import (
    Close,
    CloseCode,
    FrameReader,
    Masker,
    Opcode,
    Ping,
    Pong,
    WebSocketViolation,
    frame_header,
    new_key,
    pack_close,
    pack_frame,
)
from ..errors import ConnectionLost, MessageTooLarge, ProtocolError, RayforceWSError
from ._base import (
    CLOSE_TIMEOUT,
    TEXT_LIMIT,
    Transport,
    closed_by_peer,
    closed_by_us,
)
from ._keepalive import KeepAlive

FRAGMENT_SIZE = 8 * 1024 * 1024
"""Longer messages are sent in fragments of so many bytes, so that pings and pongs pass between them."""

_COPIED = 16 * 1024  # bytes; up to so many are put behind a header, to be sent together
_PIECE = 256 * 1024  # bytes; a long message is masked and sent in pieces of so many
_DUE_PONGS = 64  # of more pings than that, the latest are answered: RFC 6455, section 5.5.3


class TrioWebSocket(Transport):
    """A WebSocket connection over a stream. See `Transport` for what its methods promise.

    Args:
        stream: what the opening handshake was done on.
        client: whether this end is the client.
        leftover: what was received beyond the handshake.
        subprotocol: the one agreed on.
        peer: the peer's address, for people to read.
        max_message_size: the longest message accepted, in bytes.
        keepalive: when to ping.
        peer_max_message_size: the longest message that the server accepts, in bytes; `None` if that is not known.
        write_timeout: a peer that takes nothing for so many seconds is given up.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        client: bool,
        leftover: bytes,
        subprotocol: str | None,
        peer: str,
        max_message_size: int,
        keepalive: KeepAlive,
        peer_max_message_size: int | None = None,
        write_timeout: float = math.inf,
    ) -> None:
        self.subprotocol = subprotocol
        self.peer = peer
        self.peer_max_message_size = peer_max_message_size
        self._stream = stream
        self._client = client
        self._keepalive = keepalive
        self._write_timeout = write_timeout
        self._last_sign_of_life = trio.current_time()
        self._time_slice = TimeSlice(self.flush)
        # Incoming
        self._receiver = FrameReader(masked=not client, max_message_size=max_message_size, max_text_size=TEXT_LIMIT)
        self._receiver.feed(leftover)
        self._receiving = False
        self._violated = False
        # Outgoing
        self._write_lock = trio.Lock()
        self._outgoing = bytearray()  # whole frames, that are sent before anything else is; of the first, the rest
        self._within_message = False  # a message is being sent in parts
        self._frame_incomplete = False  # a long frame was begun and not finished: nothing can follow it
        self._due_pongs = deque[Ping](maxlen=_DUE_PONGS)
        self._flush_due = trio.Event()
        # The end
        self._close_sent = False
        self._end: RayforceWSError | None = None
        self._ended = trio.Event()
        self._drained = False  # `aclose` is reading, and nobody else may

    @property
    def max_message_size(self) -> int:
        """The longest message accepted, in bytes; it may be changed meanwhile."""
        return self._receiver.max_message_size

    @max_message_size.setter
    def max_message_size(self, size: int) -> None:
        self._receiver.max_message_size = size

    @property
    def max_text_size(self) -> int:
        """The longest text message accepted, in characters; it may be changed meanwhile."""
        return self._receiver.max_text_size

    @max_text_size.setter
    def max_text_size(self, size: int) -> None:
        self._receiver.max_text_size = size

    # Receiving

    async def receive(self) -> Frame | str:
        if self._drained:
            await self._ended.wait()
        self._receiving = True
        try:
            waited = False
            while True:
                if self._receiver.has_bytes:
                    if not waited:
                        await trio.lowlevel.checkpoint_if_cancelled()
                        await self._time_slice.yield_if_due()  # thousands of messages, or of pings, fit into one read
                    event = self._next_event()
                    waited = False
                    if isinstance(event, Ping | Pong):
                        continue
                    if event is not None:
                        return event
                self.flush()
                await self._read()
                self._time_slice.start()
                waited = True
        finally:
            self._receiving = False

    def _next_event(self) -> Frame | str | Ping | Pong | None:
        """Return what has arrived, if it is whole; a close is raised."""
        try:
            event = self._receiver.next_event()
        except WebSocketViolation as violation:
            self._violated = True
            if violation.code is CloseCode.MESSAGE_TOO_BIG:
                raise MessageTooLarge(str(violation)) from None
            raise ProtocolError(f"the peer broke the WebSocket protocol: {violation}", violation.code) from None
        if isinstance(event, bytes):
            return event
        if isinstance(event, Ping):
            self._due_pongs.append(event)
            self._flush_due.set()
        elif isinstance(event, Close):
            raise self._finish(closed_by_us() if self._close_sent else closed_by_peer(event.code, event.reason))
        return event

    async def _read(self) -> None:
        """Wait for what arrives next."""
        if self._end is not None:
            raise copy.copy(self._end)
        room = self._receiver.get_buffer()
        try:
            if room is not None and len(room) > READ_SIZE:
                count = await self._stream.receive_into(room[:_PIECE])
                self._receiver.buffer_updated(count)
            else:
                data = await self._stream.receive_some()
                count = len(data)
                self._receiver.feed(data)
        except (BrokenResourceError, ClosedResourceError) as error:
            raise self._broken(error) from None
        if not count:
            raise self._lost("the peer went away without closing the connection")
        self._last_sign_of_life = trio.current_time()

    # Sending

    async def send(self, message: Frame | LazyFrame | str) -> None:
        await trio.lowlevel.checkpoint()
        if self._within_message:
            raise closed_by_us()  # a message was cut between two of its fragments
        if isinstance(message, str):
            async with self._write_lock:
                self._check_open()
                await self._send_at_once(Opcode.TEXT, message.encode())
        else:
            await self.send_part(message, last=True)

    async def send_part(self, data: Frame | LazyFrame, *, last: bool) -> None:
        size = len(data)
        for start in range(0, size or 1, FRAGMENT_SIZE):
            end = min(start + FRAGMENT_SIZE, size)
            async with self._write_lock:
                self._check_open()
                await self._send_fragment(data, start, end, fin=last and end == size)

    def send_nowait(self, message: Frame | LazyFrame | str) -> bool:
        if self._write_lock.locked() or self._within_message:
            return False
        self._check_open()
        opcode = Opcode.BINARY
        if isinstance(message, str):
            opcode, message = Opcode.TEXT, message.encode()
        if isinstance(message, LazyFrame) or len(self._outgoing) + len(message) > READ_SIZE:
            return False
        self._answer_pings()
        self._outgoing += pack_frame(opcode, message, masked=self._client)
        return True

    def flush(self) -> None:
        if self._write_lock.locked():
            return
        self._answer_pings()
        if not self._outgoing:
            return
        self._send_some()
        if self._outgoing:
            self._flush_due.set()

    async def run(self) -> None:
        await race(self._flush_when_due, self._keep_alive)

    async def _keep_alive(self) -> None:
        await self._keepalive.run(lambda: self._last_sign_of_life, self._ping, lambda: self._receiving)

    async def _ping(self) -> None:
        await self._send_control(Opcode.PING, b"")

    async def _flush_when_due(self) -> None:
        while True:
            await self._flush_due.wait()
            self._flush_due = trio.Event()
            async with self._write_lock:
                self._answer_pings()
                await self._send_outgoing()

    async def _send_control(self, opcode: Opcode, payload: bytes) -> None:
        async with self._write_lock:
            if (
                not self._close_sent and not self._frame_incomplete and self._end is None
            ):  # it has no place in a closing handshake
                await self._send_at_once(opcode, payload)

    def _answer_pings(self) -> None:
        """Put the pongs that are due before what is sent next; the lock is held by the caller, or by nobody."""
        if self._close_sent or self._frame_incomplete:
            self._due_pongs.clear()  # they have no place there
        while self._due_pongs and len(self._outgoing) < READ_SIZE:  # a peer that takes none must not make them pile up
            self._outgoing += pack_frame(Opcode.PONG, self._due_pongs.popleft().payload, masked=self._client)

    def _check_open(self) -> None:
        if self._end is not None:
            raise copy.copy(self._end)
        if self._frame_incomplete or self._close_sent:
            raise closed_by_us()

    # From here on, the caller holds the write lock.

    async def _send_fragment(self, message: Frame | LazyFrame, start: int, end: int, *, fin: bool) -> None:
        opcode = Opcode.CONTINUATION if self._within_message else Opcode.BINARY
        self._within_message = not fin
        if end - start <= _COPIED:
            await self._send_at_once(opcode, bytes(message[start:end]), fin=fin)
        else:
            await self._send_long(opcode, message, start, end, fin=fin)

    async def _send_at_once(self, opcode: Opcode, payload: bytes, *, fin: bool = True) -> None:
        """Send a short frame. If cancelled, the rest of it is sent before the next one."""
        self._answer_pings()
        self._outgoing += pack_frame(opcode, payload, fin=fin, masked=self._client)
        await self._send_outgoing()

    async def _send_long(self, opcode: Opcode, message: Frame | LazyFrame, start: int, end: int, *, fin: bool) -> None:
        """Send a part of a message as a frame, piece by piece, to spare copies."""
        self._answer_pings()
        await self._send_outgoing()
        key = new_key() if self._client else b""
        masker = Masker(key) if key else None
        whole = memoryview(message) if not isinstance(message, LazyFrame) else message
        masked = memoryview(bytearray(_PIECE if masker else 0))
        self._frame_incomplete = True
        self._outgoing += frame_header(opcode, end - start, fin=fin, key=key)
        at, size = start, _COPIED
        while at < end:
            piece = memoryview(whole[at : min(at + size, end)])
            if masker is not None:
                masker.mask_into(masked, piece)
                piece = masked[: len(piece)]
            if self._outgoing:  # the header, and the first of what it announces
                self._outgoing += piece
                await self._send_outgoing()
            else:
                await self._send_piece(piece)
            at, size = at + size, _PIECE
            await self._time_slice.yield_if_due()
        self._frame_incomplete = False

    async def _send_outgoing(self) -> None:
        while self._outgoing:
            self._send_some()
            if self._outgoing:
                await self._wait_until_it_takes_more()

    async def _send_piece(self, piece: memoryview) -> None:
        while piece:
            try:
                piece = piece[self._stream.send_nowait(piece) :]
            except (BrokenResourceError, ClosedResourceError) as error:
                raise self._broken(error) from None
            if piece:
                await self._wait_until_it_takes_more()

    def _send_some(self) -> None:
        try:
            count = self._stream.send_nowait(self._outgoing)
        except (BrokenResourceError, ClosedResourceError) as error:
            raise self._broken(error) from None
        del self._outgoing[:count]

    async def _wait_until_it_takes_more(self) -> None:
        # A server need not wait for a peer that reads nothing; a client does, since the server may be evaluating.
        with trio.move_on_after(self._write_timeout) as patience:
            try:
                await self._stream.wait_writable()
            except (BrokenResourceError, ClosedResourceError) as error:
                raise self._broken(error) from None
        if patience.cancelled_caught:
            raise self._lost(f"the peer took nothing for {self._write_timeout:g} seconds")
        self._last_sign_of_life = trio.current_time()

    # Ending

    def _lost(self, why: str) -> RayforceWSError:
        return self._finish(ConnectionLost(why))

    def _broken(self, error: Exception) -> RayforceWSError:
        reason = os_error_text(error)
        if error.__cause__ is not None:
            # On Python 3.12 its frames hold it, and those of this module with the message they were at, in a cycle.
            error.__cause__.__traceback__ = None
        return self._lost(f"the connection broke: {reason}")

    def _finish(self, end: RayforceWSError) -> RayforceWSError:
        """Record how the connection ended, and return it to be raised; the first account of it stands.

        The record itself is never raised: its traceback would hold this connection, and what it was sending.
        """
        if self._end is None:
            self._end = copy.copy(end)
        self._ended.set()
        return copy.copy(self._end)

    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        try:
            with trio.move_on_after(CLOSE_TIMEOUT):
                with suppress(RayforceWSError):
                    await self._closing_handshake(code, reason)
        finally:
            self._finish(closed_by_us())
            await self._stream.aclose()

    async def _closing_handshake(self, code: int, reason: str) -> None:
        async with self._write_lock:
            if self._frame_incomplete:
                return  # nothing can follow a frame that was begun; the peer would not understand
            if not self._close_sent:
                self._outgoing += pack_close(code, reason, masked=self._client)
                self._close_sent = True
            await self._send_outgoing()
            if self._violated:  # the peer's answer would not be understood; its hanging up will
                with suppress(BrokenResourceError, ClosedResourceError):
                    await self._stream.send_eof()
        if self._receiving:
            await self._ended.wait()  # whoever receives sees the peer's answer
        self._drained = True
        while self._end is None:
            if self._next_event() is None:
                await self._read()

    def abort(self) -> None:
        self._finish(closed_by_us())
        self._stream.close()
