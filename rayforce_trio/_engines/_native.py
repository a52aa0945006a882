"""A native Rayforce server, reached over TCP: one connection of its protocol for each session."""

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import inf

import trio

from .._addresses import authority_of, check_host, check_port, why
from .._codec import SIZE_BYTES, Decompressor
from .._protocol import (
    CANCELLED,
    HEADER_SIZE,
    MESSAGE_TYPE_OFFSET,
    NATIVE_HELLO,
    NATIVE_HELLO_SIZE,
    NATIVE_MAX_REQUEST,
    Failure,
    FrameError,
    MessageType,
    NativeReceiver,
    Piece,
    ProtocolViolation,
    Reply,
    Result,
    check_native_hello,
    dump_credentials,
    error_code,
    parse_header,
)
from .._tasks import race
from ..errors import EngineError, RayforceValueError
from ._backlog import Backlog
from ._base import Engine, Session

OPEN_TIMEOUT = 3.0
"""Bound on opening a session, the name look-up and the handshake included; in seconds."""

STOP_TIMEOUT = 2.0
"""How long a session that is closed waits for its query to have stopped, in seconds."""

STALL_TIMEOUT = 30.0
"""An engine that has sent the beginning of a reply and then nothing for so long is given up; in seconds."""

MAX_REPLY_SIZE = 16 * 1024**3
"""The longest reply accepted, in bytes: what is not read yet may have to lie in a file."""

_READ_SIZE = 256 * 1024
_SENT_AT_ONCE = 64 * 1024  # bytes; the header of a longer frame is sent before it, to spare a copy
_STOP = b"!"  # as TCP urgent data: stops the query of the connection it is sent on
_NOTHING = bytes.fromhex("fadeface 03000001 0a00000000000000 fb00 0000000000000000")  # a request for the value 0
_NOT_BEGUN = Failure(CANCELLED, "the request was cancelled before it began")


class NativeEngine(Engine):
    """A Rayforce server of its own (`rayforce -p PORT`), on this machine or another.

    The event loop stays free while queries run, and cancelling one stops it in the engine. Frames are passed through
    undecoded, and replies as they arrive, so that one of any size costs the server little memory.

    Args:
        host: the native server's name or address.
        port: its port, 1-65535.
        user: the user name, if the server wants credentials (`-u`, `-U`).
        password: the password.

    Raises:
        RayforceValueError: an argument is out of range.
    """

    def __init__(self, host: str, port: int, *, user: str = "", password: str = "") -> None:
        check_host(host)
        check_port(port, lowest=1)
        try:
            self._credentials = dump_credentials(user, password)
        except (ValueError, AttributeError, TypeError) as error:
            raise RayforceValueError(f"Invalid user or password: {error}") from None
        self.host = host
        self.port = port
        self.user = user

    def __repr__(self) -> str:
        return f"NativeEngine({self.host!r}, {self.port})"

    async def open_session(self) -> Session:
        with trio.move_on_after(OPEN_TIMEOUT):
            return await self._connect()
        raise EngineError(f"{self._name} did not answer within {OPEN_TIMEOUT:g} seconds")

    async def _connect(self) -> Session:
        """Open a session like `open_session`, however long it takes."""
        try:
            stream = await trio.open_tcp_stream(self.host, self.port)
        except (OSError, UnicodeError) as error:
            raise EngineError(f"{self._name} cannot be reached: {why(error)}") from None
        try:
            _watch_for_silence(stream)
            await self._shake_hands(stream)
        except (trio.BrokenResourceError, OSError):
            await trio.aclose_forcefully(stream)
            raise EngineError(f"{self._name} broke off the handshake") from None
        except ProtocolViolation as violation:
            await trio.aclose_forcefully(stream)
            raise EngineError(f"{self._name} cannot be used: {violation}") from None
        except BaseException:
            stream.socket.close()
            raise
        return NativeSession(stream, self._name)

    @property
    def _name(self) -> str:
        return f"the engine at {authority_of(self.host, self.port)}"

    async def _shake_hands(self, stream: trio.SocketStream) -> None:
        await stream.send_all(NATIVE_HELLO)
        answer = await _receive_exactly(stream, NATIVE_HELLO_SIZE)
        if len(answer) < NATIVE_HELLO_SIZE:
            raise ProtocolViolation("it hung up in the handshake; it is no Rayforce server, or speaks another version")
        if not check_native_hello(answer):
            return
        await stream.send_all(self._credentials)
        if await _receive_exactly(stream, 1) != b"\0":
            raise ProtocolViolation("it refused the user name or the password")


class NativeSession(Session):
    """A connection to a native server. It has one request under way at a time, so that a stop can hit no other.

    Args:
        stream: the connection, after the handshake.
        name: the engine's, for errors: "the engine at ...".
    """

    def __init__(self, stream: trio.SocketStream, name: str) -> None:
        self._stream = stream
        self._name = name
        self._receiver = NativeReceiver()
        self._backlog = Backlog()  # where the reply goes to the request under way
        self._decompressor: Decompressor | None = None
        self._asked = False  # a request was begun, and its reply was not
        self._sent = False  # and the whole of it was sent
        self._answered = trio.Event()
        self._cancelled = False
        self._stop_unsent = trio.Event()

    async def run(self) -> None:
        await race(self._receive_all, self._send_late_stops)

    async def request(self, frame: bytes) -> Reply:
        if len(frame) - HEADER_SIZE > NATIVE_MAX_REQUEST:
            await trio.lowlevel.checkpoint()
            return Failure("limit", f"the engine takes requests of at most {NATIVE_MAX_REQUEST} bytes")
        return await self._ask(lambda: self._send(frame, MessageType.SYNC))

    async def post(self, frame: bytes) -> Failure | None:
        # The engine answers what is sent after the post once that was carried out; until then a stop stops the post. An
        # error in it is the engine's to tell, which a server of its own does not.
        async def send() -> None:
            await self._send(frame, MessageType.ASYNC)
            await self._send(_NOTHING, MessageType.SYNC)

        reply = await self._ask(send)
        return reply if reply == _NOT_BEGUN else None

    async def receive_some(self) -> bytes:
        data = b""
        while not data:
            data = await self._backlog.get()
            if self._decompressor is not None:
                data = self._decompress(self._decompressor, data)
        self.unread -= len(data)
        return data

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            if self._sent:
                self._stop()

    async def aclose(self) -> None:
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_TIMEOUT):
                if self._sent:
                    self.cancel()
                    with suppress(EngineError):
                        # Closing must wait for the stop to be heeded: a connection that is reset takes it with it.
                        await race(self.run, self._answered.wait)
        finally:
            self._sent = False
            self._backlog.close()
            await trio.aclose_forcefully(self._stream)

    # Asking

    async def _ask(self, send: Callable[[], Awaitable[None]]) -> Reply:
        """Send something that is answered once, and return the answer or its beginning."""
        self._cancelled = False
        await trio.lowlevel.checkpoint()
        if self._cancelled:
            return _NOT_BEGUN
        self._backlog.close()
        self._backlog, self._decompressor, self._answered = Backlog(), None, trio.Event()
        self._asked = True
        await send()
        self._sent = self._asked
        if self._sent and self._cancelled:
            self._stop()
        return self._begin(await self._backlog.get())

    def _begin(self, first: bytes) -> Reply:
        header = parse_header(first)
        self.unread = HEADER_SIZE + header.size - len(first)
        if self.unread == 0 and (code := error_code(first)) is not None:
            return Failure(code, "")
        if header.compressed:
            payload = HEADER_SIZE + SIZE_BYTES
            try:
                self._decompressor = Decompressor(header, first[HEADER_SIZE:payload])
            except FrameError as error:
                raise self._damaged(error) from None
            plain = self._decompress(self._decompressor, first[payload:])
            self.unread = self._decompressor.left
            first = self._decompressor.header.pack() + plain
        return Result(first)

    def _decompress(self, decompressor: Decompressor, data: bytes) -> bytes:
        try:
            return decompressor.feed(data)
        except FrameError as error:
            raise self._damaged(error) from None

    async def _send(self, frame: bytes, message_type: MessageType) -> None:
        view = memoryview(frame)
        header = bytearray(view[:HEADER_SIZE])
        header[MESSAGE_TYPE_OFFSET] = message_type
        try:
            if len(frame) <= _SENT_AT_ONCE:
                await self._stream.send_all(header + view[HEADER_SIZE:])
            else:
                await self._stream.send_all(header)
                await self._stream.send_all(view[HEADER_SIZE:])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._lost("is gone") from None

    # Stopping

    def _stop(self) -> None:
        """Have the engine stop what it was asked last, now or before it begins with it."""
        # trio's sockets send in a task that can wait; this one may not, since its connection may be cancelled.
        plain = socket.socket(fileno=self._stream.socket.fileno())
        try:
            plain.send(_STOP, socket.MSG_OOB)
        except BlockingIOError:  # the engine has not read the whole request yet, and the network is full of it
            self._stop_unsent.set()
        except OSError:
            pass  # the connection is gone, which `run` finds out
        finally:
            plain.detach()

    async def _send_late_stops(self) -> None:
        while True:
            await self._stop_unsent.wait()
            self._stop_unsent = trio.Event()
            with suppress(OSError):
                await trio.lowlevel.wait_writable(self._stream.socket)
            if self._sent:
                self._stop()

    # Receiving

    async def _receive_all(self) -> None:
        while True:
            with trio.move_on_after(STALL_TIMEOUT if self._receiver.within_frame else inf) as patience:
                try:
                    data = await self._stream.receive_some(_READ_SIZE)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    raise self._lost("is gone") from None
            if patience.cancelled_caught:
                raise self._lost(f"stopped in the middle of a reply, for {STALL_TIMEOUT:g} seconds")
            if not data:
                raise self._lost("is gone")
            self._receiver.feed(data)
            try:
                while (piece := self._receiver.next_piece()) is not None:
                    await self._take(piece)
            except ProtocolViolation as violation:
                raise self._lost(f"sent what is no reply: {violation}") from None
            except OSError as error:
                raise self._lost(f"sent a reply that cannot be kept: {error.strerror}") from None

    async def _take(self, piece: Piece) -> None:
        if piece.header.message_type is MessageType.ASYNC:
            return  # it was pushed; nobody can have subscribed to anything yet
        if piece.header.message_type is MessageType.SYNC:
            raise ProtocolViolation("a request")
        if piece.first:
            if not self._asked:
                raise ProtocolViolation("a reply to nothing that was asked")
            if piece.header.size > MAX_REPLY_SIZE:
                raise ProtocolViolation(f"a reply of {piece.header.size} bytes; {MAX_REPLY_SIZE} are allowed")
            self._asked = self._sent = False
            self._answered.set()
        await self._backlog.put(piece.data)

    def _damaged(self, error: FrameError) -> EngineError:
        return self._lost(f"sent a damaged reply: {error}")

    def _lost(self, what: str) -> EngineError:
        return EngineError(f"{self._name} {what}")


async def _receive_exactly(stream: trio.SocketStream, size: int) -> bytes:
    """Return `size` bytes, or fewer if the peer hangs up before."""
    data = b""
    while len(data) < size:
        more = await stream.receive_some(size - len(data))
        if not more:
            break
        data += more
    return data


def _watch_for_silence(stream: trio.SocketStream) -> None:
    """Have the system find out, within two minutes, that the engine's host has vanished."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # macOS has not all of them in every version
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
