"""A TCP proxy that freezes and cuts connections, on either event loop."""

import math
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Protocol, TypeVar

import anyio
from anyio.abc import SocketAttribute, SocketStream

_PIECE = 64 * 1024


class Lane:
    """One direction of the proxied connections.

    Attributes:
        passed: the number of bytes that went through.
    """

    def __init__(self) -> None:
        self.passed = 0
        self._allowed: float = math.inf
        self._changed = anyio.Event()

    def freeze(self, after: int = 0) -> None:
        """Let `after` more bytes through, and then none."""
        self._allowed = self.passed + after
        self._change()

    def thaw(self) -> None:
        """Let everything through again."""
        self._allowed = math.inf
        self._change()

    async def frozen(self) -> None:
        """Wait until the lane has reached its limit."""
        while self.passed < self._allowed:
            await self._changed.wait()

    def _change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def pump(self, source: SocketStream, sink: SocketStream) -> None:
        while True:
            try:
                data = await source.receive(_PIECE)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                break
            while data:
                while (room := self._allowed - self.passed) <= 0:
                    await self._changed.wait()
                piece, data = data[: int(min(room, _PIECE))], data[int(min(room, _PIECE)) :]
                try:
                    await sink.send(piece)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
                self.passed += len(piece)
                self._change()
        with suppress(OSError, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await sink.send_eof()


class Proxy:
    """Attributes: `port` to connect to; `to_server` and `to_client`, the lanes."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.to_server = Lane()
        self.to_client = Lane()
        self._clients: set[SocketStream] = set()

    def freeze(self) -> None:
        """Let nothing through any more, in either direction; the sockets stay open."""
        self.to_server.freeze()
        self.to_client.freeze()

    async def reset(self) -> None:
        """Reset the clients' connections."""
        for client in set(self._clients):
            raw = client.extra(SocketAttribute.raw_socket)
            with suppress(OSError):  # it may be closed already
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await anyio.aclose_forcefully(client)

    async def handle(self, client: SocketStream, target: int) -> None:
        async with client, await anyio.connect_tcp("127.0.0.1", target) as server:
            self._clients.add(client)
            try:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self.to_server.pump, client, server)
                    await self.to_client.pump(server, client)
                    tasks.cancel_scope.cancel()
            finally:
                self._clients.discard(client)


class Between(Protocol):
    """A program between clients and a server."""

    async def handle(self, client: SocketStream, target: int) -> None:
        """Serve one client of the server at the port `target`."""


T = TypeVar("T", bound=Between)


@asynccontextmanager
async def between(make: Callable[[int], T], target: int) -> AsyncIterator[T]:
    """Listen on a free port of this machine, for a server at the port `target`; `make` gets the port."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    made = make(listener.extra(SocketAttribute.local_port))

    async def handle(client: SocketStream) -> None:
        await made.handle(client, target)

    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handle)
        yield made
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def proxy(target: int) -> AsyncIterator[Proxy]:
    """Run a proxy to a port of this machine."""
    async with between(Proxy, target) as made:
        yield made
