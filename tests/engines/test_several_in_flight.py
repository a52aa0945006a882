"""Read-only native engines, which take several requests of one connection at a time."""

import os
import signal

import pytest
import trio
import trio.testing
from support import raw
from support.engine_contract import check_engine
from support.fake_engine import HELLO_ANSWER, FakeSession, error_frame, fake_engine
from support.leaks import no_leaks
from support.watched import Queries, until_read

from rayforce_trio import NativeEngine, NativeProcess, WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._codec import encode
from rayforce_trio._engines._native import MAX_IN_FLIGHT
from rayforce_trio._protocol import MessageType

LOCAL = "127.0.0.1"


@pytest.mark.trio
async def test_it_keeps_the_contract_of_engines(native_port: int, name: str) -> None:
    await check_engine(lambda: NativeEngine(LOCAL, native_port, in_flight=8), name, stops=True)


async def flood(connection: WSClientConnection, count: int) -> None:
    """Send many queries at the same time, and check their values."""

    async def ask(number: int) -> None:
        assert (await connection.execute(f"(+ 1 {number})")).value == number + 1

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(ask, number)


async def flood_until_there_are(engine: NativeEngine, connections: int, connection: WSClientConnection) -> None:
    """Send many queries until the engine has so many connections: they are opened while the queries are answered."""
    with trio.fail_after(20):
        while len(engine._group) < connections:
            await flood(connection, 200)


@pytest.mark.trio
async def test_a_client_has_as_many_connections_to_the_engine_as_it_has_requests_in_flight(native_port: int) -> None:
    engine = NativeEngine(LOCAL, native_port, in_flight=8)
    async with (
        no_leaks(within=5),
        WSServer(port=0, host=LOCAL, engine=engine) as server,
        WSClient(LOCAL, server.port).connect() as connection,
    ):
        for _ in range(5):
            assert (await connection.execute("(+ 1 2)")).value == 3
        assert len(engine._group) == 1
        await flood_until_there_are(engine, MAX_IN_FLIGHT, connection)
        await flood(connection, 500)
        assert len(engine._group) == MAX_IN_FLIGHT
        async with WSClient(LOCAL, server.port).connect() as other:
            assert (await other.execute("(+ 1 2)")).value == 3
            assert len(engine._group) == MAX_IN_FLIGHT + 1


@pytest.mark.trio
async def test_there_is_a_limit_beyond_which_each_client_has_one_connection(
    native_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._engines._native.MAX_CONNECTIONS", 3)
    engine = NativeEngine(LOCAL, native_port, in_flight=8)
    async with (
        WSServer(port=0, host=LOCAL, engine=engine) as server,
        WSClient(LOCAL, server.port).connect() as one,
        WSClient(LOCAL, server.port).connect() as other,
    ):
        await flood_until_there_are(engine, 3, one)
        await flood(other, 200)
        assert len(engine._group) == 3
        async with WSClient(LOCAL, server.port).connect() as third:
            await flood(third, 200)
            assert len(engine._group) == 4


@pytest.mark.trio
async def test_a_client_keeps_its_connection_if_the_engine_rejects_a_second_one() -> None:
    handshakes = 0

    async def serve(session: FakeSession) -> None:
        nonlocal handshakes
        await session.take(len(HELLO_ANSWER))
        handshakes += 1
        if handshakes == 1:
            await session.send(HELLO_ANSWER)
            await session.serve()

    with trio.fail_after(20):
        async with (
            fake_engine(serve, hello=None) as fake,
            WSServer(port=0, host=LOCAL, engine=NativeEngine(LOCAL, fake.port, in_flight=8)) as server,
            WSClient(LOCAL, server.port).connect() as connection,
        ):
            while handshakes < 2:
                async with trio.open_nursery() as nursery:
                    for _ in range(4):
                        nursery.start_soon(connection.execute, "anything")
            for _ in range(3):
                await connection.execute("anything")
            assert handshakes == 2


@pytest.mark.trio
async def test_an_engine_that_other_clients_write_to_takes_one_request_at_a_time(native_port: int, name: str) -> None:
    engine = NativeEngine(LOCAL, native_port)
    async with WSServer(port=0, host=LOCAL, engine=engine) as server:
        async with WSClient(LOCAL, server.port).connect() as connection, trio.open_nursery() as nursery:
            await connection.execute(f"(set {name} 0)")
            for _ in range(200):
                nursery.start_soon(connection.execute, f"(set {name} (+ 1 {name}))")
        assert len(engine._group) == 0
        async with WSClient(LOCAL, server.port).connect() as connection:
            assert (await connection.execute(name)).value == 200


@pytest.mark.trio
async def test_a_post_waits_for_the_requests_before_it_and_the_next_requests_wait_for_the_post(
    native_port: int, name: str
) -> None:
    engine = NativeEngine(LOCAL, native_port, in_flight=8)
    async with (
        WSServer(port=0, host=LOCAL, engine=engine) as server,
        WSClient(LOCAL, server.port).connect() as connection,
        trio.open_nursery() as nursery,
    ):
        await connection.execute(f"(set {name} 0)")
        await flood(connection, 100)
        values: list[int] = []

        async def ask() -> None:
            values.append((await connection.execute(f"(do (sum (til 10000)) {name})")).value)

        for number in range(1, 4):
            for _ in range(20):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            await connection.post(f"(set {name} {number})")
    assert values == [0] * 20 + [1] * 20 + [2] * 20


@pytest.mark.trio
async def test_a_query_that_runs_for_too_long_is_stopped_before_its_turn(
    native_port: int, queries: Queries, caplog: pytest.LogCaptureFixture
) -> None:
    """The client does not read the reply that comes first, and the engine is free for others all the same."""
    before, query = queries(), queries()
    engine = NativeEngine(LOCAL, native_port, in_flight=8)
    async with WSServer(port=0, host=LOCAL, engine=engine, query_timeout=3.0) as server:
        with await raw.open_raw(server.port) as peer:
            while len(engine._group) < MAX_IN_FLIGHT:
                await peer.send(raw.frame(encode("(sum (til 100000))", MessageType.SYNC)) * 50)
                for _ in range(50):
                    await peer.receive_frame()
            both = [encode(text, MessageType.SYNC) for text in (f"(do {before.text} (til 2000000))", query.text)]
            await peer.send(b"".join(raw.frame(one) for one in both))
            await until_read(server.port)  # behind the beginning of a long reply, it would not be started ahead
            before.release()
            await query.begun()
            async with WSClient(LOCAL, server.port).connect() as other:
                with trio.fail_after(20):
                    assert (await other.execute("(+ 1 2)")).value == 3
            assert not query.has_ended
            size = 0
            while size < 16_000_000:
                size += len((await peer.receive_frame())[1])
            opcode, answer = await peer.receive_frame()
            assert opcode == raw.TEXT
            assert b'"code": "timeout"' in answer
    assert [record.getMessage().split(": ")[-1] for record in caplog.records if record.levelname == "WARNING"] == [
        "a query has run for more than 3 seconds (query_timeout) and is being stopped"
    ]


async def ask_until_two_sessions_answer(connection: WSClientConnection, sessions: list[FakeSession]) -> None:
    while sum(bool(session.requests) for session in sessions) < 2:
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(connection.execute, "anything")


@pytest.mark.trio
async def test_a_query_that_the_engine_evaluates_before_an_earlier_one_is_stopped_too() -> None:
    second_stopped = trio.Event()

    async def serve(session: FakeSession) -> None:
        session.receive_stops_inline()
        while True:
            frame = await session.receive_request()
            if b"first" in frame:
                await session.take(1)
                await second_stopped.wait()
                await session.send(error_frame("cancel"))
            elif b"second" in frame:
                await session.take(1)
                second_stopped.set()
                await session.send(error_frame("cancel"))
            else:
                await session.answer("done")

    async def expect_timeout(query: str) -> None:
        with pytest.raises(errors.QueryTimeout):
            await connection.execute(query)

    with trio.fail_after(20):
        async with (
            fake_engine(serve) as fake,
            WSServer(
                port=0, host=LOCAL, engine=NativeEngine(LOCAL, fake.port, in_flight=2), query_timeout=0.2
            ) as server,
            WSClient(LOCAL, server.port).connect() as connection,
        ):
            await ask_until_two_sessions_answer(connection, fake.sessions)
            async with trio.open_nursery() as nursery:
                for query in ("first", "second"):
                    nursery.start_soon(expect_timeout, query)


@pytest.mark.trio
@pytest.mark.parametrize("gone", ["closed", "reset"])
async def test_when_the_client_is_gone_all_its_requests_in_the_engine_are_stopped(
    native_port: int, queries: Queries, gone: str
) -> None:
    running = [queries() for _ in range(MAX_IN_FLIGHT + 2)]
    engine = NativeEngine(LOCAL, native_port, in_flight=8)
    async with (
        WSServer(port=0, host=LOCAL, engine=engine) as server,
        WSClient(LOCAL, server.port).connect() as other,
    ):
        with await raw.open_raw(server.port) as peer:
            for query in running:
                await peer.send_frame(encode(query.text, MessageType.SYNC))
            await running[0].begun()
            if gone == "reset":
                peer.reset()
        with trio.fail_after(10):
            assert (await other.execute("(+ 1 2)")).value == 3
    assert [query.has_ended for query in running] == [False] * len(running)


@pytest.mark.trio
async def test_an_engine_that_is_lost_fails_all_requests_in_flight() -> None:
    failures: list[str] = []
    engine = NativeProcess(read_only=True)
    async with (
        WSServer(port=0, host=LOCAL, engine=engine) as server,
        WSClient(LOCAL, server.port).connect() as connection,
    ):
        await flood(connection, 100)

        async def ask() -> None:
            with pytest.raises(errors.ConnectionClosed) as failed:
                await connection.execute("(while true 1)")
            failures.append(str(failed.value))

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
    assert len(failures) == 20
    assert all("the engine process disconnected" in failure for failure in failures)
