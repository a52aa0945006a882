"""The requests of one connection: calls wait for replies, and the connection's own tasks use the socket."""

import copy
import logging

import anyio
import anyio.lowlevel

from .._protocol import (
    SUBPROTOCOL,
    ClientProtocol,
    ClientRequest,
    Outgoing,
    ProtocolViolation,
    Reply,
)
from .._tasks import Event, TimeSlice, event_class, race
from .._transports import Transport, aclose_shielded, closed_by_us, end
from ..errors import ConnectionClosed, ProtocolError, RayforceWSError

logger = logging.getLogger("rayforce_trio.client")


class Exchange:
    """Sends frames and returns their replies. Any number of tasks may use it at once.

    Attributes:
        reason: why the connection has ended; `None` as long as it can be used.
        ended: set when the socket is closed.
        extended: whether the server speaks the extended protocol.
        max_request_size: the longest message that the server accepts, in bytes; `None` if it did not say so.
    """

    def __init__(self, transport: Transport) -> None:
        self.extended = transport.subprotocol == SUBPROTOCOL
        self.max_request_size = transport.peer_max_message_size
        self.reason: RayforceWSError | None = None
        self.ended = anyio.Event()
        self._transport = transport
        self._protocol = ClientProtocol(extended=self.extended)
        self._waiters: dict[ClientRequest, _Waiter] = {}
        self._new_event = event_class()
        self._outgoing = self._new_event()
        self._refused: Outgoing | None = None  # counts as sent, but the network was busy
        self._writing = False
        self._send_error: RayforceWSError | None = None
        self._closing = anyio.Event()

    @property
    def stopped(self) -> int:
        """Count the cancelled requests that the server stopped, or that were never sent."""
        return self._protocol.stopped

    def check_open(self) -> None:
        """Raise an error if the connection has ended."""
        if self.reason is not None:
            raise _refusal(self.reason)

    async def request(self, frame: bytes) -> Reply:
        """Send a request, whose message type is 1, and return its reply. A checkpoint.

        If cancelled, a request that was not sent yet is never sent. A request that was sent is cancelled on the server,
        and its reply is discarded.

        Raises:
            RayforceWSError: the connection has ended, or ends before the reply has arrived.
        """
        self.check_open()
        await anyio.lowlevel.checkpoint_if_cancelled()  # or it could be sent before the cancellation is noticed
        request = self._protocol.submit(frame)
        del frame
        reply = await self._send(request)
        assert reply is not None
        return reply

    async def post(self, frame: bytes) -> None:
        """Send a post, whose message type is 0; returns when the network has taken it. A checkpoint.

        If cancelled before that, the post is not sent, unless it was partly sent already. Raises as `request`.
        """
        self.check_open()
        await anyio.lowlevel.checkpoint_if_cancelled()
        request = self._protocol.post(frame)
        del frame
        await self._send(request)

    # Callers' side: between these awaits, everything is synchronous.

    async def _send(self, request: ClientRequest) -> Reply | None:
        waiter = self._waiters[request] = _Waiter(self._new_event())
        if self._protocol.pending == 1:
            self._send_at_once()
        else:
            self._outgoing.set()  # other calls wait for replies anyway, so requests are sent in batches
        return await self._wait(request, waiter)

    def _send_at_once(self) -> None:
        """Send waiting messages without the writer's task, if the network takes them."""
        if self._writing or self._refused is not None:
            return
        try:
            while (outgoing := self._protocol.next_outgoing()) is not None:
                if not self._transport.send_nowait(outgoing.message):
                    self._refused = outgoing
                    self._outgoing.set()
                    break
                self._sent(outgoing)
            self._transport.flush()
        except RayforceWSError as error:
            self._send_error = copy.copy(error)  # the writer raises it: it may concern another call's message
            self._outgoing.set()

    async def _wait(self, request: ClientRequest, waiter: "_Waiter") -> Reply | None:
        try:
            if waiter.done.is_set():  # on asyncio, waiting for a set event is not a checkpoint
                await anyio.lowlevel.checkpoint()
            else:
                await waiter.done.wait()
        finally:
            if self._waiters.pop(request, None) is not None:
                self._protocol.cancel(request)
                self._outgoing.set()
        if waiter.failed:
            assert self.reason is not None
            raise copy.copy(self.reason)  # each task adds a traceback to its own copy
        return waiter.reply

    # The connection's own tasks.

    async def run(self) -> None:
        """Own the socket until the connection ends. Raises nothing but cancellation."""
        try:
            try:
                await race(self._read, self._write, self._transport.run, self._close_when_asked)
            except RayforceWSError as error:
                self.close_with(error)
                await end(self._transport, error)
        except Exception as error:
            logger.exception("internal error in the connection to %s", self._transport.peer)
            self.close_with(RayforceWSError(f"internal error in the client: {error!r}"))
        finally:
            self.close_with(closed_by_us())
            try:
                await aclose_shielded(self._transport)
            finally:
                self.abandon()

    async def _read(self) -> None:
        while True:
            message = await self._transport.receive()
            try:
                received = self._protocol.receive(message)
            except ProtocolViolation as error:
                raise ProtocolError(str(error)) from None
            if self._protocol.has_outgoing:  # the reply may have made room for another request
                self._outgoing.set()
            if received is not None:
                self._waiters.pop(received.request).resolve(received.reply)
            del message, received  # they may be large, and the next message may come much later

    async def _write(self) -> None:
        time_slice = TimeSlice(self._transport.flush)
        while True:
            if self._send_error is not None:
                raise self._send_error
            while (outgoing := self._next_outgoing()) is not None:
                if not self._transport.send_nowait(outgoing.message):
                    self._writing = True
                    await self._transport.send(outgoing.message)
                    self._writing = False
                self._sent(outgoing)
                await time_slice.yield_if_due()
            self._transport.flush()
            self._outgoing = self._new_event()
            await self._outgoing.wait()
            time_slice.start()

    def _next_outgoing(self) -> Outgoing | None:
        refused, self._refused = self._refused, None
        return refused or self._protocol.next_outgoing()

    def _sent(self, outgoing: Outgoing) -> None:
        request = outgoing.request
        if request is not None and request.is_post and request in self._waiters:
            self._waiters.pop(request).resolve(None)

    async def _close_when_asked(self) -> None:
        await self._closing.wait()
        await self._transport.aclose()

    def close_with(self, reason: RayforceWSError) -> None:
        """Refuse new calls, fail those that wait, and start to close the transport. Keeps the first reason."""
        if self.reason is None:
            self.reason = copy.copy(reason)  # without its traceback, which refers to this connection
        self._protocol.abandon()
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            waiter.fail()
        self._closing.set()

    def abandon(self) -> None:
        """Close without waiting for anything."""
        self.close_with(closed_by_us())
        self._transport.abort()
        self.ended.set()


def _refusal(reason: RayforceWSError) -> RayforceWSError:
    """Return the error of a call on a connection that has ended for `reason`."""
    refusal = copy.copy(reason)
    closed_here = isinstance(reason, ConnectionClosed) and not reason.by_peer
    message = "Cannot execute on closed connection" + ("" if closed_here else f": {reason}")
    if isinstance(refusal, ConnectionClosed | ProtocolError):
        refusal.message = message
    else:
        refusal.args = (message,)
    return refusal


class _Waiter:
    """Where a call waits: for the reply of its request, or for its post to be sent."""

    def __init__(self, done: Event) -> None:
        self.done = done
        self.reply: Reply | None = None
        self.failed = False

    def resolve(self, reply: Reply | None) -> None:
        self.reply = reply
        self.done.set()

    def fail(self) -> None:
        self.failed = True
        self.done.set()
