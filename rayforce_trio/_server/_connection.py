"""One connection of the server: the I/O around a `RequestPipeline`.

The reader task reports messages to the pipeline, and performs the actions that need no waiting: a small request is
answered without a task switch, which takes longer than its evaluation. The task of the engine session does the
same when a reply arrives. The worker task performs all other actions.
"""

import copy
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from math import inf
from time import perf_counter
from typing import TypeVar

import trio

from .._engines import Session
from .._protocol import (
    ROWS,
    STREAMS,
    SUBPROTOCOL,
    SUBSCRIPTIONS,
    WAIT_INTERVAL,
    Action,
    CancelRequested,
    ConnectionState,
    EndStream,
    Failure,
    Frame,
    HelloNotice,
    LazyFrame,
    Message,
    NextBatch,
    OpenStream,
    Outcome,
    ProtocolViolation,
    Publish,
    Reply,
    RequestPipeline,
    Result,
    ServerCall,
    ServerRequest,
    Snapshot,
    SubscribeNotice,
    TakeRows,
    UnsubscribeNotice,
    check_hello,
    dump_hello,
)
from .._tasks import FLUSH_INTERVAL, TIME_SLICE, TimeSlice, enable_ki_protection, race
from .._text import counted
from .._traces import Tracing
from .._transports import CLOSE_TIMEOUT, SHIELDED_CLOSE_TIMEOUT, Transport, TryAgainLater, aclose_shielded, end
from .._websocket import CloseCode
from ..errors import ConnectionLost, EngineError, ProtocolError, RayforceWSError
from ._byte_budget import Budgets, ByteBudget, Held, Holder, close_beyond
from ._counters import Counters
from ._log import ConnectionLog
from ._request_spans import RequestSpans, TracedRequest
from ._result_streams import ResultStreams
from ._side_messages import SideMessages
from ._stream_variables import StreamVariables
from ._subscriptions import Subscriptions

_HELLO_LIMIT = 4096  # bytes

_STEPS_AT_ONCE = 2
"""The number of actions performed without a checkpoint: a start and an answer, or an answer and the next start."""

_AHEAD_AT_ONCE = 8
"""The largest number of requests ahead for which these actions are also performed.

Without this limit they could take long, because any number of refused requests may count as ahead.
"""

_MAX_EVALUATION_TIME = 0.1
"""The time for which the reader task evaluates the messages of one read, in seconds. The worker task does the rest.

Meanwhile the reader task can notice cancels behind them, and a client that leaves.
"""

_REPORT_STEP = 1024 * 1024
"""By how many bytes the queue may grow before this is reported to the budget of the server."""

_PING_INTERVAL = 0.5
"""The interval in which a client is pinged while nothing is read from it, in seconds.

While its bytes fill the buffers of the network, the system cannot learn that the client has closed the connection. But
a client that is gone resets the connection when it receives a ping, and the system reports this at once.
"""

# The members that every request needs. Looking one up in its enum takes long on Python 3.11.
_NOTHING, _START, _SEND, _NO_REASON = Action.NOTHING, Action.START, Action.SEND, Outcome.NONE

_POSTS_LEFT = (ConnectionState.LEAVING, ConnectionState.CLOSING)
"""The states in which the posts of a client that has left are carried out."""

T = TypeVar("T")

Send = Callable[[Message], bool]
"""`Transport.send_nowait`, or `Transport.send_now` for an answer that is not to wait for others."""


async def receive_hello(transport: Transport) -> None:
    """Receive the client's hello. A checkpoint. The caller limits the time, and answers with `HELLO_REPLY`.

    If cancelled, the transport is left open, and the caller closes it.

    Raises:
        RayforceWSError: the client sent something else, and the connection was closed; or it ended.
    """
    limit, transport.max_message_size = transport.max_message_size, _HELLO_LIMIT
    try:
        try:
            check_hello(await transport.receive())
        except ProtocolViolation as violation:
            raise ProtocolError(str(violation)) from None
    except RayforceWSError as error:
        await end(transport, error)
        raise
    transport.max_message_size = limit


class WSServerConnection:
    """The connection of one client. A `WSServer` creates one for each client; programs do not.

    Attributes:
        id (int): the number of the connection, from 1. Log lines begin with it.
        peer (str): the client's address.
        principal (object): the result of the server's `authenticate`; `None` if the server has none.
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
        max_reply_size: int | None = None,
        budgets: Budgets | None = None,
        network: str = "",
        subscribe: Callable[[SideMessages], Subscriptions] | None = None,
        max_subscription_buffer: int = 0,
        tracing: Tracing | None = None,
    ) -> None:
        self.id = log.connection_id
        self.peer = log.peer
        self.principal = principal
        self._log = log
        self._counters = counters or Counters()
        self._transport = transport
        self._session = session
        session.timed = query_timeout is not None
        session.max_reply_size = inf if max_reply_size is None else max_reply_size
        self._spans = None if tracing is None else RequestSpans(tracing, log.connection_id)
        self._pipeline = RequestPipeline(
            extended=transport.subprotocol == SUBPROTOCOL,
            max_in_flight=max_in_flight,
            query_timeout=query_timeout,
            max_reply_size=session.max_reply_size,
            new_traced=None if self._spans is None else self._spans.request,
        )
        self._budgets = budgets or Budgets(ByteBudget(None), ByteBudget(None))
        self._network = network
        self._subscribe = subscribe
        self._max_subscription_buffer = max_subscription_buffer
        self._messages: SideMessages | None = None  # this and the next are made when the client sends a hello
        self._subscriptions: Subscriptions | None = None
        self._variables = StreamVariables(session)
        self._streams = ResultStreams(session, self._variables, partial(close_beyond, self._budgets.replies))
        self._engine_is_lost = False
        self._queued_reported = 0  # the bytes in the queue that the budget knows of
        self._evaluate_at_once = None if log.queries or self._spans is not None else session.evaluate
        self._wake = trio.Event()  # wakes the worker task
        self._next_ping = -inf  # the earliest time for a ping while the pipeline is full
        self._not_full: trio.Event | None = None  # wakes the reader task while the pipeline is full
        self._worker_wait = trio.CancelScope()  # around the worker's wait; its deadline is the time to flush
        self._engine_wait = trio.CancelScope()  # around the worker's wait for the engine
        self._grace = trio.CancelScope()  # its deadline is the end of the time to drain
        self._scope = trio.CancelScope()  # its deadline is the end of the connection
        self._finished = trio.Event()  # set when the worker has ended, or there is a failure
        self._failure: RayforceWSError | None = None  # the error of the engine or of a send that ends the connection

    def __repr__(self) -> str:
        return f"WSServerConnection({self.peer})"

    @property
    def queued(self) -> int:
        """The number of requests and posts that wait for earlier ones."""
        return self._pipeline.queued

    def stop(self, at: float) -> None:
        """Close the connection with code 1001 once all that has arrived is done. No checkpoint.

        Args:
            at: the time on trio's clock at which everything unfinished is dropped. `run` ends within 2 seconds after
                that. If `stop` is called again, the earlier time counts.
        """
        self._grace.deadline = min(self._grace.deadline, at)
        self._scope.deadline = min(self._scope.deadline, at + SHIELDED_CLOSE_TIMEOUT)
        self._pipeline.drain()
        self._wake.set()

    @enable_ki_protection
    async def run(self) -> None:
        """Serve the client until the connection ends. A checkpoint.

        Raises no network errors; an exception is a bug. If cancelled, the engine is stopped, and the connection is
        closed within 2 seconds.
        """
        error: RayforceWSError | None = None
        try:
            with self._counted_in_budgets(), self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._work)
                    error = await self._serve_until_end()
                    self._close_subscriptions()
                    self._limit_posts()
                    self._abandon_requests()
                    if error is None:
                        await self._transport.aclose(CloseCode.GOING_AWAY, "the server is shutting down")
                    else:
                        await end(self._transport, error)
            if self._scope.cancelled_caught and self._pipeline.state in _POSTS_LEFT and self._pipeline.unfinished_posts:
                self._log.warning("posts were not carried out: the connection had ended, and they took too long")
        except Exception:
            error = RayforceWSError("internal error")
            await end(self._transport, error)
            raise
        finally:
            self._close_subscriptions()
            self._counters.abandoned += self._pipeline.unanswered
            self._log.closed(error)
            self._stop_now()  # the engine is free at once, however long the closing handshake takes
            if self._spans is not None:
                self._spans.close()
            await aclose_shielded(self._transport)

    async def _serve_until_end(self) -> RayforceWSError | None:
        """Read and answer until the connection ends; return the error that ended it, `None` if the server did.

        A checkpoint. If cancelled, the worker task continues.
        """
        try:
            await race(self._wait_until_finished, self._read, self._transport.run)
        except RayforceWSError as error:
            # Without the traceback, whose frames refer to the error and to the last message.
            return copy.copy(self._failure or error)
        return None

    async def _wait_until_finished(self) -> None:
        """Wait until everything is done or failed, or the time to drain has passed; then drop the rest.

        A checkpoint. If cancelled, nothing is dropped.

        Raises:
            RayforceWSError: the engine was lost, or an answer could not be sent.
        """
        with self._grace:
            await self._finished.wait()
        if self._pipeline.late_posts:
            self._log.warning(
                "%s arrived during the shutdown and will not be carried out", counted(self._pipeline.late_posts, "post")
            )
        if self._failure is not None:
            # The traceback of the original would refer to this connection, and so to the original: a cycle.
            raise copy.copy(self._failure)
        if self._pipeline.state is not ConnectionState.CLOSED:
            left = self._pipeline.unfinished
            self._log.warning(
                "the server stops with %s", counted(left, "unfinished request or post", "unfinished requests and posts")
            )
            self._stop_now()

    async def _read(self) -> None:
        """Answer the messages that arrive, or report them to the pipeline, until cancelled. A checkpoint.

        Cancelling loses no message that was received.

        Raises:
            RayforceWSError: the connection ended, or the client broke the protocol.
        """
        transport, pipeline = self._transport, self._pipeline
        while True:
            message = await transport.receive()
            arrived_at = perf_counter()
            more = transport.has_bytes()
            self._handle(message, arrived_at, transport.send_nowait if more else transport.send_now)
            del message  # it may be large, and the next message may take long to arrive
            if more:
                await self._handle_arrived(arrived_at)
            if pipeline.is_full:
                await self._wait_until_not_full()

    async def _handle_arrived(self, now: float) -> None:
        """Handle all messages that have been read from the network. A checkpoint if that takes a time slice.

        Answers are sent together, at the end or every `FLUSH_INTERVAL`. Cancelling loses no message.

        Args:
            now: when the task began to handle the messages of this read.

        Raises:
            RayforceWSError: the connection ended, or the client broke the protocol.
        """
        transport, pipeline = self._transport, self._pipeline
        slice_start, used = now, 0.0
        slice_end, flush_at = now + TIME_SLICE, now + FLUSH_INTERVAL
        send: Send | None = transport.send_nowait
        while not pipeline.is_full:
            now = perf_counter()
            if now >= slice_end:
                used += now - slice_start
                if used >= _MAX_EVALUATION_TIME:
                    send = None
                if now >= flush_at:
                    self._flush()
                    flush_at = now + FLUSH_INTERVAL
                await trio.lowlevel.checkpoint()
                slice_start = now = perf_counter()
                slice_end = now + TIME_SLICE
            message = transport.receive_nowait()
            if message is None:
                break
            self._handle(message, now, send)
            del message
        if send is None:
            self._wake.set()
        self._flush()

    async def _wait_until_not_full(self) -> None:
        """Wait until the pipeline can take a message, and watch meanwhile whether the client leaves.

        A checkpoint, unless the client has left and this makes room; cancelling it changes nothing.

        Raises:
            ProtocolError: too much waits for the engine, and none of it is being finished.
        """
        pipeline, transport = self._pipeline, self._transport
        while pipeline.is_full:
            if pipeline.state is not ConnectionState.LEAVING:
                if transport.peer_is_gone():
                    self._client_leaves()
                    continue
                if trio.current_time() >= self._next_ping:
                    self._next_ping = trio.current_time() + _PING_INTERVAL
                    transport.ping()
            self._not_full = trio.Event()
            with trio.move_on_after(WAIT_INTERVAL) as scope:
                await self._not_full.wait()
            if scope.cancelled_caught:
                try:
                    pipeline.waited()
                except ProtocolViolation as error:
                    raise ProtocolError(str(error), error.code) from None

    def _handle(self, message: Frame | str, arrived_at: float, send: Send | None) -> None:
        """Answer a message, or report it to the pipeline and perform the actions that need no waiting. No checkpoint.

        Args:
            message: a message of the client.
            arrived_at: its time of arrival, on the clock of `perf_counter`.
            send: sends an answer; `None`: leave all actions to the worker task.

        Raises:
            ProtocolError: the client broke the protocol.
        """
        self._counters.bytes_in += len(message)
        evaluate, pipeline = self._evaluate_at_once, self._pipeline
        if evaluate is None or send is None or not pipeline.is_plain(message):
            self._report(message, arrived_at, send)
            return
        # This is a shortcut. It does the same as `_report`, which handles everything else.
        reply = evaluate(message)
        if type(reply) is Result and type(reply.frame) is bytes:
            try:
                sent = send(reply.frame)
            except RayforceWSError:
                sent = False  # the error occurs again in `_report`
            if sent:
                pipeline.answered_at_once()
                self._counters.requests += 1
                self._counters.answered(len(reply.frame), perf_counter() - arrived_at)
                return
        self._report(message, arrived_at, send, reply)

    def _report(self, message: Frame | str, arrived_at: float, send: Send | None, reply: Reply | None = None) -> None:
        """Report a message to the pipeline, and the reply to the request in it if it has been evaluated already.

        Then perform the actions that need no waiting. No checkpoint.

        Raises:
            ProtocolError: the client broke the protocol.
        """
        pipeline, counters = self._pipeline, self._counters
        try:
            arrived = pipeline.receive(message, arrived_at)
        except ProtocolViolation as error:
            raise ProtocolError(str(error), error.code) from None
        if isinstance(arrived, ServerRequest):
            if arrived.number is None:
                counters.posts += 1
            else:
                counters.requests += 1
            if self._log.queries:
                self._log.query(arrived, message)
            if arrived.outcome is not _NO_REASON:
                self._log_refusal(arrived)
        elif arrived is not None:
            self._cancel(arrived)
        if pipeline.notices:
            self._take_notices()
        if reply is not None:
            pipeline.replied(reply)
        if pipeline.current is not arrived:
            queued, reported = pipeline.queued_bytes, self._queued_reported
            if not reported <= queued <= reported + _REPORT_STEP:
                self._report_queued(queued)
            if send is not None and pipeline.due is not _NOTHING:
                self._wake.set()
        elif send is not None and pipeline.due is not _NOTHING:
            self._advance(send)
        if self._session.can_start_ahead:
            self._start_ahead()

    def _log_refusal(self, request: ServerRequest) -> None:
        """Log that a request that has just arrived will not be started."""
        if request.outcome is Outcome.BUSY and self._pipeline.busy == 1:
            limit = counted(self._pipeline.max_in_flight or 0, "unanswered request")
            self._log.warning("the limit of %s is reached (max_in_flight); more are refused", limit)
        elif request.outcome is Outcome.INVALID and request.number is None:
            self._log_failed_post(request.failure)

    def _log_failed_post(self, failure: object) -> None:
        self._counters.failed_posts += 1
        self._log.warning("a post failed: %s", failure)

    def _cancel(self, cancelled: CancelRequested) -> None:
        self._counters.cancelled += 1
        if cancelled.running:
            self._stop_engine(cancelled.request.ticket)

    def _take_notices(self) -> None:
        """Carry out the notices of the client. No checkpoint.

        Raises:
            ProtocolError: the client must not have asked for this.
        """
        notices = self._pipeline.notices
        if self._messages is None:
            self._messages = SideMessages(self._transport, self._fail, self._max_subscription_buffer, self._counters)
            self._subscriptions = None if self._subscribe is None else self._subscribe(self._messages)
        subscriptions = self._subscriptions
        while notices:
            match notices.popleft():
                case HelloNotice():
                    features = [ROWS, STREAMS] if subscriptions is None else [ROWS, STREAMS, SUBSCRIPTIONS]
                    self._messages.notify(dump_hello(features))
                case SubscribeNotice() as notice if subscriptions is not None:
                    subscriptions.subscribe(notice)
                case UnsubscribeNotice(number) if subscriptions is not None:
                    subscriptions.unsubscribe(number)

    def _close_subscriptions(self) -> None:
        """End what sends messages besides replies, and refers to this connection. No checkpoint. Idempotent."""
        if self._subscriptions is not None:
            self._subscriptions.close()
            self._subscriptions = None
        if self._messages is not None:
            self._messages.close()
            self._messages = None
            self._subscribe = None

    def _stop_engine(self, ticket: int) -> None:
        """Have the engine stop a request; the ticket is 0 if it was not started ahead."""
        if ticket:
            self._session.cancel_ahead(ticket)
        else:
            self._streams.cancel()
            self._session.cancel()

    # Performing actions

    def _advance(self, send: Send) -> None:
        """Perform the due actions that need no waiting; wake the worker for the others. No checkpoint."""
        # Replies that arrived before their turn are sent together with the one whose turn it is.
        steps = _STEPS_AT_ONCE * (min(self._pipeline.ahead, _AHEAD_AT_ONCE) + 1)
        while self._pipeline.due is not _NOTHING:
            if not steps or not self._perform_at_once(send):
                self._wake.set()
                break
            steps -= 1

    def _perform_at_once(self, send: Send) -> bool:
        """Perform the due action if it needs no waiting; return whether it was performed. No checkpoint."""
        pipeline, session = self._pipeline, self._session
        if pipeline.due is _START:
            request = pipeline.current
            assert request is not None
            if request.number is None or request.call is not None:
                return False
            if session.evaluate is not None:
                if self._spans is not None:
                    pipeline.performing()  # the span of the engine begins
                pipeline.replied(session.evaluate(request.frame))
                return True
            if request.ticket and (reply := session.take_reply()) is not None:
                pipeline.replied(reply, session.unread)
                return True
            if session.start(request.frame, self._take_reply):
                pipeline.performing()
                return True
        elif pipeline.due is _SEND:
            assert pipeline.message is not None
            try:
                if send(pipeline.message):
                    self._count_answer(len(pipeline.message))
                    pipeline.sent()
                    return True
            except RayforceWSError as error:
                pipeline.send_failed()
                self._fail(error)
                return True
        return False

    def _start_ahead(self) -> None:
        """Start queued requests while those before them are in flight, if the engine evaluates several."""
        while (request := self._pipeline.next_ahead()) is not None:
            ticket = self._session.start_ahead(request.frame)
            if not ticket:
                break
            self._pipeline.started_ahead(ticket)

    def _take_reply(self, reply: Reply) -> None:
        """Report the reply to a request that `Session.start` has started. Called by the session's task."""
        pipeline, session, transport = self._pipeline, self._session, self._transport
        pipeline.replied(reply, session.unread)
        if pipeline.queued:
            self._advance(transport.send_nowait)
            if session.can_start_ahead:
                self._start_ahead()
            self._flush_soon()
        else:
            self._advance(transport.send_now)
        self._wake_reader()

    def _flush_soon(self) -> None:
        """Have the worker task flush in `FLUSH_INTERVAL`: other answers may follow until then. No checkpoint."""
        timer = self._worker_wait
        if timer.deadline == inf:
            timer.deadline = trio.current_time() + FLUSH_INTERVAL

    async def _perform(self) -> None:
        """Perform the due action, unless the client turns out to be gone, which changes the action.

        A checkpoint if the action is performed. If cancelled, the connection has to be closed.

        Raises:
            EngineError: the engine is lost.
        """
        pipeline, session = self._pipeline, self._session
        action, request = pipeline.due, pipeline.current
        if pipeline.message is None:
            self._flush()  # the engine may take long
            if pipeline.current is not request:
                return  # the client is gone
        pipeline.performing()
        if action is _START:
            assert request is not None
            frame, call = request.frame, request.call
            if call is not None:
                answer = await self._ask_engine(lambda: self._carry_out(call))
                if request.number is None:
                    pipeline.post_done()
                else:
                    pipeline.replied(answer, session.unread)
            elif request.number is None:
                failure = await self._ask_engine(lambda: session.post(frame))
                if failure is not None:
                    self._log_failed_post(failure)
                pipeline.post_done(failure)
            else:
                reply = await self._ask_engine(lambda: session.request(frame))
                pipeline.replied(reply, session.unread)
        elif action is Action.READ_PART:
            data = await self._ask_engine(session.receive_some)
            pipeline.part_received(data, session.unread)
        else:
            message = pipeline.message
            assert message is not None
            if isinstance(message, LazyFrame):
                close_beyond(self._budgets.replies, len(message))
            try:
                if action is Action.SEND:
                    await self._transport.send(message)
                else:
                    assert not isinstance(message, str)
                    await self._transport.send_part(message, last=not pipeline.unread)
            except RayforceWSError as error:
                pipeline.send_failed()
                self._fail(error)
                return
            if pipeline.unread:
                self._counters.bytes_out += len(message)
            else:
                self._count_answer(len(message))
            pipeline.sent()

    async def _carry_out(self, call: ServerCall) -> Reply:
        """Carry out a call of the server; nobody reads the reply to a post. A checkpoint; if cancelled, as `_perform`.

        Raises:
            EngineError: the engine is lost.
        """
        match call:
            case OpenStream():
                reply = await self._streams.open(call)
                self._counters.streams += not isinstance(reply, Failure)
                return reply
            case NextBatch():
                reply = await self._streams.next_batch(call)
                self._counters.batches += not isinstance(reply, Failure)
                return reply
            case TakeRows():
                return await self._streams.take_rows(call)
            case EndStream():
                return await self._streams.end(call)
            case Snapshot() if self._subscriptions is not None:
                return await self._subscriptions.snapshot(call, self._session)
            case Publish() if self._subscriptions is not None:
                return await self._subscriptions.publish(call, self._session)
        return Failure("nyi", "this server does not offer this function")

    async def _ask_engine(self, call: Callable[[], Awaitable[T]]) -> T:
        """Wait for the session. A checkpoint. If cancelled, the session can only be closed.

        Raises:
            EngineError: the engine is lost.
        """
        with trio.CancelScope() as self._engine_wait:
            return await call()
        raise EngineError("the engine was lost during a request")  # `_failure` has the reason, and is reported

    def _count_answer(self, size: int) -> None:
        """Count the answer to the current request, which is sent."""
        request = self._pipeline.current
        assert request is not None
        if request.failure is not None:
            self._counters.error(request.failure.code)
        self._counters.answered(size, perf_counter() - request.arrived_at)
        if self._spans is not None:
            assert isinstance(request, TracedRequest)
            request.answered(size)

    def _flush(self) -> None:
        try:
            self._transport.flush()
        except RayforceWSError as error:
            self._fail(error)

    def _wake_reader(self) -> None:
        if self._not_full is not None and not self._pipeline.is_full:
            self._not_full.set()
            self._not_full = None

    # The worker task

    @enable_ki_protection
    async def _work(self) -> None:
        """Perform actions until the pipeline is closed or the engine is lost. A checkpoint.

        If cancelled, a request or an answer may be left in the middle: the connection has to be closed.
        """
        tasks = [self._perform_all]
        if type(self._session).run is not Session.run:  # it does more than wait
            tasks.append(self._run_session)
        if self._pipeline.query_timeout is not None and self._session.evaluate is None:
            tasks.append(partial(self._limit_time, self._pipeline.query_timeout))
        await race(*tasks)
        self._finished.set()

    async def _perform_all(self) -> None:
        """Perform actions as they become due, until the pipeline is closed. A checkpoint.

        If cancelled, a request or an answer may be left in the middle: the connection has to be closed.
        """
        pipeline = self._pipeline
        time_slice = TimeSlice(self._flush)
        try:
            while True:
                if pipeline.due is _START or pipeline.due is _SEND:
                    await time_slice.yield_if_due()  # the client may cancel it meanwhile
                if pipeline.due is Action.CLOSE:
                    await self._delete_variables()
                    return
                if pipeline.due is _NOTHING:
                    self._flush()
                    with trio.CancelScope() as self._worker_wait:
                        await self._wake.wait()
                    self._wake = trio.Event()
                    time_slice.start()
                elif not self._perform_at_once(self._transport.send_nowait):
                    await self._perform()
                if self._session.can_start_ahead:
                    self._start_ahead()
                self._wake_reader()
        except EngineError as error:
            self._lose_engine(error)

    async def _delete_variables(self) -> None:
        """Delete the variables of the client's streams if the session is idle. A checkpoint if there are any.

        If cancelled, some may be left; `delete_variables` deletes them.

        Raises:
            EngineError: the engine is lost.
        """
        if not self._engine_is_lost and self._pipeline.current is None and not self._session.unread:
            await self._ask_engine(self._variables.delete_all)

    @property
    def has_variables(self) -> bool:
        """Whether the client's streams may have left variables in the engine."""
        return bool(self._variables)

    async def delete_variables(self) -> None:
        """Delete variables that the client's streams have left in the engine, when its session is closed.

        A checkpoint if there are any. If cancelled, as `StreamVariables.delete_elsewhere`.
        """
        await self._variables.delete_elsewhere(
            partial(self._log.warning, "results of this client's streams may remain in the engine's memory: %s")
        )

    async def _run_session(self) -> None:
        """Run the session until cancelled, also after the engine is lost: an answer that is being sent is finished."""
        try:
            await self._session.run()
        except EngineError as error:
            self._lose_engine(error)
            await self._session.aclose()  # the engine might wait until its reply has been read
            await trio.sleep_forever()

    async def _limit_time(self, limit: float) -> None:
        """Stop every request that the engine evaluates for more than `limit` seconds, until cancelled."""
        while True:
            running, now = self._session.running_since(), trio.current_time()
            if running is not None and running[0] + limit > now:
                await trio.sleep_until(running[0] + limit)
            elif running is not None and self._pipeline.timed_out(running[1]) is Action.STOP_ENGINE:
                current = self._pipeline.current
                kind = "post" if current is not None and current.number is None else "query"
                seconds = counted(limit, "second")
                self._log.warning("a %s has run for more than %s (query_timeout) and is being stopped", kind, seconds)
                self._stop_engine(running[1])
            else:
                await trio.sleep(limit)  # no request that starts later can have run for too long before that

    # The end

    def _fail(self, error: RayforceWSError) -> None:
        """End the connection with an error. Posts that have arrived are carried out, unless the engine is lost."""
        if self._failure is None:
            self._failure = copy.copy(error)  # without the traceback: see `_serve_until_end`
        self._finished.set()
        self._abandon_requests()

    @contextmanager
    def _counted_in_budgets(self) -> Iterator[None]:
        """Count the bytes that the connection holds towards the server's budgets until the block ends."""
        messages, replies = self._budgets
        receiver = Holder(self._network, self._held_messages, self._refuse_messages)
        sender = Holder(self._network, self._held_replies, self._drop_replies)
        messages.add(receiver)
        replies.add(sender)
        self._transport.on_unfinished = partial(close_beyond, messages)
        self._session.on_stored = self._transport.on_stored = partial(close_beyond, replies)
        try:
            yield
        finally:
            messages.remove(receiver)
            replies.remove(sender)

    def _held_messages(self) -> Held:
        unfinished = self._transport.unfinished
        return Held(unfinished, unfinished + self._pipeline.held_bytes)

    def _held_replies(self) -> Held:
        message = self._pipeline.message
        lazy = len(message) if isinstance(message, LazyFrame) else 0
        return Held(0, self._session.stored + self._streams.stored + self._transport.stored + lazy)

    def _report_queued(self, size: int) -> None:
        """Report how many bytes are in the queue. May close any connection."""
        grown, self._queued_reported = size - self._queued_reported, size
        if grown > 0:
            close_beyond(self._budgets.messages, grown)

    def _refuse_messages(self) -> None:
        """Close the connection, and drop its messages, posts included: the server holds too many bytes. No checkpoint.

        A message that the engine evaluates is dropped when the engine has stopped.
        """
        reason = "the server's memory for requests is used up (max_buffered_bytes); try again later"
        self._stop_now()
        self._fail(TryAgainLater(reason))
        self._transport.begin_close(CloseCode.TRY_AGAIN_LATER, reason)

    def _drop_replies(self) -> None:
        """Disconnect, and drop the replies, because too many bytes wait in the server. No checkpoint.

        A close frame could not overtake the reply that is being sent.
        """
        self._log.warning("disconnecting, because the server's space for unread replies is used up (max_spooled_bytes)")
        self._transport.abort()
        self._lose_engine(ConnectionLost("the client did not read its replies in time"))

    def _lose_engine(self, error: RayforceWSError) -> None:
        """End the connection, and give up the request that the engine evaluates. No checkpoint."""
        self._engine_is_lost = True
        self._pipeline.engine_lost()
        self._fail(error)
        self._engine_wait.cancel()

    def _client_leaves(self) -> None:
        """Stop the requests of a client that has closed its side; its posts are still received. No checkpoint."""
        self._limit_posts()
        self._abandon(self._pipeline.client_leaves())

    def _limit_posts(self) -> None:
        """Leave posts `CLOSE_TIMEOUT` to be carried out, since a client may leave as soon as it has sent them."""
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_TIMEOUT)

    def _abandon_requests(self) -> None:
        self._abandon(self._pipeline.client_gone())

    def _stop_now(self) -> None:
        self._abandon(self._pipeline.stop())

    def _abandon(self, action: Action) -> None:
        """Stop the requests in the engine that the pipeline has abandoned. No checkpoint."""
        if action is Action.STOP_ENGINE:
            self._stop_engine(0)
        self._session.abandon_ahead()
        self._wake.set()
