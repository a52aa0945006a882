"""Event loops side by side: calls from another loop than the connection's, and trio in guest mode on asyncio."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import trio
from support.clients import check_answers
from support.guest import run_as_guest
from support.leaks import no_leaks

from rayforce_trio import WSClient, WSClientConnection, WSServer, errors

LOCAL = "127.0.0.1"
ELSEWHERE = "event loop in which it was opened"

Call = Callable[[], Awaitable[Any]]


@contextmanager
def open_in_a_thread(library: str, port: int) -> Iterator[WSClientConnection]:
    """Keep a connection open in the event loop of another thread. It must be usable after the block."""
    release = threading.Event()
    threads = ThreadPoolExecutor(1)
    connections: list[WSClientConnection] = []
    is_open = threading.Event()

    async def main() -> None:
        try:
            with anyio.fail_after(60):
                async with WSClient(LOCAL, port).connect() as connection:
                    connections.append(connection)
                    is_open.set()
                    await anyio.to_thread.run_sync(release.wait)
                    await connection.tables()  # needs no Rayforce object, which could not be made in this thread
        finally:
            is_open.set()

    with threads:
        thread = threads.submit(partial(anyio.run, main, backend=library))
        try:
            is_open.wait()
            yield connections[0]
        finally:
            release.set()
            thread.result()


def run_in(library: str, call: Call) -> None:
    """Await a call in a new event loop, or, with the library "none", outside of event loops."""

    async def bounded() -> None:
        with anyio.fail_after(5):
            await call()

    if library == "none":
        with pytest.raises(StopIteration):
            call().__await__().send(None)
    else:
        anyio.run(bounded, backend=library)


async def enter(connection: WSClientConnection) -> None:
    async with connection:
        pass


async def abort(connection: WSClientConnection) -> None:
    connection.abort()


CALLS: dict[str, Callable[[WSClientConnection], Awaitable[Any]]] = {
    "execute": lambda connection: connection.execute("1"),
    "fetch": lambda connection: connection.fetch("(til 3)"),
    "call": lambda connection: connection.call("til", 3),
    "execute_verbose": lambda connection: connection.execute_verbose("1"),
    "post": lambda connection: connection.post("1"),
    "tables": lambda connection: connection.tables(),
    "schema": lambda connection: connection.schema("t"),
    "insert": lambda connection: connection.insert("t", {"a": [1]}),
    "upsert": lambda connection: connection.upsert("t", {"a": [1]}, ["a"]),
    "create_table": lambda connection: connection.create_table("t", {"a": [1]}),
    "close": lambda connection: connection.close(),
    "abort": abort,
    "async with": enter,
}
"""Every call of a connection."""


@pytest.mark.parametrize("elsewhere", ["trio", "asyncio", "none"])
@pytest.mark.parametrize("library", ["trio", "asyncio"])
def test_a_call_from_elsewhere_than_the_connections_event_loop_is_an_error(
    in_process_port: int, library: str, elsewhere: str
) -> None:
    with open_in_a_thread(library, in_process_port) as connection:
        for call in CALLS.values():

            async def refused(call: Callable[[WSClientConnection], Awaitable[Any]] = call) -> None:
                with pytest.raises(errors.RayforceWSError, match=ELSEWHERE) as raised:
                    await call(connection)
                assert type(raised.value) is errors.RayforceWSError

            run_in(elsewhere, refused)


@pytest.mark.parametrize("elsewhere", ["trio", "asyncio", "none"])
@pytest.mark.parametrize("library", ["trio", "asyncio"])
def test_after_its_event_loop_a_connection_is_closed_and_can_be_closed_again_anywhere(
    in_process_port: int, library: str, elsewhere: str
) -> None:
    async def connect() -> WSClientConnection:
        async with WSClient(LOCAL, in_process_port).connect() as connection:
            await check_answers(connection)
        return connection

    connection = anyio.run(connect, backend=library)
    never_left = WSClient(LOCAL, in_process_port).connect()
    anyio.run(never_left.__aenter__, backend=library)

    async def use() -> None:
        await connection.close()
        await never_left.__aexit__(None, None, None)
        await enter(connection)
        connection.abort()
        with pytest.raises(errors.RayforceWSError, match=ELSEWHERE):
            await connection.execute("1")

    run_in(elsewhere, use)


def test_without_an_event_loop_connecting_is_an_error(in_process_port: int) -> None:
    pending = WSClient(LOCAL, in_process_port).connect()

    async def use() -> None:
        with pytest.raises(errors.RayforceWSError, match="no event loop is running"):
            await pending
        with pytest.raises(errors.RayforceWSError, match="no event loop is running"):
            async with pending:
                pass

    run_in("none", use)


@pytest.mark.parametrize("elsewhere", ["trio", "asyncio", "none"])
@pytest.mark.parametrize("library", ["trio", "asyncio"])
def test_a_block_cannot_be_left_in_another_event_loop(in_process_port: int, library: str, elsewhere: str) -> None:
    pending = WSClient(LOCAL, in_process_port).connect()

    def leave_elsewhere() -> None:
        with pytest.raises(errors.RayforceWSError, match=ELSEWHERE):
            run_in(elsewhere, partial(pending.__aexit__, None, None, None))

    async def main() -> None:
        async with pending as connection:
            await anyio.to_thread.run_sync(leave_elsewhere)
            await check_answers(connection)

    anyio.run(main, backend=library)


def test_a_nursery_of_another_event_loop_is_refused(in_process_port: int) -> None:
    nurseries: list[trio.Nursery] = []

    async def open_nursery() -> None:
        async with trio.open_nursery() as nursery:
            nurseries.append(nursery)

    trio.run(open_nursery)

    async def connect() -> None:
        async with no_leaks(within=5):
            with pytest.raises(errors.RayforceWSError, match="cannot start the connection's task"):
                await WSClient(LOCAL, in_process_port).connect(nurseries[0])

    asyncio.run(connect())
    trio.run(connect)  # here it is closed


# Guest mode: trio runs inside asyncio's event loop.


async def use_every_form(port: int) -> None:
    client = WSClient(LOCAL, port)
    async with client.connect() as connection:
        await check_answers(connection)
        await connection.post("1")
        assert await connection.execute("(til 100000)") is not None
        with anyio.move_on_after(0.01):
            await connection.execute("(sum (map (fn [x] (sum (til x))) (til 2000)))")
        await check_answers(connection)
    async with await client.connect() as connection:
        await check_answers(connection)
    async with anyio.create_task_group() as task_group:
        connection = await client.connect(task_group)
        await check_answers(connection)
        connection.abort()


def test_guest_mode_serves_and_connects_on_both_sides_at_once() -> None:
    async def host() -> None:
        started: asyncio.Future[WSServer] = asyncio.get_running_loop().create_future()
        host_done = trio.Event()

        async def guest() -> None:
            with trio.fail_after(60):
                async with WSServer(0, host=LOCAL) as server:
                    started.set_result(server)
                    for _ in range(3):
                        await use_every_form(server.port)
                    await host_done.wait()

        running = asyncio.create_task(run_as_guest(guest))
        both: list[asyncio.Future[Any]] = [running, started]
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        if not started.done():
            await running  # raises the error with which it failed
        server = started.result()
        for _ in range(3):
            await use_every_form(server.port)
        with pytest.raises(errors.RayforceWSError, match="the server needs trio"):
            await server.stop()
        for serve in (WSServer(0, host=LOCAL).run, WSServer(0, host=LOCAL).serve):
            with pytest.raises(errors.RayforceWSError, match="the server needs trio"):
                await serve()
        with pytest.raises(errors.RayforceWSError, match="the server needs trio"):
            async with WSServer(0, host=LOCAL):
                pass
        host_done.set()
        await running

    asyncio.run(asyncio.wait_for(host(), 60))


def test_guest_mode_host_and_guest_cannot_share_a_connection(in_process_port: int) -> None:
    async def host() -> None:
        async def refuse(connection: WSClientConnection) -> None:
            for call in CALLS.values():
                with pytest.raises(errors.RayforceWSError, match=ELSEWHERE):
                    await call(connection)

        handed_over: asyncio.Future[WSClientConnection] = asyncio.get_running_loop().create_future()
        refused = trio.Event()

        async with WSClient(LOCAL, in_process_port).connect() as hosts:

            async def guest() -> None:
                with trio.fail_after(30):
                    async with WSClient(LOCAL, in_process_port).connect() as guests:
                        await refuse(hosts)
                        handed_over.set_result(guests)
                        await refused.wait()
                        await check_answers(guests)

            running = asyncio.create_task(run_as_guest(guest))
            await refuse(await handed_over)
            refused.set()
            await running
            await check_answers(hosts)

    asyncio.run(asyncio.wait_for(host(), 60))


def test_a_server_is_stopped_in_its_own_run_only() -> None:
    async def main() -> None:
        async with WSServer(0, host=LOCAL) as server:

            async def stop() -> None:
                with pytest.raises(errors.RayforceWSError, match="in the trio run that serves"):
                    await server.stop()

            await trio.to_thread.run_sync(trio.run, stop)
            async with WSClient(LOCAL, server.port).connect() as connection:
                await check_answers(connection)

    trio.run(main)
