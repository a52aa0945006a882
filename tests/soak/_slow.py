"""The response times of healthy clients beside slow ones.

A third of the slow ones send their opening request line by line, a third send a query byte by byte, a third read a
large reply in small pieces. A slow client that is disconnected comes again.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from math import ceil
from time import perf_counter

import trio
from support.children import Child
from support.raw import RawPeer, connect_raw, frame, open_raw, upgrade

from rayforce_trio import WSClient
from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType

_PACE = 0.5  # seconds between two pieces of a slow client
HEALTHY = 10
_PAUSE = 0.02  # seconds between an answer to a healthy client and its next question
_WARM_UP = 3.0  # seconds
_QUERY = frame(encode("(til 100000)", MessageType.SYNC))

Slow = Callable[[int], Awaitable[None]]


async def open_slowly(port: int) -> None:
    """Send an opening request that has no end."""
    with connect_raw(port) as peer:
        await peer.send(upgrade().removesuffix(b"\r\n"))
        while not peer.ended and await _pace(peer):
            await peer.send(b"X-More: yes\r\n")


async def send_slowly(port: int) -> None:
    """Send a query byte by byte."""
    with await open_raw(port) as peer:
        for at in range(len(_QUERY)):
            if not await _pace(peer):
                return
            await peer.send(_QUERY[at : at + 1])


async def read_slowly(port: int) -> None:
    """Request some megabytes, and read them in pieces of a kilobyte."""
    with await open_raw(port) as peer:
        await peer.send(_QUERY * 5)
        while True:
            await trio.sleep(_PACE)
            try:
                if not peer.socket.recv(1024):
                    return
            except BlockingIOError:
                pass


async def _pace(peer: RawPeer) -> bool:
    """Wait a while; return whether the connection is still open."""
    await trio.sleep(_PACE)
    try:
        return peer.socket.recv(1024) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


SLOW: tuple[Slow, ...] = (open_slowly, send_slowly, read_slowly)


async def again_and_again(slow: Slow, port: int) -> None:
    while True:
        with suppress(OSError):
            await slow(port)
        await trio.sleep(_PACE)


async def ask(port: int, times: list[float]) -> None:
    async with WSClient("127.0.0.1", port).connect() as connection:
        while True:
            before = perf_counter()
            assert await connection.execute("(+ 1 2)") == 3
            times.append(perf_counter() - before)
            await trio.sleep(_PAUSE)


async def measure(engine: str, slow_clients: int, seconds: float) -> float:
    """Return the 99th percentile of the times of healthy clients, in seconds."""
    server = Child("soak._server", engine)
    times: list[float] = []
    try:
        port: int = server.answer(60)["port"]
        async with trio.open_nursery() as nursery:
            for number in range(slow_clients):
                nursery.start_soon(again_and_again, SLOW[number % len(SLOW)], port)
            for _ in range(HEALTHY):
                nursery.start_soon(ask, port, times)
            await trio.sleep(_WARM_UP)
            times.clear()
            await trio.sleep(seconds)
            nursery.cancel_scope.cancel()
        return sorted(times)[ceil(len(times) * 0.99) - 1]
    finally:
        server.stop()
