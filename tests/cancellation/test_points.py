"""Cancellation at one point after the other: what is sent, what is evaluated, what the caller and others get."""

import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from time import perf_counter

import anyio
import pytest
import trio
from support.engines import GateEngine
from support.leaks import no_leaks
from support.proxy import Lane, proxy
from trio.testing import wait_all_tasks_blocked

from rayforce_trio import WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._client._exchange import Exchange
from rayforce_trio._protocol import SUBPROTOCOL, Frame, LazyFrame, string_frame
from rayforce_trio._transports._memory import MemoryTransport, memory_pair

LARGE = 20_000_000  # bytes


class CloggedTransport:
    """Makes a memory transport's `send` wait, like a network that takes nothing, until `unclog`."""

    def __init__(self, transport: MemoryTransport) -> None:
        self._send = transport.send
        self._unclogged = anyio.Event()
        self.sending = anyio.Event()
        transport.send = self.send  # type: ignore[method-assign]  # the point of it

    async def send(self, message: Frame | LazyFrame | str) -> None:
        self.sending.set()
        await self._unclogged.wait()
        await self._send(message)

    def unclog(self) -> None:
        self._unclogged.set()


@asynccontextmanager
async def connected(
    subprotocol: str | None = SUBPROTOCOL,
) -> AsyncIterator[tuple[WSClientConnection, MemoryTransport, MemoryTransport]]:
    """Yields a connection, its own end of a memory pair, and the server's."""
    mine, servers = memory_pair(subprotocol)
    connection = WSClientConnection(Exchange(mine))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(connection._exchange.run)
        yield connection, mine, servers
        await connection.close()
    servers.abort()


@pytest.mark.anyio
async def test_a_call_cancelled_before_it_begins_sends_nothing_and_takes_no_number() -> None:
    async with connected() as (connection, mine, servers), anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.execute("1")
        assert scope.cancelled_caught

        async def ask() -> None:
            await connection.execute("2")

        tasks.start_soon(ask)
        await servers.receive()
        assert len(mine.sent) == 1
        await servers.send(string_frame("2"))


@pytest.mark.anyio
async def test_a_query_cancelled_while_it_is_queued_is_never_sent() -> None:
    async with connected() as (connection, mine, servers), anyio.create_task_group() as tasks:
        clog = CloggedTransport(mine)
        results: list[str] = []

        async def ask(query: str) -> None:
            results.append((await connection.execute(query)).value)

        tasks.start_soon(ask, "first")
        await clog.sending.wait()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as others:
                others.start_soon(ask, "second")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        tasks.start_soon(ask, "third")
        clog.unclog()
        for query in ("first", "third"):
            message = await servers.receive()
            assert isinstance(message, bytes)
            assert query.encode() in message
            await servers.send(string_frame(query))
    assert results == ["first", "third"]
    assert len(mine.sent) == 2


@pytest.mark.anyio
async def test_a_query_cancelled_while_it_is_sent_is_sent_whole_and_then_cancelled_by_number() -> None:
    async with connected() as (connection, mine, servers):
        clog = CloggedTransport(mine)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as others:
                others.start_soon(connection.execute, "first")
                await clog.sending.wait()
                scope.cancel()
        clog.unclog()
        first = await servers.receive()
        assert isinstance(first, bytes)
        assert b"first" in first
        assert await servers.receive() == '{"cancel": 1}'
        await servers.send('{"error": {"request": 1, "code": "cancel", "message": ""}}')
        async with anyio.create_task_group() as tasks:

            async def ask() -> None:
                assert (await connection.execute("second")).value == "second"

            tasks.start_soon(ask)
            await servers.receive()
            await servers.send(string_frame("second"))


@pytest.mark.anyio
async def test_no_cancel_is_sent_to_a_server_that_speaks_the_baseline() -> None:
    async with connected(None) as (connection, mine, servers):
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as others:
                others.start_soon(connection.execute, "first")
                await servers.receive()
                scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert all(isinstance(message, bytes) for message in mine.sent)


@pytest.mark.anyio
async def test_a_large_query_cancelled_half_way_leaves_the_connection_in_step(our_port: int) -> None:
    async with proxy(our_port) as between, WSClient("127.0.0.1", between.port).connect() as connection:
        between.to_server.freeze(after=64 * 1024)
        with anyio.fail_after(20), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as others:
                others.start_soon(connection.execute, "(+ 1 1)" + " " * LARGE)
                await between.to_server.frozen()
                scope.cancel()
        between.to_server.thaw()
        with anyio.fail_after(20):
            assert (await connection.execute("(+ 2 2)")).value == 4


@pytest.mark.anyio
async def test_a_large_reply_cancelled_half_way_leaves_the_connection_in_step(our_port: int) -> None:
    async with proxy(our_port) as between, WSClient("127.0.0.1", between.port).connect() as connection:
        between.to_client.freeze(after=1_000_000)
        with anyio.fail_after(20), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as others:
                others.start_soon(connection.execute, f"(til {LARGE // 8})")
                await between.to_client.frozen()
                scope.cancel()
        between.to_client.thaw()
        with anyio.fail_after(20):
            assert (await connection.execute("(+ 2 2)")).value == 4


@pytest.mark.timing
@pytest.mark.anyio
async def test_a_frozen_server_delays_neither_cancellation_nor_the_end_of_the_scope(
    in_process_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._transports._base.SHIELDED_CLOSE_TIMEOUT", 0.2)
    async with proxy(in_process_port) as between:
        with anyio.fail_after(2.5):
            with anyio.CancelScope() as scope:
                async with WSClient("127.0.0.1", between.port).connect() as connection:
                    between.freeze()
                    async with anyio.create_task_group() as others:
                        others.start_soon(connection.execute, "1")
                        await anyio.wait_all_tasks_blocked()
                        scope.cancel()
        assert isinstance(connection.closed, errors.RayforceWSError)


@pytest.mark.anyio
async def test_cancelling_some_of_many_calls_leaves_the_others_their_own_answers(our_port: int) -> None:
    answers: dict[int, int] = {}
    scopes = [anyio.CancelScope() for _ in range(50)]

    async def ask(number: int) -> None:
        with scopes[number]:
            answers[number] = (await connection.execute(f"(+ {number} {number})")).value

    async with WSClient("127.0.0.1", our_port).connect() as connection:
        for _ in range(20):
            answers.clear()
            scopes[:] = [anyio.CancelScope() for _ in range(50)]
            victims = random.sample(range(50), 25)
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    for number in range(50):
                        tasks.start_soon(ask, number)
                    for _ in range(random.randrange(6)):
                        await anyio.lowlevel.checkpoint()
                    for victim in victims:
                        scopes[victim].cancel()
            assert answers.items() >= {n: 2 * n for n in set(range(50)) - set(victims)}.items()
            assert all(value == 2 * number for number, value in answers.items())


@pytest.mark.anyio
async def test_cancelling_as_the_answer_comes_never_touches_another_call(our_port: int) -> None:
    with anyio.fail_after(30):
        async with WSClient("127.0.0.1", our_port).connect() as connection:
            cancelled, number, duration = 0, 0, 0.001
            while number < 500 or not cancelled:
                number += 1
                with anyio.move_on_after(random.uniform(0.0, 2 * duration)) as scope:
                    assert (await connection.execute(f"(+ {number} 1)")).value == number + 1
                cancelled += scope.cancelled_caught
                since = perf_counter()
                assert (await connection.execute(f"(+ {number} 2)")).value == number + 2
                duration = perf_counter() - since


@pytest.mark.anyio
async def test_cancellation_wins_over_the_loss_of_the_connection(in_process_port: int) -> None:
    outcomes: list[object] = []

    async def ask() -> None:
        try:
            await connection.execute("1")
        except errors.RayforceWSError as error:
            outcomes.append(type(error))
        except anyio.get_cancelled_exc_class():
            outcomes.append("cancelled")
            raise

    async with proxy(in_process_port) as between, WSClient("127.0.0.1", between.port).connect() as connection:
        between.freeze()
        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as others:
                    tasks.start_soon(ask)
                    others.start_soon(ask)
                    await anyio.wait_all_tasks_blocked()
                    scope.cancel()
            await between.reset()
    assert outcomes == ["cancelled", errors.ConnectionLost]


@pytest.mark.anyio
async def test_a_connection_cut_at_any_byte_ends_every_call_with_a_clear_error(in_process_port: int) -> None:
    async with proxy(in_process_port) as between:
        for offset in range(1, 420, 12):
            for lane in (between.to_client, between.to_server):

                async def cut(lane: Lane = lane) -> None:
                    await lane.frozen()
                    await between.reset()

                lane.freeze(after=offset)
                with anyio.fail_after(5):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(cut)
                        with suppress(errors.RayforceWSError):
                            async with WSClient("127.0.0.1", between.port).connect() as connection:
                                for number in range(5):
                                    assert (await connection.execute(f"(+ {number} 1)")).value == number + 1
                        tasks.cancel_scope.cancel()
                lane.thaw()


# What becomes of a cancelled request on the server.


@pytest.mark.trio
async def test_a_queued_request_that_is_cancelled_never_begins_and_the_running_one_goes_on() -> None:
    engine = GateEngine()
    async with (
        WSServer(port=0, host="127.0.0.1", engine=engine) as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(connection.execute, "running")
        await engine.until(begun=1)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as others:
                others.start_soon(connection.execute, "queued")
                await wait_all_tasks_blocked()
                scope.cancel()
        await wait_all_tasks_blocked(0.05)
        engine.release()
        assert (await connection.execute("last")).value == "released"
        assert [b"queued" in frame for frame in engine.begun] == [False, False]
        assert engine.cancels == 0


@pytest.mark.trio
async def test_a_running_request_that_is_cancelled_is_stopped_in_the_engine_once() -> None:
    engine = GateEngine()
    async with (
        WSServer(port=0, host="127.0.0.1", engine=engine) as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
    ):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as others:
                others.start_soon(connection.execute, "running")
                await engine.until(begun=1)
                scope.cancel()
        await engine.until(cancels=1)
        engine.release()
        assert (await connection.execute("next")).value == "released"
        assert engine.cancels == 1


@pytest.mark.trio
async def test_side_effects_of_a_query_cancelled_before_it_began_do_not_happen(name: str) -> None:
    async with (
        WSServer(port=0, host="127.0.0.1") as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
    ):
        await connection.execute(f"(set {name} 0)")
        for _ in range(20):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as others:
                    for _ in range(20):
                        others.start_soon(connection.execute, f"(set {name} (+ {name} 1))")
                    await trio.lowlevel.checkpoint()
                    scope.cancel()
        done = (await connection.execute(name)).value
        assert done < 400
        assert (await connection.execute(name)).value == done


@pytest.mark.trio
async def test_a_cancelled_nursery_stops_the_query_and_closes_the_connection() -> None:
    engine = GateEngine()
    async with WSServer(port=0, host="127.0.0.1", engine=engine) as server, no_leaks(within=5):
        async with trio.open_nursery() as nursery:
            connection = await WSClient("127.0.0.1", server.port).connect(nursery)
            nursery.start_soon(connection.execute, "running")
            await engine.until(begun=1)
            nursery.cancel_scope.cancel()
        await engine.until(cancels=1, sessions=0)
        assert isinstance(connection.closed, errors.ConnectionClosed)


CLIENT = """
import sys, trio
from rayforce_trio import WSClient

async def main():
    async with WSClient("127.0.0.1", int(sys.argv[1])).connect() as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.execute, "running")
            nursery.start_soon(connection.execute, "queued")

trio.run(main)
"""


@pytest.mark.trio
async def test_a_killed_client_stops_its_query_and_drops_those_it_had_queued() -> None:
    engine = GateEngine()
    async with WSServer(port=0, host="127.0.0.1", engine=engine) as server:
        start = partial(trio.run_process, [sys.executable, "-c", CLIENT, str(server.port)], check=False)
        async with trio.open_nursery() as nursery:
            process: trio.Process = await nursery.start(start)
            await engine.until(begun=1)
            os.kill(process.pid, signal.SIGKILL)
        await engine.until(cancels=1, sessions=0)
        assert len(engine.begun) == 1


@pytest.mark.trio
async def test_a_server_that_stops_during_a_query_says_so_to_the_client() -> None:
    engine = GateEngine()
    async with trio.open_nursery() as nursery:
        server: WSServer = await nursery.start(WSServer(port=0, host="127.0.0.1", engine=engine).serve)
        async with WSClient("127.0.0.1", server.port).connect() as connection, trio.open_nursery() as calls:

            async def ask() -> None:
                with pytest.raises(errors.ConnectionClosed, match="code 1001: the server is shutting down"):
                    await connection.execute("running")

            calls.start_soon(ask)
            await engine.until(begun=1)
            await server.stop(grace=0)
        assert engine.sessions == 0


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.anyio
async def test_asyncio_timeouts_and_task_cancel_leave_the_connection_in_step(their_port: int) -> None:
    import asyncio

    slow = "(sum (map (fn [x] (sum (til x))) (til 10000)))"
    async with WSClient("127.0.0.1", their_port).connect() as connection:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.execute(slow), 0.01)
        assert (await connection.execute("(+ 1 1)")).value == 2
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.wait_for(connection.execute(slow), 1)
        assert (await connection.execute("(+ 2 2)")).value == 4
        task = asyncio.create_task(connection.execute(slow))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (await connection.execute("(+ 3 3)")).value == 6
