"""Clients that send more than the server can process: the others are served all the same."""

import pytest
import trio
from support.engines import GateEngine, HeldEngine
from support.probed_server import OTHER_QUERY, POST, QUERY, probed_server
from support.raw import CONTINUATION, PING, PONG, TEXT, frame, open_raw

from rayforce_trio import WSServer
from rayforce_trio._codec import decode
from rayforce_trio._protocol import Result


@pytest.mark.trio
@pytest.mark.usefixtures("short_close")
async def test_a_peer_that_keeps_sending_does_not_hold_up_a_close() -> None:
    async with probed_server() as server:
        peer = await server.open()

        async def flood() -> None:
            while await peer.send(frame(b"{", TEXT) * 1000):
                pass

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            await server.serves_others()
            await server.closes_every_peer()


@pytest.mark.trio
@pytest.mark.usefixtures("short_close")
async def test_a_flood_of_empty_continuations_is_cut() -> None:
    async with probed_server() as server:
        peer = await server.open()
        await peer.send(frame(fin=False))
        await peer.send(frame(b"", CONTINUATION, fin=False) * 100_000)
        await server.serves_others()
        assert await peer.receive_close() == 1008
        await server.closes_every_peer()


@pytest.mark.trio
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does not read"])
async def test_a_flood_of_pings_disturbs_nobody(reads: bool) -> None:
    async with probed_server() as server:
        peer = await server.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, frame(b"", PING) * 20_000 + frame(b"last", PING))
            await server.serves_others()
            if reads:
                while await peer.receive_frame() != (PONG, b"last"):
                    pass


@pytest.mark.usefixtures("each_engine")
@pytest.mark.trio
async def test_a_flood_of_requests_disturbs_nobody() -> None:
    async with probed_server(max_in_flight=None) as server:
        peer = await server.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(peer.send, frame(QUERY) * 5000)
            await server.serves_others()
            for _ in range(5000):
                assert decode(Result((await peer.receive_frame())[1])) == 3


@pytest.mark.trio
async def test_the_leaving_of_a_peer_that_filled_its_queue_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At that point, nothing is read from the peer any more."""
    monkeypatch.setattr("rayforce_trio._protocol._pipeline.MAX_WAITING_BYTES", 1)
    engine = GateEngine()
    async with WSServer(port=0, host="127.0.0.1", engine=engine) as server:
        peer = await open_raw(server.port)
        await peer.send(frame(OTHER_QUERY) * 5)
        await engine.until(begun=1)
        peer.reset()
        await engine.until(cancels=1, sessions=0)
        assert len(engine.begun) == 1


@pytest.mark.trio
async def test_a_full_queue_behind_a_busy_engine_does_not_cost_a_healthy_peer_its_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its pongs cannot be read meanwhile, which is no silence of the peer's."""
    monkeypatch.setattr("rayforce_trio._protocol._pipeline.MAX_WAITING_POSTS", 1)
    monkeypatch.setattr("rayforce_trio._transports._keepalive._CATCH_UP", 0.05)
    engine = HeldEngine(QUERY)
    async with probed_server(engine=engine, max_in_flight=None, ping_interval=0.05, ping_timeout=0.05) as server:
        peer = await server.open()
        await peer.send(frame(POST) * 5)
        await engine.busy.wait()
        for _ in range(5):  # by the second, the time for an answer is over
            assert (await peer.receive_frame())[0] == PING
        engine.release.set()
        await peer.send_frame(QUERY)
        while (message := await peer.receive_frame())[0] == PING:
            await peer.send_frame(message[1], PONG)
        assert decode(Result(message[1])) == 3
