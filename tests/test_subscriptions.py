"""`subscribe` and `publish`, through connections to real servers."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

import anyio
import pytest
from support.connected import connected_to
from support.processes import server_process
from support.scripted_server import answer_the_close, connected
from support.sweep import cancellation_of, swept

from rayforce_trio import Position, Subscription, WSClientConnection, errors


@pytest.fixture(scope="session", params=["in-process", "child"])
def port(request: pytest.FixtureRequest) -> Iterator[int]:
    """The port of a server in a process of its own, with an engine of each kind that publishes."""
    with server_process(request.param) as port:
        yield port


async def values(updates: Subscription, count: int) -> list[Any]:
    return [(await anext(updates)).value for _ in range(count)]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("value", "received"),
    [(5, 5), (2.5, 2.5), ("text", "text"), ([1, "a"], [1, "a"]), ({"a": 1}, {"a": 1}), ([1, 2, 3], [1, 2, 3])],
)
async def test_a_value_arrives_as_it_was_published(port: int, name: str, value: Any, received: Any) -> None:
    async with connected_to(port) as connection, connection.subscribe(name) as updates:
        number = await connection.publish(name, value)
        update = await anext(updates)
        assert (update.topic, update.sequence, update.lost) == (name, number, 0)
        got = update.value
        plain = got.to_python() if hasattr(got, "to_python") else got
        assert plain == received or list(plain) == received
        assert update.value is got


@pytest.mark.anyio
async def test_a_published_table_arrives_as_columns(port: int, name: str) -> None:
    async with connected_to(port) as connection, connection.subscribe(name) as updates:
        table = await connection.execute("(table [sym px] (list [a b] [1.5 2.5]))")
        await connection.publish(name, table)
        columns = (await anext(updates)).columns()
        assert columns.to_dict() == {"sym": ["a", "b"], "px": [1.5, 2.5]}


@pytest.mark.anyio
async def test_every_subscription_of_a_connection_gets_every_update(port: int, name: str) -> None:
    async with (
        connected_to(port) as publisher,
        connected_to(port) as connection,
        connection.subscribe(name) as one,
        connection.subscribe(name) as two,
        connection.subscribe(f"{name}_other") as other,
    ):
        for number in range(10):
            await publisher.publish(name, number)
        await publisher.publish(f"{name}_other", -1)
        assert await values(one, 10) == await values(two, 10) == list(range(10))
        assert await values(other, 1) == [-1]


@pytest.mark.anyio
async def test_calls_work_beside_a_subscription(port: int, name: str) -> None:
    taken: list[int] = []

    async def take(updates: Subscription) -> None:
        async for update in updates:
            taken.append(update.value)
            if len(taken) == 50:
                break

    async with (
        connected_to(port) as connection,
        connection.subscribe(name) as updates,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(take, updates)
        for number in range(50):
            assert await connection.execute(f"(+ 1 {number})") == number + 1
            await connection.publish(name, number)
    assert taken == list(range(50))


@pytest.mark.anyio
async def test_without_subscribers_nothing_is_published(port: int, name: str) -> None:
    async with connected_to(port) as connection:
        assert await connection.publish(name, 1) == 0


@pytest.mark.anyio
@pytest.mark.parametrize(("joiners", "connections"), [(60, 1), pytest.param(1000, 20, marks=pytest.mark.slow)])
async def test_late_joiners_beside_a_writer_miss_nothing_and_see_nothing_twice(
    port: int, name: str, joiners: int, connections: int
) -> None:
    """Each joiner has the rows of its snapshot, and then every row that the writer adds, until all have joined."""
    rows, end, written, joined = 100, -1, 0, 0

    async def write(connection: WSClientConnection) -> None:
        nonlocal written
        while joined < joiners or written < rows:
            await connection.execute(f"(insert '{name} (list {written}))")
            await connection.publish(name, written)
            written += 1
            for reader in readers[::5]:
                await reader.execute("0")  # otherwise the writer outruns readers that share a core
        await connection.publish(name, end)

    async def join(connection: WSClientConnection) -> None:
        nonlocal joined
        async with connection.subscribe(name, snapshot=name) as updates:
            seen = (await updates.snapshot_columns())["n"].tolist()
            joined += 1
            while (value := (await anext(updates)).value) != end:
                # The writer inserts before it publishes, so the snapshot may be one row ahead of the updates.
                if value == len(seen):
                    seen.append(value)
                else:
                    assert value == len(seen) - 1
            assert seen == list(range(written))

    async with AsyncExitStack() as stack:
        writer, *readers = [await stack.enter_async_context(connected_to(port)) for _ in range(1 + connections)]
        await writer.execute(f"(set {name} (table [n] (list (take [0] 0))))")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, writer)
            for number in range(joiners):
                reader = readers[number % connections]
                tasks.start_soon(join, reader)
                await reader.execute("(+ 1 2)")


@pytest.mark.anyio
async def test_a_snapshot_and_its_updates_join_without_gaps(port: int, name: str) -> None:
    """The value that is published tells how many were published before it, and so does the snapshot."""
    async with connected_to(port) as writer, connected_to(port) as reader, AsyncExitStack() as stack:
        await writer.execute(f"(set {name} 0)")
        keep = await stack.enter_async_context(writer.subscribe(name))
        for _ in range(5):
            await writer.publish(name, 0)
        async with reader.subscribe(name, snapshot="(+ n 1)", params={"n": 4}) as updates:
            assert updates.snapshot == 5
            assert updates.position.sequence == keep.position.sequence + 5
            await writer.publish(name, 7)
            update = await anext(updates)
            assert (update.value, update.sequence) == (7, updates.position.sequence)


@pytest.mark.anyio
async def test_an_error_of_the_snapshot_is_raised_as_by_execute(port: int, name: str) -> None:
    async with connected_to(port) as connection:
        with pytest.raises(errors.RayforceError, match="name"):
            async with connection.subscribe(name, snapshot="no_such_name"):
                pass
        assert await connection.publish(name, 1) in (0, 1)  # the server may linger
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.anyio
async def test_a_subscription_is_resumed_at_its_position(port: int, name: str) -> None:
    async with connected_to(port) as publisher:
        async with connected_to(port) as connection, connection.subscribe(name) as updates:
            for number in range(5):
                await publisher.publish(name, number)
            assert await values(updates, 2) == [0, 1]
            position = updates.position
        for number in range(5, 8):
            assert await publisher.publish(name, number) > 0
        async with connected_to(port) as connection, connection.subscribe(name, resume=position) as updates:
            assert await values(updates, 6) == [2, 3, 4, 5, 6, 7]


@pytest.mark.anyio
async def test_a_position_that_is_unknown_is_a_gap(port: int, name: str) -> None:
    async with connected_to(port) as connection:
        with pytest.raises(errors.SubscriptionGap, match=name):
            async with connection.subscribe(name, resume=Position("of another server", 3)):
                pass
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.anyio
async def test_updates_that_are_not_taken_in_time(port: int, name: str) -> None:
    room = 840  # bytes: three integers
    async with connected_to(port) as connection, AsyncExitStack() as stack:
        error = await stack.enter_async_context(connection.subscribe(name, max_buffer=room))
        drop = await stack.enter_async_context(connection.subscribe(name, max_buffer=room, overflow="drop_oldest"))
        latest = await stack.enter_async_context(connection.subscribe(name, overflow="latest"))
        for number in range(20):
            await connection.publish(name, number)
        assert await values(error, 3) == [0, 1, 2]
        with pytest.raises(errors.SlowSubscriber, match=name):
            await anext(error)
        lost = (await anext(drop)).lost
        assert lost > 0
        assert await values(drop, 19 - lost) == list(range(lost + 1, 20))
        update = await anext(latest)
        assert (update.value, update.lost) == (19, 19)
        await connection.publish(name, 20)
        assert (await anext(latest)).lost == (await anext(drop)).lost == 0


@pytest.mark.anyio
async def test_a_cancelled_wait_loses_no_update(in_process_port: int, name: str) -> None:
    async with connected_to(in_process_port) as connection:

        async def run(step: int) -> bool:
            async with connection.subscribe(name) as updates:
                await connection.publish(name, 1)
                await connection.publish(name, 2)
                cancelled = await cancellation_of(updates.__anext__(), step)
                assert await values(updates, 2 if cancelled else 1) == ([1, 2] if cancelled else [2])
            return cancelled is not None

        await swept(run)


@pytest.mark.anyio
async def test_a_subscription_cancelled_at_any_step_leaves_nothing_behind(port: int, name: str) -> None:
    async def use(connection: WSClientConnection) -> None:
        async with connection.subscribe(name, snapshot="(+ 1 2)") as updates:
            await connection.publish(name, 1)
            assert (await anext(updates)).value == 1

    async with connected_to(port) as connection:

        async def run(step: int) -> bool:
            cancelled = await cancellation_of(use(connection), step)
            assert await connection.execute(f"(+ 1 {step})") == step + 1
            return cancelled is not None

        assert await swept(run) >= 3
        async with connection.subscribe(name) as updates:
            await connection.publish(name, 9)
            assert await values(updates, 1) == [9]


@pytest.mark.anyio
async def test_misuse_is_an_error_that_says_so(in_process_port: int, name: str) -> None:
    async with connected_to(in_process_port) as connection:
        updates = connection.subscribe(name)
        with pytest.raises(errors.RayforceWSError, match=r"write 'async with connection\.subscribe"):
            await anext(updates)
        with pytest.raises(errors.RayforceWSError, match=r"write 'async with connection\.subscribe"):
            _ = updates.position
        async with updates:
            with pytest.raises(errors.RayforceWSError, match="a subscription can be used once"):
                await updates.__aenter__()
            with pytest.raises(errors.RayforceWSError, match="this subscription has no snapshot"):
                _ = updates.snapshot
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(updates.__anext__)
                await anyio.wait_all_tasks_blocked()
                with pytest.raises(errors.RayforceWSError, match="another task is using this subscription"):
                    await anext(updates)
                tasks.cancel_scope.cancel()
        with pytest.raises(
            errors.RayforceWSError,
            match=r"the 'async with' block of this subscription has ended; call subscribe\(\) again",
        ):
            await anext(updates)


@pytest.mark.anyio
async def test_only_one_task_can_enter_and_nobody_waits_for_updates_meanwhile() -> None:
    async with connected(answer_the_close) as connection, anyio.create_task_group() as tasks:
        updates = connection.subscribe("t")
        tasks.start_soon(updates.__aenter__)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(errors.RayforceWSError, match="a subscription can be used once"):
            await updates.__aenter__()
        with pytest.raises(errors.RayforceWSError, match="another task is using this subscription"):
            await anext(updates)
        tasks.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"topic": ""}, "Invalid topic: ''. A topic must not be empty"),
        ({"topic": 1}, "Invalid topic: 1. Must be a str"),
        ({"topic": "a\0"}, "must not contain NUL"),
        ({"topic": "t", "max_buffer": 0}, "Invalid max_buffer: 0"),
        ({"topic": "t", "max_buffer": True}, "Invalid max_buffer: True"),
        (
            {"topic": "t", "overflow": "drop"},
            "Invalid overflow: 'drop'. Must be one of 'error', 'drop_oldest', 'latest'",
        ),
        ({"topic": "t", "overflow": []}, "Invalid overflow"),
        ({"topic": "t", "resume": 5}, "Invalid resume: 5"),
        ({"topic": "t", "resume": Position("e", -1)}, r"Invalid resume: Position\(epoch='e', sequence=-1\)"),
        ({"topic": "t", "resume": Position("e" * 65, 1)}, "Invalid resume"),
        ({"topic": "t", "resume": Position("e", cast("int", "1"))}, "Invalid resume"),
        ({"topic": "t", "resume": Position("e", 1), "snapshot": "t"}, "resume and snapshot cannot be used together"),
        ({"topic": "t", "params": {}}, "params needs snapshot"),
    ],
)
async def test_arguments_are_checked_early(in_process_port: int, arguments: dict[str, Any], problem: str) -> None:
    async with connected_to(in_process_port) as connection:
        with pytest.raises(errors.RayforceValueError, match=problem):
            connection.subscribe(**arguments)


@pytest.mark.anyio
async def test_what_cannot_be_published_is_refused_early(in_process_port: int) -> None:
    async with connected_to(in_process_port) as connection:
        with pytest.raises(errors.RayforceValueError, match="null cannot be published"):
            await connection.publish("topic", None)
        with pytest.raises(errors.RayforceValueError, match="Invalid topic"):
            await connection.publish("", 1)
        with pytest.raises(errors.RayforceConversionError, match="the value"):
            await connection.publish("topic", object())


@pytest.mark.anyio
async def test_the_end_of_the_connection_ends_the_iteration_with_its_error(in_process_port: int, name: str) -> None:
    async with connected_to(in_process_port) as connection, connection.subscribe(name) as updates:
        await connection.publish(name, 1)
        await connection.execute("(+ 1 2)")  # the update has arrived before its answer
        connection.abort()
        assert (await anext(updates)).value == 1
        with pytest.raises(errors.ConnectionClosed):
            await anext(updates)


@pytest.mark.anyio
async def test_a_server_without_subscriptions_is_named_in_the_error(their_port: int) -> None:
    async with connected_to(their_port) as connection:
        for use in (connection.subscribe("t").__aenter__, lambda: connection.publish("t", 1)):
            with pytest.raises(errors.RayforceWSError, match="this server does not offer subscriptions"):
                await use()


@pytest.mark.anyio
async def test_read_only_clients_may_subscribe_but_not_publish(name: str) -> None:
    with server_process("read-only") as port:
        async with connected_to(port) as connection, connection.subscribe(name, snapshot="(+ 1 2)") as updates:
            assert updates.snapshot == 3
            with pytest.raises(errors.RayforceError, match="access"):
                await connection.publish(name, 1)
