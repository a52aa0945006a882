"""One connection of the server: one task reads, another evaluates and answers."""

import copy
import logging

import trio

from .._engines import Session
from .._protocol import (
    HELLO_REPLY,
    SUBPROTOCOL,
    CancelRequested,
    CloseCode,
    Frame,
    ProtocolViolation,
    Reply,
    ServerProtocol,
    ServerRequest,
    Sliced,
    check_hello,
)
from .._tasks import Turn, race
from .._transports import CLOSE_TIMEOUT, Transport, end, say_goodbye
from ..errors import EngineError, ProtocolError, RayforceWSError
from ._queue import BoundedQueue

logger = logging.getLogger("rayforce_trio.server")

MAX_QUEUED_REQUESTS = 1024
"""How many requests of one connection wait for their turn; further ones wait in the network."""

MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""How many bytes they may have together; one request may always wait."""

_HELLO_LIMIT = 4096  # bytes


Message = Frame | Sliced | str
"""What is sent to a peer."""


async def greet(transport: Transport) -> None:
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
    """

    def __init__(self, connection_id: int, transport: Transport, session: Session) -> None:
        self.id = connection_id
        self.peer = transport.peer
        self._transport = transport
        self._session = session
        self._protocol = ServerProtocol(extended=transport.subprotocol == SUBPROTOCOL)
        self._work_list = BoundedQueue[ServerRequest | Message](MAX_QUEUED_REQUESTS, MAX_QUEUED_BYTES)
        self._working = True  # the task that works has not yet found that there is nothing to do
        self._running: ServerRequest | None = None
        self._peer_waits = True
        self._stopping = trio.Event()
        self._scope = trio.CancelScope()
        self._failed = trio.Event()
        self._failure: RayforceWSError | None = None  # what the task that answers found, of the engine or the network

    def __repr__(self) -> str:
        return f"WSServerConnection({self.peer})"

    def stop(self) -> None:
        """Have the connection closed with code 1001. No checkpoint; `run` ends within 10 seconds."""
        self._stopping.set()
        self._scope.deadline = trio.current_time() + CLOSE_TIMEOUT

    async def run(self) -> None:
        """Serve the peer until the connection ends. A checkpoint.

        Raises nothing of the network; an exception is a bug. If cancelled, the peer is told within 2 seconds.
        """
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._work)
                    error = await self._talk()
                    # Posts that have arrived are still carried out, for a while: their sender may leave once they are
                    # sent.
                    self._scope.deadline = min(self._scope.deadline, trio.current_time() + CLOSE_TIMEOUT)
                    self._peer_waits = False
                    self._work_list.close()
                    if self._running is not None and (self._running.number is not None or self._stopping.is_set()):
                        self._session.cancel()
                    if error is not None:
                        logger.info("connection %d: %s", self.id, error)
                        await end(self._transport, error)
            if self._scope.cancelled_caught:
                logger.warning("connection %d: posts were left undone", self.id)
        except Exception:
            await self._transport.aclose(CloseCode.INTERNAL_ERROR, "internal error")
            raise
        finally:
            if self._running is not None:
                self._session.cancel()  # the engine is free at once, however long the peer takes to say goodbye
            await say_goodbye(self._transport)

    async def _talk(self) -> RayforceWSError | None:
        """Converse until the connection ends; returns the error it ended with."""
        try:
            await race(self._read, self._transport.run, self._close_when_asked, self._raise_failure)
        except RayforceWSError as error:
            return copy.copy(error)  # without its traceback, whose frames would hold it, and the message they were at
        return None

    async def _read(self) -> None:
        while True:
            received = await self._transport.receive()
            try:
                events = self._protocol.receive(received)
            except ProtocolViolation as error:
                raise ProtocolError(str(error)) from None
            del received
            for event in events:
                if isinstance(event, CancelRequested):
                    if event.request is self._running:
                        self._session.cancel()
                elif (message := self._answer_at_once(event)) is None:
                    await self._work_list.put(event, len(event.frame))
                elif not self._try_to_send(message):
                    await self._work_list.put(message, len(message))
                    del message
                del event
            del events  # a request may be large, and the next message may be long in coming

    def _answer_at_once(self, request: ServerRequest) -> Message | None:
        """Return the answer to a request if the engine is this process, and nothing else is to be done before.

        Changing to the task that works takes longer than evaluating a small query, and gains nothing: while one is
        evaluated in this process, nobody can read.
        """
        evaluate = self._session.evaluate
        if (
            evaluate is None
            or request.number is None
            or self._working
            or len(self._work_list)
            or self._stopping.is_set()
        ):
            return None
        return self._protocol.answer(request, request.failure or evaluate(request.frame))

    async def _work(self) -> None:
        """Evaluate until there are no more requests, or the engine is lost."""
        try:
            await race(self._work_all, self._session.run)
        except EngineError as error:
            self._fail(error)

    async def _work_all(self) -> None:
        turn = Turn()
        while (work := await self._next_work(turn)) is not None:
            if not isinstance(work, ServerRequest):
                await self._send(work)
            elif self._stopping.is_set():
                break
            else:
                self._running = work
                await self._answer(work)
                self._running = None
            del work  # it may be large, and what comes next may be long in coming

    async def _next_work(self, turn: Turn) -> ServerRequest | Message | None:
        """Return what to do next; what was answered in one turn goes out together."""
        if not len(self._work_list):
            self._flush()
            self._working = False
            work = await self._work_list.get()
            self._working = True
            turn.begin()
            return work
        if turn.is_over:
            self._flush()
            await turn.pass_on()
        return await self._work_list.get()

    async def _answer(self, request: ServerRequest) -> None:
        if request.number is None:
            failure = request.failure or await self._session.post(request.frame)
            if failure is not None:
                logger.warning("connection %d: a post failed: %s", self.id, failure)
            return
        if not self._peer_waits:
            return
        reply: Reply = request.failure or await self._session.request(request.frame)
        message = self._protocol.answer(request, reply)
        await (self._send_in_parts if self._session.unread else self._send)(message)

    async def _send(self, message: Message) -> None:
        if self._peer_waits and not self._try_to_send(message):
            try:
                await self._transport.send(message)
            except RayforceWSError as error:
                self._fail(error)

    def _try_to_send(self, message: Message) -> bool:
        """Send a short message with the next `_flush`; returns whether that is done with it."""
        try:
            return self._transport.send_nowait(message)
        except RayforceWSError as error:
            self._fail(error)
            return True

    async def _send_in_parts(self, beginning: Message) -> None:
        """Send a reply piece by piece, as the engine gives it. All of it has to be taken, even if the peer is gone."""
        data = beginning
        while True:
            last = not self._session.unread
            if self._peer_waits:
                assert isinstance(data, bytes)
                try:
                    await self._transport.send_part(data, last=last)
                except RayforceWSError as error:
                    self._fail(error)
            if last:
                return
            data = await self._session.receive_some()

    def _flush(self) -> None:
        try:
            self._transport.flush()
        except RayforceWSError as error:
            self._fail(error)

    def _fail(self, error: RayforceWSError) -> None:
        """End the conversation with an error. Posts that have arrived are carried out all the same."""
        self._peer_waits = False
        self._failure = copy.copy(error)  # without its traceback: see `_talk`
        self._failed.set()

    async def _raise_failure(self) -> None:
        await self._failed.wait()
        assert self._failure is not None
        raise self._failure

    async def _close_when_asked(self) -> None:
        await self._stopping.wait()
        await self._transport.aclose(CloseCode.GOING_AWAY, "the server is shutting down")
