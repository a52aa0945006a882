"""`WSClient` and `WSClientConnection`: written once, against anyio, for trio and asyncio."""

import copy
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from types import TracebackType
from typing import Any, Literal, Protocol

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from ._codec import decode, encode
from ._protocol import (
    HELLO,
    SUBPROTOCOL,
    ClientProtocol,
    ClientRequest,
    MessageType,
    ProtocolViolation,
    Reply,
    check_hello_reply,
)
from ._transports import (
    NORMAL_CLOSURE,
    KeepAlive,
    Transport,
    authority_of,
    check_host,
    check_port,
    check_size,
    closed_by_us,
    connect,
    end,
    race,
    say_goodbye,
    start_detached,
    ungrouped,
)
from .errors import HandshakeError, ProtocolError, RayforceValueError, RayforceWSError

logger = logging.getLogger("rayforce_trio.client")

OPEN_TIMEOUT = 5.0
"""Bound on opening a connection, the name look-up and the handshakes included; in seconds."""

DEFAULT_MAX_MESSAGE_SIZE = 1024**3


class Nursery(Protocol):
    """A `trio.Nursery` or an `anyio.abc.TaskGroup`: whatever starts tasks in a scope of the caller's."""

    def start_soon(self, async_fn: Callable[[], Coroutine[Any, Any, None]], /) -> Any: ...


class WSClient:
    """A client for a Rayforce WebSocket server, on trio and on asyncio (there with the extra `asyncio` installed).

    Args:
        host: the server's name or address.
        port: its port, 1-65535; `None` means 80.
        max_message_size: the longest message accepted from the server, in bytes. Default: 1 GiB.
        ping_interval: seconds of silence after which the server is pinged; `None`: never. Default: 60.
        ping_timeout: seconds it then has before the connection counts as lost; `None`: for ever. Default: 30.

    Raises:
        RayforceValueError: an argument is out of range.
    """

    def __init__(
        self,
        host: str,
        port: int | None = None,
        *,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        ping_interval: float | None = 60.0,
        ping_timeout: float | None = 30.0,
    ) -> None:
        check_host(host)
        if port is not None:
            check_port(port, lowest=1)
        check_size(max_message_size)
        self._host = host
        self._port = port
        self._max_message_size = max_message_size
        self._keepalive = KeepAlive(ping_interval, ping_timeout)
        self.uri = f"ws://{authority_of(host, port)}"
        """Where this client connects to, as in its repr."""

    def connect(self, nursery: Nursery | None = None) -> "PendingConnection":
        """Connect to the server, within 5 seconds. Await what this returns, or enter it with `async with`.

        It is no coroutine, and each use of it makes a connection of its own.

        - `async with client.connect() as connection:` The connection's tasks live in the block. The form to prefer.
        - `connection = await client.connect(nursery)` They live in a nursery (trio) or task group (anyio) of yours.
        - `connection = await client.connect()` They live until `close()`, the connection's loss or the end of the run.

        Awaiting or entering is a checkpoint; if cancelled, no connection is left open.

        Args:
            nursery: what starts the connection's tasks; it has to be open as long as the connection is used.

        Raises:
            ConnectError: nobody answers there.
            ConnectionRejected: the server refused.
            HandshakeError: what answers is no Rayforce WebSocket server, or it took longer than 5 seconds.
            RayforceWSError: the running event loop is not supported, or lacks the library that the error names.
        """
        if nursery is not None and not hasattr(nursery, "start_soon"):
            raise RayforceValueError(f"Invalid nursery: {nursery!r}. Must be a trio.Nursery or an anyio TaskGroup")
        return PendingConnection(self._open, nursery)

    async def _open(self) -> "WSClientConnection":
        with anyio.move_on_after(OPEN_TIMEOUT):
            transport = await connect(
                self._host,
                80 if self._port is None else self._port,
                subprotocols=[SUBPROTOCOL],
                max_message_size=self._max_message_size,
                keepalive=self._keepalive,
            )
            try:
                await transport.send(HELLO)
                check_hello_reply(await transport.receive())
            except ProtocolViolation as error:
                transport.abort()
                raise HandshakeError(f"what answers at {self.uri} is not a Rayforce server: {error}") from None
            except RayforceWSError as error:
                transport.abort()
                raise HandshakeError(f"the handshake with {self.uri} failed: {error}") from error
            except BaseException:
                transport.abort()
                raise
            return WSClientConnection(transport)
        raise HandshakeError(f"connecting to {self.uri} took longer than {OPEN_TIMEOUT:g} seconds")

    def __repr__(self) -> str:
        return f"WSClient({self.uri})"


class PendingConnection:
    """What `WSClient.connect` returns: to be awaited or to be entered. Each time makes a connection of its own."""

    def __init__(self, open_: Callable[[], Awaitable["WSClientConnection"]], nursery: Nursery | None) -> None:
        self._open = open_
        self._nursery = nursery
        self._connection: WSClientConnection | None = None
        self._task_group: TaskGroup | None = None

    def __await__(self) -> Generator[Any, Any, "WSClientConnection"]:
        return self._start().__await__()

    async def _start(self) -> "WSClientConnection":
        connection = await self._open()
        try:
            if self._nursery is None:
                start_detached(connection._run, connection._abandon)
            else:
                self._nursery.start_soon(connection._run)
        except BaseException:
            connection._abandon()
            raise
        return connection

    async def __aenter__(self) -> "WSClientConnection":
        if self._nursery is not None:
            self._connection = await self._start()
            return self._connection
        connection = self._connection = await self._open()
        try:
            self._task_group = await anyio.create_task_group().__aenter__()
        except BaseException:
            connection._abandon()
            raise
        self._task_group.start_soon(connection._run)
        return connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._connection is not None
        if self._task_group is None:
            await self._connection.close()
        else:
            self._connection._close(closed_by_us())
            # Not told of `exc`, which would come back wrapped in a group; Python raises it again by itself.
            with ungrouped():
                await self._task_group.__aexit__(None, None, None)


class WSClientConnection:
    """A connection to a Rayforce WebSocket server, made by `WSClient.connect`.

    Any number of tasks may use it at once: requests are pipelined, and every one gets its own reply.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._protocol = ClientProtocol(extended=transport.subprotocol == SUBPROTOCOL)
        self._waiters: dict[ClientRequest, _Waiter] = {}
        self._outgoing = anyio.Event()
        self._closing = anyio.Event()
        self._ended = anyio.Event()
        self._reason: RayforceWSError | None = None

    @property
    def closed(self) -> Literal[False] | RayforceWSError:
        """`False` while the connection can be used, afterwards the error that says why it cannot."""
        return self._reason or False

    async def execute(self, query: Any) -> Any:
        """Evaluate a query on the server and return its value.

        A checkpoint. If cancelled, the call ends at once, and the connection stays usable: a query that was not sent
        yet never is; one that was is cancelled on the server, where it does not start any more, and its reply is
        discarded. An evaluation that began runs to its end there, without this call waiting for it.

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
        request, waiter = await self._submit(query, MessageType.SYNC)
        reply = await self._wait(request, waiter)
        assert reply is not None
        return decode(reply)

    async def post(self, query: Any) -> None:
        """Send a query whose result nobody wants; an error in it appears in the server's log only.

        Returns when the query was handed to the network. A checkpoint; if cancelled before that, the query is not sent,
        unless it was partly sent already.

        Args:
            query: as for `execute`.

        Raises:
            RayforceError: as for `execute`, the evaluation's errors aside.
        """
        request, waiter = await self._submit(query, MessageType.ASYNC)
        await self._wait(request, waiter)

    async def close(self) -> None:
        """Close the connection, within 10 seconds; calls that still wait raise `ConnectionClosed`. Idempotent.

        A checkpoint. If cancelled, the connection is closed all the same, and within the same time.
        """
        self._close(closed_by_us())
        await self._ended.wait()

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

    async def _submit(self, query: Any, message_type: MessageType) -> "tuple[ClientRequest, _Waiter]":
        if self._reason is not None:
            raise self._why_closed()
        frame = encode(query, message_type)
        await anyio.lowlevel.checkpoint_if_cancelled()
        submit = self._protocol.submit if message_type is MessageType.SYNC else self._protocol.post
        request = submit(frame)
        waiter = self._waiters[request] = _Waiter()
        self._outgoing.set()
        return request, waiter

    async def _wait(self, request: ClientRequest, waiter: "_Waiter") -> Reply | None:
        try:
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
            self._outgoing.set()  # there may be room for more now
            if received is not None:
                self._waiters.pop(received.request).resolve(received.reply)
            del message, received  # they may be large, and the next ones may be long in coming

    async def _write(self) -> None:
        while True:
            while (outgoing := self._protocol.next_outgoing()) is not None:
                await self._transport.send(outgoing.message)
                request = outgoing.request
                if request is not None and request.is_post and request in self._waiters:
                    self._waiters.pop(request).resolve(None)
            self._outgoing = anyio.Event()
            await self._outgoing.wait()

    async def _close_when_asked(self) -> None:
        await self._closing.wait()
        await self._transport.aclose(NORMAL_CLOSURE)

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


class _Waiter:
    """Where a call waits: for the reply of its request, or for its post to be sent."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.reply: Reply | None = None
        self.failed = False

    def resolve(self, reply: Reply | None) -> None:
        self.reply = reply
        self.done.set()

    def fail(self) -> None:
        self.failed = True
        self.done.set()
