"""Cancel `connect`, `execute`, `post` and `close` at every scheduler step, once and twice, and look at what is left.

After each run the next query on the connection must give its own value, and no task, socket or slot may be left over.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count, product
from typing import Any, Protocol

import pytest
import trio
from support.connected import exchange_of
from support.engine_processes import fill_reserves
from support.leaks import no_leaks
from support.naive import connect_naively
from support.sweep import cancelled_at, cancelled_on_asyncio, pairs, swept

from rayforce_trio import WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._client._reading import Receiver

LARGE = 1_300_000  # bytes: many reads and writes

_numbers = count(1_000_000)


class Connection(Protocol):
    async def execute(self, query: Any) -> Any: ...
    async def close(self) -> None: ...


def a_sum() -> tuple[str, int]:
    """Return a query nobody asked before, and its value."""
    number = next(_numbers)
    return f"(+ {number} {number})", 2 * number


def a_large_sum() -> tuple[str, int]:
    """Return such a query that is LARGE."""
    query, value = a_sum()
    return query + " " * (LARGE - len(query)), value


@dataclass
class Tally:
    """What came of a sweep: runs that were cancelled, and connections that were out of step or unusable afterwards."""

    cancelled: int = 0
    wrong: int = 0
    closed: int = 0

    async def examine(self, connection: Connection) -> None:
        """Look whether a connection is in step, and close it."""
        try:
            self.wrong += not await in_step(connection)
        except errors.ConnectionClosed:
            self.closed += 1
        await connection.close()


async def in_step(connection: Connection) -> bool:
    """Whether the next queries give their own values."""
    for _ in range(2):
        query, value = a_sum()
        if (await connection.execute(query)).value != value:
            return False
    return True


@asynccontextmanager
async def idle_server() -> AsyncIterator[WSServer]:
    """Serve, once an engine process has the sessions that it keeps in reserve."""
    async with WSServer(port=0, host="127.0.0.1") as server:
        await fill_reserves(server)
        yield server


async def connect_steadily(port: int) -> Connection:
    """Connect, and send requests until each call receives its own reply."""
    connection = await WSClient("127.0.0.1", port).connect()
    while exchange_of(connection)._reading.receiver is not Receiver.NOBODY:
        await connection.execute("1")
    return connection


# On trio: server and client in one run, so that "every step" means every step of every task.


async def sweep_execute_on_trio(
    connect: Callable[[], Awaitable[Connection]],
    make_query: Callable[[], tuple[str, int]],
    *,
    of_all_tasks: bool,
    then_again_after: int | None,
) -> Tally:
    tally = Tally()

    async def run(step: int) -> bool:
        connection = await connect()
        query, value = make_query()
        steps = (step,) if then_again_after is None else (step, step + then_again_after)
        with cancelled_at(*steps, of_all_tasks=of_all_tasks) as scopes:
            tally.wrong += (await connection.execute(query)).value != value
        with trio.fail_after(10):
            await tally.examine(connection)
        return any(scope.cancelled_caught for scope in scopes)

    tally.cancelled = await swept(run)
    return tally


@pytest.mark.trio
@pytest.mark.parametrize(
    ("engine", "then_again_after"),
    [
        *product(["in-process"], [None, 0, 1, 2]),
        *product(["native", "child", "read-only"], [None, 1]),
    ],
)
@pytest.mark.parametrize("of_all_tasks", [False, True])
@pytest.mark.parametrize("make_query", [a_sum, a_large_sum])
@pytest.mark.usefixtures("each_engine")
async def test_execute_stays_in_step_on_trio(
    make_query: Callable[[], tuple[str, int]], of_all_tasks: bool, then_again_after: int | None
) -> None:
    async with idle_server() as server, no_leaks(within=5):
        tally = await sweep_execute_on_trio(
            lambda: WSClient("127.0.0.1", server.port).connect()._connect(),
            make_query,
            of_all_tasks=of_all_tasks,
            then_again_after=then_again_after,
        )
    assert (tally.wrong, tally.closed) == (0, 0)
    assert tally.cancelled >= (5 if of_all_tasks else 1)


@pytest.mark.trio
@pytest.mark.parametrize("engine", ["native", "read-only"])
@pytest.mark.parametrize("work", ["0", "(sum (til 300000))"], ids=["short", "longer"])
@pytest.mark.usefixtures("each_engine")
async def test_execute_leaves_other_calls_in_flight_their_own_values_on_trio(work: str) -> None:
    """At every step of every task. A read-only engine takes several of the requests at a time."""
    async with (
        idle_server() as server,
        no_leaks(within=5),
        WSClient("127.0.0.1", server.port).connect() as connection,
    ):

        async def ask() -> None:
            query, value = a_sum()
            assert (await connection.execute(f"(+ {query} (* 0 {work}))")).value == value

        async def run(step: int) -> bool:
            async with trio.open_nursery() as nursery:
                for _ in range(6):
                    nursery.start_soon(ask)
                with cancelled_at(step, of_all_tasks=True) as (scope,):
                    await ask()
                for _ in range(6):
                    nursery.start_soon(ask)
            with trio.fail_after(10):
                assert await in_step(connection)
            return scope.cancelled_caught

        for _ in range(3):
            assert await swept(run) >= 5


@pytest.mark.trio
@pytest.mark.parametrize("then_again_after", [None, 0, 1, 2])
@pytest.mark.parametrize("of_all_tasks", [False, True])
@pytest.mark.parametrize("make_query", [a_sum, a_large_sum])
async def test_execute_stays_in_step_in_steady_use_on_trio(
    make_query: Callable[[], tuple[str, int]], of_all_tasks: bool, then_again_after: int | None
) -> None:
    async with WSServer(port=0, host="127.0.0.1") as server, no_leaks(within=5):
        tally = await sweep_execute_on_trio(
            partial(connect_steadily, server.port),
            make_query,
            of_all_tasks=of_all_tasks,
            then_again_after=then_again_after,
        )
    assert (tally.wrong, tally.closed) == (0, 0)
    assert tally.cancelled >= 1


@pytest.mark.trio
async def test_a_naive_client_fails_the_sweep_on_trio() -> None:
    async with WSServer(port=0, host="127.0.0.1") as server:
        tally = await sweep_execute_on_trio(
            partial(connect_naively, server.port), a_sum, of_all_tasks=False, then_again_after=None
        )
    assert tally.wrong  # Always: one of its own steps is to wait. Steps of all tasks, in any order, can miss that one.


@pytest.mark.trio
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("size", "steps_at_least"), [(0, 1), (LARGE, 3)], ids=["short", "long"])
@pytest.mark.usefixtures("each_engine")
async def test_post_is_sent_whole_or_not_at_all_on_trio(size: int, steps_at_least: int, again: bool, name: str) -> None:
    async with idle_server() as server, no_leaks(within=5):

        async def run(step: int) -> bool:
            async with WSClient("127.0.0.1", server.port).connect() as connection:
                await connection.execute(f"(set {name} 0)")
                steps = (step, step + 1) if again else (step,)
                with cancelled_at(*steps, of_all_tasks=True) as scopes:
                    await connection.post(f"(set {name} (+ {name} 1))" + " " * size)
                with trio.fail_after(10):
                    assert (await connection.execute(name)).value in (
                        {0, 1} if any(scope.cancelled_caught for scope in scopes) else {1}
                    )
                    assert await in_step(connection)
                return any(scope.cancelled_caught for scope in scopes)

        assert await swept(run) >= steps_at_least


@pytest.mark.trio
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(
    ("engine", "form"),
    [
        *product(["in-process"], ["scoped", "in a nursery", "bare", "awaited and entered"]),
        *product(["native", "child"], ["scoped"]),
    ],
)
@pytest.mark.usefixtures("each_engine")
async def test_connect_leaves_nothing_behind_on_trio(form: str, again: bool) -> None:
    async with idle_server() as server:
        client = WSClient("127.0.0.1", server.port)

        async def connect_and_use() -> None:
            match form:
                case "scoped":
                    async with client.connect() as connection:
                        assert await in_step(connection)
                case "in a nursery":
                    async with trio.open_nursery() as nursery:
                        connection = await client.connect(nursery)
                        await connection.close()
                case "bare":
                    connection = await client.connect()
                    await connection.close()
                case "awaited and entered":
                    async with await client.connect() as connection:
                        assert await in_step(connection)

        async def run(step: int) -> bool:
            steps = (step, step + 1) if again else (step,)
            async with no_leaks(within=5):
                with cancelled_at(*steps, of_all_tasks=True) as scopes:
                    await connect_and_use()
            return any(scope.cancelled_caught for scope in scopes)

        assert await swept(run) > 20
        async with client.connect() as connection:
            assert await in_step(connection)


@pytest.mark.trio
@pytest.mark.parametrize("again", [False, True])
@pytest.mark.usefixtures("each_engine")
async def test_close_closes_although_cancelled_on_trio(again: bool) -> None:
    async with idle_server() as server:

        async def run(step: int) -> bool:
            steps = (step, step + 1) if again else (step,)
            async with no_leaks(within=5):
                connection = await WSClient("127.0.0.1", server.port).connect()
                with cancelled_at(*steps, of_all_tasks=True) as scopes:
                    await connection.close()
            with pytest.raises(errors.ConnectionClosed):
                await connection.execute("1")
            return any(scope.cancelled_caught for scope in scopes)

        assert await swept(run) > 3


# On asyncio: the server in a process of its own, every suspension of the caller's task; twice as well, since a second
# cancel pierces what shields against the first. On uvloop's loop, too, which does in C what asyncio's does.

UVLOOP = pytest.param(
    ("asyncio", {"use_uvloop": True}),
    id="uvloop",
    marks=pytest.mark.skipif(sys.platform == "win32", reason="there is no uvloop for Windows"),
)
on_asyncio = pytest.mark.parametrize("anyio_backend", ["asyncio", UVLOOP])


async def sweep_execute_on_asyncio(
    connect: Callable[[], Awaitable[Connection]], make_query: Callable[[], tuple[str, int]]
) -> Tally:
    tally = Tally()

    async def run(step: int) -> bool:
        cancelled = False
        for suspensions in pairs(step):
            connection = await connect()
            query, _ = make_query()
            cancelled |= await cancelled_on_asyncio(connection.execute(query), suspensions)
            async with asyncio.timeout(10):
                await tally.examine(connection)
            tally.cancelled += cancelled
        return cancelled

    await swept(run)
    return tally


@on_asyncio
@pytest.mark.parametrize("make_query", [a_sum, a_large_sum])
@pytest.mark.parametrize("steady", [False, True])
@pytest.mark.anyio
async def test_execute_stays_in_step_on_asyncio(
    in_process_port: int, make_query: Callable[[], tuple[str, int]], steady: bool
) -> None:
    async with no_leaks():
        connect = WSClient("127.0.0.1", in_process_port).connect()._connect
        tally = await sweep_execute_on_asyncio(
            partial(connect_steadily, in_process_port) if steady else connect, make_query
        )
    assert (tally.wrong, tally.closed) == (0, 0)
    assert tally.cancelled >= 4


@on_asyncio
@pytest.mark.anyio
async def test_execute_stays_in_step_with_a_baseline_server_on_asyncio(their_port: int) -> None:
    async with no_leaks():
        tally = await sweep_execute_on_asyncio(lambda: WSClient("127.0.0.1", their_port).connect()._connect(), a_sum)
    assert (tally.wrong, tally.closed) == (0, 0)


@on_asyncio
@pytest.mark.anyio
async def test_a_naive_client_fails_the_sweep_on_asyncio(in_process_port: int) -> None:
    tally = await sweep_execute_on_asyncio(partial(connect_naively, in_process_port), a_sum)
    assert tally.wrong > 0


@on_asyncio
@pytest.mark.anyio
async def test_connect_leaves_nothing_behind_on_asyncio(in_process_port: int) -> None:
    client = WSClient("127.0.0.1", in_process_port)

    async def scoped() -> None:
        async with client.connect() as connection:
            assert await in_step(connection)

    async def bare() -> None:
        connection = await client.connect()
        await connection.close()

    async def awaited_and_entered() -> None:
        async with await client.connect() as connection:
            assert await in_step(connection)

    for form in (scoped, bare, awaited_and_entered):

        async def run(step: int, form: Callable[[], Coroutine[Any, Any, None]] = form) -> bool:
            cancelled = False
            for suspensions in pairs(step):
                async with no_leaks():
                    cancelled |= await cancelled_on_asyncio(form(), suspensions)
            return cancelled

        assert await swept(run) > 1
    await scoped()


@on_asyncio
@pytest.mark.anyio
async def test_close_closes_although_cancelled_on_asyncio(in_process_port: int) -> None:
    async def run(step: int) -> bool:
        cancelled = False
        for suspensions in pairs(step):
            async with no_leaks():
                connection = await WSClient("127.0.0.1", in_process_port).connect()
                cancelled |= await cancelled_on_asyncio(connection.close(), suspensions)
            with pytest.raises(errors.ConnectionClosed):
                await connection.execute("1")
        return cancelled

    assert await swept(run) >= 1


@on_asyncio
@pytest.mark.anyio
async def test_post_is_sent_whole_or_not_at_all_on_asyncio(in_process_port: int, name: str) -> None:
    async def run(step: int) -> bool:
        reached = False
        for suspensions in pairs(step):
            async with WSClient("127.0.0.1", in_process_port).connect() as connection:
                await connection.execute(f"(set {name} 0)")
                cancelled = await cancelled_on_asyncio(connection.post(f"(set {name} (+ {name} 1))"), suspensions)
                assert (await connection.execute(name)).value in ({0, 1} if cancelled else {1})
                assert await in_step(connection)
            reached |= cancelled
        return reached

    async with no_leaks():
        assert await swept(run) >= 1


# Streams


async def receive_in_batches(connection: WSClientConnection) -> list[int]:
    async with connection.stream("(til 10)", batch_size=4) as batches:
        return [row async for columns in batches for row in columns["value"].tolist()]


async def streams_left(connection: WSClientConnection) -> int:
    names = await connection.fetch("(key (env 0))")
    return sum(name.startswith("#stream-") for name in names["value"])


@pytest.mark.trio
@pytest.mark.parametrize("then_again_after", [None, 1])
@pytest.mark.parametrize("of_all_tasks", [False, True])
@pytest.mark.parametrize("engine", ["in-process", "native", "child", "read-only"])
@pytest.mark.usefixtures("each_engine")
async def test_a_stream_leaves_the_connection_in_step_and_no_variables(
    of_all_tasks: bool, then_again_after: int | None
) -> None:
    async with (
        idle_server() as server,
        no_leaks(within=5),
        WSClient("127.0.0.1", server.port).connect() as connection,
    ):
        left_before = await streams_left(connection)  # by other tests, in the engine of this process

        async def run(step: int) -> bool:
            steps = (step,) if then_again_after is None else (step, step + then_again_after)
            with cancelled_at(*steps, of_all_tasks=of_all_tasks) as scopes:
                assert await receive_in_batches(connection) == list(range(10))
            with trio.fail_after(10):
                assert await in_step(connection)
                assert await streams_left(connection) == left_before
            return any(scope.cancelled_caught for scope in scopes)

        assert await swept(run) >= (10 if of_all_tasks else 3)


@on_asyncio
@pytest.mark.anyio
async def test_a_stream_leaves_the_connection_in_step_and_no_variables_on_asyncio(in_process_port: int) -> None:
    async with no_leaks(), WSClient("127.0.0.1", in_process_port).connect() as connection:

        async def run(step: int) -> bool:
            reached = False
            for suspensions in pairs(step):
                reached |= await cancelled_on_asyncio(receive_in_batches(connection), suspensions)
                assert await in_step(connection)
                assert await streams_left(connection) == 0
            return reached

        assert await swept(run) >= 3


# Subscriptions


async def use_a_subscription(connection: WSClientConnection, topic: str) -> None:
    async with connection.subscribe(topic, snapshot="(+ 1 2)") as updates:
        await connection.publish(topic, 1)
        assert (await anext(updates)).value == 1


def subscriptions_left(connection: WSClientConnection) -> int:
    exchange = exchange_of(connection)
    assert exchange._reading._needed == len(exchange._protocol._subscriptions)
    return exchange._reading._needed


@pytest.mark.trio
@pytest.mark.parametrize("then_again_after", [None, 0, 1])
@pytest.mark.parametrize("of_all_tasks", [False, True])
@pytest.mark.parametrize("engine", ["in-process", "child"])
@pytest.mark.usefixtures("each_engine")
async def test_a_subscription_leaves_the_connection_in_step_and_no_subscribers(
    of_all_tasks: bool, then_again_after: int | None
) -> None:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(idle_server())
        client = WSClient("127.0.0.1", server.port)
        async with client.connect() as connection:
            await use_a_subscription(connection, "t")  # the server keeps what it needs for the topic, for a while
        await stack.enter_async_context(no_leaks(within=5))
        connection = await stack.enter_async_context(client.connect())

        async def run(step: int) -> bool:
            steps = (step,) if then_again_after is None else (step, step + then_again_after)
            with cancelled_at(*steps, of_all_tasks=of_all_tasks) as scopes:
                await use_a_subscription(connection, "t")
            with trio.fail_after(10):
                assert await in_step(connection)
            assert subscriptions_left(connection) == 0
            assert server.statistics().topics["t"].subscribers == 0
            return any(scope.cancelled_caught for scope in scopes)

        assert await swept(run) >= (10 if of_all_tasks else 3)


@on_asyncio
@pytest.mark.anyio
async def test_a_subscription_leaves_the_connection_in_step_on_asyncio(in_process_port: int, name: str) -> None:
    async with no_leaks(), WSClient("127.0.0.1", in_process_port).connect() as connection:

        async def run(step: int) -> bool:
            reached = False
            for suspensions in pairs(step):
                reached |= await cancelled_on_asyncio(use_a_subscription(connection, name), suspensions)
                assert await in_step(connection)
                assert subscriptions_left(connection) == 0
            return reached

        assert await swept(run) >= 3
