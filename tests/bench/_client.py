"""A client in a process of its own: `python -m bench._client KIND`.

KIND is `trio` or `asyncio` for ours, `peer` for rayforce-py's `WSClient`, `native` for its `TCPClient`, and `raw` for a
blocking socket that speaks the native protocol and decodes nothing. Every command makes a connection of its own.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from statistics import median
from time import perf_counter
from typing import Any, Protocol, TypeAlias

import anyio
import numpy
import trio
from rayforce import Expression, Operation, Vector
from support.children import Cannot, Commander

from rayforce_trio import WSClient, WSClientConnection
from rayforce_trio._codec import encode
from rayforce_trio._protocol import HEADER_SIZE, MessageType, parse_header

from ._memory import PeakMemory

HOST = "127.0.0.1"
SMALL = "(+ 1 2)"
IN_FLIGHT = 1000
"""Requests that a client keeps on their way at once."""

_WARM_UP = 0.1  # of the time of a turn
_MEMORY_REPLIES = 3
_CHUNK = 65536


class Link(Protocol):
    """An open connection, whoever's."""

    async def execute(self, query: Any) -> Any:
        """Send one query and return its value."""

    async def flood(self, meter: "Meter") -> None:
        """Keep `IN_FLIGHT` small queries on their way until the meter has what it wants. Raises `Cannot`."""


Connect: TypeAlias = Callable[[int], AbstractAsyncContextManager[Link]]


class Meter:
    """Counts replies for some seconds, from when as many have come as there are requests in flight.

    Attributes:
        rate: replies a second, once it is over.
    """

    def __init__(self, seconds: float) -> None:
        self.rate = 0.0
        self.is_over = False
        self._seconds = seconds
        self._replies = 0
        self._begin: float | None = None

    def count(self, replies: int = 1) -> None:
        self._replies += replies
        if self.is_over or self._replies < IN_FLIGHT:
            return
        now = perf_counter()
        if self._begin is None:
            self._begin = now
            self._replies = IN_FLIGHT
        elif now >= self._begin + self._seconds:
            self.rate = (self._replies - IN_FLIGHT) / (now - self._begin)
            self.is_over = True


class Ours:
    """Our client, on either event loop; in flight are queries of as many tasks, each of which waits for its value."""

    def __init__(self, connection: WSClientConnection) -> None:
        self._connection = connection
        self.execute = connection.execute

    async def flood(self, meter: Meter) -> None:
        async def ask() -> None:
            while not meter.is_over:
                await self._connection.execute(SMALL)
                meter.count()

        async with anyio.create_task_group() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.start_soon(ask)


@asynccontextmanager
async def ours(port: int) -> AsyncIterator[Link]:
    async with WSClient(HOST, port).connect() as connection:
        yield Ours(connection)


class Peer:
    """rayforce-py's WebSocket client.

    Its `execute` fails if called twice at once; so what is in flight goes through the connection below it, undecoded.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, query: Any) -> Any:
        try:
            return await self._connection.execute(query)
        except Exception as error:
            if "1009" in str(error):  # WebSocket's code for a message that is too big
                raise Cannot("messages over 1 MiB") from None
            raise

    async def flood(self, meter: Meter) -> None:
        websocket = self._connection.ws
        request = encode(SMALL, MessageType.SYNC)
        for _ in range(IN_FLIGHT):
            await websocket.send(request)
        while not meter.is_over:
            await websocket.recv()
            await websocket.send(request)
            meter.count()
        for _ in range(IN_FLIGHT):
            await websocket.recv()


@asynccontextmanager
async def peer(port: int) -> AsyncIterator[Link]:
    from rayforce.network.websocket import WSClient as RayforceClient

    async with await RayforceClient(HOST, port).connect() as connection:
        yield Peer(connection)


class Native:
    """rayforce-py's client of the native protocol; it blocks."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def execute(self, query: Any) -> Any:
        return self._client.execute(query)

    async def flood(self, meter: Meter) -> None:  # noqa: ARG002 - as of the others
        raise Cannot("several requests in flight")


@asynccontextmanager
async def native(port: int) -> AsyncIterator[Link]:
    from rayforce.network.tcp import TCPClient

    with TCPClient(HOST, port) as client:
        yield Native(client)


class Raw:
    """A blocking socket that speaks the native protocol: what the network and the native server take by themselves."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._small = encode(SMALL, MessageType.SYNC)
        self._reply_size = 0

    async def execute(self, query: Any) -> Any:
        """Return the value of a small query, as an int; nothing else is asked here."""
        assert query == SMALL
        self._socket.sendall(self._small)
        if self._reply_size == 0:
            header = self._socket.recv(HEADER_SIZE, socket.MSG_PEEK | socket.MSG_WAITALL)
            self._reply_size = HEADER_SIZE + parse_header(header).size
        return int.from_bytes(self._socket.recv(self._reply_size, socket.MSG_WAITALL)[-8:], "little")

    async def flood(self, meter: Meter) -> None:
        self._socket.sendall(self._small * IN_FLIGHT)
        received = 0
        while not meter.is_over:
            received += len(self._socket.recv(_CHUNK))
            replies, received = divmod(received, self._reply_size)
            self._socket.sendall(self._small * replies)
            meter.count(replies)
        while received < IN_FLIGHT * self._reply_size:
            received += len(self._socket.recv(_CHUNK))


@asynccontextmanager
async def raw(port: int) -> AsyncIterator[Link]:
    with socket.create_connection((HOST, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"\x03\x00")
        connection.recv(2)
        yield Raw(connection)


def query_of(command: dict[str, Any]) -> Any:
    """Return the query that a command names: a text, or the count of so many integers, which go with it."""
    if "upload" in command:
        return Expression(Operation.COUNT, Vector.from_numpy(numpy.arange(command["upload"])))
    return command["query"]


async def check(link: Link, command: dict[str, Any]) -> None:
    """Ask once, and hold the answer against what it has to be: a number, or the length of a vector."""
    answer = await link.execute(query_of(command))
    found = len(answer) if isinstance(answer, Vector) else getattr(answer, "value", answer)
    if found != command["expected"]:
        raise ValueError(f"wrong answer: {str(answer)[:80]}")


async def ask(link: Link, command: dict[str, Any]) -> dict[str, float]:
    """Ask the same again and again, one at a time; the median time of a request, in seconds."""
    query = query_of(command)
    warm = perf_counter() + command["seconds"] * _WARM_UP
    await check(link, command)
    await repeat(link, query, warm)
    return {"time": median(await repeat(link, query, perf_counter() + command["seconds"], at_least=1))}


async def repeat(link: Link, query: Any, end: float, *, at_least: int = 0) -> list[float]:
    """Ask until `end`, by the clock, and so many times; returns how long each took, in seconds."""
    times: list[float] = []
    before = perf_counter()
    while before < end or len(times) < at_least:
        await link.execute(query)
        after = perf_counter()
        times.append(after - before)
        before = after
    return times


async def flood(link: Link, command: dict[str, Any]) -> dict[str, float]:
    """Keep many requests in flight; how many were answered a second."""
    await check(link, command)
    meter = Meter(command["seconds"])
    await link.flood(meter)
    return {"rate": meter.rate}


async def memory(link: Link, command: dict[str, Any]) -> dict[str, float]:
    """Get some replies; how much more memory this process and that of the server had at most than before, in bytes."""
    for _ in range(_MEMORY_REPLIES):
        await link.execute(SMALL)
    client, server = PeakMemory(), PeakMemory(command["server"])
    for _ in range(_MEMORY_REPLIES):
        await check(link, command)
    return {"client": client.growth(), "server": server.growth()}


async def open_connections(connect: Connect, command: dict[str, Any]) -> dict[str, float]:
    """Open and close one connection after the other.

    Returns:
        The median time of an opening, in seconds: TCP, WebSocket and greeting, until requests can be sent. Closing is
        not counted.
    """
    start = perf_counter()
    warm, end = start + command["seconds"] * _WARM_UP, start + command["seconds"] * (1 + _WARM_UP)
    times: list[float] = []
    while perf_counter() < end or not times:
        before = perf_counter()
        async with connect(command["port"]):
            after = perf_counter()
        if before >= warm:
            times.append(after - before)
    return {"time": median(times)}


COMMANDS = {"ask": ask, "flood": flood, "memory": memory}


async def obey(connect: Connect) -> None:
    """Do what the standard input says, until it ends."""
    commander = Commander()
    # Read in a thread: the loop is free meanwhile, as it is in a program.
    while (command := await anyio.to_thread.run_sync(commander.next)) is not None:
        try:
            if command["do"] == "open":
                answer = await open_connections(connect, command)
            else:
                async with connect(command["port"]) as link:
                    answer = await COMMANDS[command["do"]](link, command)
        except Exception as error:  # noqa: BLE001 - whatever went wrong is told
            commander.tell_failure(error)
        else:
            commander.tell(answer)


if __name__ == "__main__":
    match sys.argv[1]:
        case "trio":
            trio.run(obey, ours)
        case "asyncio":
            asyncio.run(obey(ours))
        case "peer":
            asyncio.run(obey(peer))
        case "native":
            asyncio.run(obey(native))
        case "raw":
            asyncio.run(obey(raw))
