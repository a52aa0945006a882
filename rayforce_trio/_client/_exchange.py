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
from .._tasks import Event, TimeSlice, event_class, race, running_loop
from .._transports import Transport, aclose_shielded, closed_by_us, end
from ..errors import ConnectionClosed, ProtocolError, RayforceWSError

logger = logging.getLogger("rayforce_trio.client")


class Exchange:
    """Sends frames and returns their replies. Any number of tasks may use it at once.

    Create it in the event loop in which it is used.

    Attributes:
        loop: the event loop of the connection.
        peer: the server's address, for people to read.
        extended: whether the server speaks the extended protocol.
        max_request_size: the longest message that the server accepts, in bytes; `None` if it did not say so.
        reason: why the connection has ended; `None` while it can be used.
    """

    def __init__(self, transport: Transport) -> None:
        loop = running_loop()
        assert loop is not None
        self.loop = loop
        self.peer = transport.peer
        self.extended = transport.subprotocol == SUBPROTOCOL
        self.max_request_size = transport.peer_max_message_size
        self.reason: RayforceWSError | None = None
        self._transport = transport
        self._protocol = ClientProtocol(extended=self.extended)
        self._waiters: dict[ClientRequest, _Waiter] = {}
        self._new_event = event_class()
        self._outgoing = self._new_event()  # set when there may be a message to send
        self._unsent: Outgoing | None = None  # out of the protocol's hands, but not yet taken by the network
        self._send_error: RayforceWSError | None = None
        self._closing = self._new_event()  # set when `reason` is
        self._closed = self._new_event()  # set when the socket is closed

    @property
    def stopped(self) -> int:
        """The number of cancelled requests that the server has stopped, or that were never sent."""
        return self._protocol.stopped

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
        if running_loop() is not self.loop:
            raise RayforceWSError(
                "a connection can only be used in the event loop in which it was opened (the trio run or asyncio loop);"
                " open a connection in each event loop that needs one"
            )

    def check_usable(self) -> None:
        """Raise an error if the connection has ended, or belongs to another event loop. Every public call does this."""
        self.check_loop()
        self._check_open()

    def check_closable(self) -> None:
        """Raise an error if the connection is open, and belongs to another event loop."""
        if not self.closed:
            self.check_loop()

    async def request(self, frame: bytes) -> Reply:
        """Send a request, whose message type is 1, and return its reply. A checkpoint.

        If cancelled, a request that was not sent yet is never sent. A request that was sent is cancelled on the server,
        and its reply is discarded.

        Raises:
            RayforceWSError: the connection has ended, or ends before the reply arrives.
        """
        self._check_open()
        await anyio.lowlevel.checkpoint_if_cancelled()  # or it could be sent before the cancellation is noticed
        request = self._protocol.submit(frame)
        del frame
        reply = await self._send(request)
        assert reply is not None
        return reply

    async def post(self, frame: bytes) -> None:
        """Send a post, whose message type is 0; return when the network has taken it. A checkpoint.

        If cancelled before that, the post is not sent, unless it was partly sent already. Raises as `request`.
        """
        self._check_open()
        await anyio.lowlevel.checkpoint_if_cancelled()
        request = self._protocol.post(frame)
        del frame
        await self._send(request)

    # The tasks of callers. Between these awaits, everything is synchronous.

    async def _send(self, request: ClientRequest) -> Reply | None:
        """Send a request or a post, and return the reply of a request. A checkpoint. If cancelled, as the callers."""
        done = self._new_event()
        waiter = self._waiters[request] = _Waiter(done)
        if self._protocol.pending == 1:
            self._send_at_once()
        else:
            self._outgoing.set()  # other calls wait for replies anyway, so requests are sent in batches
        try:
            if done.is_set():  # on asyncio, waiting for a set event is not a checkpoint
                await anyio.lowlevel.checkpoint()
            else:
                await done.wait()
        finally:
            if self._waiters.pop(request, None) is not None:
                self._protocol.cancel(request)
                self._outgoing.set()
        if waiter.failed:
            assert self.reason is not None
            raise copy.copy(self.reason)  # each task adds a traceback to its own copy
        return waiter.reply

    def _send_at_once(self) -> None:
        """Send waiting messages without switching to the writer task, as far as the network takes them."""
        if self._unsent is not None:
            return
        try:
            while (outgoing := self._protocol.next_outgoing()) is not None:
                if not self._transport.send_nowait(outgoing.message):
                    self._unsent = outgoing
                    self._outgoing.set()
                    break
                self._sent(outgoing)
            self._transport.flush()
        except RayforceWSError as error:
            self._send_error = copy.copy(error)  # the writer raises it: it may concern another call's message
            self._outgoing.set()

    # The connection's own tasks.

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
                await race(self._read, self._write, self._transport.run, self._close_when_asked)
            except RayforceWSError as error:
                self.close_with(error)
                await end(self._transport, error)
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
        """Send the protocol's messages. If cancelled, a message may have been cut; nothing can be sent afterwards."""
        time_slice = TimeSlice(self._transport.flush)
        while True:
            if self._send_error is not None:
                raise self._send_error
            while (outgoing := self._unsent or self._protocol.next_outgoing()) is not None:
                if not self._transport.send_nowait(outgoing.message):
                    self._unsent = outgoing
                    await self._transport.send(outgoing.message)
                self._unsent = None
                self._sent(outgoing)
                await time_slice.yield_if_due()
            self._transport.flush()
            self._outgoing = self._new_event()
            await self._outgoing.wait()
            time_slice.start()

    def _sent(self, outgoing: Outgoing) -> None:
        request = outgoing.request
        if request is not None and request.is_post and request in self._waiters:
            self._waiters.pop(request).resolve(None)

    async def _close_when_asked(self) -> None:
        """Close the transport once `close_with` was called. If cancelled, the transport is closed all the same."""
        await self._closing.wait()
        await self._transport.aclose()

    # The end.

    async def close(self) -> None:
        """Close the connection, and wait until the socket is closed. A checkpoint. Idempotent.

        The caller has checked that the connection is closable. If cancelled, the connection's task goes on closing.
        """
        if not self.closed:
            self.close_with(closed_by_us())
            await self._closed.wait()
        elif running_loop() is not None:
            await anyio.lowlevel.checkpoint()

    def close_with(self, reason: RayforceWSError) -> None:
        """Refuse new calls, fail those that wait, and start to close the transport. Keeps the first reason."""
        if self.reason is None:
            self.reason = copy.copy(reason)  # without its traceback, which refers to this connection
        self._protocol.abandon()
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            waiter.fail()
        self._closing.set()

    def abort(self) -> None:
        """Close the socket at once, without waiting for anything. Idempotent. No checkpoint."""
        self.close_with(closed_by_us())
        self._transport.abort()
        self._closed.set()

    def _check_open(self) -> None:
        """Raise an error if the connection has ended."""
        if self.reason is None:
            return
        error = copy.copy(self.reason)
        message = "Cannot execute on closed connection" + ("" if self.closed_here else f": {self.reason}")
        if isinstance(error, ConnectionClosed | ProtocolError):
            error.message = message
        else:
            error.args = (message,)
        raise error


class _Waiter:
    """The state of a call that waits: for the reply of its request, or for its post to be sent."""

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
