"""Blocks of connections: left in another task, in any order, entered more than once; and connections nobody closes."""

import asyncio
import gc
import subprocess
import sys
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import anyio
import anyio.lowlevel
import pytest
from support.clients import check_answers, in_time, is_closed_by_us
from support.leaks import no_leaks
from support.proxy import proxy
from support.raw import RawPeer, accept_raw, raw_server

from rayforce_trio import PendingConnection, WSClient, WSClientConnection, errors

LOCAL = "127.0.0.1"


async def in_another_task(function: Callable[[], Awaitable[object]]) -> None:
    """Run a function to its end in a task of its own."""

    async def run() -> None:
        await function()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(run)


async def leave(*blocks: PendingConnection) -> None:
    for block in blocks:
        await block.__aexit__(None, None, None)


# Where and in which order blocks are left


@pytest.mark.anyio
async def test_a_block_can_be_left_in_another_task_than_it_was_entered_in(in_process_port: int) -> None:
    async with in_time():
        pending = WSClient(LOCAL, in_process_port).connect()
        connections: list[WSClientConnection] = []

        async def enter() -> None:
            connections.append(await pending.__aenter__())

        await in_another_task(enter)
        await check_answers(connections[0])
        await in_another_task(lambda: leave(pending))
        assert is_closed_by_us(connections[0])


@pytest.mark.anyio
async def test_an_exit_stack_can_be_closed_in_another_task(in_process_port: int) -> None:
    async with in_time():
        client = WSClient(LOCAL, in_process_port)
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(client.connect())
            second = await stack.enter_async_context(client.connect())
            rest = stack.pop_all()
        await check_answers(first)
        await check_answers(second)
        await in_another_task(rest.aclose)
        assert is_closed_by_us(first)
        assert is_closed_by_us(second)


@pytest.mark.anyio
async def test_blocks_can_be_left_in_any_order(in_process_port: int) -> None:
    async with in_time():
        client = WSClient(LOCAL, in_process_port)
        blocks = [client.connect() for _ in range(3)]
        first, second, third = [await block.__aenter__() for block in blocks]
        await leave(blocks[0])
        assert is_closed_by_us(first)
        await check_answers(second)
        await check_answers(third)
        await leave(blocks[2], blocks[1])
        assert is_closed_by_us(second)
        assert is_closed_by_us(third)


@pytest.mark.anyio
async def test_a_block_that_a_generator_holds_is_left_where_the_generator_ends(in_process_port: int) -> None:
    """Fixtures of pytest-asyncio are generators like this one, and run in tasks of their own."""

    async def fixture() -> AsyncIterator[WSClientConnection]:
        async with WSClient(LOCAL, in_process_port).connect() as connection:
            yield connection

    async with in_time():
        fixtures = [fixture(), fixture()]
        connections: list[WSClientConnection] = []

        async def set_up() -> None:
            connections.extend([await anext(each) for each in fixtures])

        async def tear_down() -> None:
            for each in fixtures:
                with pytest.raises(StopAsyncIteration):
                    await anext(each)

        await in_another_task(set_up)
        for connection in connections:
            await check_answers(connection)
        await in_another_task(tear_down)
        assert all(map(is_closed_by_us, connections))


@pytest.mark.anyio
async def test_a_cancelled_block_is_left_within_two_seconds_and_closed(in_process_port: int) -> None:
    async with in_time(), proxy(in_process_port) as between:
        with anyio.CancelScope() as scope:
            async with WSClient(LOCAL, between.port).connect() as connection:
                await check_answers(connection)
                between.freeze()  # the server does not answer the close frame
                scope.cancel()
                started = anyio.current_time()
                await anyio.sleep_forever()
        assert anyio.current_time() - started < 5
        assert scope.cancelled_caught
        assert is_closed_by_us(connection)


@asynccontextmanager
async def server_that_notes_close_codes() -> AsyncIterator[tuple[int, list[int | None]]]:
    codes: list[int | None] = []

    async def note(peer: RawPeer) -> None:
        await accept_raw(peer)
        codes.append(await peer.receive_close())
        await peer.send_close(codes[-1] or 1000)

    async with raw_server(note) as port:
        yield port, codes


@pytest.mark.anyio
async def test_the_server_learns_whether_a_block_was_left_or_cancelled() -> None:
    async with in_time(), server_that_notes_close_codes() as (port, codes):
        async with WSClient(LOCAL, port).connect():
            pass
        with anyio.CancelScope() as scope:
            async with WSClient(LOCAL, port).connect():
                scope.cancel()
                await anyio.sleep_forever()
        with anyio.CancelScope() as scope:
            async with WSClient(LOCAL, port).connect():
                scope.cancel()
        with pytest.raises(KeyError):
            async with WSClient(LOCAL, port).connect():
                raise KeyError
        assert codes == [1000, 1001, 1001, 1000]


def test_the_server_learns_that_a_task_of_asyncio_was_cancelled() -> None:
    async def main() -> None:
        async with server_that_notes_close_codes() as (port, codes):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.1), WSClient(LOCAL, port).connect():
                    await asyncio.sleep(60)
            assert codes == [1001]

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.anyio
async def test_calls_in_a_shielded_scope_of_a_cancelled_block_still_work(in_process_port: int) -> None:
    async with in_time():
        with anyio.CancelScope() as scope:
            async with WSClient(LOCAL, in_process_port).connect() as connection:
                scope.cancel()
                with anyio.CancelScope(shield=True):
                    await check_answers(connection)
        assert is_closed_by_us(connection)


def test_a_block_whose_task_is_cancelled_twice_leaves_no_task_behind() -> None:
    """asyncio: the second `cancel` comes while the first one's closing handshake waits for the server."""

    async def main() -> None:
        close_received = anyio.Event()

        async def never_answer(peer: RawPeer) -> None:
            await accept_raw(peer)
            await peer.receive_close()
            close_received.set()
            await anyio.sleep_forever()

        async with raw_server(never_answer) as port:
            before = asyncio.all_tasks()
            connected = asyncio.Event()

            async def use() -> None:
                async with WSClient(LOCAL, port).connect():
                    connected.set()
                    await asyncio.sleep(60)

            task = asyncio.create_task(use())
            await connected.wait()
            between_tasks = asyncio.all_tasks() - before - {task}
            task.cancel()
            await close_received.wait()
            task.cancel()
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
            assert not [each for each in between_tasks if not each.done() and "run" in repr(each.get_coro())]

    asyncio.run(asyncio.wait_for(main(), 30))


@pytest.mark.anyio
@pytest.mark.parametrize("error", [KeyError("mine"), ExceptionGroup("mine", [KeyError("mine")])])
async def test_an_exception_of_the_block_is_raised_as_it_is(in_process_port: int, error: Exception) -> None:
    async with in_time():
        with pytest.raises(type(error)) as raised:
            async with WSClient(LOCAL, in_process_port).connect() as connection:
                raise error
        assert raised.value is error
        assert is_closed_by_us(connection)


@pytest.mark.anyio
async def test_the_block_goes_on_when_its_connection_is_lost() -> None:
    async def hang_up(peer: RawPeer) -> None:
        await accept_raw(peer)

    async with in_time(), raw_server(hang_up) as port:
        async with WSClient(LOCAL, port).connect() as connection:
            with pytest.raises(errors.ConnectionLost):
                await connection.execute("1")
            await anyio.lowlevel.checkpoint()
        assert isinstance(connection.closed, errors.ConnectionLost)


# One object, several uses


@pytest.mark.anyio
async def test_a_connect_object_can_be_entered_within_its_own_block(in_process_port: int) -> None:
    async with in_time():
        pending = WSClient(LOCAL, in_process_port).connect()
        async with pending as outer:
            async with pending as inner:
                assert inner is not outer
                await check_answers(inner)
                await check_answers(outer)
            assert is_closed_by_us(inner)
            await check_answers(outer)
            async with pending as another:
                await check_answers(another)
        for connection in (outer, inner, another):
            assert is_closed_by_us(connection)


@pytest.mark.anyio
async def test_tasks_that_enter_one_connect_object_leave_their_own_connections(in_process_port: int) -> None:
    async with in_time():
        pending = WSClient(LOCAL, in_process_port).connect()
        entered = [anyio.Event() for _ in range(3)]
        leave_now = [anyio.Event() for _ in range(3)]
        left = [anyio.Event() for _ in range(3)]
        connections: dict[int, WSClientConnection] = {}

        async def use(number: int) -> None:
            async with pending as connection:
                connections[number] = connection
                entered[number].set()
                await leave_now[number].wait()
                await check_answers(connection)
            assert is_closed_by_us(connection)
            left[number].set()

        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(use, number)
                await entered[number].wait()
            for number in (0, 2, 1):
                leave_now[number].set()
                await left[number].wait()
        assert len(set(connections.values())) == 3


@pytest.mark.anyio
async def test_a_connect_object_can_be_awaited_more_than_once(in_process_port: int) -> None:
    async with in_time():
        pending = WSClient(LOCAL, in_process_port).connect()
        first, second = await pending, await pending
        assert first is not second
        await first.close()
        await check_answers(second)
        await second.close()


@pytest.mark.anyio
async def test_a_connect_object_with_a_task_group_can_be_entered_twice(in_process_port: int) -> None:
    async with in_time(), anyio.create_task_group() as task_group:
        pending = WSClient(LOCAL, in_process_port).connect(task_group)
        async with pending as outer:
            async with pending as inner:
                await check_answers(inner)
            assert is_closed_by_us(inner)
            await check_answers(outer)
        assert is_closed_by_us(outer)


@pytest.mark.anyio
async def test_another_task_can_leave_blocks_that_one_task_has_entered_last_one_first(in_process_port: int) -> None:
    async with in_time():
        pending = WSClient(LOCAL, in_process_port).connect()
        outer, inner = await pending.__aenter__(), await pending.__aenter__()
        await in_another_task(lambda: leave(pending))
        assert is_closed_by_us(inner)
        await check_answers(outer)
        await in_another_task(lambda: leave(pending))
        assert is_closed_by_us(outer)


@pytest.mark.anyio
async def test_which_of_several_tasks_blocks_is_left_is_never_guessed(in_process_port: int) -> None:
    async with in_time():
        pending = WSClient(LOCAL, in_process_port).connect()
        connections: list[WSClientConnection] = []
        entered, release = [anyio.Event(), anyio.Event()], [anyio.Event(), anyio.Event()]

        async def use(number: int) -> None:
            connections.append(await pending.__aenter__())
            entered[number].set()
            await release[number].wait()
            await leave(pending)

        async with anyio.create_task_group() as tasks:
            for number in range(2):
                tasks.start_soon(use, number)
            for event in entered:
                await event.wait()
            with pytest.raises(errors.RayforceWSError, match="call connect\\(\\) once for each block"):
                await leave(pending)
            for connection in connections:
                await check_answers(connection)
            for event in release:
                event.set()
        assert all(map(is_closed_by_us, connections))


@pytest.mark.anyio
async def test_a_block_that_was_not_entered_cannot_be_left(in_process_port: int) -> None:
    with pytest.raises(errors.RayforceWSError, match="not been entered"):
        await leave(WSClient(LOCAL, in_process_port).connect())


# Connections that nobody closes


async def warnings_of(open_and_drop: Callable[[], Awaitable[None]]) -> list[str]:
    """Return the texts of the ResourceWarnings that a function causes, and check that nothing is left open."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with anyio.fail_after(60):
            async with no_leaks(within=5):
                await open_and_drop()
                gc.collect()
    assert {each.category for each in caught} <= {ResourceWarning}
    return [str(each.message) for each in caught]


@pytest.mark.anyio
async def test_a_connection_that_nobody_refers_to_is_closed_with_one_warning(in_process_port: int) -> None:
    async def drop() -> None:
        connection = await WSClient(LOCAL, in_process_port).connect()
        await check_answers(connection)

    (text,) = await warnings_of(drop)
    assert text.startswith(f"unclosed connection to 127.0.0.1:{in_process_port}")


@pytest.mark.anyio
async def test_a_block_that_is_never_left_is_closed_with_one_warning(in_process_port: int) -> None:
    async def drop() -> None:
        await WSClient(LOCAL, in_process_port).connect().__aenter__()

    (text,) = await warnings_of(drop)
    assert text.startswith(f"unclosed connection to 127.0.0.1:{in_process_port}")


@pytest.mark.anyio
async def test_a_connection_that_was_closed_in_any_way_causes_no_warning(in_process_port: int) -> None:
    client = WSClient(LOCAL, in_process_port)

    async def close() -> None:
        await (await client.connect()).close()

    async def use_abort() -> None:
        (await client.connect()).abort()

    async def leave_block() -> None:
        async with client.connect():
            pass

    async def leave_connection() -> None:
        async with await client.connect():
            pass

    async def cancel_close() -> None:
        connection = await client.connect()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await connection.close()

    async def cancel_task_group() -> None:
        async with anyio.create_task_group() as task_group:
            await client.connect(task_group)
            task_group.cancel_scope.cancel()

    async def lose() -> None:
        async def hang_up(peer: RawPeer) -> None:
            await accept_raw(peer)

        async with raw_server(hang_up) as port:
            connection = await WSClient(LOCAL, port).connect()
            with pytest.raises(errors.ConnectionLost):
                await connection.execute("1")

    async def be_refused() -> None:
        async def refuse(peer: RawPeer) -> None:
            await peer.receive_head()

        async with raw_server(refuse) as port:
            with pytest.raises(errors.HandshakeError):
                await WSClient(LOCAL, port).connect()

    for function in (
        close,
        use_abort,
        leave_block,
        leave_connection,
        cancel_close,
        cancel_task_group,
        lose,
        be_refused,
    ):
        assert await warnings_of(function) == [], function.__name__


NEVER_CLOSED = """
import asyncio, gc, trio
from rayforce_trio import WSClient

async def main():
    global connection
    connection = await WSClient("127.0.0.1", {port}).connect()
    print(await connection.execute("(+ 1 2)"))

{run}
{end}
"""


@pytest.mark.parametrize(
    ("run", "outcome"),
    [
        ("trio.run(main)", "it was closed when its event loop ended"),
        ("asyncio.run(main())", "it was closed when its event loop ended"),
        (
            "loop = asyncio.new_event_loop(); loop.run_until_complete(main()); loop.close()",
            "its event loop had already been closed",
        ),
    ],
    ids=["trio", "asyncio", "loop closed without cancelling its tasks"],
)
@pytest.mark.parametrize("end", ["del connection; gc.collect()", ""], ids=["collected", "at exit"])
def test_a_connection_that_ends_with_its_run_causes_one_warning_and_none_at_exit(
    in_process_port: int, run: str, outcome: str, end: str
) -> None:
    program = NEVER_CLOSED.format(port=in_process_port, run=run, end=end)
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "3\n")
    if end:
        assert done.stderr.count("Warning: ") == 2  # the other one says how to find out where it was made
        assert f"ResourceWarning: unclosed connection to 127.0.0.1:{in_process_port}: {outcome};" in done.stderr
    else:
        assert done.stderr == ""
