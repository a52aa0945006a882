"""A session with a native server: one connection of its protocol."""

import math
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from .._codec import SIZE_BYTES, Decompressor
from .._protocol import (
    CANCELLED,
    HEADER_SIZE,
    MESSAGE_TYPE_OFFSET,
    NATIVE_MAX_REQUEST,
    Failure,
    Frame,
    FrameChunk,
    FrameError,
    MessageType,
    NativeHandshake,
    NativeReceiver,
    ProtocolViolation,
    Reply,
    Result,
    error_code,
    parse_header,
)
from .._streams import BrokenResourceError, ClosedResourceError, TcpStream
from .._tasks import race
from ..errors import EngineError
from ._backoff import exponential_backoff
from ._base import Session
from ._reply_spool import ReplySpool
from ._wakeup import WakeupConnection

STOP_TIMEOUT = 2.0
"""How long a session that is closed waits for its query to have stopped, in seconds."""

STALL_TIMEOUT = 30.0
"""An engine that has sent the beginning of a reply and then nothing for so long is given up; in seconds."""

MAX_REPLY_SIZE = 16 * 1024**3
"""The longest reply accepted, in bytes: what is not read yet may have to lie in a file."""

_TURNOVER = 0.1
"""How soon a query that is stopped shows that it was the one that ran, in seconds."""

_FIRST_REMINDER = 0.05
"""How long a stop may go unheeded until the engine is reminded of it, in seconds; and then twice as long, and so on."""

_LONGEST_PAUSE = 1.0  # seconds between reminders

_READ_SIZE = 384 * 1024  # measured: smaller pieces take longer, larger ones more memory than they gain
_SENT_AT_ONCE = 64 * 1024  # bytes; the header of a longer frame is sent before it, to spare a copy
_STOP = b"!"  # as TCP urgent data: stops the query of the connection it is sent on
_NOTHING = bytes.fromhex("fadeface 03000001 0a00000000000000 fb00 0000000000000000")  # a request for the value 0


class SessionGroup:
    """The sessions with one native server, which evaluates one request at a time and does not tell whose.

    Args:
        wakeup: what reminds the server of their stops.

    Attributes:
        sessions: those that there are.
        answered: when it last began to answer one of those that are timed, on trio's clock.
        wakeup: as given. It hangs for as long as there are sessions.
    """

    def __init__(self, wakeup: WakeupConnection) -> None:
        self.sessions = weakref.WeakSet[NativeSession]()
        self.answered = -math.inf
        self.wakeup = wakeup

    async def enter(self, session: "NativeSession") -> None:
        """Add a session. A checkpoint. `leave` undoes it, even if it was cancelled or failed.

        Raises:
            EngineError: the server cannot be reached.
        """
        self.sessions.add(session)
        await self.wakeup.ensure_connected()

    def leave(self, session: "NativeSession") -> None:
        """Take a session out. No checkpoint. Idempotent."""
        self.sessions.discard(session)
        if not self.sessions:
            self.wakeup.close()


class NativeSession(Session):
    """A connection to a native server. It has one request under way at a time, so that a stop can hit no other.

    Args:
        stream: the connection, before the handshake.
        credentials: what the server is told if it asks who is there.
        name: the engine's, for errors: "the engine at ...".
        line: it stands in this one.

    Attributes:
        asked: whether a request is under way whose reply has not begun.
    """

    def __init__(self, stream: TcpStream, credentials: bytes, name: str, line: SessionGroup) -> None:
        self.ready = False
        self.asked = False
        self._line = line
        self._now = trio.lowlevel.current_clock().current_time
        self._asked_at = 0.0  # if it is timed
        self._stream = stream
        self._name = name
        self._handshake = NativeHandshake(credentials)
        self._go_on = trio.Event()  # set once ready, or if what waits for that is cancelled
        self._receiver = NativeReceiver()
        self._reply_spool = ReplySpool()  # where the reply goes to the request under way
        self._decompressor: Decompressor | None = None
        self._sent = False  # what was asked was sent, the whole of it
        self._answered = trio.Event()
        self._cancelled = False
        self._stop_sent = trio.Event()
        self._answer: Callable[[Reply], None] | None = None  # what is called with the reply to `start`
        self._unsent = b""
        self._late = trio.Event()  # set if something is to be sent when the network takes more

    async def handshake(self) -> None:
        """Shake hands. A checkpoint; if cancelled, it can be called again, and goes on.

        Raises:
            EngineError: what is there is no Rayforce server, or it refuses the credentials, or hung up.
        """
        try:
            while not self._handshake.done:
                if self._handshake.to_send:
                    await self._stream.send_all(self._handshake.to_send)
                    self._handshake.to_send = b""
                self._handshake.receive(await self._stream.receive_some(self._handshake.expects))
        except BrokenResourceError:
            raise self._lost("broke off the handshake") from None
        except ProtocolViolation as violation:
            raise self._lost(f"cannot be used: {violation}") from None
        self.ready = True
        self._go_on.set()

    async def run(self) -> None:
        if not self.ready:
            await self.handshake()
        await race(self._receive_all, self._send_late, self._remind)

    async def request(self, frame: Frame) -> Reply:
        return await self._ask(lambda: self._send(frame, MessageType.SYNC), len(frame))

    def start(self, frame: Frame, answer: Callable[[Reply], None]) -> bool:
        if not self.ready or len(frame) > _SENT_AT_ONCE:
            return False
        self._prepare()
        self._answer = answer
        data = _addressed(frame, MessageType.SYNC)
        with suppress(BrokenResourceError, ClosedResourceError):  # then it is gone, which `run` finds out
            data = data[self._stream.send_nowait(data) :]
        if data:
            self._unsent = data
            self._late.set()
        else:
            self._sent = True
        return True

    async def post(self, frame: Frame) -> Failure | None:
        # The engine answers what is sent after the post once that was carried out; until then a stop stops the post. An
        # error in it is the engine's to tell, which a server of its own does not.
        async def send() -> None:
            await self._send(frame, MessageType.ASYNC)
            await self._send(_NOTHING, MessageType.SYNC)

        reply = await self._ask(send, len(frame))
        while self.unread:  # a hook of the engine's may have made a long answer of it
            await self.receive_some()
        return reply if isinstance(reply, Failure) and reply.message else None

    async def receive_some(self) -> bytes:
        data = b""
        while not data:
            data = await self._reply_spool.get()
            if self._decompressor is not None:
                data = self._decompress(self._decompressor, data)
        self.unread -= len(data)
        return data

    def running_since(self) -> float | None:
        # What the server has answered since, it has evaluated since. Of those that have waited ever since, it most
        # likely evaluates the one that asked first; if that is stopped, and another's was running, that shows soon.
        if not self.asked:
            return None
        before = sum(other.asked and other._asked_at < self._asked_at for other in self._line.sessions)
        return max(self._asked_at, self._line.answered) + before * _TURNOVER

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._go_on.set()
            if self._sent:
                self._stop()

    async def aclose(self) -> None:
        self._answer = None
        try:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + STOP_TIMEOUT):
                if self._sent:
                    self.cancel()
                    self._stop_sent.set()  # whoever reminded the engine until now may be gone
                    with suppress(EngineError):
                        # Closing must wait for the stop to be heeded: a connection that is reset takes it with it.
                        await race(self.run, self._answered.wait)
        finally:
            self._sent = False
            self._reply_spool.close()
            self._line.leave(self)
            await self._stream.aclose()

    # Asking

    async def _ask(self, send: Callable[[], Awaitable[None]], size: int) -> Reply:
        """Send something of `size` bytes that is answered once, and return the answer or its beginning.

        A failure that the engine reports has no message; one that is known here has one.
        """
        self._cancelled = False
        if not self.ready:
            self._go_on = trio.Event()
            await self._go_on.wait()
        if self._cancelled:
            return Failure(CANCELLED, "the request was cancelled before it began")
        if size - HEADER_SIZE > NATIVE_MAX_REQUEST:
            return Failure("limit", f"the engine takes requests of at most {NATIVE_MAX_REQUEST} bytes")
        self._prepare()
        await send()
        self._sent = self.asked
        if self._sent and self._cancelled:
            self._stop()
        return self._begin(await self._reply_spool.get())

    def _prepare(self) -> None:
        """Make ready for the next request."""
        self._cancelled = False
        self._reply_spool.close()
        self._reply_spool, self._decompressor, self._answered = ReplySpool(), None, trio.Event()
        self.asked = True
        if self.timed:
            self._asked_at = self._now()

    def _begin(self, first: bytes) -> Reply:
        header = parse_header(first)
        self.unread = HEADER_SIZE + header.size - len(first)
        if header.compressed:
            payload = HEADER_SIZE + SIZE_BYTES
            try:
                self._decompressor = Decompressor(header, first[HEADER_SIZE:payload])
            except FrameError as error:
                raise self._damaged(error) from None
            plain = self._decompress(self._decompressor, first[payload:])
            self.unread = self._decompressor.left
            return Result(self._decompressor.header.pack() + plain)
        if self.unread == 0 and (code := error_code(first)) is not None:
            return Failure(code, "")
        return Result(first)

    def _decompress(self, decompressor: Decompressor, data: bytes) -> bytes:
        try:
            return decompressor.feed(data)
        except FrameError as error:
            raise self._damaged(error) from None

    async def _send(self, frame: Frame, message_type: MessageType) -> None:
        view = memoryview(frame)
        try:
            if len(view) <= _SENT_AT_ONCE:
                await self._stream.send_all(_addressed(view, message_type))
            else:
                await self._stream.send_all(_addressed(view[:HEADER_SIZE], message_type))
                await self._stream.send_all(view[HEADER_SIZE:])
        except (BrokenResourceError, ClosedResourceError):
            raise self._lost("is gone") from None

    # Stopping

    def _stop(self) -> None:
        """Have the engine stop what it was asked last, now or before it begins with it."""
        with suppress(BrokenResourceError, ClosedResourceError):  # then it is gone, which `run` finds out
            if not self._stream.send_urgent_nowait(_STOP):
                self._late.set()  # the engine has not read the whole request yet, and the network is full of it
            else:
                self._stop_sent.set()

    async def _remind(self) -> None:
        """Remind the engine of stops that it does not heed."""
        while True:
            await self._stop_sent.wait()
            self._stop_sent = trio.Event()
            answered = self._answered
            for pause in exponential_backoff(_FIRST_REMINDER, _LONGEST_PAUSE):
                with trio.move_on_after(pause):
                    await answered.wait()
                    break
                self._line.wakeup.wake()

    async def _send_late(self) -> None:
        """Send what the network would not take at once."""
        while True:
            await self._late.wait()
            self._late = trio.Event()
            unsent, self._unsent = self._unsent, b""
            try:
                if unsent:
                    await self._stream.send_all(unsent)
                    self._sent = True
                else:
                    await self._stream.wait_writable()
            except (BrokenResourceError, ClosedResourceError):
                raise self._lost("is gone") from None
            if self._sent and self._cancelled:
                self._stop()

    # Receiving

    async def _receive_all(self) -> None:
        while True:
            self._receiver.feed(await self._receive())
            try:
                while (piece := self._receiver.next_chunk()) is not None:
                    await self._take(piece)
            except ProtocolViolation as violation:
                raise self._lost(f"sent what is no reply: {violation}") from None
            except OSError as error:
                raise self._lost(f"sent a reply that cannot be kept: {error.strerror}") from None

    async def _receive(self) -> bytes:
        try:
            if not self._receiver.within_frame:
                data = await self._stream.receive_some()
            else:
                with trio.move_on_after(STALL_TIMEOUT) as patience:
                    data = await self._stream.receive_some(_READ_SIZE)
                if patience.cancelled_caught:
                    raise self._lost(f"stopped in the middle of a reply, for {STALL_TIMEOUT:g} seconds")
        except (BrokenResourceError, ClosedResourceError):
            raise self._lost("is gone") from None
        if not data:
            raise self._lost("is gone")
        return data

    async def _take(self, piece: FrameChunk) -> None:
        if piece.header.message_type is MessageType.ASYNC:
            return  # it was pushed; nobody can have subscribed to anything yet
        if piece.header.message_type is MessageType.SYNC:
            raise ProtocolViolation("a request")
        if piece.first:
            if not self.asked:
                raise ProtocolViolation("a reply to nothing that was asked")
            if piece.header.size > MAX_REPLY_SIZE:
                raise ProtocolViolation(f"a reply of {piece.header.size} bytes; {MAX_REPLY_SIZE} are allowed")
            self.asked = self._sent = False
            if self.timed:
                self._line.answered = self._now()
            self._answered.set()
            if self._answer is not None:
                answer, self._answer = self._answer, None
                answer(self._begin(piece.data))
                return
        await self._reply_spool.put(piece.data)

    def _damaged(self, error: FrameError) -> EngineError:
        return self._lost(f"sent a damaged reply: {error}")

    def _lost(self, what: str) -> EngineError:
        return EngineError(f"{self._name} {what}")


def _addressed(frame: Frame, message_type: MessageType) -> bytes:
    """Return a frame, or its header, as one of another type."""
    return bytes(frame[:MESSAGE_TYPE_OFFSET]) + bytes([message_type]) + bytes(frame[MESSAGE_TYPE_OFFSET + 1 :])
