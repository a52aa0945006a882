"""One connection of the server: one task reads, another evaluates and answers."""

import copy
import sys
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from time import perf_counter
from typing import TypeVar

import trio

from .._engines import Session
from .._protocol import (
    BUSY,
    CANCELLED,
    CLOSING,
    HELLO_REPLY,
    SUBPROTOCOL,
    TIMEOUT,
    CancelRequested,
    Failure,
    Frame,
    FrameError,
    LazyFrame,
    ProtocolViolation,
    Reply,
    ServerProtocol,
    ServerRequest,
    check_hello,
    join_verbose,
    parse_frame,
    split_verbose,
)
from .._tasks import TimeSlice, race
from .._transports import CLOSE_TIMEOUT, SHIELDED_CLOSE_TIMEOUT, Transport, aclose_shielded, end
from .._websocket import CloseCode
from ..errors import EngineError, ProtocolError, RayforceWSError
from ._counters import MAX_LATENCIES, Counters
from ._log import ConnectionLog
from ._queue import BoundedQueue

MAX_QUEUED_REQUESTS = 1024
"""How many requests of one connection wait for their turn beyond its `max_in_flight`; further ones, in the network.

Those are posts, which cannot be refused, and requests that are refused in their turn.
"""

MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""How many bytes they may have together; one request may always wait."""

_HELLO_LIMIT = 4096  # bytes

_REFUSED = Failure(CLOSING, "the server is shutting down, and did not begin with the query")

T = TypeVar("T")

Message = Frame | LazyFrame | str
"""What is sent to a peer."""


async def server_handshake(transport: Transport) -> None:
    """Take the client's greeting and answer it. A checkpoint; bound it in time.

    Raises:
        RayforceWSError: the client sent something else, and was told, or the connection ended.
    """
    limit, transport.max_message_size = transport.max_message_size, _HELLO_LIMIT
    try:
        try:
            check_hello(await transport.receive())
        except ProtocolViolation as violation:
            raise ProtocolError(str(violation)) from None
        await transport.send(HELLO_REPLY)
    except RayforceWSError as error:
        await end(transport, error)
        raise
    transport.max_message_size = limit


class WSServerConnection:
    """A client of the server; made by `WSServer` for every one that connects, and used by it alone.

    Attributes:
        id: counts the server's connections, from 1; log records carry it.
        peer: the client's address.
        principal: what the server's `authenticate` returned; `None` if it has none.
    """

    def __init__(
        self,
        log: ConnectionLog,
        transport: Transport,
        session: Session,
        principal: object = None,
        *,
        counters: Counters | None = None,
        max_in_flight: int | None = None,
        query_timeout: float | None = None,
    ) -> None:
        self._log = log
        self._counters = counters or Counters()
        self._arrivals = deque[float]()  # of the requests that are to be answered, in their order
        self.id = log.connection_id
        self.peer = log.peer
        self.principal = principal
        self._transport = transport
        self._session = session
        self._protocol = ServerProtocol(extended=transport.subprotocol == SUBPROTOCOL)
        self._requests = BoundedQueue[ServerRequest](MAX_QUEUED_REQUESTS + (max_in_flight or 0), MAX_QUEUED_BYTES)
        self._max_in_flight = max_in_flight
        self._refuse_from = sys.maxsize if max_in_flight is None else max_in_flight - 1  # if so many wait, or more
        self._one_too_many: Failure | None = None  # once there was one
        self._query_timeout = query_timeout
        self._too_slow: Failure | None = None  # once a query was
        session.timed = query_timeout is not None
        self._running: ServerRequest | None = None
        self._unsent: Message | None = None  # an answer, or its beginning, that the task that works is to send
        self._working = True  # that task has not yet found that there is nothing for it to do
        self._wake = trio.Event()
        self._asking = trio.CancelScope()
        self._engine_error: EngineError | None = None
        self._replies_wanted = True
        self._stopping = trio.Event()
        self._draining = False
        self._late_posts = 0
        self._drained = trio.Event()
        self._grace = trio.CancelScope()
        self._stopped = False  # nothing is begun with any more
        self._closing = False  # the peer is told that the server is shutting down
        self._scope = trio.CancelScope()
        self._failed = trio.Event()
        self._end: RayforceWSError | None = None  # what the conversation ended with; `None`: the server ended it
        self._failure: RayforceWSError | None = None  # what the task that answers found, of the engine or the network

    def __repr__(self) -> str:
        return f"WSServerConnection({self.peer})"

    @property
    def queued(self) -> int:
        """How many requests and posts wait for those before them."""
        return len(self._requests)

    def stop(self, at: float) -> None:
        """Have the connection closed with code 1001, once what has arrived is done. No checkpoint.

        Args:
            at: when what is not done is given up, on trio's clock. `run` ends within 2 seconds after that. If called
                again, the earlier time counts.
        """
        self._grace.deadline = min(self._grace.deadline, at)
        self._scope.deadline = min(self._scope.deadline, at + SHIELDED_CLOSE_TIMEOUT)
        self._draining = True
        self._refuse_from = 0
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Serve the peer until the connection ends. A checkpoint.

        Raises nothing of the network; an exception is a bug. If cancelled, the peer is told within 2 seconds.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._work)
                    self._end = await self._talk()
                    # Posts that have arrived are still carried out, for a while: their sender may leave once they are
                    # sent.
                    self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_TIMEOUT)
                    self._replies_wanted = False
                    self._requests.close()
                    self._wake.set()
                    if self._running is not None and (self._running.number is not None or self._stopped):
                        self._session.cancel()
                    if self._end is not None:
                        await end(self._transport, self._end)
            if (
                self._scope.cancelled_caught
                and not self._stopped
                and (self._running is not None or len(self._requests))
            ):
                self._log.warning("posts were left undone")
        except Exception:
            self._end = RayforceWSError("internal error")
            await end(self._transport, self._end)
            raise
        finally:
            self._counters.abandoned += len(self._arrivals)
            self._arrivals.clear()
            self._log.closed(self._end)
            if self._running is not None:
                self._session.cancel()  # the engine is free at once, however long the peer takes to say goodbye
            await aclose_shielded(self._transport)

    async def _talk(self) -> RayforceWSError | None:
        """Converse until the connection ends; returns the error it ended with."""
        try:
            await race(self._read, self._transport.run, self._close_when_asked, self._raise_failure)
        except RayforceWSError as error:
            if not self._closing:  # else whatever the peer does now, and be it to hang up, is an answer to that
                return copy.copy(error)  # without its traceback, whose frames hold it, and the message they were at
        return None

    async def _read(self) -> None:
        counters, arrivals, log_queries = self._counters, self._arrivals, self._log.queries
        while True:
            received = await self._transport.receive()
            counters.bytes_in += len(received)
            try:
                events = self._protocol.receive(received)
            except ProtocolViolation as error:
                raise ProtocolError(str(error)) from None
            del received
            for event in events:
                if isinstance(event, CancelRequested):
                    counters.cancelled += 1
                    if event.request is self._running:
                        self._session.cancel()
                else:
                    if event.number is None:
                        counters.posts += 1
                    else:
                        counters.requests += 1
                        arrivals.append(perf_counter())
                    if log_queries:
                        self._log.query(event)
                    waiting = len(self._requests)
                    if waiting >= self._refuse_from:
                        self._refuse_if_too_many(event)
                    if waiting or not self._start(event):
                        await self._requests.put(event, len(event.frame))
                        if self._running is None:
                            self._wake.set()
                del event
            del events  # a request may be large, and the next message may be long in coming

    def _count_answer(self, size: int) -> None:
        counters = self._counters
        counters.bytes_out += size
        counters.latencies.append(perf_counter() - self._arrivals.popleft())
        if len(counters.latencies) == MAX_LATENCIES:
            counters.sort_latencies()

    def _refuse_if_too_many(self, request: ServerRequest) -> None:
        """Have a request answered with an error in its turn, if there are as many as may be, or it comes too late."""
        if self._draining:
            request.failure = _REFUSED
            self._late_posts += request.number is None
        elif request.number is not None and self._max_in_flight is not None:
            if self._protocol.unanswered <= self._max_in_flight:
                return
            if self._one_too_many is None:
                self._log.warning(
                    "more than %d requests are unanswered (max_in_flight); those beyond are refused",
                    self._max_in_flight,
                )
                why = f"more than {self._max_in_flight} requests of this connection were unanswered (max_in_flight)"
                self._one_too_many = Failure(BUSY, why)
            request.failure = self._one_too_many
        else:
            return
        request.frame = b""

    # The way of a small request: without a change of tasks, which takes longer than evaluating it.

    def _start(self, request: ServerRequest) -> bool:
        """Begin with a request if nothing is to be done before and it needs no waiting; returns whether it did."""
        if self._working or self._running is not None or self._unsent is not None:
            return False
        if request.number is None or request.failure is not None or self._stopped or not self._replies_wanted:
            return False
        if self._session.evaluate is not None:
            self._send_later(self._message_for(request, self._session.evaluate(request.frame)))
            return True
        self._running = request
        if self._session.start(request.frame, self._take_reply):
            return True
        self._running = None
        return False

    def _take_reply(self, reply: Reply) -> None:
        """Pass on the reply to what `_start` has started, and start what comes next."""
        request, self._running = self._running, None
        assert request is not None
        if request.failure is not None:
            reply = self._explained(request, reply)
        self._send_later(self._message_for(request, reply))
        self._flush()
        if len(self._requests) and self._start(self._requests.first):
            self._requests.get_nowait()
        elif len(self._requests) or self._requests.closed or self._draining:
            self._wake.set()

    def _message_for(self, request: ServerRequest, reply: Reply) -> Message:
        if isinstance(reply, Failure) and self._replies_wanted:
            self._counters.error(reply.code)
        return self._protocol.answer(request, reply)

    def _send_later(self, message: Message) -> None:
        """Send a short message with the next flush; a long one is for the task that works."""
        if self._session.unread or not self._try_to_send(message):
            self._unsent = message
            self._wake.set()

    # The way of all others

    async def _work(self) -> None:
        """Evaluate until there are no more requests, or the engine is lost."""
        tasks = [self._work_until_lost, self._run_session]
        if self._query_timeout is not None and self._session.evaluate is None:
            tasks.append(partial(self._limit_time, self._query_timeout))
        await race(*tasks)
        self._drained.set()

    async def _run_session(self) -> None:
        try:
            await self._session.run()
        except EngineError as error:
            self._fail(error)
            self._engine_error = copy.copy(error)
            self._asking.cancel()
            self._wake.set()
            await self._session.aclose()  # or the engine might wait for it, and for the peer
            await trio.sleep_forever()  # what is being sent is finished: nothing can be said after half a frame

    async def _work_until_lost(self) -> None:
        try:
            await self._work_all()
        except EngineError as error:
            self._fail(error)

    async def _ask_engine(self, call: Callable[[], Awaitable[T]]) -> T:
        """Wait for the session; raises `EngineError` if the engine is lost meanwhile."""
        self._flush()  # it may take long
        with trio.CancelScope() as self._asking:
            if self._engine_error is None:
                return await call()
        assert self._engine_error is not None
        raise self._engine_error

    async def _work_all(self) -> None:
        time_slice = TimeSlice(self._flush)
        while True:
            if self._unsent is not None:
                message, self._unsent = self._unsent, None
                await self._send(message)
                del message
            elif self._engine_error is not None:
                return
            elif self._running is None and len(self._requests):
                await time_slice.yield_if_due()
                if self._stopped:
                    return
                self._running = self._requests.get_nowait()
                if self._running.failure is _REFUSED:
                    self._requests.close()  # nothing else is owed: whoever goes on asking must not hold up the end
                await self._answer(self._running)
                self._running = None
            elif self._running is None and self._requests.has_waiting_put and not self._requests.closed:
                await trio.lowlevel.checkpoint()  # it has arrived, and comes now
            elif self._running is None and (self._requests.closed or self._draining):
                self._requests.close()
                return
            else:
                self._flush()
                self._working = False
                await self._wake.wait()
                self._wake = trio.Event()
                self._working = True
                time_slice.start()

    async def _answer(self, request: ServerRequest) -> None:
        if request.number is None:
            if request.failure is _REFUSED:
                return
            failure = request.failure or await self._ask_engine(lambda: self._session.post(request.frame))
            if failure is not None:
                self._counters.failed_posts += 1
                self._log.warning("a post failed: %s", failure)
            return
        if not self._replies_wanted:
            return
        reply: Reply | None = request.failure
        if reply is None and self._session.evaluate is not None:
            reply = self._session.evaluate(request.frame)
        elif reply is None:
            reply = await self._ask_engine(lambda: self._session.request(request.frame))
            if request.failure is not None:
                reply = self._explained(request, reply)
        await self._send(self._message_for(request, reply))

    async def _limit_time(self, limit: float) -> None:
        """Stop what the engine is at work on for more than so many seconds."""
        while True:
            request, since, now = self._running, self._session.running_since(), trio.current_time()
            if request is None or since is None or request.failure is not None:
                await trio.sleep(limit)  # what begins from now on is not too slow before
            elif since + limit > now:
                await trio.sleep_until(since + limit)
            else:
                what = "query" if request.number is not None else "post"
                self._log.warning("a %s ran for more than %g seconds (query_timeout), and is stopped", what, limit)
                if self._too_slow is None:
                    why = f"the query ran for more than {limit:g} seconds, and was stopped (query_timeout)"
                    self._too_slow = Failure(TIMEOUT, why)
                request.failure = self._too_slow
                self._session.cancel()

    def _explained(self, request: ServerRequest, reply: Reply) -> Reply:
        """Return the reply to a request that has a failure since it began: why it was stopped, if it was."""
        failure = request.failure
        if failure is None or failure is not self._too_slow:
            return reply
        if isinstance(reply, Failure):
            return failure if reply.code == CANCELLED else reply
        if parse_frame(request.frame).verbose and not self._session.unread:
            with suppress(FrameError):
                output, stopped = split_verbose(reply.frame[:])
                if isinstance(stopped, Failure) and stopped.code == CANCELLED:
                    return join_verbose(output.encode(), failure)
        return reply

    async def _send(self, message: Message) -> None:
        if self._session.unread:
            await self._send_in_parts(message)
        elif not self._try_to_send(message):
            try:
                await self._transport.send(message)
                self._count_answer(len(message))
            except RayforceWSError as error:
                self._fail(error)

    def _try_to_send(self, message: Message) -> bool:
        """Send a short message with the next `_flush`; returns whether that is done with it."""
        try:
            if self._replies_wanted:
                if not self._transport.send_nowait(message):
                    return False
                self._count_answer(len(message))
        except RayforceWSError as error:
            self._fail(error)
        return True

    async def _send_in_parts(self, beginning: Message) -> None:
        """Send a reply piece by piece, as the engine gives it. All of it has to be taken, even if the peer is gone."""
        data = beginning
        while True:
            last = not self._session.unread
            if self._replies_wanted:
                assert isinstance(data, bytes)
                try:
                    await self._transport.send_part(data, last=last)
                    if last:
                        self._count_answer(len(data))
                    else:
                        self._counters.bytes_out += len(data)
                except RayforceWSError as error:
                    self._fail(error)
            if last:
                return
            data = await self._ask_engine(self._session.receive_some)

    def _flush(self) -> None:
        try:
            self._transport.flush()
        except RayforceWSError as error:
            self._fail(error)

    def _fail(self, error: RayforceWSError) -> None:
        """End the conversation with an error. Posts that have arrived are carried out all the same."""
        self._replies_wanted = False
        if self._failure is None:
            self._failure = copy.copy(error)  # without its traceback: see `_talk`
        self._failed.set()

    async def _raise_failure(self) -> None:
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure

    async def _close_when_asked(self) -> None:
        await self._stopping.wait()
        with self._grace:
            await self._drained.wait()
        if self._late_posts:
            self._log.warning("%d posts came too late, and were not carried out", self._late_posts)
        if not self._drained.is_set():
            left = len(self._requests) + (self._running is not None)
            self._log.warning("the server stops, and leaves %d requests and posts undone", left)
            self._replies_wanted = False
            self._stopped = True
            if self._running is not None:
                self._session.cancel()
        self._closing = True
        await self._transport.aclose(CloseCode.GOING_AWAY, "the server is shutting down")
