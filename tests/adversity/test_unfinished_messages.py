"""Peers that send all but the end of a long message: its memory is freed when the connection ends, without a collector.

A reference cycle would keep it until Python's cyclic garbage collector runs, which depends on the number of objects,
not on their size.
"""

import gc
import socket
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest
import trio
from support.certificates import client_context, local_certificates, server_context
from support.engines import GateEngine
from support.memory import garbage, long_buffers
from support.polling import until
from support.probed_server import BIG_QUERY, OTHER_QUERY, QUERY, probed_server
from support.raw import CONTINUATION, HELLO, TEXT, RawPeer, accept_raw, frame, open_raw, raw_server, upgrade

from rayforce_trio import WSClient, WSServer, errors
from rayforce_trio._engines._reply_spool import ReplySpool
from rayforce_trio._protocol import HEADER_SIZE, RequestPipeline
from rayforce_trio._server._connection import WSServerConnection
from rayforce_trio._tasks import in_trio
from rayforce_trio._transports._websocket import WebSocketTransport
from rayforce_trio._websocket import WebSocketConnection
from rayforce_trio._websocket._reader import FrameReader

SIZE = 24 * 1024 * 1024
MISSING = 1024 * 1024
UNFINISHED = frame(bytes(SIZE - MISSING), size=SIZE)
UNFINISHED_FRAGMENTS = frame(bytes(SIZE // 2), fin=False) + frame(bytes(SIZE // 4), CONTINUATION, fin=False)
HOLDERS = (WebSocketTransport, WebSocketConnection, FrameReader, WSServerConnection, RequestPipeline, ReplySpool)
"""The classes whose objects refer to messages."""

LONG_REQUEST = QUERY[: HEADER_SIZE - 8] + struct.pack("<q", SIZE - HEADER_SIZE) + bytes(SIZE - HEADER_SIZE)


@pytest.fixture(autouse=True)
def _no_garbage_collection() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def until_received(count: int = 1) -> None:
    """Wait until the server holds `count` long messages, finished or not."""
    await until(lambda: len(set(map(id, long_buffers()))) >= count)


def assert_all_is_free() -> None:
    assert long_buffers() == []
    if in_trio():  # a task that anyio cancels on asyncio leaves a cycle
        assert garbage(*HOLDERS) == []


async def fin(peer: RawPeer) -> None:
    peer.close()


async def reset(peer: RawPeer) -> None:
    peer.reset()


async def half_close(peer: RawPeer) -> None:
    peer.half_close()
    await peer.receive_rest()


async def violation(peer: RawPeer) -> None:
    await peer.send(frame(b"a new message within the other one"))
    assert await peer.receive_close() == 1002


async def too_much(peer: RawPeer) -> None:
    await peer.send(frame(b"", CONTINUATION, size=64 * 1024 * 1024))
    assert await peer.receive_close() == 1009


async def silence(peer: RawPeer) -> None:
    await peer.receive_rest()


End = Callable[[RawPeer], Awaitable[None]]


@pytest.mark.trio
@pytest.mark.usefixtures("short_close")
@pytest.mark.parametrize("end", [fin, reset, half_close, silence])
async def test_an_unfinished_frame_is_free_when_the_connection_ends(end: End) -> None:
    async with probed_server(ping_interval=0.5, ping_timeout=0.5) as server:
        peer = await server.open()
        await peer.send(UNFINISHED)
        await until_received()
        await end(peer)
        await server.closes_every_peer()
        assert_all_is_free()


@pytest.mark.trio
@pytest.mark.usefixtures("short_close")
@pytest.mark.parametrize("end", [fin, reset, half_close, silence, violation, too_much])
async def test_unfinished_fragments_are_free_when_the_connection_ends(end: End) -> None:
    async with probed_server(ping_interval=0.5, ping_timeout=0.5) as server:
        peer = await server.open()
        await peer.send(UNFINISHED_FRAGMENTS)
        await until_received()
        await end(peer)
        if end in (violation, too_much):
            assert long_buffers() == []  # before the peer answers the close
            peer.close()
        await server.closes_every_peer()
        assert_all_is_free()


@pytest.mark.trio
async def test_an_unfinished_message_is_free_when_the_server_stops() -> None:
    async with WSServer(0, host="127.0.0.1") as server:
        with await open_raw(server.port) as peer:
            await peer.send(UNFINISHED)
            await until_received()
            with trio.fail_after(5):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.stop, 0)
                    await trio.testing.wait_all_tasks_blocked()
                    peer.close()
    assert_all_is_free()


@pytest.mark.trio
async def test_an_unfinished_message_is_free_when_the_server_is_cancelled() -> None:
    async with trio.open_nursery() as nursery:
        server: WSServer = await nursery.start(WSServer(0, host="127.0.0.1").serve)
        with await open_raw(server.port) as peer:
            await peer.send(UNFINISHED)
            await until_received()
            nursery.cancel_scope.cancel()
            peer.close()
    assert_all_is_free()


@pytest.mark.trio
@pytest.mark.parametrize("end", ["fin", "reset", "damaged record"])
async def test_an_unfinished_message_over_tls_is_free_when_the_connection_ends(end: str) -> None:
    def attack() -> None:
        context = client_context(local_certificates())
        with context.wrap_socket(
            socket.create_connection(("localhost", server.port)), server_hostname="localhost"
        ) as s:
            s.sendall(upgrade({"Sec-WebSocket-Protocol": "rayforce.v1"}))
            assert s.recv(65536).startswith(b"HTTP/1.1 101 ")
            s.sendall(frame(HELLO) + UNFINISHED)
            plain = socket.socket(fileno=s.detach())
        trio.from_thread.run(until_received)
        with plain:
            if end == "damaged record":
                plain.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
                with suppress(OSError):
                    while plain.recv(65536):
                        pass
            elif end == "reset":
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    directory = local_certificates()
    async with probed_server(client_context(directory), ssl_context=server_context(directory)) as server:
        await trio.to_thread.run_sync(attack)
        await server.closes_every_peer()
        assert_all_is_free()


@pytest.mark.trio
async def test_an_unfinished_message_before_the_greeting_is_refused() -> None:
    async with probed_server() as server:
        peer = await server.open(hello=False)
        await peer.send(UNFINISHED[:100_000])
        assert await peer.receive_close() == 1009
        peer.close()
        await server.closes_every_peer()
        assert_all_is_free()


# Whole messages


@pytest.mark.trio
@pytest.mark.parametrize("end", [fin, reset])
@pytest.mark.parametrize("stoppable", [True, False])
async def test_waiting_requests_are_free_when_their_client_leaves(end: End, stoppable: bool) -> None:
    """The first one is being evaluated. An engine that cannot stop may keep that one, but not the others."""
    engine = GateEngine(stoppable=stoppable)
    async with WSServer(0, host="127.0.0.1", engine=engine) as server:
        peer = await open_raw(server.port)
        await peer.send(frame(OTHER_QUERY) + frame(LONG_REQUEST) * 2)
        await engine.until(begun=1)
        await until_received(2)
        await end(peer)
        await engine.until(cancels=1)
        assert long_buffers() == []
        engine.release()
        await engine.until(sessions=0)
    assert_all_is_free()


@pytest.mark.trio
async def test_a_long_request_that_is_evaluated_is_free_when_its_connection_ends() -> None:
    engine = GateEngine()
    async with WSServer(0, host="127.0.0.1", engine=engine) as server:
        peer = await open_raw(server.port)
        await peer.send(frame(LONG_REQUEST))
        await engine.until(begun=1)
        engine.begun.clear()
        peer.reset()
        await engine.until(sessions=0)
    assert_all_is_free()


@pytest.mark.trio
async def test_a_long_request_is_free_when_the_server_is_cancelled_during_its_evaluation() -> None:
    engine = GateEngine(stoppable=False)
    async with trio.open_nursery() as nursery:
        server: WSServer = await nursery.start(WSServer(0, host="127.0.0.1", engine=engine).serve)
        with await open_raw(server.port) as peer:
            await peer.send(frame(LONG_REQUEST) * 2)
            await engine.until(begun=1)
            engine.begun.clear()
            await until_received(2)
            nursery.cancel_scope.cancel()
    assert_all_is_free()


# Replies


@pytest.mark.trio
@pytest.mark.usefixtures("each_engine")
@pytest.mark.parametrize("end", [fin, reset])
async def test_nothing_keeps_a_reply_that_was_sent_in_part(end: End) -> None:
    async with probed_server() as server:
        peer = await server.open(receive_buffer=4096)
        await peer.send(frame(BIG_QUERY) * 2)
        assert (await peer.receive_frame())[0] == 2
        await end(peer)
        await server.closes_every_peer()
        assert_all_is_free()


# The client


async def call(port: int) -> None:
    with suppress(errors.RayforceWSError):
        async with WSClient("127.0.0.1", port).connect() as connection:
            await connection.execute("(til 10)")
            raise AssertionError("the reply was cut")


@pytest.mark.anyio
@pytest.mark.parametrize("end", [fin, reset, violation])
async def test_the_client_keeps_nothing_of_an_unfinished_reply(end: End) -> None:
    async def serve(peer: RawPeer) -> None:
        await accept_raw(peer)
        await peer.receive_frame()
        if end is violation:
            await peer.send(frame(bytes(SIZE // 2), fin=False, masked=False) + frame(b"", TEXT, masked=False))
            peer.close()
        else:
            await peer.send(frame(bytes(SIZE - MISSING), size=SIZE, masked=False))
            await end(peer)

    with anyio.fail_after(30):
        async with raw_server(serve) as port:
            await call(port)
    await anyio.lowlevel.checkpoint()
    assert_all_is_free()


@pytest.mark.anyio
async def test_the_client_keeps_nothing_of_an_unfinished_reply_to_a_cancelled_call() -> None:
    sent = anyio.Event()

    async def serve(peer: RawPeer) -> None:
        await accept_raw(peer)
        await peer.receive_frame()
        await peer.send(frame(bytes(SIZE - MISSING), size=SIZE, masked=False))
        sent.set()
        await peer.receive_rest()

    with anyio.fail_after(30):
        async with raw_server(serve) as port, anyio.create_task_group() as tasks:
            tasks.start_soon(call, port)
            await sent.wait()
            tasks.cancel_scope.cancel()
    await anyio.lowlevel.checkpoint()
    assert_all_is_free()
