"""Clients that stop reading, fall silent, or leave in the middle of a request or of a close."""

import gc
import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
import trio
from support.clients import run_until_it_prints
from support.engines import GateEngine, TamperedEngine
from support.memory import resident_memory
from support.probed_server import BIG, BIG_QUERY, OTHER_QUERY, QUERY, SHORT, probed_server
from support.raw import BINARY, PING, PONG, TEXT, close_frame, frame, open_raw

from rayforce_trio import WSServer
from rayforce_trio._codec import decode
from rayforce_trio._protocol import Frame, Result

CLIENT_PROGRAM = """
import sys
import trio
from rayforce_trio import WSClient

async def main():
    async with WSClient("127.0.0.1", int(sys.argv[1])).connect() as connection:
        print(await connection.execute("(+ 1 2)"), flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.trio
async def test_a_ping_while_the_server_closes_is_harmless() -> None:
    async with probed_server() as server:
        peer = await server.open()
        await peer.send_frame(b"{", TEXT)
        assert await peer.receive_close() == 1002
        await peer.send(frame(b"", PING) + close_frame(1002))
        assert await peer.receive_rest() == b""


@pytest.mark.trio
async def test_a_ping_while_the_server_stops_is_harmless() -> None:
    with trio.fail_after(10):
        async with AsyncExitStack() as stack:
            server = await stack.enter_async_context(WSServer(0, host="127.0.0.1"))
            with await open_raw(server.port) as peer:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.stop)
                    assert await peer.receive_close() == 1001
                    await peer.send(frame(b"", PING) + close_frame(1001))
                    assert await peer.receive_rest() == b""


@pytest.mark.trio
@pytest.mark.usefixtures("short_close")
async def test_a_silent_peer_does_not_hold_up_the_server_that_stops() -> None:
    with trio.fail_after(5):
        async with WSServer(0, host="127.0.0.1") as server:
            with await open_raw(server.port):
                await server.stop()


@pytest.mark.trio
async def test_a_peer_of_a_busy_engine_gets_its_pong_and_its_leaving_is_noticed() -> None:
    engine = GateEngine()
    async with WSServer(port=0, host="127.0.0.1", engine=engine) as server:
        peer = await open_raw(server.port)
        await peer.send(frame(OTHER_QUERY) * 2 + frame(b"ping", PING))
        assert await peer.receive_frame() == (PONG, b"ping")
        await engine.until(begun=1)
        peer.reset()
        await engine.until(cancels=1, sessions=0)
        assert len(engine.begun) == 1


@pytest.mark.usefixtures("each_engine")
@pytest.mark.trio
async def test_a_half_close_after_a_request_ends_the_connection() -> None:
    async with probed_server() as server:
        peer = await server.open()
        await peer.send_frame(QUERY)
        peer.half_close()
        await peer.receive_rest()
        await server.closes_every_peer()


@pytest.mark.usefixtures("each_engine")
@pytest.mark.trio
async def test_a_peer_that_stops_reading_is_cut() -> None:
    async with probed_server(write_timeout=SHORT) as server:
        peer = await server.open(receive_buffer=4096)
        await peer.send_frame(BIG_QUERY)
        assert (await peer.receive_frame())[0] == BINARY
        await server.serves_others()
        await server.closes_every_peer()


@pytest.fixture
def no_garbage_collection() -> Iterator[None]:
    """Let memory come back only by itself: the collector may be long in coming."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("each_engine")
@pytest.mark.trio
@pytest.mark.usefixtures("no_garbage_collection")
async def test_a_peer_that_stops_reading_and_leaves_gives_everything_back() -> None:
    """The second and third reply of 100 MB that nobody took cost no more memory than the first."""
    resident = []
    async with probed_server() as server:
        for _ in range(3):
            peer = await server.open(receive_buffer=4096)
            await peer.send_frame(BIG_QUERY)
            assert (await peer.receive_frame())[0] == BINARY
            await server.serves_others()
            peer.reset()
            await server.closes_every_peer()
            resident.append(resident_memory())
    assert resident[2] - resident[0] < BIG / 2


@pytest.mark.trio
async def test_a_client_that_is_killed_is_noticed() -> None:
    async with probed_server() as server:
        await run_until_it_prints(CLIENT_PROGRAM, server.port)


@pytest.mark.trio
async def test_a_bug_is_logged_and_ends_only_the_connection_that_met_it(caplog: pytest.LogCaptureFixture) -> None:
    async def divide_by_zero(frame: Frame) -> None:
        if frame != QUERY:
            raise ZeroDivisionError("a bug")

    async with probed_server(engine=TamperedEngine(divide_by_zero)) as server:
        other = await server.open()
        peer = await server.open()
        await peer.send_frame(OTHER_QUERY)
        assert await peer.receive_close() == 1011
        await peer.send_close(1011)
        await other.send_frame(QUERY)
        assert decode(Result((await other.receive_frame())[1])) == 3
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.name == "rayforce_trio.server"
    assert record.exc_info is not None
    assert "ZeroDivisionError: a bug" in (record.exc_text or "")
    caplog.clear()
