"""A client in its own process: `python -m bench._client KIND`.

KIND is `trio`, `asyncio` or `uvloop` for our client on that event loop, `peer` for rayforce-py's `WSClient`, `native`
for its `TCPClient`, or `raw` for a blocking socket that speaks the native protocol and decodes nothing. The client
reads commands from its standard input. Each command opens its own connection.
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
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
"""Requests that a client keeps in flight."""

_OPENING_PAUSE = 0.005  # between two connections, in seconds
_WARM_UP = 0.1  # of the duration of a turn
_MEMORY_REPLIES = 3
_CHUNK = 65536


class Connection(Protocol):
    """An open connection of any contestant."""

    async def execute(self, query: Any) -> Any:
        """Send one query and return its value."""

    async def flood(self, meter: "RateMeter") -> None:
        """Keep `IN_FLIGHT` small queries in flight until the meter is done. Raises `Cannot`."""


Connect: TypeAlias = Callable[[int], AbstractAsyncContextManager[Connection]]
"""Opens a connection to a port of this machine."""


class RateMeter:
    """Measures the rate of replies. The measurement starts after the first `IN_FLIGHT` replies.

    Args:
        seconds: the duration of the measurement.

    Attributes:
        rate: replies per second, once the measurement is done.
        done: whether the measurement is done.
    """

    def __init__(self, seconds: float) -> None:
        self.rate = 0.0
        self.done = False
        self._seconds = seconds
        self._replies = 0
        self._start: float | None = None

    def count(self, replies: int = 1) -> None:
        """Count replies that have just arrived."""
        self._replies += replies
        if self.done or self._replies < IN_FLIGHT:
            return
        now = perf_counter()
        if self._start is None:
            self._start = now
            self._replies = IN_FLIGHT
        elif now >= self._start + self._seconds:
            self.rate = (self._replies - IN_FLIGHT) / (now - self._start)
            self.done = True


class Ours:
    """Our client, on either event loop. To keep queries in flight, it runs one task for each."""

    def __init__(self, connection: WSClientConnection) -> None:
        self._connection = connection
        self.execute = connection.execute

    async def flood(self, meter: RateMeter) -> None:
        async def request() -> None:
            while not meter.done:
                await self._connection.execute(SMALL)
                meter.count()

        async with anyio.create_task_group() as tasks:
            for _ in range(IN_FLIGHT):
                tasks.start_soon(request)


@asynccontextmanager
async def ours(port: int) -> AsyncIterator[Connection]:
    async with WSClient(HOST, port).connect() as connection:
        yield Ours(connection)


class Peer:
    """rayforce-py's WebSocket client.

    Two concurrent calls of its `execute` fail. Queries in flight therefore use the `websockets` connection below it,
    and their replies are not decoded.
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, query: Any) -> Any:
        try:
            return await self._connection.execute(query)
        except Exception as error:
            if "1009" in str(error):  # WebSocket's code for a message that is too big
                raise Cannot("no messages over 1 MiB") from None
            raise

    async def flood(self, meter: RateMeter) -> None:
        websocket = self._connection.ws
        request = encode(SMALL, MessageType.SYNC)
        for _ in range(IN_FLIGHT):
            await websocket.send(request)
        while not meter.done:
            await websocket.recv()
            await websocket.send(request)
            meter.count()
        for _ in range(IN_FLIGHT):
            await websocket.recv()


@asynccontextmanager
async def peer(port: int) -> AsyncIterator[Connection]:
    from rayforce.network.websocket import WSClient as RayforceClient

    async with await RayforceClient(HOST, port).connect() as connection:
        yield Peer(connection)


class Native:
    """rayforce-py's client of the native protocol. It blocks."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def execute(self, query: Any) -> Any:
        return self._client.execute(query)

    async def flood(self, meter: RateMeter) -> None:  # noqa: ARG002 - required by the protocol
        raise Cannot("one request at a time")


@asynccontextmanager
async def native(port: int) -> AsyncIterator[Connection]:
    from rayforce.network.tcp import TCPClient

    with TCPClient(HOST, port) as client:
        yield Native(client)


class Raw:
    """A blocking socket that speaks the native protocol: the cost of the network and the native server alone."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._small = encode(SMALL, MessageType.SYNC)
        self._reply_size = 0

    async def execute(self, query: Any) -> Any:
        """Return the value of the small query, as an int. Other queries are not supported."""
        assert query == SMALL
        self._socket.sendall(self._small)
        if self._reply_size == 0:
            header = self._socket.recv(HEADER_SIZE, socket.MSG_PEEK | socket.MSG_WAITALL)
            self._reply_size = HEADER_SIZE + parse_header(header).size
        return int.from_bytes(self._socket.recv(self._reply_size, socket.MSG_WAITALL)[-8:], "little")

    async def flood(self, meter: RateMeter) -> None:
        self._socket.sendall(self._small * IN_FLIGHT)
        received = 0
        while not meter.done:
            received += len(self._socket.recv(_CHUNK))
            replies, received = divmod(received, self._reply_size)
            self._socket.sendall(self._small * replies)
            meter.count(replies)
        while received < IN_FLIGHT * self._reply_size:
            received += len(self._socket.recv(_CHUNK))


@asynccontextmanager
async def raw(port: int) -> AsyncIterator[Connection]:
    with socket.create_connection((HOST, port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(b"\x03\x00")
        connection.recv(2)
        yield Raw(connection)


def query_of(command: dict[str, Any]) -> Any:
    """Return the query of a command: a text, or the count of a vector of integers that the query contains."""
    if "upload" in command:
        return Expression(Operation.COUNT, Vector.from_numpy(numpy.arange(command["upload"])))
    return command["query"]


async def check(connection: Connection, command: dict[str, Any]) -> None:
    """Execute the query once and compare its value, or the length of a vector, with the expected number."""
    value = await connection.execute(query_of(command))
    found = len(value) if isinstance(value, Vector) else getattr(value, "value", value)
    if found != command["expected"]:
        raise ValueError(f"wrong value: {str(value)[:80]}")


async def ask(connect: Connect, command: dict[str, Any]) -> dict[str, float]:
    """Execute a query repeatedly, one at a time.

    Returns:
        The median time of a request, in seconds.
    """
    async with connect(command["port"]) as connection:
        query = query_of(command)
        warm = perf_counter() + command["seconds"] * _WARM_UP
        await check(connection, command)
        await repeat(connection, query, warm)
        return {"time": median(await repeat(connection, query, perf_counter() + command["seconds"], at_least=1))}


async def repeat(connection: Connection, query: Any, end: float, *, at_least: int = 0) -> list[float]:
    """Execute a query until `end`, a time of `perf_counter`, and `at_least` times. Returns the seconds of each."""
    times: list[float] = []
    before = perf_counter()
    while before < end or len(times) < at_least:
        await connection.execute(query)
        after = perf_counter()
        times.append(after - before)
        before = after
    return times


async def open_connections(connect: Connect, command: dict[str, Any]) -> dict[str, float]:
    """Open connections, one at a time, and close each before the next.

    A pause follows each close, so that the server's share of it does not delay the next opening.

    Returns:
        The median time until a connection can be used, in seconds: TCP, WebSocket and greeting. The time to close it
        is not counted.
    """
    start = perf_counter()
    warm, end = start + command["seconds"] * _WARM_UP, start + command["seconds"] * (1 + _WARM_UP)
    times: list[float] = []
    while (before := perf_counter()) < end or not times:
        async with connect(command["port"]):
            after = perf_counter()
        if before >= warm:
            times.append(after - before)
        await anyio.sleep(_OPENING_PAUSE)
    return {"time": median(times)}


async def flood(connect: Connect, command: dict[str, Any]) -> dict[str, float]:
    """Keep many requests in flight. Returns the rate of replies per second."""
    async with connect(command["port"]) as connection:
        await check(connection, command)
        meter = RateMeter(command["seconds"])
        await connection.flood(meter)
        return {"rate": meter.rate}


async def memory(connect: Connect, command: dict[str, Any]) -> dict[str, float]:
    """Receive large replies. Returns how much the memory of the client and the server grew at most, in bytes."""
    async with connect(command["port"]) as connection:
        for _ in range(_MEMORY_REPLIES):
            await connection.execute(SMALL)
        client, server = PeakMemory(), PeakMemory(command["server"])
        for _ in range(_MEMORY_REPLIES):
            await check(connection, command)
        return {"client": client.growth(), "server": server.growth()}


async def publish(connect: Connect, command: dict[str, Any]) -> dict[str, list[float]]:
    """Publish updates with our client. Returns the result of `publish_updates`."""
    from ._publishing import TOPIC, VALUE, publish_updates  # it imports this module

    async with WSClient(HOST, command["port"]).connect() as connection:
        return await publish_updates(lambda: connection.publish(TOPIC, VALUE), command)


COMMANDS: dict[str, Callable[[Connect, dict[str, Any]], Awaitable[Mapping[str, Any]]]] = {
    "ask": ask,
    "open": open_connections,
    "flood": flood,
    "memory": memory,
    "publish": publish,
}


async def run_commands(connect: Connect) -> None:
    """Run the commands of the standard input until it ends."""
    commander = Commander()
    # A thread reads the command, so the event loop is free, as in a program that uses a client.
    while (command := await anyio.to_thread.run_sync(commander.next)) is not None:
        try:
            answer = await COMMANDS[command["do"]](connect, command)
        except Exception as error:  # noqa: BLE001 - the parent process reports the error
            commander.tell_failure(error)
        else:
            commander.tell(answer)


if __name__ == "__main__":
    match sys.argv[1]:
        case "trio":
            trio.run(run_commands, ours)
        case "asyncio":
            asyncio.run(run_commands(ours))
        case "uvloop":
            import uvloop

            uvloop.run(run_commands(ours))
        case "peer":
            asyncio.run(run_commands(peer))
        case "native":
            asyncio.run(run_commands(native))
        case "raw":
            asyncio.run(run_commands(raw))
