"""`WSClientConnection`: calls on the one side, the tasks that own the socket on the other."""

import copy
import logging
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import anyio
import anyio.lowlevel

from .._codec import decode, decode_verbose, encode, engine_error
from .._protocol import (
    SUBPROTOCOL,
    ClientProtocol,
    ClientRequest,
    Failure,
    MessageType,
    Outgoing,
    ProtocolViolation,
    Reply,
)
from .._tasks import Event, Turn, event_class, race
from .._transports import Transport, closed_by_us, end, say_goodbye
from ..errors import ConnectionClosed, ProtocolError, RayforceError, RayforceWSError

logger = logging.getLogger("rayforce_trio.client")


@dataclass(frozen=True, slots=True)
class VerboseResult:
    """What a query printed, and what it came to.

    Attributes:
        output: what it printed.
        value: its value, as `execute` returns it; `None` if it failed.
        error: the error of the evaluation, as `execute` raises it; `None` if there was none.
    """

    output: str
    value: Any
    error: RayforceError | None


class WSClientConnection:
    """A connection to a Rayforce WebSocket server, made by `WSClient.connect`.

    Any number of tasks may use it at once: requests are pipelined, and every one gets its own reply.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._protocol = ClientProtocol(extended=transport.subprotocol == SUBPROTOCOL)
        self._waiters: dict[ClientRequest, _Waiter] = {}
        self._new_event = event_class()
        self._outgoing = self._new_event()
        self._refused: Outgoing | None = None  # it counts as sent, but the network was busy
        self._writing = False
        self._send_error: RayforceWSError | None = None
        self._closing = anyio.Event()
        self._ended = anyio.Event()
        self._reason: RayforceWSError | None = None

    @property
    def closed(self) -> Literal[False] | RayforceWSError:
        """`False` while the connection can be used, afterwards the error that says why it cannot."""
        return self._reason or False

    @property
    def stopped_queries(self) -> int:
        """Count the cancelled calls whose queries were stopped by the server, or never sent.

        The server answers a cancelled call later than the call ends, and before it answers any later call. A query that
        came to its end after all does not count.
        """
        return self._protocol.stopped

    async def execute(self, query: Any) -> Any:
        """Evaluate a query on the server and return its value.

        A checkpoint. If cancelled, the call ends at once, and the connection stays usable: a query that was not sent
        yet never is; one that was is cancelled on the server, and its reply is discarded. There it does not start any
        more; if it has started, a native engine stops it, while an in-process one runs it to its end. What it has
        changed before it stops stays changed.

        Args:
            query: a str, String, List, Expression, SQLQuery, or a select, update, insert, upsert or join query.

        Returns:
            A Rayforce object (`I64`, `Table`, `Vector`, ...), or `None` for null. A server that speaks the baseline
            protocol only, such as rayforce-py's, reports errors as a `String`.

        Raises:
            UnsupportedQuery: `query` is none of these. Nothing was sent.
            RayforceError: the evaluation failed; rayforce-py's class for the engine's error code. Or rayforce-py cannot
                compile the query, or represent its result: `RayforceConversionError` and its like.
            RayforceThreadError: Rayforce was first imported in another thread.
            ConnectionClosed: the connection is closed, or was meanwhile.
            ConnectionLost: the connection broke.
            MessageTooLarge: the query or its result is longer than one side allows.
            ProtocolError: the server broke the protocol.
        """
        return decode(await self._request(query), query)

    async def execute_verbose(self, query: Any) -> VerboseResult:
        """Evaluate a query like `execute`, and return what it printed too: what a remote shell is built on.

        A checkpoint; if cancelled, as `execute`.

        Args:
            query: as for `execute`.

        Raises:
            RayforceWSError: the server speaks the baseline protocol only, which has no such thing. Nothing was sent.
            RayforceError: as for `execute`; the error of an evaluation is in the result, not raised.
        """
        if self._transport.subprotocol != SUBPROTOCOL:
            raise RayforceWSError(
                "this server speaks the baseline protocol only, which tells nothing of what is printed"
            )
        output, reply = decode_verbose(await self._request(query, verbose=True))
        if isinstance(reply, Failure):
            return VerboseResult(output, None, engine_error(reply, query))
        return VerboseResult(output, decode(reply, query), None)

    async def post(self, query: Any) -> None:
        """Send a query whose result nobody wants; an error in it appears in the server's log only.

        Returns when the query was handed to the network. A checkpoint; if cancelled before that, the query is not sent,
        unless it was partly sent already.

        Args:
            query: as for `execute`.

        Raises:
            RayforceError: as for `execute`, the evaluation's errors aside.
        """
        await self._ask(query, MessageType.ASYNC)

    async def close(self) -> None:
        """Close the connection, within 10 seconds; calls that still wait raise `ConnectionClosed`. Idempotent.

        A checkpoint. If cancelled, the connection is closed all the same, and within the same time.
        """
        self._close(closed_by_us())
        await self._ended.wait()

    def abort(self) -> None:
        """Close the connection at once, without waiting for the server. Idempotent, and no checkpoint.

        Calls that still wait raise `ConnectionClosed`. The server stops their queries when it notices the loss.
        """
        self._abandon()

    async def __aenter__(self) -> "WSClientConnection":
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"WSClientConnection({'closed' if self.closed else 'open'})"

    # Callers' side: between these awaits, everything is synchronous.

    def _send_at_once(self) -> None:
        """Send what is to be sent without going through the writer's task, if the network takes it."""
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
            self._send_error = copy.copy(error)  # for the writer to raise: this call has only lent a hand
            self._outgoing.set()

    async def _request(self, query: Any, *, verbose: bool = False) -> Reply:
        reply = await self._ask(query, MessageType.SYNC, verbose=verbose)
        assert reply is not None
        return reply

    async def _ask(self, query: Any, message_type: MessageType, *, verbose: bool = False) -> Reply | None:
        """Send a request and wait for its reply, or send a post."""
        if self._reason is not None:
            raise _refusal(self._reason)
        frame = encode(query, message_type, verbose=verbose)
        await anyio.lowlevel.checkpoint_if_cancelled()  # or it could be sent before the cancellation is noticed
        submit = self._protocol.submit if message_type is MessageType.SYNC else self._protocol.post
        request = submit(frame)
        del frame
        waiter = self._waiters[request] = _Waiter(self._new_event())
        if self._protocol.pending == 1:
            self._send_at_once()
        else:
            self._outgoing.set()  # the others wait for replies anyway, so what comes together is sent together
        return await self._wait(request, waiter)

    async def _wait(self, request: ClientRequest, waiter: "_Waiter") -> Reply | None:
        try:
            if waiter.done.is_set():  # asyncio's wait would be no checkpoint
                await anyio.lowlevel.checkpoint()
            else:
                await waiter.done.wait()
        finally:
            if self._waiters.pop(request, None) is not None:
                self._protocol.cancel(request)
                self._outgoing.set()
        if waiter.failed:
            raise self._why_closed()
        return waiter.reply

    def _why_closed(self) -> RayforceWSError:
        """Return a fresh copy, since each of the tasks it is raised in adds its own traceback."""
        assert self._reason is not None
        return copy.copy(self._reason)

    # The connection's own tasks.

    async def _run(self) -> None:
        """Own the socket until the connection ends. Raises nothing but cancellation."""
        try:
            try:
                await race(self._read, self._write, self._transport.run, self._close_when_asked)
            except RayforceWSError as error:
                self._close(error)
                await end(self._transport, error)
        except Exception as error:
            logger.exception("internal error in the connection to %s", self._transport.peer)
            self._close(RayforceWSError(f"internal error in the client: {error!r}"))
        finally:
            self._close(closed_by_us())
            try:
                await say_goodbye(self._transport)
            finally:
                self._abandon()

    async def _read(self) -> None:
        while True:
            message = await self._transport.receive()
            try:
                received = self._protocol.receive(message)
            except ProtocolViolation as error:
                raise ProtocolError(str(error)) from None
            if self._protocol.has_outgoing:  # there may be room for more now
                self._outgoing.set()
            if received is not None:
                self._waiters.pop(received.request).resolve(received.reply)
            del message, received  # they may be large, and the next ones may be long in coming

    async def _write(self) -> None:
        turn = Turn(self._transport.flush)
        while True:
            if self._send_error is not None:
                raise self._send_error
            while (outgoing := self._next_outgoing()) is not None:
                if not self._transport.send_nowait(outgoing.message):
                    self._writing = True
                    await self._transport.send(outgoing.message)
                    self._writing = False
                self._sent(outgoing)
                await turn.pass_on()
            self._transport.flush()
            self._outgoing = self._new_event()
            await self._outgoing.wait()
            turn.begin()

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

    def _close(self, reason: RayforceWSError) -> None:
        """Refuse new calls, end those that wait, and have the transport closed; the first reason stands."""
        if self._reason is None:
            self._reason = copy.copy(reason)  # without its traceback, which refers to this connection
        self._protocol.abandon()
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters.values():
            waiter.fail()
        self._closing.set()

    def _abandon(self) -> None:
        """Close without waiting for anything."""
        self._close(closed_by_us())
        self._transport.abort()
        self._ended.set()


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
