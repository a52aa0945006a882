"""The requests of one connection: calls wait for replies, and the connection's own tasks use the socket."""

import copy
import logging
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Self

import anyio
import anyio.lowlevel

from .._protocol import (
    SUBPROTOCOL,
    ClientProtocol,
    ClientRequest,
    ClientSubscription,
    Frame,
    Outgoing,
    ProtocolViolation,
    Reply,
    TraceNotice,
    dump_trace,
)
from .._tasks import (
    Event,
    EventLoop,
    TimeSlice,
    checkpoint_if_cancelled_function,
    enable_ki_protection,
    event_class,
    race,
    running_loop,
)
from .._transports import Transport, aclose_shielded, closed_by_us, end
from ..errors import ConnectionClosed, MessageTooLarge, ProtocolError, RayforceWSError, UnsupportedByServer
from ._reading import STANDBY, Reading, Receiver
from ._states import ClientConnectionState, States
from ._traces import ClientTraces

_READER, _NOBODY, _CALL = Receiver

logger = logging.getLogger("rayforce_trio.client")

HELLO_TIMEOUT = 5.0
"""The time that a server has to answer the hello, in seconds. A server that does not know the hello ignores it."""

_MAX_REST = 64
"""The number of messages behind a reply that its call receives. A server could send thousands without a meaning."""


def check_loop(loop: EventLoop) -> None:
    """Raise an error if another event loop than that of a connection runs the calling code."""
    if running_loop() is not loop:
        raise RayforceWSError(
            "a connection can only be used in the event loop in which it was opened (the trio run or asyncio loop);"
            " open a connection in each event loop that needs one"
        )


class Exchange:
    """Sends frames and returns their replies. Any number of tasks may use it at once.

    Create it in the event loop in which it is used.

    Args:
        transport: the connection, on which the greeting was sent.
        receive_answer: receives the server's answer to the greeting; `None` if it has arrived.
        traces: makes the spans of calls; `None`: there are none.

    Attributes:
        loop: the event loop of the connection.
        peer: the server's address, for people to read.
        extended: whether the server speaks the extended protocol.
        max_request_size: the longest message that the server accepts, in bytes; `None` if it did not say so.
        reason: why the connection has ended; `None` while it can be used.
        states: the state and its changes.
        traces: see above.
        on_end: called once when the connection has ended, after `reason` is set.
    """

    def __init__(
        self,
        transport: Transport,
        receive_answer: Callable[[], Awaitable[None]] | None = None,
        traces: ClientTraces | None = None,
    ) -> None:
        loop = running_loop()
        assert loop is not None
        self.loop = loop
        self.peer = transport.peer
        self.extended = transport.subprotocol == SUBPROTOCOL
        self.max_request_size = transport.peer_max_message_size
        self.reason: RayforceWSError | None = None
        self.states = States(ClientConnectionState.CONNECTED)
        self.on_end: Callable[[], None] = _nothing
        self.traces = traces
        self._joined_traces = traces if transport.peer_takes_traces else None
        self._transport = transport
        self._receive_answer = receive_answer
        self._protocol = ClientProtocol(extended=self.extended)
        self._reading = Reading()
        self._new_event = event_class()
        self._checkpoint_if_cancelled = checkpoint_if_cancelled_function()
        self._waiters: dict[ClientRequest, Event] = {}  # set when a request is answered, a post is sent, or at the end
        self._resume_reading = self._new_event()  # wakes the reader task that stands by
        self._outgoing = self._new_event()  # set when there may be a message to send
        self._features_known: Event | None = None  # made with the hello; set when no call waits for its answer any more
        self._unsent: Outgoing | None = None  # taken from the protocol, but not yet by the network
        self._error: Exception | None = None  # an error in a call, which a task of the connection raises
        self._closing = self._new_event()  # set when `reason` is
        self._closed = self._new_event()  # set when the socket is closed

    @property
    def stopped(self) -> int:
        """The number of cancelled requests that the server has stopped, or that were never sent."""
        return self._protocol.stopped

    @property
    def stopped_output(self) -> str:
        """The text that the last one of these requests had printed, if it was verbose."""
        return self._protocol.stopped_output

    @property
    def closed(self) -> bool:
        """Whether the socket is closed."""
        return self._closed.is_set()

    @property
    def closed_here(self) -> bool:
        """Whether the connection has ended because this side closed it: a call, or the end of its task."""
        return isinstance(self.reason, ConnectionClosed) and not self.reason.by_peer

    def check_loop(self) -> None:
        """Raise an error if another event loop than the connection's runs the calling code."""
        check_loop(self.loop)

    def check_usable(self) -> None:
        """Raise an error if the connection has ended, or belongs to another event loop. Every public call does this."""
        if running_loop() is not self.loop:
            check_loop(self.loop)
        if self.reason is not None:
            raise self._refusal()

    def check_closable(self) -> None:
        """Raise an error if the connection is open, and belongs to another event loop."""
        if not self.closed:
            check_loop(self.loop)

    @enable_ki_protection  # an interrupt between two steps could assign replies to the wrong calls
    async def request(self, frame: bytes, *, idempotent: bool = False) -> Reply:  # noqa: ARG002 - see below
        """Send a request, whose message type is 1, and return its reply. A checkpoint.

        If cancelled, a request that was not sent yet is never sent. A request that was sent is cancelled on the server,
        and its reply is discarded.

        Args:
            frame: the request.
            idempotent: has no effect, since there is no other connection to send the request to.

        Raises:
            RayforceWSError: the connection has ended, or ends before the reply arrives.
        """
        await self._checkpoint_if_cancelled()  # otherwise the request could be sent before the cancellation is noticed
        if self.reason is not None:
            raise self._refusal()
        transport, protocol, reading = self._transport, self._protocol, self._reading
        if reading.receiver is _NOBODY and self._unsent is None and (alone := protocol.submit_alone(frame)) is not None:
            request, received_all = alone, True
            reading.call_started()
            try:
                if self._joined_traces is not None and (trace := self._joined_traces.current()) is not None:
                    transport.send_nowait(dump_trace(trace))  # if there is no room, the server begins its own trace
                if not transport.send_now(frame):
                    self._unsent = Outgoing(frame, request)
                    self._outgoing.set()
                frame = b""
                while request.reply is None and self.reason is None:
                    protocol.receive(await transport.receive())
                if transport.has_bytes():
                    received_all = self._receive_rest()
            except Exception as error:  # noqa: BLE001 - the reader task raises it, and ends the connection
                if not isinstance(error, MessageTooLarge):
                    request.frame = frame  # empty unless it was not sent completely, and cannot be carried out
                if self.reason is None or not isinstance(error, ConnectionClosed):  # else `close_with` interrupted it
                    self._report(error)
            finally:
                if reading.call_ended(request.reply is not None and self._error is None and received_all):
                    self._hand_over(request)
        else:
            request = protocol.submit(frame, None if self._joined_traces is None else self._joined_traces.current())
            del frame
            await self._finish(request)
        if request.reply is None:
            await self._closing.wait()
            raise self._failure(request)
        return request.reply

    @enable_ki_protection
    async def post(self, frame: bytes) -> None:
        """Send a post, whose message type is 0; return when the network has taken it. A checkpoint.

        It waits while many posts before it have not been carried out. If cancelled before the network has taken it, the
        post is not sent, unless it was partly sent already. Raises as `request`.
        """
        await self._checkpoint_if_cancelled()
        if self.reason is not None:
            raise self._refusal()
        request = self._protocol.post(frame, self._trace())
        del frame
        await self._finish(request)

    async def require(self, feature: str) -> Self:
        """Ask the server for its features, once for a connection, check that it has this one, and return this exchange.

        A checkpoint if the server has not answered yet, and no earlier call has waited without success; cancelling it
        changes nothing.

        Raises:
            UnsupportedByServer: the server lacks the feature, or has not answered a call that waited for long enough.
            RayforceWSError: the connection has ended.
        """
        protocol = self._protocol
        if self.extended and protocol.features is None:
            if self._features_known is None:
                self.say_hello()
            assert self._features_known is not None
            if self._reading.call_joined():
                self._resume_reading.set()
            with anyio.move_on_after(HELLO_TIMEOUT) as scope:
                await self._features_known.wait()
            if scope.cancelled_caught:
                self._features_known.set()  # so that no other call waits for this server
            if self.reason is not None:
                raise self._refusal()
        if protocol.features is None or feature not in protocol.features:
            raise UnsupportedByServer(f"this server does not offer {feature}; it needs rayforce-trio 0.2 or later")
        return self

    async def request_in_session(self, feature: str, request: Callable[[Self], Awaitable[Reply]]) -> Reply:
        """Call a function that sends a request to this exchange if its server has a feature, and return the reply.

        A checkpoint; if cancelled, as `require` and the function. Raises as `require` and `request`.
        """
        return await request(await self.require(feature))

    def check_open(self) -> None:
        """Raise the error of calls that were waiting if the connection has ended."""
        if self.reason is not None:
            raise self._failure()

    def subscribe(self, topic: str, subscription: ClientSubscription) -> int:
        """Subscribe to a topic, and return the id of the subscription on this connection. No checkpoint.

        From now on the reader task receives, so that updates arrive whether calls are made or not. At the end of the
        connection, the subscription is told of a change.

        Raises:
            RayforceWSError: the connection has ended.
        """
        if self.reason is not None:
            raise self._refusal()
        number = self._protocol.subscribe(topic, subscription)
        self._outgoing.set()
        if self._reading.need_reader():
            self._resume_reading.set()
        return number

    def unsubscribe(self, number: int) -> None:
        """End a subscription. Call it once for each call of `subscribe`. No checkpoint."""
        self._reading.release_reader()
        self.stop_updates(number)

    def stop_updates(self, number: int) -> None:
        """Have the server send nothing more for a subscription. Idempotent. No checkpoint."""
        self._protocol.unsubscribe(number)
        self._outgoing.set()

    def say_hello(self) -> None:
        """Ask the server for its features. It is asked once. No checkpoint."""
        if self.extended and self._features_known is None:
            self._features_known = self._new_event()
            self._protocol.on_features = self._features_known.set
            self._protocol.say_hello()
            self._outgoing.set()

    # A request that several calls wait for in turn, and messages for which no call waits. Only `wait` waits.

    def start(self, frame: bytes) -> ClientRequest:
        """Send a request, whose message type is 1. The caller calls `wait` until it returns, or calls `cancel`.

        Raises:
            RayforceWSError: the connection has ended.
        """
        if self.reason is not None:
            raise self._refusal()
        request = self._protocol.submit(frame, self._trace())
        del frame
        self._begin(request)
        if self._reading.call_joined():
            self._resume_reading.set()
        return request

    async def wait(self, request: ClientRequest) -> Reply:
        """Return the reply to a request that `start` has sent. A checkpoint; cancelling it changes nothing.

        Raises:
            RayforceWSError: the connection has ended.
        """
        done = self._waiters.get(request)
        if done is None or done.is_set():
            await anyio.lowlevel.checkpoint()
        else:
            await done.wait()
        if request.reply is None:
            self._waiters.pop(request, None)
            await self._closing.wait()
            raise self._failure(request)
        return request.reply

    def cancel(self, request: ClientRequest) -> None:
        """Cancel a request that `start` has sent, and discard its reply. Idempotent."""
        if self._waiters.pop(request, None) is not None:
            self._protocol.cancel(request)
            self._outgoing.set()

    def post_soon(self, frame: bytes) -> None:
        """Send a post, whose message type is 0, as soon as the network and the bounds on posts allow it.

        If the connection has ended, do nothing.
        """
        if self.reason is None:
            request = self._protocol.post(frame, self._trace())
            self._begin(request)
            self._waiters.pop(request, None)

    def _trace(self) -> TraceNotice | None:
        """Return the trace of the current call, if the server takes traces."""
        return None if self._joined_traces is None else self._joined_traces.current()

    # The tasks of callers. Between these awaits, everything is synchronous.

    def _receive_rest(self) -> bool:
        """Receive the messages that have arrived behind a reply. Otherwise the next call could take one for its reply.

        Return False if the reader task must receive the rest, since it yields to other tasks. Raises as
        `Transport.receive` and `ClientProtocol.receive`, for example if there is one reply too many.
        """
        for _ in range(_MAX_REST):
            if self._protocol.pending or (message := self._transport.receive_nowait()) is None:
                return True
            self._protocol.receive(message)
        return False

    def _hand_over(self, request: ClientRequest) -> None:
        """Let the reader task receive again after a call, and cancel the request of the call if it is unanswered."""
        self._protocol.cancel(request)
        self._resume_reading.set()
        self._outgoing.set()

    async def _finish(self, request: ClientRequest) -> None:
        """Wait until a request is answered, or a post is sent. A checkpoint; if cancelled, as `request` and `post`.

        Raises:
            RayforceWSError: the connection ends before that.
        """
        done = self._begin(request)
        try:
            if done.is_set():  # on asyncio, waiting for a set event is not a checkpoint
                await anyio.lowlevel.checkpoint()
            else:
                await done.wait()
        finally:
            failed = self._waiters.pop(request, None) is not None
            if failed:
                self._protocol.cancel(request)
                self._outgoing.set()
        if failed:
            raise self._failure(request)

    def _begin(self, request: ClientRequest) -> Event:
        """Send a request or a post, or queue it; return the event that is set when it is answered, or sent."""
        done = self._waiters[request] = self._new_event()
        protocol = self._protocol
        if protocol.pending == 1 and self._unsent is None:
            self._send_at_once()
            held_back = protocol.has_outgoing
        else:
            self._outgoing.set()  # other calls wait anyway, so messages are sent in batches
            held_back = True
        if held_back and self._reading.call_joined():
            self._resume_reading.set()
        return done

    def _send_at_once(self) -> None:
        """Send waiting messages without switching to the writer task, as far as the network takes them."""
        try:
            while (outgoing := self._protocol.next_outgoing()) is not None:
                if not self._transport.send_now(outgoing.message):
                    self._unsent = outgoing
                    self._outgoing.set()
                    break
                self._sent(outgoing)
        except RayforceWSError as error:
            if outgoing is not None and not isinstance(error, MessageTooLarge):
                outgoing.restore()  # not sent completely, so it cannot be carried out
            self._report(error)  # the writer task raises it: it may concern another call's message
            self._outgoing.set()

    def _report(self, error: Exception) -> None:
        """Have a task of the connection raise an error that a call has met."""
        expected = isinstance(error, RayforceWSError | ProtocolViolation)
        self._error = copy.copy(error) if expected else error  # a traceback refers to messages; a bug needs it

    def _raise_reported(self) -> None:
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame

    # The connection's own tasks.

    @enable_ki_protection
    async def run(self) -> None:
        """Read, write and close the socket until the connection ends. Raise nothing but cancellation.

        If cancelled, close the connection within `SHIELDED_CLOSE_TIMEOUT`. In any case the socket is closed when this
        returns, calls that waited have failed, and further calls raise an error.
        """
        if running_loop() is not self.loop:
            self.close_with(RayforceWSError("the nursery for the connection's task belongs to another event loop"))
            self.abort()
            return
        try:
            try:
                await race(self._close_when_asked, self._read, self._write, self._transport.run)
            except ProtocolViolation as violation:
                await self._end(ProtocolError(f"the server broke the protocol: {violation}"))
            except RayforceWSError as error:
                await self._end(error)
        except Exception as error:
            logger.exception("internal error in the connection to %s", self.peer)
            self.close_with(RayforceWSError(f"internal error in the client: {error!r}"))
        finally:
            self.close_with(closed_by_us())
            try:
                await aclose_shielded(self._transport)
            finally:
                self.abort()

    async def _read(self) -> None:
        """Give replies to the calls that wait for them. If cancelled, no message is lost."""
        transport, reading = self._transport, self._reading
        time_slice = TimeSlice()
        if self._receive_answer is not None:
            await self._receive_answer()
        while True:
            if reading.receiver is not _READER:
                await self._stand_by()
            self._deliver(await transport.receive())
            time_slice.start()
            while reading.receiver is _READER and (message := transport.receive_nowait()) is not None:
                self._deliver(message)
                del message  # it may be large, and the next one may come much later
                if time_slice.is_used_up:
                    await time_slice.yield_if_due()
            if self._protocol.has_outgoing:  # replies may have made room for other requests
                self._outgoing.set()

    def _deliver(self, message: Frame | str) -> None:
        """Give a message to the call that waits for it, if there is one."""
        request = self._protocol.receive(message)
        if request is not None:
            self._waiters.pop(request).set()
            if not self._protocol.pending and not self._transport.has_bytes():
                self._reading.reply_delivered(perf_counter())

    async def _stand_by(self) -> None:
        """Wait until the reader task is to receive. A checkpoint. If cancelled, nothing has changed.

        Raises:
            Exception: the error that a call has met while it received.
        """
        self._resume_reading = self._new_event()
        while self._reading.receiver is not _READER:
            with anyio.move_on_after(STANDBY) as scope:
                await self._resume_reading.wait()
            if scope.cancelled_caught:
                self._reading.standby_elapsed()
        self._raise_reported()

    async def _write(self) -> None:
        """Send the protocol's messages. If cancelled, a message may have been cut; nothing can be sent afterwards."""
        transport, protocol = self._transport, self._protocol
        time_slice = TimeSlice(transport.flush)
        while True:
            self._outgoing = self._new_event()  # before everything that it announces, or it could be missed
            self._raise_reported()
            while (outgoing := self._unsent or protocol.next_outgoing()) is not None:
                if not transport.send_nowait(outgoing.message):
                    self._unsent = outgoing
                    await transport.send(outgoing.message)
                self._unsent = None
                self._sent(outgoing)
                if time_slice.is_used_up:
                    await time_slice.yield_if_due()
            transport.flush()
            await self._outgoing.wait()
            time_slice.start()

    def _sent(self, outgoing: Outgoing) -> None:
        request = outgoing.request
        if request is not None and request.is_post and request in self._waiters:
            self._waiters.pop(request).set()

    async def _close_when_asked(self) -> None:
        """Close the transport once `close_with` was called. If cancelled, the transport is still closed."""
        await self._closing.wait()
        await self._transport.aclose()

    async def _end(self, error: RayforceWSError) -> None:
        """Close the connection because of an error. A checkpoint; if cancelled, the socket is closed at once."""
        self.close_with(error)
        await end(self._transport, error)

    # The end.

    async def close(self) -> None:
        """Close the connection, and wait until the socket is closed. A checkpoint. Idempotent.

        The caller has checked that the connection is closable. If cancelled, the connection's task still closes it.
        """
        if not self.closed:
            self.close_with(closed_by_us())
            await self._closed.wait()
        elif running_loop() is not None:
            await anyio.lowlevel.checkpoint()

    async def wait_ended(self) -> None:
        """Wait until `reason` is set. A checkpoint unless it is; cancelling it changes nothing."""
        await self._closing.wait()

    def close_with(self, reason: RayforceWSError) -> None:
        """Refuse new calls, fail those that wait, and start to close the transport. Keeps the first reason."""
        if self.reason is None:
            self.reason = copy.copy(reason)  # without its traceback, which refers to this connection
            self.states.change(ClientConnectionState.CLOSED)
            self.on_end()
        self._protocol.abandon()
        for done in self._waiters.values():
            done.set()
        if self._reading.receiver is _CALL:
            self._transport.interrupt()
        if self._features_known is not None:
            self._features_known.set()
        self._closing.set()

    def abort(self) -> None:
        """Close the socket at once, without waiting for anything. Idempotent. No checkpoint."""
        self.close_with(closed_by_us())
        self._transport.abort()
        self._closed.set()

    def _failure(self, request: ClientRequest | None = None) -> RayforceWSError:  # noqa: ARG002 - for subclasses
        """Return the error for a call that the end of the connection has failed.

        Args:
            request: the request or post of the call, if it was given to the protocol.
        """
        assert self.reason is not None
        return copy.copy(self.reason)  # each task adds a traceback to its own copy

    def _refusal(self) -> RayforceWSError:
        """Return the error for a new call of a connection that has ended."""
        assert self.reason is not None
        error = copy.copy(self.reason)
        message = "Cannot execute on closed connection" + ("" if self.closed_here else f": {self.reason}")
        if isinstance(error, ConnectionClosed | ProtocolError):
            error.message = message
        else:
            error.args = (message,)
        return error


def _nothing() -> None:
    """Do nothing."""
