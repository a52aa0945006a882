"""Peers that send but read nothing: the bytes that wait to be sent to them are bounded. With real sockets."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
import trio
import trio.testing
from support.connected import exchange_of
from support.probed_server import COMPRESSED, QUERY, with_header
from support.raw import PING, TEXT, RawPeer, frame, open_raw
from support.scripted_server import connected
from support.streams import EVENT_LOOPS, tcp_pair, tls_pair
from support.websockets import websocket

from rayforce_trio import WSServer
from rayforce_trio._codec import encode
from rayforce_trio._protocol import SUBPROTOCOL, MessageType, dump_cancel, string_frame
from rayforce_trio._protocol._client import MAX_IN_FLIGHT
from rayforce_trio._protocol._pipeline import MAX_WAITING_BYTES, MAX_WAITING_POSTS, REQUEST_OVERHEAD
from rayforce_trio._streams import ByteStream, TlsStream
from rayforce_trio._transports import Transport
from rayforce_trio._transports._websocket import WebSocketTransport
from rayforce_trio._websocket._connection import MAX_BUFFERED, MAX_PONGS, MAX_SENT_AT_ONCE

TIMEOUT = 30  # seconds
PINGS = 120  # thousands of pings, whose pongs are longer than the network's buffers
PONG_SIZE = 125 + 2 + 4  # bytes; the longest
MOST = MAX_BUFFERED + 2 * MAX_PONGS * PONG_SIZE  # bytes that wait to be sent; messages come in addition
ENCRYPTED = 128 * 1024  # bytes that wait, besides, in TLS

Pair = Callable[[], Awaitable[tuple[ByteStream, ByteStream]]]


def waiting(transport: Transport) -> int:
    """Return how many bytes wait until the network takes them."""
    assert isinstance(transport, WebSocketTransport)
    connection, stream = transport._connection, transport._stream
    size = len(connection._outgoing) + len(connection._piece) + sum(len(pong) for pong in connection._due_pongs)
    if isinstance(stream, TlsStream):
        size += len(stream._unsent) + stream._outgoing.pending
    return size


class Watch:
    """Records the highest number of bytes that wait to be sent, measured in every round of the event loop."""

    def __init__(self, transport: Transport) -> None:
        self.most = 0
        self._transport = transport

    async def run(self) -> None:
        while True:
            self.most = max(self.most, waiting(self._transport))
            await anyio.lowlevel.checkpoint()


@asynccontextmanager
async def watched(transport: Transport) -> AsyncIterator[Watch]:
    async with anyio.create_task_group() as tasks:
        watch = Watch(transport)
        tasks.start_soon(watch.run)
        yield watch
        tasks.cancel_scope.cancel()


# Pongs


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", EVENT_LOOPS)
@pytest.mark.parametrize("pair", [tcp_pair, tls_pair])
@pytest.mark.parametrize("client", [True, False], ids=["client", "server"])
async def test_pongs_do_not_pile_up(pair: Pair, client: bool) -> None:
    one, other = await pair()
    transport = websocket(one, client=client)
    pings = frame(bytes(125), PING, masked=not client) * 1000

    async def flood() -> None:
        for _ in range(PINGS):
            await other.send_all(pings)
        await other.send_all(frame(b"done", masked=not client))

    with anyio.fail_after(TIMEOUT):
        async with one, other, watched(transport) as watch, anyio.create_task_group() as tasks:
            tasks.start_soon(transport.run)
            tasks.start_soon(flood)
            assert await transport.receive() == b"done"
            assert waiting(transport)  # the network takes no more
            tasks.cancel_scope.cancel()
    assert watch.most < MOST + ENCRYPTED


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", EVENT_LOOPS)
async def test_pongs_of_a_client_do_not_pile_up() -> None:
    checked = anyio.Event()

    async def play(peer: RawPeer) -> None:
        await peer.receive_frame()
        for _ in range(PINGS):
            await peer.send(frame(bytes(125), PING, masked=False) * 1000)
        await peer.send_frame(string_frame("reply"))
        await checked.wait()

    async with connected(play) as connection:
        transport = exchange_of(connection)._transport
        async with watched(transport) as watch:
            assert (await connection.execute("(+ 1 2)")).value == "reply"
        assert waiting(transport)
        assert watch.most < MOST
        checked.set()


# What the calls of a client leave behind


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", EVENT_LOOPS)
async def test_cancels_of_a_client_do_not_pile_up() -> None:
    checked = anyio.Event()

    async def play(_: RawPeer) -> None:
        await checked.wait()

    query = "1" * 100_000
    async with connected(play) as connection:
        exchange = exchange_of(connection)
        for _ in range(20):
            async with anyio.create_task_group() as tasks:
                for _ in range(100):
                    tasks.start_soon(connection.execute, query)
                await anyio.wait_all_tasks_blocked()
                tasks.cancel_scope.cancel()
        await anyio.wait_all_tasks_blocked()
        protocol = exchange._protocol
        assert exchange._unsent is not None  # the network takes no more
        assert not protocol._queued
        assert len(protocol._unanswered) <= MAX_IN_FLIGHT
        assert len(protocol._controls) <= MAX_IN_FLIGHT
        assert not exchange._waiters
        assert waiting(exchange._transport) < MOST + len(query) + 1000
        checked.set()


# Answers of a server


def requests(query: str, count: int) -> bytes:
    return frame(encode(query, MessageType.SYNC)) * count


def cancelled_requests(count: int) -> bytes:
    """Requests, each with a cancel behind it. Those that wait are answered with an error."""
    cancels = (frame(dump_cancel(number).encode(), TEXT) for number in range(1, count + 1))
    return b"".join(frame(QUERY) + cancel for cancel in cancels)


FLOODS: dict[str, tuple[str | None, bytes]] = {
    "pings": (SUBPROTOCOL, frame(bytes(125), PING) * 1000 * PINGS),
    "requests": (SUBPROTOCOL, frame(QUERY) * 400_000),
    "requests for long values": (SUBPROTOCOL, requests("(til 100000)", 5000)),
    "requests that fail": (SUBPROTOCOL, requests("(undefined)", 200_000)),
    "compressed requests": (SUBPROTOCOL, frame(with_header(COMPRESSED)) * 200_000),
    "cancelled requests": (SUBPROTOCOL, cancelled_requests(100_000)),
    "texts without the extended protocol": (None, frame(b"{}", TEXT) * 200_000),
    "empty messages without the extended protocol": (None, frame(b"") * 200_000),
}


@pytest.mark.trio
@pytest.mark.parametrize("max_in_flight", [10, 1024])
@pytest.mark.parametrize("kind", FLOODS)
async def test_answers_do_not_pile_up(kind: str, max_in_flight: int) -> None:
    """Neither answers of the engine, nor errors for invalid, refused and cancelled requests."""
    subprotocol, data = FLOODS[kind]
    options: dict[str, Any] = {"port": 0, "host": "127.0.0.1", "max_in_flight": max_in_flight}
    with trio.fail_after(TIMEOUT):
        async with WSServer(**options) as server, trio.open_nursery() as nursery:
            peer = await open_raw(server.port, subprotocol=subprotocol)
            (connection,) = server._handler._connections
            pipeline = connection._pipeline
            async with watched(connection._transport) as watch:
                nursery.start_soon(peer.send, data)
                while not (waiting(connection._transport) or pipeline.message):
                    await trio.lowlevel.checkpoint()
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert waiting(connection._transport) or pipeline.message  # the network takes no more
            assert pipeline._posts <= MAX_WAITING_POSTS + 1
            assert pipeline.queued_bytes <= MAX_WAITING_BYTES + 2 * REQUEST_OVERHEAD
            assert max(watch.most, waiting(connection._transport)) < MOST + MAX_SENT_AT_ONCE
            peer.reset()
            nursery.cancel_scope.cancel()
