"""A session with a native server: performs the I/O of one `NativeExchange` over TCP."""

import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import trio

from .._codec import SIZE_BYTES, Decompressor
from .._protocol import (
    CANCELLED,
    FENCE,
    FLAGS_OFFSET,
    HEADER_SIZE,
    NATIVE_MAX_REQUEST,
    VERBOSE_FLAG,
    CancelAction,
    CredentialsRejected,
    ExchangeState,
    Failure,
    Frame,
    FrameChunk,
    FrameError,
    Header,
    MessageType,
    NativeExchange,
    ProtocolViolation,
    Reply,
    Result,
    error_code,
    too_large,
)
from .._streams import BrokenResourceError, ClosedResourceError, TcpStream
from .._tasks import TimeSlice, enable_ki_protection, race
from .._values._payloads import Buffer
from ..errors import EngineError
from ._base import Client, ClientEndedEngine, Session
from ._pushed_replies import JOURNAL, NO_JOURNAL, PushedReply, request_frame
from ._reply_spool import ReplySpool
from ._session_group import SessionGroup
from ._wakeup import StopReminder

STOP_TIMEOUT = 2.0
"""The time that `aclose` gives the engine to obey the stop, in seconds."""

STALL_TIMEOUT = 30.0
"""The longest pause of an engine in the middle of a frame, in seconds."""

_READ_SIZE = 512 * 1024  # bytes; measured: smaller reads take longer, larger ones need more than 2 MB of memory
_MAX_START_SIZE = 64 * 1024  # bytes; a longer request is unlikely to be written without waiting
_MAX_SEND_SIZE = 1024 * 1024  # bytes written between two checkpoints
_STOP = b"!"  # as TCP urgent data
_NOT_BEGUN = "the request was cancelled before it was started"
_UNKNOWN_FAILURE = Failure(
    "unknown",
    "an engine with a journal does not report why the query of a stream failed; execute() shows the error",
)
_NETWORK_ERRORS = (BrokenResourceError, ClosedResourceError)


class NativeSession(Session):
    """A connection to a native server.

    Args:
        stream: the connection, before the handshake.
        credentials: the result of `dump_credentials`.
        name: the name of the engine in errors, such as "the engine at ...".
        group: the sessions with the same server.
        open_another: opens another session with the same server, which is ready.
        client: whose session it is, if that is known.
        is_alone: whether its requests must be alone in the engine.
        has_journal: whether the engine records requests in a journal; `None`: ask it when that matters.
        on_push: called with each frame that the server pushes, in the task of `run`; it may raise `EngineError` or
            `ProtocolViolation`. `None`: they are discarded.

    Attributes:
        requested_at: when the request in flight was sent, on trio's clock, if the session is timed.
        client: as given.
        is_alone: as given.
    """

    def __init__(
        self,
        stream: TcpStream,
        credentials: bytes,
        name: str,
        group: SessionGroup,
        open_another: Callable[[], Awaitable[Session]],
        *,
        client: Client | None = None,
        is_alone: bool = False,
        has_journal: bool | None = None,
        on_push: Callable[[bytes], None] | None = None,
    ) -> None:
        self.ready = False
        self.requested_at = -math.inf
        self._stopped_at = math.inf
        self.client = client
        self.is_alone = is_alone
        self._exchange = NativeExchange(credentials, keep_pushes=on_push is not None)
        self._on_push = on_push
        self._push_parts: list[bytes] = []  # of a push that is arriving
        self._push_slice = TimeSlice()
        self._stream = stream
        self._name = name
        self._group = group
        self._open_another = open_another
        self._on_reply: Callable[[Reply], None] | None = None  # called with the next reply
        self._reply_spool: ReplySpool | None = None  # the rest of a long reply
        self._refused: Failure | None = None  # the error in place of a reply that is too long and is still arriving
        self._reminder = StopReminder(group.wakeup)
        self._send_due = trio.Event()
        self._has_journal = has_journal
        self._behind = 0  # bytes that were sent behind the request in flight: the fence behind a post
        self._pushed: PushedReply | None = None  # the pushes that may answer the request in flight
        self._observed: Buffer | None = None  # the value of a push in front of a reply
        self._turn = trio.Event()  # set when the turn of the request has come
        self._turn_wait: trio.CancelScope | None = None  # while the request waits for its turn

    @property
    def stored(self) -> int:
        return 0 if self._reply_spool is None else self._reply_spool.stored

    @property
    def awaiting_reply(self) -> bool:
        """Whether a request has been sent, at least in part, and its reply has not begun."""
        return self._exchange.state in (ExchangeState.SENDING, ExchangeState.WAITING)

    @property
    def awaiting_handshake(self) -> bool:
        """Whether a request will be sent as soon as the server has accepted the session."""
        return self._exchange.has_queued

    @property
    def stopped_at(self) -> float:
        """When the request in flight was stopped, on trio's clock; infinite if it was not."""
        return self._stopped_at if self._exchange.stop_requested else math.inf

    @property
    def is_connected(self) -> bool:
        """Whether the connection is open, as far as is known. Only for a session that is not in use."""
        return not self._stream.peer_is_gone()

    def abort(self) -> None:
        """Close a session that is not in use. No checkpoint. Idempotent."""
        self._group.discard(self)
        self._stream.close()

    def may_be_running(self, unread: Mapping[int, int]) -> bool:
        """Return whether the server may be evaluating the request in flight: as far as is known, it has read all of it.

        Args:
            unread: how many bytes the server has not read, for each of our ports.
        """
        behind = self._behind + (len(_STOP) if self._exchange.stop_requested else 0)
        return self.awaiting_reply and unread.get(self._stream.local_port, 0) <= behind

    def turn_came(self) -> None:
        self._turn.set()

    async def handshake(self) -> None:
        """Perform the handshake. A checkpoint; if cancelled, it can be called again and continues.

        Raises:
            EngineError: the peer is not a Rayforce server, rejects the credentials, or closed the connection.
        """
        exchange, stream = self._exchange, self._stream
        try:
            while exchange.state is ExchangeState.HANDSHAKING:
                while exchange.data_to_send():
                    await stream.wait_writable()
                    exchange.bytes_sent(stream.send_nowait(exchange.data_to_send()))
                if data := await stream.receive_some():
                    exchange.receive_data(data)
                else:
                    exchange.receive_eof()
        except _NETWORK_ERRORS:
            raise self._lost("closed the connection during the handshake") from None
        except ProtocolViolation as violation:
            if isinstance(violation, CredentialsRejected):
                self._group.refused()
            raise self._lost(f"cannot be used: {violation}") from None
        self.ready = True
        if self._group.reports_wanted:
            self._group.accepted()
        self.requested_at = trio.current_time()  # of a request that has waited for the handshake

    @enable_ki_protection
    async def run(self) -> None:
        if not self.ready:
            await self.handshake()
        await race(self._reminder.run, self._receive_replies, self._send_rest)

    async def request(self, frame: Frame) -> Reply:
        return await self._evaluate(self._exchange.request, frame)

    async def request_unlogged(self, frame: Frame) -> Reply:
        if self._has_journal is None:
            self._has_journal = await self._find_journal()
        if not self._has_journal:
            return await self.request(frame)
        pushed = PushedReply(verbose=bool(frame[FLAGS_OFFSET] & VERBOSE_FLAG))
        return await self._evaluate_by_post(pushed, pushed.post(frame), pushed.behind)

    async def _find_journal(self) -> bool:
        """Return whether the engine has a journal. The journal records only a constant for this.

        A checkpoint; if cancelled, only `aclose` may be called. A restricted client cannot find out.

        Raises:
            EngineError: the engine is lost.
        """
        pushed = PushedReply()
        await self._evaluate_by_post(pushed, pushed.post(request_frame(JOURNAL)), FENCE)
        observed, self._observed = self._observed, None
        return observed is not None and observed != NO_JOURNAL

    async def _evaluate_by_post(self, pushed: PushedReply, post: bytes, behind: bytes) -> Reply:
        """Send a post, and return the pushed reply, or the reply to a request behind the post.

        A checkpoint; if cancelled, as `_evaluate`.
        """
        self._pushed, self._behind = pushed, len(behind)
        reply = await self._evaluate(lambda frame: self._exchange.request_by_post(frame, behind), post)
        self._pushed, self._behind = None, 0
        return reply

    async def request_in_order(self, frame: Frame, on_reply: Callable[[Reply], None]) -> None:
        """Like `request`, also if cancelled, but pass the reply to a function before a later push is reported.

        The function is called in the task of `run`, and must not raise. The reply must be short.
        """
        await self._evaluate(self._exchange.request, frame, on_reply)

    async def open_another(self) -> Session:
        return await self._open_another()

    async def post(self, frame: Frame) -> Failure | None:
        # The engine itself reports errors in posts, so a `Failure` without a message belongs to the request that
        # follows the post. A hook in the engine may make its reply long.
        self._behind = len(FENCE)
        reply = await self._evaluate(self._exchange.post, frame)
        self._behind = 0
        while self.unread:
            await self.receive_some()
        return reply if isinstance(reply, Failure) and reply.message else None

    def start(self, frame: Frame, answer: Callable[[Reply], None]) -> bool:
        if not self.ready or len(frame) > _MAX_START_SIZE:
            return False
        if self._group.has_turns and not self._group.enter_at_once(self):
            return False
        exchange = self._exchange
        exchange.request(frame)
        self._on_reply = answer
        if self.timed:
            self.requested_at = trio.current_time()
        try:
            more = exchange.bytes_sent(self._stream.send_nowait(exchange.data_to_send()))
        except _NETWORK_ERRORS:
            more = True  # the error occurs again in `_send_rest`
        if more:
            self._send_due.set()
        return True

    async def receive_some(self) -> bytes:
        assert self._reply_spool is not None
        try:
            data = await self._reply_spool.get()
        except FrameError as error:
            raise self._damaged(error) from None
        self.unread -= len(data)
        if not self.unread:
            self._reply_spool.close()
            self._reply_spool = None
        return data

    def running_since(self) -> tuple[float, int] | None:
        since = None if self._exchange.stop_requested else self._group.running_since(self)
        return None if since is None else (since, 0)

    def cancel(self) -> None:
        if self._turn_wait is not None:
            self._turn_wait.cancel()
            return
        if self._exchange.stop_requested:
            return
        action = self._exchange.cancel()
        if action is CancelAction.NOTHING:
            return
        self._stopped_at = trio.current_time()
        self._group.stop_requested()
        match action:
            case CancelAction.STOP_NOW:
                self._send_now()
            case CancelAction.DROP:
                self._group.leave(self)
                self._deliver(Failure(CANCELLED, _NOT_BEGUN))

    @enable_ki_protection
    async def aclose(self) -> None:
        try:
            if self._exchange.state is ExchangeState.WAITING:
                replied = trio.Event()
                self._on_reply = lambda _: replied.set()
                self.cancel()
                # A connection that is reset loses the stop, so wait until the engine has obeyed it.
                deadline = trio.current_time() + STOP_TIMEOUT
                with trio.CancelScope(shield=True, deadline=deadline), suppress(EngineError):
                    await race(self.run, replied.wait)
        finally:
            if self._reply_spool is not None:
                self._reply_spool.close()  # and keep it: a cancelled `receive_some` may still be ending
            self._group.discard(self)
            await self._stream.aclose()

    # Sending

    async def _evaluate(
        self, begin: Callable[[Frame], None], frame: Frame, on_reply: Callable[[Reply], None] | None = None
    ) -> Reply:
        """Send a request or a post and return its reply, or the beginning of it.

        A checkpoint; if cancelled, the request may be in flight. A failure that the engine reports has no message; a
        failure that is found here has one.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if len(frame) - HEADER_SIZE > NATIVE_MAX_REQUEST:
            await trio.lowlevel.checkpoint()
            return Failure("limit", f"the engine accepts requests of at most {NATIVE_MAX_REQUEST} bytes")
        replies: list[Reply] = []
        replied = trio.Event()

        def answer(reply: Reply) -> None:
            if on_reply is not None:
                on_reply(reply)
            replies.append(reply)
            replied.set()

        if self._group.has_turns and not await self._wait_for_turn():
            return Failure(CANCELLED, _NOT_BEGUN)
        self._begin(begin, frame, answer)
        await replied.wait()
        return replies[0]

    async def _wait_for_turn(self) -> bool:
        """Wait until the request may be sent; return false if it was stopped before. A checkpoint if it has to wait.

        If cancelled, the request does not wait for a turn any more.
        """
        self._turn = trio.Event()
        if self._group.enter(self):
            return True
        has_turn = False
        try:
            with trio.CancelScope() as self._turn_wait:
                await self._turn.wait()
            has_turn = not self._turn_wait.cancel_called
        finally:
            self._turn_wait = None
            if not has_turn:
                self._group.leave(self)
        return has_turn

    def _begin(self, begin: Callable[[Frame], None], frame: Frame, answer: Callable[[Reply], None]) -> None:
        begin(frame)
        self._on_reply = answer
        if self.timed:
            self.requested_at = trio.current_time()
        if self.ready:
            self._send_now()

    def _send_now(self) -> None:
        """Write what the network accepts, and leave the rest and any errors to `_send_rest`. No checkpoint."""
        try:
            more = self._send()
        except _NETWORK_ERRORS:
            more = True
        if more:
            self._send_due.set()

    def _send(self) -> bool:
        """Write what the network accepts, or the stop that is due; returns whether more is to be written."""
        exchange = self._exchange
        if data := exchange.data_to_send():
            if len(data) > _MAX_SEND_SIZE:
                data = memoryview(data)[:_MAX_SEND_SIZE]
            return exchange.bytes_sent(self._stream.send_nowait(data))
        if exchange.stop_due:
            if not self._stream.send_urgent_nowait(_STOP):
                return True
            exchange.stop_sent()
            self._reminder.stop_sent()
        return False

    async def _send_rest(self) -> None:
        """Write what the network did not accept at once, until cancelled. A checkpoint. It can be run again.

        Raises:
            EngineError: the connection is broken.
        """
        exchange = self._exchange
        try:
            while True:
                while exchange.data_to_send() or exchange.stop_due:
                    await self._stream.wait_writable()
                    self._send()
                self._send_due = trio.Event()
                await self._send_due.wait()
        except _NETWORK_ERRORS:
            raise self._gone() from None

    # Receiving

    async def _receive_replies(self) -> None:
        """Receive and deliver replies until cancelled. A checkpoint. It can be run again.

        Raises:
            EngineError: the connection is broken, the engine stalled or broke the protocol, or a long reply cannot be
                stored.
        """
        exchange, stream = self._exchange, self._stream
        try:
            await self._handle_chunks()  # those that arrived with the handshake, or in an earlier `run`
            while True:
                data = await (self._receive_rest() if exchange.within_frame else stream.receive_some())
                if not data:
                    raise self._gone()
                if exchange.receive_reply(data):
                    if self.timed:
                        self._group.last_reply_at = trio.current_time()
                    if self._group.reports_wanted:
                        self._group.reply_begun(self)
                    self._deliver_whole(data)
                    del data  # it may be large, and the next bytes may take long to arrive
                    continue
                exchange.receive_data(data)
                del data
                await self._handle_chunks()
        except _NETWORK_ERRORS:
            raise self._gone() from None
        except ProtocolViolation as violation:
            raise self._lost(f"broke the protocol: {violation}") from None

    async def _handle_chunks(self) -> None:
        """Deliver or store all that has arrived. A checkpoint only if memory is full; if cancelled, bytes may be lost.

        Raises:
            EngineError, ProtocolViolation: as for `_receive_replies`.
        """
        while (chunk := self._exchange.next_event()) is not None:
            if self._on_push is not None and chunk.header.message_type is MessageType.ASYNC:
                self._take_push(chunk)
                await self._push_slice.yield_if_due()
            elif chunk.first:
                self._begin_reply(chunk)
            else:
                if self._refused is None:
                    await self._store(chunk.data)
                if self.timed:
                    self._group.last_reply_at = trio.current_time()
                if self._group.reports_wanted:
                    self._group.received()
            if self._refused is not None and not chunk.unread:
                refused, self._refused = self._refused, None
                self._deliver(refused)  # only now can the engine evaluate the next request

    def _take_push(self, chunk: FrameChunk) -> None:
        """Collect the bytes of a push, and report it when it is complete."""
        self._push_parts.append(chunk.data)
        if not chunk.unread:
            parts, self._push_parts = self._push_parts, []
            assert self._on_push is not None
            self._on_push(parts[0] if len(parts) == 1 else b"".join(parts))

    async def _store(self, data: bytes) -> None:
        """Keep bytes for `receive_some`. A checkpoint only if memory is full; if cancelled, the bytes may be lost."""
        assert self._reply_spool is not None
        try:
            await self._reply_spool.put(data)
            self.on_stored(len(data))
        except OSError as error:
            raise self._lost(f"sent a reply that cannot be stored in a temporary file: {error.strerror}") from None

    async def _receive_rest(self) -> bytes:
        """Receive more of a frame. A checkpoint; if cancelled, nothing is lost."""
        with trio.move_on_after(STALL_TIMEOUT):
            return await self._stream.receive_some(_READ_SIZE)
        raise self._lost(f"sent part of a reply, and then nothing for {STALL_TIMEOUT:g} seconds")

    def _begin_reply(self, chunk: FrameChunk) -> None:
        if chunk.header.message_type is not MessageType.RESPONSE:
            self._begin_push(chunk)
            return
        self._reply_begun()
        header, data, self.unread, decompress = self._decompressed(chunk)
        if self._is_too_long(header):
            return
        if chunk.unread:
            self._reply_spool = ReplySpool(decompress)
        elif not chunk.header.compressed:
            self._deliver_whole(data)
            return
        self._deliver(Result(data))

    def _begin_push(self, chunk: FrameChunk) -> None:
        """Find out whether a push answers the request in flight, and deliver the reply that begins with it."""
        pushed = self._pushed
        assert pushed is not None, "pushes are only reported while a request awaits one"
        header, data, unread, decompress = self._decompressed(chunk)
        payload = memoryview(data)[HEADER_SIZE:]
        start = pushed.value_start(payload)
        if self._behind == len(FENCE):
            self._observed = bytes(payload[start:]) if start else None
        elif pushed.is_failure(payload):
            stopped = self._exchange.stop_requested
            self._exchange.accept_push(chunk)
            self._reply_begun()
            self._deliver(Failure(CANCELLED, "") if stopped else _UNKNOWN_FAILURE)
        elif start:
            self._exchange.accept_push(chunk)
            self._reply_begun()
            header = Header(0, MessageType.RESPONSE, header.size - start)
            self.unread = unread
            if self._is_too_long(header):
                return
            if chunk.unread:
                self._reply_spool = ReplySpool(decompress)
            self._deliver(Result(header.pack() + bytes(payload[start:])))

    def _reply_begun(self) -> None:
        if self.timed:
            self._group.last_reply_at = trio.current_time()
        if self._group.reports_wanted:
            self._group.reply_begun(self)
        self._reminder.reply_begun()

    def _decompressed(self, chunk: FrameChunk) -> tuple[Header, bytes, int, Callable[[bytes], bytes] | None]:
        """Return the header and beginning of a plain frame, the number of bytes to come, and how to decompress them.

        Raises:
            EngineError: the frame is damaged.
        """
        if not chunk.header.compressed:
            return chunk.header, chunk.data, chunk.unread, None
        payload = HEADER_SIZE + SIZE_BYTES
        try:
            decompressor = Decompressor(chunk.header, chunk.data[HEADER_SIZE:payload])
            data = decompressor.header.pack() + decompressor.feed(chunk.data[payload:])
        except FrameError as error:
            raise self._damaged(error) from None
        return decompressor.header, data, decompressor.left, decompressor.feed

    def _is_too_long(self, header: Header) -> bool:
        """Return whether a reply is refused because of its size; the error is delivered when its rest has arrived."""
        size = HEADER_SIZE + header.size
        if size <= self.max_reply_size:
            return False
        self.unread = 0
        self._refused = too_large(size, self.max_reply_size)
        return True

    def _deliver_whole(self, frame: bytes) -> None:
        """Deliver a whole reply that was not compressed, which may be an error."""
        code = error_code(frame)
        self._deliver(Result(frame) if code is None else Failure(code, ""))

    def _deliver(self, reply: Reply) -> None:
        answer, self._on_reply = self._on_reply, None
        assert answer is not None
        answer(reply)

    def _damaged(self, error: FrameError) -> EngineError:
        return self._lost(f"sent a damaged reply: {error}")

    def _gone(self) -> EngineError:
        if self.awaiting_reply and self._group.is_surely_running(self):
            return ClientEndedEngine(f"{self._name} ended again during a request of this client")
        return self._lost("disconnected")

    def _lost(self, problem: str) -> EngineError:
        return EngineError(f"{self._name} {problem}")
