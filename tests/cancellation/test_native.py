"""Cancellation that reaches into a native engine: what runs there is stopped, what waits never runs, and no more.

A watched query ends only if it is released, or stopped. The engine has one thread for queries, so another connection's
query is answered only once the watched one is over: that is how the tests see that it was stopped.
"""

import asyncio
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import count
from math import comb
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from anyio.abc import TaskGroup
from support import raw
from support.engine_contract import open_session, request, running
from support.leaks import no_leaks
from support.native import native_server
from support.polling import until
from support.proxy import Lane, proxy
from support.serve_native import Served, natively_served
from support.watched import (
    Queries,
    WatchedQuery,
    ask_natively,
    cpu_seconds,
    is_asleep,
    stopped,
    unread_bytes,
    until_hung_up,
    until_passed,
    until_read,
    until_unread,
)

from rayforce_trio import NativeEngine, NativeProcess, WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType
from rayforce_trio._protocol._client import MAX_IN_FLIGHT

LARGE = 20_000_000  # bytes

SLOW = "(sum (map (fn [x] (sum (til x))) (til 200000)))"
"""Takes five seconds and more alone."""

HUGE_SUM = "(sum (til 300000000))"

HARD_TO_STOP = {
    "many small steps": ("0", SLOW),
    "one huge sum": ("0", HUGE_SUM),
    "a large sort": ("(rand 50000000 1000000000)", "(sum (iasc {name}))"),
    "a loop without end": ("0", "(while true 1)"),
}
"""What to prepare under a name, and what to compute; that takes seconds if it is not stopped."""

SOON = 4.0
"""Seconds for a few small queries, on a slow machine; much less than what any query here takes that is not stopped."""

on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio"])

_numbers = count(1)


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[WSClientConnection]:
    async with WSClient("127.0.0.1", port).connect() as connection:
        yield connection


async def is_in_step(connection: WSClientConnection, within: float = SOON) -> None:
    """Check that a connection's next queries give their own values; that they do so soon, that the engine is free."""
    with anyio.fail_after(within):
        for _ in range(3):
            number = next(_numbers)
            assert (await connection.execute(f"(+ {number} {number})")).value == 2 * number


async def begin_and_cancel(connection: WSClientConnection, query: WatchedQuery) -> None:
    """Cancel a call as soon as the engine has begun with its query; returns once the call has ended."""
    with anyio.fail_after(20), anyio.CancelScope() as scope:
        async with anyio.create_task_group() as calls:
            calls.start_soon(connection.execute, query.text)
            await query.begun()
            scope.cancel()
    assert scope.cancelled_caught


async def expect_end_with(error: type[errors.RayforceWSError], call: Awaitable[object]) -> None:
    with pytest.raises(error):
        await call


# What runs is stopped.


@pytest.mark.timing
@pytest.mark.anyio
async def test_a_call_that_times_out_ends_on_time_and_leaves_the_engine_free_and_idle(served: Served) -> None:
    async with connected(served.port) as connection, connected(served.port) as other:
        started = time.perf_counter()
        with anyio.move_on_after(0.2) as scope:
            await connection.execute(SLOW)
        assert scope.cancelled_caught
        assert time.perf_counter() - started < 1.0
        assert (await other.execute("(+ 1 2)")).value == 3
        assert time.perf_counter() - started < 1.5
        await is_in_step(connection)

        await until(lambda: is_asleep(served.engine_pid))


@pytest.mark.anyio
@pytest.mark.parametrize(("preparation", "work"), HARD_TO_STOP.values(), ids=HARD_TO_STOP)
async def test_whatever_it_computes_is_stopped_before_its_last_step(
    served: Served, queries: Queries, name: str, preparation: str, work: str
) -> None:
    query = queries(work.format(name=name))
    async with connected(served.port) as connection, connected(served.port) as other:
        await connection.execute(f"(count (set {name} {preparation}))")
        await begin_and_cancel(connection, query)
        await is_in_step(other)  # the engine evaluates one query at a time, so this one is over, and
        assert not query.has_ended
        await is_in_step(connection)
        await connection.execute(f"(set {name} 0)")


@pytest.mark.trio
async def test_the_very_first_query_of_an_engine_is_stopped_too() -> None:
    """An engine starts its threads in its first large query, and misses a stop that comes just then."""
    for number in range(40):
        engine = NativeProcess()
        async with running(engine), open_session(engine) as session:
            assert engine.pid is not None
            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(session.request, request(HUGE_SUM))
                    await trio.testing.wait_all_tasks_blocked()
                    await trio.sleep(number * 0.00005)
                    session.cancel()
            assert cpu_seconds(engine.pid) < 2.0  # whole, it takes twice that and more


@pytest.mark.anyio
async def test_what_a_query_did_before_it_was_stopped_stays_done(served: Served, queries: Queries, name: str) -> None:
    query = queries()
    async with connected(served.port) as connection:
        await connection.execute(f"(set {name} 0)")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as calls:
                calls.start_soon(connection.execute, f"(do (set {name} 1) {query.text} (set {name} 2))")
                await query.begun()
                scope.cancel()
        assert (await connection.execute(name)).value == 1


@pytest.mark.anyio
async def test_a_query_queued_behind_it_on_the_same_connection_runs_and_has_its_own_result(
    served: Served, queries: Queries
) -> None:
    query, next_one = queries(), queries("0")
    values: list[int] = []

    async def ask() -> None:
        values.append((await connection.execute(next_one.text)).value)

    async with connected(served.port) as connection:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as calls:
                        calls.start_soon(connection.execute, query.text)
                        await query.begun()
                        tasks.start_soon(ask)
                        await anyio.wait_all_tasks_blocked()
                        assert not next_one.has_begun
                        scope.cancel()
        await is_in_step(connection)
    assert values == [next_one.value]
    assert not query.has_ended


@pytest.mark.anyio
async def test_a_hundred_pipelined_queries_after_it_have_their_own_answers(served: Served, queries: Queries) -> None:
    answers: dict[int, int] = {}

    async def ask(number: int) -> None:
        answers[number] = (await connection.execute(f"(* {number} 7)")).value

    async with connected(served.port) as connection:
        await begin_and_cancel(connection, queries())
        with anyio.fail_after(20):
            async with anyio.create_task_group() as calls:
                for number in range(100):
                    calls.start_soon(ask, number)
    assert answers == {number: 7 * number for number in range(100)}


@pytest.mark.anyio
async def test_of_fifty_calls_any_twenty_five_can_be_cancelled_and_the_others_have_their_own_answers(
    served: Served, queries: Queries
) -> None:
    async with connected(served.port) as connection:
        for _ in range(6):
            calls = [queries("0") for _ in range(50)]
            answers = dict[int, int]()
            scopes = [anyio.CancelScope() for _ in calls]

            async def ask(
                number: int,
                query: str,
                answers: dict[int, int] = answers,
                scopes: list[anyio.CancelScope] = scopes,
            ) -> None:
                with scopes[number]:
                    answers[number] = (await connection.execute(query)).value

            running = queries()
            calls[random.randrange(50)] = running
            victims = random.sample(range(50), 25)
            with anyio.fail_after(20):
                async with anyio.create_task_group() as tasks:
                    for number, query in enumerate(calls):
                        tasks.start_soon(ask, number, query.text)
                    await running.begun()
                    for victim in victims:
                        scopes[victim].cancel()
                    running.release()
            assert answers.keys() >= set(range(50)) - set(victims)
            assert all(value == calls[number].value for number, value in answers.items())
            await is_in_step(connection)


# However the call ends.


@pytest.mark.anyio
async def test_a_cancelled_task_group_stops_every_query_in_it(served: Served, queries: Queries) -> None:
    running, queued, elsewhere = queries(), queries(), queries()
    async with (
        connected(served.port) as connection,
        connected(served.port) as second,
        connected(served.port) as other,
    ):
        with anyio.fail_after(20), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as calls:
                calls.start_soon(connection.execute, running.text)
                await running.begun()
                calls.start_soon(connection.execute, queued.text)
                calls.start_soon(second.execute, elsewhere.text)
                await until_unread(served.engine_pid, len(elsewhere.text))
                scope.cancel()
        for one in (other, connection, second):
            await is_in_step(one)
    assert [query.has_ended for query in (running, queued, elsewhere)] == [False, False, False]


@pytest.mark.anyio
async def test_a_task_that_fails_beside_it_stops_it(served: Served, queries: Queries) -> None:
    query = queries()

    async def fail_beside(connection: WSClientConnection) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connection.execute, query.text)
            await query.begun()
            raise LookupError

    async with connected(served.port) as connection, connected(served.port) as other:
        with pytest.raises(ExceptionGroup) as caught:
            await fail_beside(connection)
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        await is_in_step(other)
        await is_in_step(connection)
    assert not query.has_ended


@on_asyncio
@pytest.mark.anyio
async def test_a_cancelled_asyncio_task_stops_its_query(served: Served, queries: Queries) -> None:
    query = queries()
    async with connected(served.port) as connection, connected(served.port) as other:
        task = asyncio.create_task(connection.execute(query.text))
        await query.begun()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await is_in_step(other)
        await is_in_step(connection)
    assert not query.has_ended


@on_asyncio
@pytest.mark.anyio
async def test_an_asyncio_task_cancelled_twice_stops_its_query(served: Served, queries: Queries) -> None:
    query = queries()
    async with connected(served.port) as connection, connected(served.port) as other:
        task = asyncio.create_task(connection.execute(query.text))
        await query.begun()
        task.cancel()
        asyncio.get_running_loop().call_soon(task.cancel)
        with pytest.raises(asyncio.CancelledError):
            await task
        await is_in_step(other)
        await is_in_step(connection)
    assert not query.has_ended


@on_asyncio
@pytest.mark.anyio
async def test_asyncio_timeouts_stop_the_query(served: Served) -> None:
    async with connected(served.port) as connection, connected(served.port) as other:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await connection.execute("(while true 1)")
        await is_in_step(other)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.execute("(while true 1)"), 0.2)
        await is_in_step(other)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.wait_for(connection.execute("(while true 1)"), 0.2)
        await is_in_step(other)
        await is_in_step(connection)


@on_asyncio
@pytest.mark.anyio
async def test_a_failing_asyncio_task_group_stops_the_query(served: Served, queries: Queries) -> None:
    query = queries()

    async def fail_beside(connection: WSClientConnection) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(connection.execute(query.text))
            await query.begun()
            raise LookupError

    async with connected(served.port) as connection, connected(served.port) as other:
        with pytest.raises(ExceptionGroup) as caught:
            await fail_beside(connection)
        assert [type(error) for error in caught.value.exceptions] == [LookupError]
        await is_in_step(other)
        await is_in_step(connection)
    assert not query.has_ended


# However the connection ends.


@pytest.mark.anyio
async def test_closing_the_connection_stops_its_query(served: Served, queries: Queries) -> None:
    query = queries()
    async with connected(served.port) as other:
        connection = await WSClient("127.0.0.1", served.port).connect()
        async with anyio.create_task_group() as calls:
            calls.start_soon(expect_end_with, errors.ConnectionClosed, connection.execute(query.text))
            await query.begun()
            with anyio.fail_after(20):
                await connection.close()
        await is_in_step(other)
    assert not query.has_ended


@pytest.mark.anyio
async def test_leaving_the_block_of_the_connection_stops_its_query(served: Served, queries: Queries) -> None:
    query = queries()
    async with connected(served.port) as other, anyio.create_task_group() as calls:
        async with WSClient("127.0.0.1", served.port).connect() as connection:
            calls.start_soon(expect_end_with, errors.ConnectionClosed, connection.execute(query.text))
            await query.begun()
        await is_in_step(other)
    assert not query.has_ended


@pytest.mark.anyio
async def test_an_error_out_of_the_block_of_the_connection_stops_its_query(served: Served, queries: Queries) -> None:
    query = queries()

    async def fail(calls: TaskGroup) -> None:
        async with WSClient("127.0.0.1", served.port).connect() as connection:
            calls.start_soon(expect_end_with, errors.ConnectionClosed, connection.execute(query.text))
            await query.begun()
            raise LookupError

    async with connected(served.port) as other, anyio.create_task_group() as calls:
        with pytest.raises(LookupError):
            await fail(calls)
        await is_in_step(other)
    assert not query.has_ended


@pytest.mark.anyio
async def test_cancelling_the_block_of_the_connection_stops_its_query(served: Served, queries: Queries) -> None:
    query = queries()
    async with connected(served.port) as other:
        await is_in_step(other)
        async with no_leaks():
            with anyio.CancelScope() as scope:
                async with (
                    WSClient("127.0.0.1", served.port).connect() as connection,
                    anyio.create_task_group() as calls,
                ):
                    calls.start_soon(connection.execute, query.text)
                    await query.begun()
                    scope.cancel()
        assert isinstance(connection.closed, errors.ConnectionClosed)
        await is_in_step(other)
    assert not query.has_ended


@pytest.mark.trio
async def test_cancelling_the_nursery_of_the_connection_stops_its_query(served: Served, queries: Queries) -> None:
    query = queries()
    async with connected(served.port) as other:
        await is_in_step(other)
        async with no_leaks(), trio.open_nursery() as nursery:
            connection = await WSClient("127.0.0.1", served.port).connect(nursery)
            nursery.start_soon(connection.execute, query.text)
            await query.begun()
            nursery.cancel_scope.cancel()
        assert isinstance(connection.closed, errors.ConnectionClosed)
        await is_in_step(other)
    assert not query.has_ended


CLIENT = """
import sys
import anyio
from rayforce_trio import WSClient

async def main(port, query):
    async with WSClient("127.0.0.1", port).connect() as connection:
        await connection.execute(query)

anyio.run(main, int(sys.argv[2]), sys.argv[3], backend=sys.argv[1])
"""


@pytest.mark.anyio
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
async def test_a_client_ended_by_a_signal_stops_its_query(
    served: Served, queries: Queries, anyio_backend: str, end: signal.Signals
) -> None:
    """SIGINT is what Ctrl-C sends."""
    query = queries()
    async with connected(served.port) as other:
        command = [sys.executable, "-c", CLIENT, anyio_backend, str(served.port), query.text]
        async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as client:
            await query.begun()
            client.send_signal(end)
            with anyio.fail_after(20):
                assert await client.wait() == -end
        await is_in_step(other)
    assert not query.has_ended


@pytest.mark.anyio
async def test_a_client_that_resets_its_connection_stops_its_query(served: Served, queries: Queries) -> None:
    query, queued = queries(), queries()
    async with connected(served.port) as other:
        with await raw.open_raw(served.port) as peer:
            await peer.send_frame(encode(query.text, MessageType.SYNC))
            await peer.send_frame(encode(queued.text, MessageType.SYNC))
            await query.begun()
            peer.reset()
        await is_in_step(other)
    assert not query.has_ended
    assert not queued.has_begun


@pytest.mark.anyio
async def test_a_client_that_vanishes_without_a_close_frame_stops_its_query(served: Served, queries: Queries) -> None:
    query = queries()
    async with connected(served.port) as other:
        with await raw.open_raw(served.port) as peer:
            await peer.send_frame(encode(query.text, MessageType.SYNC))
            await query.begun()
        await is_in_step(other)
    assert not query.has_ended


@pytest.mark.anyio
async def test_a_connection_cut_on_the_way_stops_its_query(served: Served, queries: Queries) -> None:
    query = queries()
    async with (
        connected(served.port) as other,
        proxy(served.port) as between,
        anyio.create_task_group() as calls,
        connected(between.port) as connection,
    ):
        calls.start_soon(expect_end_with, errors.ConnectionLost, connection.execute(query.text))
        await query.begun()
        await between.reset()
        await is_in_step(other)
    assert not query.has_ended


@pytest.mark.trio
async def test_a_client_that_shows_no_life_any_more_stops_its_query(queries: Queries) -> None:
    query = queries()
    async with (
        WSServer(port=0, host="127.0.0.1", engine=NativeProcess(), ping_interval=0.2, ping_timeout=0.2) as server,
        proxy(server.port) as between,
        connected(server.port) as other,
        trio.open_nursery() as calls,
    ):
        with trio.CancelScope() as scope:
            async with WSClient("127.0.0.1", between.port).connect() as connection:
                calls.start_soon(expect_end_with, errors.ConnectionClosed, connection.execute(query.text))
                await query.begun()
                between.freeze()
                await is_in_step(other)
                scope.cancel()
    assert not query.has_ended


# What has not begun never does.


@pytest.mark.anyio
async def test_a_request_cancelled_while_it_waits_in_the_client_never_runs(served: Served, queries: Queries) -> None:
    running, waiting = queries(), queries()
    values: list[int] = []

    async def ask(query: str) -> None:
        values.append((await connection.execute(query)).value)

    async with proxy(served.port) as between, connected(between.port) as connection:
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, running.text)
                await running.begun()
                for number in range(MAX_IN_FLIGHT - 1):
                    tasks.start_soon(ask, str(number))
                await anyio.wait_all_tasks_blocked()
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as calls:
                        calls.start_soon(connection.execute, waiting.text)
                        await anyio.wait_all_tasks_blocked()
                        scope.cancel()
                running.release()
        await is_in_step(connection)
    assert sorted(values) == [*range(MAX_IN_FLIGHT - 1), running.value]
    assert not waiting.has_begun


@pytest.mark.anyio
async def test_a_request_cancelled_while_it_waits_in_the_server_never_runs(served: Served, queries: Queries) -> None:
    async with proxy(served.port) as between, connected(between.port) as connection:
        await check_that_it_never_runs(served, queries, connection, connection, between.to_server)


@pytest.mark.anyio
async def test_a_request_cancelled_while_it_waits_in_the_engine_never_runs(served: Served, queries: Queries) -> None:
    async with (
        proxy(served.port) as between,
        connected(between.port) as connection,
        connected(served.port) as other,
    ):
        await check_that_it_never_runs(served, queries, connection, other, between.to_server)
        await is_in_step(connection)


@pytest.mark.anyio
async def test_a_request_cancelled_on_a_connection_that_opened_while_the_engine_was_busy_never_runs(
    served: Served, queries: Queries
) -> None:
    running, waiting = queries(), queries()
    async with connected(served.port) as other, proxy(served.port) as between:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.execute, running.text)
            await running.begun()
            async with connected(between.port) as connection:
                before = between.to_server.passed
                with anyio.CancelScope() as scope:
                    async with anyio.create_task_group() as calls:
                        calls.start_soon(connection.execute, waiting.text)
                        await until_passed(between.to_server, before + len(waiting.text))
                        before = between.to_server.passed
                        scope.cancel()
                await until_passed(between.to_server, before + len('{"cancel": 1}'))
                await until_read(served.port)
                running.release()
                await is_in_step(connection)
        await is_in_step(other)
    assert running.has_ended
    assert not waiting.has_begun


async def check_that_it_never_runs(
    served: Served, queries: Queries, connection: WSClientConnection, busy: WSClientConnection, to_server: Lane
) -> None:
    """Cancel a request that waits for that of a `busy` connection, which is to go on."""
    running, waiting = queries(), queries()

    async def ask() -> None:
        assert (await busy.execute(running.text)).value == running.value

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask)
        await running.begun()
        before = to_server.passed
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as calls:
                calls.start_soon(connection.execute, waiting.text)
                await until_passed(to_server, before + len(waiting.text))
                if busy is not connection:
                    await until_unread(served.engine_pid, len(waiting.text))
                before = to_server.passed
                scope.cancel()
        await until_passed(to_server, before + len('{"cancel": 1}'))
        await until_read(served.port)
        running.release()
    await is_in_step(busy)
    assert not waiting.has_begun


# And nothing else is stopped.


@pytest.mark.anyio
async def test_a_cancelled_request_leaves_the_post_before_it_to_its_end(served: Served, queries: Queries) -> None:
    post = queries()
    async with proxy(served.port) as between, connected(between.port) as connection:
        await connection.post(post.text)
        await post.begun()
        before = between.to_server.passed
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as calls:
                calls.start_soon(connection.execute, "1")
                await until_passed(between.to_server, before + 1)
                before = between.to_server.passed
                scope.cancel()
        await until_passed(between.to_server, before + len('{"cancel": 1}'))
        await until_read(served.port)
        assert not post.has_ended
        post.release()
        await post.ended()
        await is_in_step(connection)


@pytest.mark.anyio
async def test_a_closed_connection_leaves_the_posts_it_has_sent_to_their_end(served: Served, queries: Queries) -> None:
    running, queued = queries(), queries("0")
    async with connected(served.port) as connection:
        await connection.post(running.text)
        await connection.post(queued.text)
        await running.begun()
    await until_read(served.port)
    running.release()
    await running.ended()
    await queued.ended()


@pytest.mark.anyio
async def test_a_cancelled_request_leaves_the_running_one_of_another_connection_to_its_end(
    served: Served, queries: Queries
) -> None:
    """Whether it waits in the engine, has just ended, or never was."""
    running = queries()
    values: list[int] = []

    async def ask() -> None:
        values.append((await other.execute(running.text)).value)

    async with connected(served.port) as other, anyio.create_task_group() as tasks:
        with await raw.open_raw(served.port) as peer:
            peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await peer.send_frame(encode("1", MessageType.SYNC))
            await peer.receive_frame()
            tasks.start_soon(ask)
            await running.begun()
            await peer.send_frame(encode("2", MessageType.SYNC))
            await until_unread(served.engine_pid, 1)
            for number in (1, 2, 2, 3, 1_000_000):
                await peer.send_frame(b'{"cancel": %d}' % number, raw.TEXT)
            await until_read(served.port)
            assert not running.has_ended
            running.release()
            opcode, answer = await peer.receive_frame()
            assert opcode == raw.TEXT
            assert b'"code": "cancel"' in answer
    assert values == [running.value]


def some_work(size: int) -> tuple[str, int]:
    """Return a query, which takes longer for a larger size, and its value."""
    number = next(_numbers)
    return f"(+ {number} (sum (map (fn [x] (sum (til x))) (til {size}))))", number + comb(size, 3)


class Races:
    """Queries that are cancelled about when they finish. On every machine, both outcomes happen often.

    Attributes:
        outcomes: how many queries were cancelled (`True`), and how many were not.
    """

    def __init__(self, adapting: float) -> None:
        self.outcomes = {True: 0, False: 0}
        self._adapting = adapting  # by which part the delay changes after each race
        self._duration = 0.003  # seconds, of a query

    async def run_one(self, connection: WSClientConnection, size: int) -> None:
        """Race once, and check that the connection is in step afterwards."""
        query, value = some_work(size)
        with trio.move_on_after(random.uniform(0.0, 1.6) * self._duration) as scope:
            assert (await connection.execute(query)).value == value
        self.outcomes[scope.cancelled_caught] += 1
        self._duration *= 1 + self._adapting if scope.cancelled_caught else 1 - self._adapting
        query, value = some_work(3)
        with trio.fail_after(20):
            assert (await connection.execute(query)).value == value


@pytest.mark.slow
@pytest.mark.trio
async def test_two_thousand_races_between_finishing_and_being_cancelled_touch_no_other_request() -> None:
    """Half of them while it waits for queries of another connection, too."""
    races = Races(adapting=0.05)
    noises = 0

    async def make_noise(connection: WSClientConnection) -> None:
        nonlocal noises
        while True:
            query, value = some_work(random.randrange(3, 3000))
            assert (await connection.execute(query)).value == value
            noises += 1

    async with (
        WSServer(port=0, host="127.0.0.1", engine=NativeProcess()) as server,
        connected(server.port) as connection,
        connected(server.port) as other,
    ):
        for _ in range(1000):
            await races.run_one(connection, 3000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(make_noise, other)
            for _ in range(1000):
                await races.run_one(connection, 3000)
            nursery.cancel_scope.cancel()
        await is_in_step(other)
    assert min(races.outcomes.values()) > 300
    assert noises > 300


@pytest.mark.trio
@pytest.mark.parametrize("count", [500, pytest.param(10_000, marks=pytest.mark.slow)])
async def test_races_among_many_requests_in_flight_touch_no_other_request(count: int) -> None:
    """The engine takes several requests of each connection. A stop that hits another request raises an error here."""
    races = Races(adapting=0.01)

    async def run_races(connection: WSClientConnection) -> None:
        while sum(races.outcomes.values()) < count or min(races.outcomes.values()) <= count / 4:
            await races.run_one(connection, random.choice([3, 30, 300, 1000]))

    async with (
        WSServer(port=0, host="127.0.0.1", engine=NativeProcess(read_only=True)) as server,
        connected(server.port) as connection,
        connected(server.port) as other,
    ):
        async with trio.open_nursery() as nursery:
            for _ in range(12):
                nursery.start_soon(run_races, connection)
            for _ in range(3):
                nursery.start_soon(run_races, other)
        for one in (connection, other):
            await is_in_step(one)
    assert min(races.outcomes.values()) > count / 4


@pytest.mark.trio
async def test_queries_without_end_that_are_all_in_flight_are_stopped_one_by_one() -> None:
    """In any order: running ones, and ones that wait in the engine. The queries between them get their own values."""
    values: list[int] = []

    async def ask(connection: WSClientConnection, number: int) -> None:
        values.append((await connection.execute(f"(+ {number} 1)")).value)

    async with (
        WSServer(port=0, host="127.0.0.1", engine=NativeProcess(read_only=True)) as server,
        connected(server.port) as connection,
        connected(server.port) as other,
    ):
        await is_in_step(connection)
        for seed in range(10):
            values.clear()
            scopes = [trio.CancelScope() for _ in range(12)]

            async def ask_without_end(scope: trio.CancelScope) -> None:
                with scope:
                    await connection.execute("(while true 1)")

            with trio.fail_after(20):
                async with trio.open_nursery() as nursery:
                    for number, scope in enumerate(scopes):
                        nursery.start_soon(ask_without_end, scope)
                        nursery.start_soon(ask, connection, number)
                    await trio.testing.wait_all_tasks_blocked()
                    random.Random(seed).shuffle(scopes)
                    for scope in scopes:
                        scope.cancel()
                        await trio.sleep(random.Random(seed).uniform(0, 0.002))
            assert sorted(values) == list(range(1, 13))
            await is_in_step(other)


# Requests and replies that are under way for long.


@pytest.mark.anyio
async def test_a_large_request_cancelled_on_its_way_to_the_server_leaves_the_connection_in_step(
    served: Served, queries: Queries
) -> None:
    query = queries("0")
    async with proxy(served.port) as between, connected(between.port) as connection:
        between.to_server.freeze(after=64 * 1024)
        with anyio.fail_after(20), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as calls:
                calls.start_soon(connection.execute, query.text + " " * LARGE)
                await between.to_server.frozen()
                scope.cancel()
        async with connected(served.port) as other:
            await is_in_step(other)
        between.to_server.thaw()
        await is_in_step(connection, within=20)


@pytest.mark.anyio
async def test_a_large_request_cancelled_on_its_way_to_a_busy_engine_leaves_the_connection_in_step(
    served: Served, queries: Queries
) -> None:
    running = queries()
    values: list[int] = []

    async def ask() -> None:
        values.append((await other.execute(running.text)).value)

    async with proxy(served.port) as between, connected(between.port) as connection, connected(served.port) as other:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            await running.begun()
            before = between.to_server.passed
            with anyio.fail_after(20), anyio.CancelScope() as scope:
                async with anyio.create_task_group() as calls:
                    calls.start_soon(connection.execute, "(while true 1)" + " " * LARGE)
                    await until_passed(between.to_server, before + LARGE)
                    await until_unread(served.engine_pid, 100_000)
                    before = between.to_server.passed
                    scope.cancel()
            await until_passed(between.to_server, before + len('{"cancel": 1}'))
            await until_read(served.port)
            assert unread_bytes(served.engine_pid) < LARGE
            running.release()
        await is_in_step(connection, within=20)
        await is_in_step(other)
    assert values == [running.value]


@pytest.mark.anyio
async def test_a_large_reply_cancelled_as_it_arrives_leaves_the_connection_in_step_and_the_engine_free(
    served: Served,
) -> None:
    async with (
        proxy(served.port) as between,
        connected(between.port) as connection,
        connected(served.port) as other,
    ):
        between.to_client.freeze(after=1_000_000)
        with anyio.fail_after(20), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as calls:
                calls.start_soon(connection.execute, f"(til {LARGE // 8})")
                await between.to_client.frozen()
                scope.cancel()
        await is_in_step(other)
        between.to_client.thaw()
        await is_in_step(connection, within=20)


# A server that ends, in front of an engine that goes on.


@pytest.mark.trio
async def test_a_server_that_is_stopped_stops_the_query_in_an_engine_that_is_not_its_own(queries: Queries) -> None:
    query = queries()
    with native_server() as native:
        async with trio.open_nursery() as nursery:
            server = WSServer(port=0, host="127.0.0.1", engine=NativeEngine("127.0.0.1", native.port))
            await server.start(nursery)
            async with connected(server.port) as connection, trio.open_nursery() as calls:
                calls.start_soon(expect_end_with, errors.ConnectionClosed, connection.execute(query.text))
                await query.begun()
                with trio.fail_after(SOON):
                    await server.stop(grace=0.2)
        with trio.fail_after(SOON):
            assert (await ask_natively(native.port, "(+ 1 2)")).value == 3
    assert not query.has_ended


@pytest.mark.trio
async def test_a_server_that_is_cancelled_stops_the_query_in_an_engine_that_is_not_its_own(queries: Queries) -> None:
    query = queries()
    with native_server() as native:
        async with trio.open_nursery() as calls, trio.open_nursery() as nursery:
            engine = NativeEngine("127.0.0.1", native.port)
            server: WSServer = await nursery.start(WSServer(port=0, host="127.0.0.1", engine=engine).serve)
            connection = await WSClient("127.0.0.1", server.port).connect(calls)
            calls.start_soon(expect_end_with, errors.ConnectionClosed, connection.execute(query.text))
            await query.begun()
            nursery.cancel_scope.cancel()
        with trio.fail_after(SOON):
            assert (await ask_natively(native.port, "(+ 1 2)")).value == 3
    assert not query.has_ended


@pytest.mark.anyio
async def test_a_server_program_that_is_terminated_stops_the_query_in_an_engine_that_is_not_its_own(
    queries: Queries,
) -> None:
    query = queries()
    with native_server() as native, natively_served(native.port) as served:
        async with connected(served.port) as connection, anyio.create_task_group() as calls:
            calls.start_soon(expect_end_with, errors.ConnectionClosed, connection.execute(query.text))
            await query.begun()
            served.process.terminate()
        with anyio.fail_after(SOON):
            assert (await ask_natively(native.port, "(+ 1 2)")).value == 3
        assert await anyio.to_thread.run_sync(served.process.wait, 20) == 0
    assert not query.has_ended


# An engine that is frozen, or gone.


@pytest.mark.timing
@pytest.mark.anyio
@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_frozen_engine_delays_no_cancelled_call_and_drops_its_query_when_it_goes_on(
    served: Served, queries: Queries, has_begun: bool
) -> None:
    query = queries()
    async with (
        proxy(served.port) as between,
        connected(between.port) as connection,
        connected(served.port) as other,
    ):
        async with AsyncExitStack() as frozen:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as calls:
                    await ask_and_freeze(served.engine_pid, connection.execute, query, has_begun, calls, frozen)
                    before = between.to_server.passed
                    cancelled = time.perf_counter()
                    scope.cancel()
            assert time.perf_counter() - cancelled < 1.0
            await until_passed(between.to_server, before + len('{"cancel": 1}'))
            await until_read(served.port)
        await is_in_step(other)
        await is_in_step(connection)
    assert query.has_begun is has_begun
    assert not query.has_ended


@pytest.mark.timing
@pytest.mark.anyio
@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_frozen_engine_delays_no_end_of_a_connection_and_drops_its_query_when_it_goes_on(
    served: Served, queries: Queries, has_begun: bool
) -> None:
    query = queries()
    async with connected(served.port) as other:
        await is_in_step(other)
        async with AsyncExitStack() as frozen, anyio.create_task_group() as calls:
            connection = await WSClient("127.0.0.1", served.port).connect()

            async def ask(query: str) -> None:
                await expect_end_with(errors.ConnectionClosed, connection.execute(query))

            await ask_and_freeze(served.engine_pid, ask, query, has_begun, calls, frozen)
            with anyio.fail_after(2.5):
                await connection.close()
        await is_in_step(other)
    assert query.has_begun is has_begun
    assert not query.has_ended


@pytest.mark.trio
@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_query_given_up_by_the_server_is_dropped_by_a_frozen_engine_when_it_goes_on(
    queries: Queries, has_begun: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._server._connection.CLOSE_TIMEOUT", 0.1)
    monkeypatch.setattr("rayforce_trio._engines._native_session.STOP_TIMEOUT", 0.1)
    query, engine = queries(), NativeProcess()
    async with WSServer(port=0, host="127.0.0.1", engine=engine) as server, connected(server.port) as other:
        assert engine.pid is not None
        async with AsyncExitStack() as frozen:
            with trio.CancelScope() as scope:
                async with connected(server.port) as connection, anyio.create_task_group() as calls:
                    await ask_and_freeze(engine.pid, connection.execute, query, has_begun, calls, frozen)
                    scope.cancel()
            await until_hung_up(engine.pid)
        await is_in_step(other)
    assert query.has_begun is has_begun
    assert not query.has_ended


async def ask_and_freeze(
    engine_pid: int,
    ask: Callable[[str], Coroutine[Any, Any, Any]],
    query: WatchedQuery,
    has_begun: bool,
    calls: TaskGroup,
    frozen: AsyncExitStack,
) -> None:
    """Have the system stop the engine, for as long as `frozen` lasts, after it has begun with a query or before."""
    if has_begun:
        calls.start_soon(ask, query.text)
        await query.begun()
    await frozen.enter_async_context(stopped(engine_pid))
    if not has_begun:
        calls.start_soon(ask, query.text)
        await until_unread(engine_pid, len(query.text))


@pytest.mark.anyio
async def test_cancellation_wins_over_the_loss_of_the_engine(queries: Queries) -> None:
    outcomes: list[object] = []

    async def ask(query: WatchedQuery) -> None:
        try:
            await connection.execute(query.text)
        except errors.RayforceWSError as error:
            outcomes.append(error)
        except anyio.get_cancelled_exc_class():
            outcomes.append("cancelled")
            raise

    query, queued = queries(), queries()
    with native_server() as native, natively_served(native.port) as served:
        async with connected(served.port) as connection, anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as calls:
                    calls.start_soon(ask, query)
                    await query.begun()
                    tasks.start_soon(ask, queued)
                    await anyio.wait_all_tasks_blocked()
                    native.kill()
                    scope.cancel()
    assert outcomes[0] == "cancelled"
    assert isinstance(outcomes[1], errors.ConnectionClosed)
    assert "the engine" in str(outcomes[1])
