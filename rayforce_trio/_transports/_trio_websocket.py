"""WebSocket under trio: trio-websocket does the opening handshake, wsproto the frames, this module the I/O between.

trio-websocket's own connection is left after the handshake, since one bad peer can end a process that serves on it,
pings wait behind whole messages, and nothing bounds a close. Its reader task is cancelled while it waits in a stream of
ours, which keeps every byte after the HTTP head; the same socket then goes on here, without any task of its own.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import h11
import trio
import trio_websocket
import wsproto.utilities
from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Event, Ping, Pong, TextMessage

from ..errors import (
    ConnectError,
    ConnectionLost,
    ConnectionRejected,
    HandshakeError,
    ProtocolError,
    RayforceWSError,
)
from ._base import (
    CLOSE_TIMEOUT,
    FRAGMENT_SIZE,
    NORMAL_CLOSURE,
    READ_SIZE,
    TEXT_LIMIT,
    WRITE_STALL_TIMEOUT,
    Transport,
    authority_of,
    closed_by_peer,
    closed_by_us,
    text_too_large,
    too_large,
)
from ._head_stream import HeadStream, HeadTooLong
from ._keepalive import KeepAlive
from ._race import race, ungrouped

_LINGER_TIMEOUT = 1.0  # seconds a refused peer has to read why, before the socket is closed
_SPARE_FRAGMENTS = 1024  # a message may have so many fragments, and one more for each _BYTES_PER_FRAGMENT bytes in it
_BYTES_PER_FRAGMENT = 256

# What trio-websocket and what it stands on raise for a handshake that makes no sense. UnicodeError is a ValueError.
_HANDSHAKE_ERRORS = (
    ValueError,
    h11.ProtocolError,
    wsproto.utilities.ProtocolError,
    trio_websocket.ConnectionClosed,
    trio_websocket.HandshakeError,
)


@dataclass(frozen=True, slots=True)
class OpeningRequest:
    """What a client asks for: the path and the HTTP headers, names in lower case."""

    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a client is refused: an HTTP status of 400-599 and a sentence for the person who reads it."""

    status: int
    reason: str


async def connect(
    host: str, port: int, *, subprotocols: Sequence[str], max_message_size: int, keepalive: KeepAlive
) -> "TrioWebSocket":
    """Open a connection to `ws://host:port/`. A checkpoint; if cancelled, nothing is left open.

    Raises:
        ConnectError: nobody answers there.
        ConnectionRejected: the server refused, with an HTTP status.
        HandshakeError: what answers is no WebSocket server.
    """
    authority = authority_of(host, port)
    try:
        stream = await trio.open_tcp_stream(host, port)
    except OSError as error:
        raise ConnectError(f"could not connect to {authority}: {_why(error)}") from error
    try:
        return await _upgrade_client(stream, authority, subprotocols, max_message_size, keepalive)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise


def _why(error: Exception) -> str:
    """Return what the system said; trio wraps it, or sums it up, and keeps it as the cause."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[-1]
    return str(cause or error)


async def _upgrade_client(
    stream: trio.SocketStream,
    authority: str,
    subprotocols: Sequence[str],
    max_message_size: int,
    keepalive: KeepAlive,
) -> "TrioWebSocket":
    head = HeadStream(stream, with_body=True)
    subprotocol: str | None = None

    async def shake_hands(nursery: trio.Nursery) -> None:
        nonlocal subprotocol
        # The annotation asks for a socket; trio-websocket calls nothing of it that trio.abc.Stream lacks.
        websocket = await trio_websocket.wrap_client_stream(
            nursery,
            head,  # type: ignore[arg-type]
            authority,
            "/",
            subprotocols=subprotocols,
        )
        subprotocol = websocket.subprotocol

    try:
        await _borrow_trio_websocket(shake_hands)
    except trio_websocket.ConnectionRejected as error:
        raise ConnectionRejected(error.status_code, (error.body or b"").decode("utf-8", "replace")) from None
    except _HANDSHAKE_ERRORS as error:
        raise HandshakeError(f"what answers at {authority} is not a WebSocket server: {error}") from error
    return TrioWebSocket(
        stream,
        Connection(ConnectionType.CLIENT, trailing_data=head.leftover),
        subprotocol,
        authority,
        max_message_size,
        keepalive,
    )


async def accept(
    stream: trio.SocketStream,
    peer: str,
    *,
    decide: Callable[[OpeningRequest], Refusal | None],
    subprotocols: Sequence[str],
    max_message_size: int,
    keepalive: KeepAlive,
) -> "TrioWebSocket":
    """Do the server's part of the opening handshake. A checkpoint; the stream is the caller's to close if it raises.

    Args:
        stream: a connection just accepted.
        peer: its address, for people.
        decide: called with the request; returns why it is refused, or `None`.
        subprotocols: those this server speaks, the preferred one first.

    Raises:
        ConnectionRejected: the request was refused.
        HandshakeError: the peer sent no proper request. It was told so.
        ConnectionLost: the peer went away meanwhile.
    """
    head = HeadStream(stream)
    chosen: str | None = None

    async def shake_hands(nursery: trio.Nursery) -> None:
        nonlocal chosen
        request = await trio_websocket.wrap_server_stream(nursery, head)
        headers = {name.decode("ascii").lower(): value.decode("ascii") for name, value in request.headers}
        refusal = decide(OpeningRequest(request.path, headers))
        if refusal is not None:
            await request.reject(
                refusal.status,
                extra_headers=[(b"Content-Type", b"text/plain; charset=utf-8"), (b"Connection", b"close")],
                body=refusal.reason.encode() + b"\n",
            )
            raise ConnectionRejected(refusal.status, refusal.reason)
        chosen = next((name for name in subprotocols if name in request.proposed_subprotocols), None)
        await request.accept(subprotocol=chosen)

    try:
        await _borrow_trio_websocket(shake_hands)
    except ConnectionRejected:
        await _linger(stream)
        raise
    except HeadTooLong:
        await _refuse_plainly(stream, b"431 Request Header Fields Too Large")
        raise
    except HandshakeError:
        await _refuse_plainly(stream, b"400 Bad Request")
        raise
    except _HANDSHAKE_ERRORS as error:
        await _refuse_plainly(stream, b"400 Bad Request")
        raise HandshakeError(f"the peer's opening handshake makes no sense: {error}") from error
    return TrioWebSocket(
        stream,
        Connection(ConnectionType.SERVER, trailing_data=head.leftover),
        chosen,
        peer,
        max_message_size,
        keepalive,
    )


async def _borrow_trio_websocket(shake_hands: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    """Run a handshake in a nursery for trio-websocket's reader task, and end that task; raises single exceptions."""
    with ungrouped():
        async with trio.open_nursery() as nursery:
            await shake_hands(nursery)
            nursery.cancel_scope.cancel()


async def _refuse_plainly(stream: trio.SocketStream, status: bytes) -> None:
    """Answer a peer whose request trio-websocket could not read; it may have answered some of them itself by now."""
    try:
        await stream.send_all(b"HTTP/1.1 " + status + b"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    await _linger(stream)


async def _linger(stream: trio.SocketStream) -> None:
    """Let a refused peer read why: closing a socket with unread bytes resets the connection, and the answer is lost."""
    with trio.move_on_after(_LINGER_TIMEOUT):
        try:
            await stream.send_eof()
            while await stream.receive_some(READ_SIZE):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


class TrioWebSocket(Transport):
    """A WebSocket connection over a socket. See `Transport` for what its methods promise."""

    def __init__(
        self,
        stream: trio.SocketStream,
        frames: Connection,
        subprotocol: str | None,
        peer: str,
        max_message_size: int,
        keepalive: KeepAlive,
    ) -> None:
        self.subprotocol = subprotocol
        self.peer = peer
        self.max_message_size = max_message_size
        self._stream = stream
        self._frames = frames
        self._keepalive = keepalive
        self._last_sign_of_life = trio.current_time()
        # Incoming
        self._parts: list[Any] = []  # of one message, so all bytes or all str
        self._size = 0
        self._fragments = 0
        self._receiving = False
        # Outgoing
        self._write_lock = trio.Lock()
        self._cut = False  # a frame was begun and not finished: nothing can follow it
        self._due_pong: Pong | None = None
        self._pong_due = trio.Event()
        # The end
        self._end: RayforceWSError | None = None
        self._ended = trio.Event()

    # Receiving

    async def receive(self) -> bytes | str:
        await trio.lowlevel.checkpoint()
        self._receiving = True
        try:
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
            raise self._end
        try:
            data = await self._stream.receive_some(READ_SIZE)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise self._lost(f"the connection broke: {_why(error)}") from None
        if not data:
            raise self._lost("the peer went away without closing the connection")
        self._last_sign_of_life = trio.current_time()
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
                    raise ProtocolError(f"the peer broke the WebSocket protocol: {reason}", int(code))
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

    # Sending

    async def send(self, message: bytes | str) -> None:
        for event in _fragments(message):
            async with self._write_lock:
                await self._write(event)

    async def run(self) -> None:
        await race(self._answer_pings, partial(self._keepalive.run, lambda: self._last_sign_of_life, self._ping))

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
            raise self._end
        if self._cut or self._frames.state is not ConnectionState.OPEN:
            raise closed_by_us()
        await self._write_bytes(self._frames.send(event))

    async def _write_bytes(self, data: bytes) -> None:
        view = memoryview(data)
        self._cut = True
        for start in range(0, len(view), READ_SIZE):
            with trio.move_on_after(WRITE_STALL_TIMEOUT) as patience:
                try:
                    await self._stream.send_all(view[start : start + READ_SIZE])
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise self._lost(f"the connection broke: {_why(error)}") from None
            if patience.cancelled_caught:
                raise self._lost(f"the peer took nothing for {WRITE_STALL_TIMEOUT:g} seconds")
            self._last_sign_of_life = trio.current_time()
        self._cut = False

    # Ending

    def _lost(self, why: str) -> RayforceWSError:
        return self._finish(ConnectionLost(why))

    def _finish(self, end: RayforceWSError) -> RayforceWSError:
        """Record how the connection ended; the first account of it stands."""
        if self._end is None:
            self._end = end
        self._ended.set()
        return self._end

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
                await self._write_bytes(self._frames.send(CloseConnection(code, reason)))
        if self._receiving:
            await self._ended.wait()  # whoever receives sees the peer's answer
        while self._end is None:
            for event in self._frames.events():
                if isinstance(event, CloseConnection):
                    return
            await self._read()

    def abort(self) -> None:
        self._finish(closed_by_us())
        self._stream.socket.close()


def _fragments(message: bytes | str) -> Iterator[Event]:
    if isinstance(message, str):
        yield TextMessage(message)
        return
    view = memoryview(message)
    for start in range(0, len(view) or 1, FRAGMENT_SIZE):
        yield BytesMessage(view[start : start + FRAGMENT_SIZE], message_finished=start + FRAGMENT_SIZE >= len(view))  # type: ignore[arg-type]
