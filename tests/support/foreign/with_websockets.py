"""The `websockets` library: its asyncio client and server, and its client without an event loop. In threads."""

import asyncio
import queue
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import anyio.to_thread
from anyio.from_thread import BlockingPortal, start_blocking_portal
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection as SyncConnection
from websockets.sync.client import connect as connect_sync
from websockets.typing import Origin, Subprotocol

from support.foreign.connection import Closed, ForeignServer, FrameConnection, Refused
from support.raw import SUBPROTOCOL

T = TypeVar("T")

_LIMIT = 30  # seconds for what a thread waits for, as nobody can cancel it

_in_thread = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)


def _closed(error: ConnectionClosed) -> Closed:
    return Closed(1006, "") if error.rcvd is None else Closed(error.rcvd.code, error.rcvd.reason)


def _subprotocols(subprotocol: str | None) -> list[Subprotocol] | None:
    return None if subprotocol is None else [Subprotocol(subprotocol)]


# asyncio


class _AsyncioConnection(FrameConnection):
    def __init__(self, portal: BlockingPortal, connection: ClientConnection | ServerConnection) -> None:
        self.subprotocol = connection.subprotocol
        self.extensions = ", ".join(extension.name for extension in connection.protocol.extensions)
        self._portal = portal
        self._connection = connection
        self._parts: asyncio.Queue[tuple[bytes, bool]] = asyncio.Queue()
        self._sending: asyncio.Task[None] | None = None

    async def send(self, message: bytes | str) -> None:
        await _call(self._portal, self._connection.send, message)

    async def send_part(self, part: bytes, *, last: bool) -> None:
        await _call(self._portal, self._send_part, part, last)

    async def _send_part(self, part: bytes, last: bool) -> None:
        if self._sending is None:
            self._sending = asyncio.create_task(self._connection.send(self._all_parts()))
        self._parts.put_nowait((part, last))
        await self._parts.join()
        if last:
            await self._sending
            self._sending = None

    async def _all_parts(self) -> AsyncIterator[bytes]:
        last = False
        while not last:
            part, last = await self._parts.get()
            yield part
            self._parts.task_done()

    async def receive(self) -> bytes | str:
        try:
            return await _call(self._portal, self._connection.recv)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def ping(self, payload: bytes) -> None:
        await _call(self._portal, self._ping, payload)

    async def _ping(self, payload: bytes) -> None:
        await (await self._connection.ping(payload))

    async def close(self, code: int, reason: str = "") -> None:
        await _call(self._portal, self._connection.close, code, reason)

    async def send_raw(self, data: bytes) -> None:
        await _call(self._portal, self._send_raw, data)

    async def _send_raw(self, data: bytes) -> None:
        self._connection.transport.write(data)


async def _call(portal: BlockingPortal, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    async def bounded() -> T:
        return await asyncio.wait_for(function(*arguments), _LIMIT)

    return await _in_thread(partial(portal.call, bounded))


@asynccontextmanager
async def dial_asyncio(
    port: int, *, subprotocol: str | None = SUBPROTOCOL, origin: str | None = None, max_size: int | None = None
) -> AsyncIterator[FrameConnection]:
    """Connect with the asyncio client: a `FrameDial`."""

    async def open_() -> ClientConnection:
        return await connect(
            f"ws://127.0.0.1:{port}",
            subprotocols=_subprotocols(subprotocol),
            origin=None if origin is None else Origin(origin),
            max_size=max_size,
            compression="deflate",
            ping_interval=None,
            proxy=None,
        )

    with start_blocking_portal("asyncio") as portal:
        try:
            connection = await _call(portal, open_)
        except InvalidStatus as error:
            raise Refused(error.response.status_code) from None
        except (OSError, InvalidHandshake) as error:
            raise Refused(None) from error
        try:
            yield _AsyncioConnection(portal, connection)
        finally:
            with anyio.CancelScope(shield=True):
                await _call(portal, connection.close)


class _AsyncioServer(ForeignServer):
    def __init__(self, portal: BlockingPortal) -> None:
        self._portal = portal
        self._connections: asyncio.Queue[ServerConnection] = asyncio.Queue()

    async def handle(self, connection: ServerConnection) -> None:
        self._connections.put_nowait(connection)
        await connection.wait_closed()

    async def accept(self) -> FrameConnection:
        return _AsyncioConnection(self._portal, await _call(self._portal, self._connections.get))


@asynccontextmanager
async def listen_asyncio(
    *, subprotocol: str | None = SUBPROTOCOL, max_size: int | None = None
) -> AsyncIterator[ForeignServer]:
    """Listen with the asyncio server: a `Listen`."""
    with start_blocking_portal("asyncio") as portal:
        server = _AsyncioServer(portal)

        async def open_() -> Server:
            return await serve(
                server.handle,
                "127.0.0.1",
                0,
                subprotocols=_subprotocols(subprotocol),
                max_size=max_size,
                compression="deflate",
                ping_interval=None,
            )

        async def close(listener: Server) -> None:
            listener.close()
            await listener.wait_closed()

        listener = await _call(portal, open_)
        [socket] = listener.sockets
        server.port = socket.getsockname()[1]
        try:
            yield server
        finally:
            with anyio.CancelScope(shield=True):
                await _call(portal, close, listener)


# Without an event loop


class _SyncConnection(FrameConnection):
    def __init__(self, connection: SyncConnection, threads: ThreadPoolExecutor) -> None:
        self.subprotocol = connection.subprotocol
        self.extensions = ", ".join(extension.name for extension in connection.protocol.extensions)
        self._connection = connection
        self._threads = threads
        self._parts: queue.Queue[tuple[bytes, bool]] = queue.Queue()
        self._sending: Future[None] | None = None

    async def send(self, message: bytes | str) -> None:
        await _in_thread(self._connection.send, message)

    async def send_part(self, part: bytes, *, last: bool) -> None:
        if self._sending is None:
            self._sending = self._threads.submit(self._connection.send, self._all_parts())
        self._parts.put((part, last))
        await _in_thread(self._parts.join)
        if last:
            await _in_thread(self._sending.result, _LIMIT)
            self._sending = None

    def _all_parts(self) -> Iterator[bytes]:
        last = False
        while not last:
            part, last = self._parts.get(timeout=_LIMIT)
            yield part
            self._parts.task_done()

    async def receive(self) -> bytes | str:
        try:
            return await _in_thread(self._connection.recv, _LIMIT)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def ping(self, payload: bytes) -> None:
        pong = await _in_thread(self._connection.ping, payload)
        assert await _in_thread(pong.wait, _LIMIT)

    def abandon(self) -> None:
        """Give up a message of which the end was not sent."""
        self._parts.put((b"", True))

    async def close(self, code: int, reason: str = "") -> None:
        await _in_thread(self._connection.close, code, reason)

    async def send_raw(self, data: bytes) -> None:
        await _in_thread(self._connection.socket.sendall, data)


@asynccontextmanager
async def dial_sync(
    port: int, *, subprotocol: str | None = SUBPROTOCOL, origin: str | None = None, max_size: int | None = None
) -> AsyncIterator[FrameConnection]:
    """Connect with the client that has no event loop: a `FrameDial`."""
    open_ = partial(
        connect_sync,
        f"ws://127.0.0.1:{port}",
        subprotocols=_subprotocols(subprotocol),
        origin=None if origin is None else Origin(origin),
        max_size=max_size,
        compression="deflate",
        ping_interval=None,
        proxy=None,
        legacy=True,
    )
    with ThreadPoolExecutor(1) as threads:
        try:
            connection = await _in_thread(open_)
        except InvalidStatus as error:
            raise Refused(error.response.status_code) from None
        except (OSError, InvalidHandshake) as error:
            raise Refused(None) from error
        made = _SyncConnection(connection, threads)
        try:
            yield made
        finally:
            made.abandon()
            with anyio.CancelScope(shield=True):
                await _in_thread(connection.close)
