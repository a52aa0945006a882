"""WebSocket under trio, after the opening handshake: wsproto does the frames, this module the I/O.

It starts no task of its own: whoever owns the connection reads, writes and runs `run`.
"""

import copy
import math
from contextlib import suppress
from typing import Any

import trio
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage
from wsproto.extensions import Extension
from wsproto.frame_protocol import CloseReason, FrameDecoder, FrameProtocol, Opcode, RsvBits

from .._addresses import why
from .._tasks import race
from ..errors import ConnectionLost, ProtocolError, RayforceWSError
from ._base import (
    CLOSE_TIMEOUT,
    FRAGMENT_SIZE,
    MESSAGE_TOO_BIG,
    NORMAL_CLOSURE,
    READ_SIZE,
    TEXT_LIMIT,
    WRITE_STALL_TIMEOUT,
    Transport,
    closed_by_peer,
    closed_by_us,
    shortened,
    text_too_large,
    too_large,
)
from ._keepalive import KeepAlive

_SPARE_FRAGMENTS = 1024  # a message may have so many fragments, and one more for each _BYTES_PER_FRAGMENT bytes in it
_BYTES_PER_FRAGMENT = 256


class TrioWebSocket(Transport):
    """A WebSocket connection over a socket. See `Transport` for what its methods promise."""

    def __init__(
        self,
        stream: trio.SocketStream,
        side: ConnectionType,
        leftover: bytes,
        subprotocol: str | None,
        peer: str,
        max_message_size: int,
        keepalive: KeepAlive,
    ) -> None:
        self.subprotocol = subprotocol
        self.peer = peer
        self.max_message_size = max_message_size
        self._stream = stream
        self._frames = Connection(side, [_SizeCheck(self)], leftover)
        self._keepalive = keepalive
        self._last_sign_of_life = trio.current_time()
        # Incoming
        self._parts: list[Any] = []  # of one message, so all bytes or all str
        self._size = 0
        self._fragments = 0
        self._receiving = False
        self._parser_failed = False  # it keeps what it is fed from then on, and says nothing
        # Outgoing
        self._write_lock = trio.Lock()
        self._cut = False  # a frame was begun and not finished: nothing can follow it
        self._due_pong: Pong | None = None
        self._pong_due = trio.Event()
        # The end
        self._end: RayforceWSError | None = None
        self._ended = trio.Event()
        self._drained = False  # `aclose` is reading, and nobody else may

    # Receiving

    async def receive(self) -> bytes | str:
        if self._drained:
            await self._ended.wait()
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                for event in self._frames.events():
                    message = self._take(event)
                    if message is not None:
                        return message
                    await trio.lowlevel.checkpoint()  # thousands of pings or empty fragments fit into one read
                await self._read()
        finally:
            self._receiving = False

    async def _read(self) -> None:
        """Feed what arrives next to the frame parser."""
        if self._end is not None:
            raise copy.copy(self._end)
        try:
            data = await self._stream.receive_some(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._broken(error) from None
        if not data:
            raise self._lost("the peer went away without closing the connection")
        self._last_sign_of_life = trio.current_time()
        if not self._parser_failed:
            self._frames.receive_data(bytes(data))

    def _take(self, event: Event) -> bytes | str | None:
        """Handle one event of the frame parser; returns the message that it completes."""
        match event:
            case BytesMessage() | TextMessage():
                return self._take_part(event)
            case Ping():
                self._due_pong = event.response()  # the latest is enough: RFC 6455, section 5.5.3
                self._pong_due.set()
            case CloseConnection(code=code, reason=reason):
                if self._frames.state is ConnectionState.OPEN:  # the parser's verdict, not a frame of the peer's
                    self._parser_failed = True
                    if code == MESSAGE_TOO_BIG:
                        raise too_large(self.max_message_size)
                    raise ProtocolError(f"the peer broke the WebSocket protocol: {reason}", int(code))
                if self._frames.state is ConnectionState.CLOSED:  # the peer's answer to a close frame of ours
                    raise self._finish(closed_by_us())
                raise self._finish(closed_by_peer(int(code), reason or ""))
        return None

    def _take_part(self, event: BytesMessage | TextMessage) -> bytes | str | None:
        self._size += len(event.data)
        self._fragments += event.frame_finished
        if isinstance(event, TextMessage) and self._size > TEXT_LIMIT:
            raise text_too_large()
        if self._size > self.max_message_size:
            raise too_large(self.max_message_size)
        if self._fragments > _SPARE_FRAGMENTS + self._size // _BYTES_PER_FRAGMENT:
            raise ProtocolError("a message in too many fragments", 1008)
        self._parts.append(event.data)
        if not event.message_finished:
            return None
        parts, self._parts, self._size, self._fragments = self._parts, [], 0, 0
        empty: bytes | str = b"" if isinstance(event, BytesMessage) else ""
        return empty.join(parts)  # of a single part, join returns just that

    @property
    def room_for_message(self) -> int:
        """How many bytes the message that is arriving may still have."""
        return self.max_message_size - self._size

    # Sending

    async def send(self, message: bytes | str) -> None:
        if isinstance(message, bytes):
            await self.send_part(message, last=True)
        else:
            await self._send_frame(TextMessage(message))

    async def send_part(self, data: bytes, *, last: bool) -> None:
        view = memoryview(data)
        for start in range(0, len(view) or 1, FRAGMENT_SIZE):
            piece = view[start : start + FRAGMENT_SIZE]
            finished = last and start + FRAGMENT_SIZE >= len(view)
            # wsproto takes any buffer, though its annotation names two.
            await self._send_frame(BytesMessage(piece, message_finished=finished))  # type: ignore[arg-type]

    async def _send_frame(self, event: Event) -> None:
        async with self._write_lock:
            await self._write(event)

    async def run(self) -> None:
        await race(self._answer_pings, self._keep_alive)

    async def _keep_alive(self) -> None:
        await self._keepalive.run(lambda: self._last_sign_of_life, self._ping, lambda: self._receiving)

    async def _answer_pings(self) -> None:
        while True:
            await self._pong_due.wait()
            self._pong_due = trio.Event()
            if self._due_pong is not None:
                pong, self._due_pong = self._due_pong, None
                await self._write_control(pong)

    async def _ping(self) -> None:
        await self._write_control(Ping())

    async def _write_control(self, event: Ping | Pong) -> None:
        async with self._write_lock:
            if self._frames.state is ConnectionState.OPEN:  # none of these has a place in a closing handshake
                await self._write(event)

    async def _write(self, event: Event) -> None:
        """Send one frame; the caller holds the write lock."""
        if self._end is not None:
            raise copy.copy(self._end)
        if self._cut or self._frames.state is not ConnectionState.OPEN:
            raise closed_by_us()
        await self._write_bytes(self._frames.send(event))

    async def _write_bytes(self, data: bytes) -> None:
        view = memoryview(data)
        await trio.lowlevel.checkpoint_if_cancelled()  # up to here, nothing was begun
        self._cut = True
        for start in range(0, len(view), READ_SIZE):
            # A server need not wait for a peer that reads nothing; a client does, since the server may be evaluating.
            with trio.move_on_after(math.inf if self._frames.client else WRITE_STALL_TIMEOUT) as patience:
                try:
                    await self._stream.send_all(view[start : start + READ_SIZE])
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise self._broken(error) from None
            if patience.cancelled_caught:
                raise self._lost(f"the peer took nothing for {WRITE_STALL_TIMEOUT:g} seconds")
            if start:  # a large message makes its way; a small one only fills buffers, whether or not the peer lives
                self._last_sign_of_life = trio.current_time()
        self._cut = False

    # Ending

    def _lost(self, why: str) -> RayforceWSError:
        return self._finish(ConnectionLost(why))

    def _broken(self, error: Exception) -> RayforceWSError:
        reason = why(error)
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

    async def aclose(self, code: int = NORMAL_CLOSURE, reason: str = "") -> None:
        try:
            with trio.move_on_after(CLOSE_TIMEOUT):
                with suppress(RayforceWSError):
                    await self._shake_hands_goodbye(code, reason)
        finally:
            self._finish(closed_by_us())
            await trio.aclose_forcefully(self._stream)

    async def _shake_hands_goodbye(self, code: int, reason: str) -> None:
        async with self._write_lock:
            if self._cut:
                return  # nothing can follow a frame that was begun; the peer would not understand
            if self._frames.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                await self._write_bytes(self._frames.send(CloseConnection(code, shortened(reason))))
            if self._parser_failed:  # the peer's answer would not be understood; its hanging up will
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._stream.send_eof()
        if self._receiving:
            await self._ended.wait()  # whoever receives sees the peer's answer
        self._drained = True
        while self._end is None:
            for event in self._frames.events():
                if isinstance(event, CloseConnection):
                    return
            await self._read()

    def abort(self) -> None:
        self._finish(closed_by_us())
        self._stream.socket.close()


class _SizeCheck(Extension):
    """Refuses a frame by what its header announces, before a byte of the payload is kept. It is never negotiated."""

    name = "size-check"

    def __init__(self, transport: TrioWebSocket) -> None:
        self._transport = transport

    def enabled(self) -> bool:
        return True

    def offer(self) -> bool:
        return False

    def frame_inbound_header(
        self,
        proto: FrameDecoder | FrameProtocol,  # noqa: ARG002 - wsproto calls it by position
        opcode: Opcode,
        rsv: RsvBits,  # noqa: ARG002 - the same
        payload_length: int,
    ) -> CloseReason | RsvBits:
        if not opcode.iscontrol() and payload_length > self._transport.room_for_message:
            return CloseReason.MESSAGE_TOO_BIG
        return RsvBits(False, False, False)
