"""One connection of the server: read, evaluate, write, each in a task of its own."""

import copy
import logging
from dataclasses import dataclass

import trio

from .._engines import Session
from .._protocol import (
    HELLO_REPLY,
    SUBPROTOCOL,
    CancelRequested,
    ProtocolViolation,
    Reply,
    ServerProtocol,
    ServerRequest,
    check_hello,
)
from .._tasks import race
from .._transports import CLOSE_TIMEOUT, GOING_AWAY, INTERNAL_ERROR, Transport, end, say_goodbye
from ..errors import EngineError, ProtocolError, RayforceWSError
from ._queue import BoundedQueue

logger = logging.getLogger("rayforce_trio.server")

MAX_QUEUED_REQUESTS = 1024
"""How many requests of one connection wait for their turn; further ones wait in the network."""

MAX_QUEUED_BYTES = 64 * 1024 * 1024
"""How many bytes they may have together; one request may always wait."""

MAX_QUEUED_REPLIES = 64
"""How many replies of one connection wait to be sent; further requests are not evaluated meanwhile."""

MAX_QUEUED_REPLY_BYTES = 512 * 1024
"""How many bytes they may have together; one reply, or one part of it if it comes in parts, may always wait."""

_HELLO_LIMIT = 4096  # bytes


@dataclass(frozen=True, slots=True)
class _Part:
    """A message to send, or a part of one; `last` says whether the message ends with it."""

    data: bytes | str
    last: bool


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
        self._requests = BoundedQueue[ServerRequest](MAX_QUEUED_REQUESTS, MAX_QUEUED_BYTES)
        self._replies = BoundedQueue[_Part](MAX_QUEUED_REPLIES, MAX_QUEUED_REPLY_BYTES)
        self._running: ServerRequest | None = None
        self._peer_waits = True
        self._stopping = trio.Event()
        self._scope = trio.CancelScope()
        self._engine_ended = trio.Event()
        self._engine_error: EngineError | None = None

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
                    self._requests.close()
                    self._replies.close()
                    if self._running is not None and (self._running.number is not None or self._stopping.is_set()):
                        self._session.cancel()
                    if error is not None:
                        logger.info("connection %d: %s", self.id, error)
                        await end(self._transport, error)
            if self._scope.cancelled_caught:
                logger.warning("connection %d: posts were left undone", self.id)
        except Exception:
            await self._transport.aclose(INTERNAL_ERROR, "internal error")
            raise
        finally:
            if self._running is not None:
                self._session.cancel()  # the engine is free at once, however long the peer takes to say goodbye
            await say_goodbye(self._transport)

    async def _talk(self) -> RayforceWSError | None:
        """Converse until the connection ends; returns the error it ended with."""
        try:
            await race(self._read, self._write, self._transport.run, self._close_when_asked, self._watch_engine)
        except RayforceWSError as error:
            return copy.copy(error)  # without its traceback, whose frames would hold it, and the message they were at
        return None

    async def _read(self) -> None:
        while True:
            message = await self._transport.receive()
            try:
                events = self._protocol.receive(message)
            except ProtocolViolation as error:
                raise ProtocolError(str(error)) from None
            del message
            for event in events:
                if isinstance(event, CancelRequested):
                    if event.request is self._running:
                        self._session.cancel()
                else:
                    await self._requests.put(event, len(event.frame))
                del event
            del events  # a request may be large, and the next message may be long in coming

    async def _work(self) -> None:
        """Evaluate until there are no more requests, or the engine is lost."""
        try:
            await race(self._evaluate_all, self._session.run)
        except EngineError as error:
            self._engine_error = copy.copy(error)  # without its traceback: see `_talk`
        finally:
            self._engine_ended.set()

    async def _evaluate_all(self) -> None:
        while (request := await self._requests.get()) is not None:
            if self._stopping.is_set():
                break
            self._running = request
            await self._evaluate(request)
            self._running = None
            del request  # it may be large, and the next one may be long in coming

    async def _evaluate(self, request: ServerRequest) -> None:
        if request.number is None:
            failure = request.failure or await self._session.post(request.frame)
            if failure is not None:
                logger.warning("connection %d: a post failed: %s", self.id, failure)
            return
        if not self._peer_waits:
            return
        reply: Reply
        if request.failure is not None:
            await trio.lowlevel.checkpoint()
            reply = request.failure
        else:
            reply = await self._session.request(request.frame)
        await self._pass_on(self._protocol.answer(request, reply))

    async def _pass_on(self, beginning: bytes | str) -> None:
        """Hand a reply to the writer, piece by piece if that is how the engine gives it."""
        part = _Part(beginning, last=not self._session.unread)
        await self._replies.put(part, len(part.data))  # if the peer is gone, the queue is closed, and drops it
        while not part.last:
            data = await self._session.receive_some()
            part = _Part(data, last=not self._session.unread)
            await self._replies.put(part, len(part.data))

    async def _write(self) -> None:
        whole = True
        while (part := await self._replies.get()) is not None:
            if whole and part.last:
                await self._transport.send(part.data)
            else:
                assert isinstance(part.data, bytes)
                await self._transport.send_part(part.data, last=part.last)
            whole = part.last
            del part

    async def _close_when_asked(self) -> None:
        await self._stopping.wait()
        await self._transport.aclose(GOING_AWAY, "the server is shutting down")

    async def _watch_engine(self) -> None:
        await self._engine_ended.wait()
        if self._engine_error is None:  # it ended because the connection does
            await trio.sleep_forever()
        else:
            raise self._engine_error
