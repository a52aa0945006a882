"""Subscriptions of connections that come back."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
from anyio.abc import TaskStatus
from support.connected import connected_to
from support.proxy import Proxy, proxy

from rayforce_trio import ClientConnectionState as State
from rayforce_trio import Subscription, WSClient, WSClientConnection, WSServer, errors

LOCAL = "127.0.0.1"


@asynccontextmanager
async def coming_back(port: int) -> AsyncIterator[tuple[WSClientConnection, Proxy]]:
    """Open a connection that comes back, and the proxy that it goes through."""
    with anyio.fail_after(60):
        async with proxy(port) as way, WSClient(LOCAL, way.port).connect(reconnect=True) as connection:
            yield connection, way


async def numbers(updates: Subscription, count: int) -> list[int]:
    return [int((await anext(updates)).value.value) for _ in range(count)]


@pytest.mark.anyio
async def test_a_lost_connection_costs_no_update(in_process_port: int, name: str) -> None:
    """Updates that are published while there is no connection arrive afterwards."""
    async with (
        connected_to(in_process_port) as publisher,
        coming_back(in_process_port) as (connection, way),
        connection.subscribe(name) as updates,
        connection.subscribe(name) as others,
    ):
        sent = 0
        for _ in range(5):
            for _ in range(10):
                await publisher.publish(name, sent)
                sent += 1
            await way.reset()
        assert await numbers(updates, sent) == await numbers(others, sent) == list(range(sent))
        await publisher.publish(name, sent)
        assert await numbers(updates, 1) == await numbers(others, 1) == [sent]


@pytest.mark.anyio
async def test_a_subscription_that_waits_goes_on_by_itself(in_process_port: int, name: str) -> None:
    taken: list[int] = []

    async def take(connection: WSClientConnection, *, task_status: TaskStatus[None]) -> None:
        async with connection.subscribe(name, snapshot="(+ 1 2)") as updates:
            task_status.started()
            taken.extend(await numbers(updates, 2))

    async with (
        connected_to(in_process_port) as publisher,
        coming_back(in_process_port) as (connection, way),
        anyio.create_task_group() as tasks,
    ):
        await tasks.start(take, connection)
        await way.reset()
        await publisher.publish(name, 1)
        await connection.execute("(+ 1 2)", idempotent=True)
        await way.reset()
        await publisher.publish(name, 2)
    assert taken == [1, 2]


@pytest.mark.trio
async def test_another_server_process_is_a_gap(name: str) -> None:
    """The new server has an epoch of its own, so it cannot tell which updates are missing."""
    with trio.fail_after(60):
        async with (
            WSServer(0, host=LOCAL, drain_timeout=0) as first,
            WSClient(LOCAL, first.port).connect(reconnect=True) as connection,
            connection.subscribe(name) as updates,
            trio.open_nursery() as nursery,
        ):
            port = first.port
            await first.publish(name, 1)
            assert await numbers(updates, 1) == [1]
            changes = connection.state_changes()
            await first.stop()
            await nursery.start(WSServer(port, host=LOCAL, drain_timeout=0).serve)
            async for state in changes:
                if state is State.CONNECTED:
                    break
            with pytest.raises(errors.SubscriptionGap, match=name):
                await anext(updates)
            assert await connection.execute("(+ 1 2)") == 3
            await connection.close()
            nursery.cancel_scope.cancel()


@pytest.mark.anyio
async def test_the_end_of_the_connection_ends_a_subscription_that_waits_for_another(
    in_process_port: int, name: str
) -> None:
    async with (
        coming_back(in_process_port) as (connection, way),
        connection.subscribe(name) as updates,
        anyio.create_task_group() as tasks,
    ):

        async def wait() -> None:
            with pytest.raises(errors.ConnectionClosed):
                await anext(updates)

        tasks.start_soon(wait)
        changes = connection.state_changes()
        await way.reset()
        async for state in changes:
            if state is not State.CONNECTED:
                break
        await connection.close()


@pytest.mark.anyio
async def test_a_subscription_that_has_ended_is_not_resumed(in_process_port: int, name: str) -> None:
    async with (
        connected_to(in_process_port) as publisher,
        coming_back(in_process_port) as (connection, way),
        connection.subscribe(name, max_buffer=1) as updates,
    ):
        for number in range(3):
            await publisher.publish(name, number)
        await connection.execute("(+ 1 2)")  # its reply follows the updates
        assert await numbers(updates, 1) == [0]
        with pytest.raises(errors.SlowSubscriber):
            await anext(updates)
        await way.reset()
        assert await connection.execute("(+ 1 2)", idempotent=True) == 3
        with pytest.raises(errors.SlowSubscriber):
            await anext(updates)
