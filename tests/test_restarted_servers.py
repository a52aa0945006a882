"""Servers that stop, die and come back, and clients whose connections come back, with real sockets."""

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest
import trio
from support.leaks import no_leaks
from support.proxy import proxy

from rayforce_trio import ClientConnectionState as State
from rayforce_trio import WSClient, WSClientConnection, WSServer, auth, errors
from rayforce_trio._client._reconnecting import ReconnectingExchange

LOCAL = "127.0.0.1"

SERVER = """
import sys
import trio
from rayforce_trio import WSServer

async def main():
    async with WSServer(host="127.0.0.1", port=int(sys.argv[1]), max_connections=None,
                        max_connections_per_address=None) as server:
        print(server.port, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@contextmanager
def serving(port: int = 0) -> Iterator[tuple[int, "subprocess.Popen[str]"]]:
    """Run a server without limits on connections in a process of its own; yields its port and the process."""
    child = subprocess.Popen([sys.executable, "-c", SERVER, str(port)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        yield int(child.stdout.readline()), child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def kill(child: "subprocess.Popen[str]") -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.wait()


async def until(connection: WSClientConnection, state: State) -> None:
    changes = connection.state_changes()
    while connection.state is not state:
        await anext(changes)


@asynccontextmanager
async def restartable(**options: Any) -> AsyncIterator["Restartable"]:
    async with trio.open_nursery() as nursery:
        server = Restartable(nursery, options)
        await server.start()
        yield server
        nursery.cancel_scope.cancel()


class Restartable:
    """A server in this process that can be stopped in good order, and started again at the same port."""

    def __init__(self, nursery: trio.Nursery, options: dict[str, Any]) -> None:
        self.port = 0
        self.options = options
        self._nursery = nursery
        self._scope = trio.CancelScope()
        self._ended = trio.Event()

    async def start(self) -> None:
        self.port = await self._nursery.start(self._serve)

    async def stop(self) -> None:
        self._scope.cancel()
        await self._ended.wait()

    async def _serve(self, *, task_status: trio.TaskStatus[int]) -> None:
        self._scope, self._ended = trio.CancelScope(), trio.Event()
        try:
            with self._scope:
                async with WSServer(port=self.port, host=LOCAL, **self.options) as server:
                    task_status.started(server.port)
                    await trio.sleep_forever()
        finally:
            self._ended.set()


@pytest.mark.anyio
async def test_a_server_that_is_killed_and_started_again() -> None:
    with anyio.fail_after(30):
        with serving() as (port, first):
            async with no_leaks(), WSClient(LOCAL, port).connect(reconnect=True) as connection:
                assert await connection.execute("(+ 1 2)") == 3
                async with anyio.create_task_group() as calls:
                    lost: list[errors.RayforceError] = []

                    async def ask() -> None:
                        try:
                            await connection.execute("(do (set x 1) (sum (map (fn [x] (sum (til x))) (til 200000))))")
                        except errors.RayforceError as error:
                            lost.append(error)

                    calls.start_soon(ask)
                    await anyio.wait_all_tasks_blocked()
                    kill(first)
                    await until(connection, State.WAITING)
                assert [type(error) for error in lost] == [errors.ConnectionLost]
                values: list[Any] = []

                async def ask_again() -> None:
                    values.append(await connection.execute("(+ 2 2)"))

                async with anyio.create_task_group() as calls:
                    calls.start_soon(ask_again)
                    await anyio.wait_all_tasks_blocked()
                    with serving(port):
                        await until(connection, State.CONNECTED)
                        assert await connection.execute("(+ 3 3)") == 6
                        await connection.close()
                assert values == [4]


@pytest.mark.trio
async def test_a_wrong_password_after_a_restart_ends_it() -> None:
    async with restartable(authenticate=auth.users({"ann": auth.hash_password("right")})) as server:
        client = WSClient(LOCAL, server.port, user="ann", password="right")
        with trio.fail_after(20):
            async with client.connect(reconnect=True) as connection:
                await server.stop()
                server.options["authenticate"] = auth.users({"ann": auth.hash_password("another")})
                await server.start()
                with pytest.raises(errors.ConnectionRejected, match="401"):
                    await connection.execute("(+ 1 2)")
                assert connection.state is State.CLOSED


@pytest.mark.trio
async def test_a_full_server_is_asked_again() -> None:
    async with restartable(max_connections=1) as server:
        client = WSClient(LOCAL, server.port)
        with trio.fail_after(20):
            async with client.connect() as other:
                with pytest.raises(errors.ConnectionRejected) as raised:
                    await client.connect(reconnect=True)
                assert (raised.value.status, raised.value.retry_after) == (503, 5)
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def connect() -> None:
                        async with client.connect(reconnect=True, wait_for_server=True) as connection:
                            assert await connection.execute("(+ 1 2)") == 3

                    await trio.testing.wait_all_tasks_blocked()
                    await other.close()


@pytest.mark.anyio
@pytest.mark.parametrize("reconnect", [False, True])
async def test_several_servers_are_tried_in_order(in_process_port: int, reconnect: bool) -> None:
    async with anyio.create_task_group() as tasks:
        listener = await anyio.create_tcp_listener(local_host=LOCAL)
        closed_port = listener.extra(anyio.abc.SocketAttribute.local_port)
        await listener.aclose()
        urls = [f"ws://{LOCAL}:{closed_port}", f"ws://{LOCAL}:{in_process_port}"]
        async with WSClient.from_urls(urls).connect(reconnect=reconnect) as connection:
            assert await connection.execute("(+ 1 2)") == 3
        with pytest.raises(errors.ConnectError, match=f":{closed_port}: connection refused") as raised:
            await WSClient.from_urls([urls[0], urls[0]]).connect(reconnect=reconnect)
        assert len(raised.value.__notes__) == 1
        tasks.cancel_scope.cancel()


def test_urls_that_are_refused() -> None:
    for urls in ([], "ws://localhost", ["ws://localhost", "http://localhost"]):
        with pytest.raises(errors.RayforceValueError):
            WSClient.from_urls(urls)
    with pytest.raises(errors.RayforceValueError, match="wait_for_server needs reconnect=True"):
        WSClient(LOCAL).connect(wait_for_server=True)
    client = WSClient.from_urls(["ws://ann@localhost:1", "ws://localhost:2/x?key=secret"], password="x", user="ann")
    assert repr(client) == "WSClient(ws://localhost:1, ws://localhost:2/x)"


@pytest.mark.anyio
async def test_the_connection_is_lost_at_every_point_of_a_call(in_process_port: int) -> None:
    query = "(+ 40 2)" + " " * 5000
    lost = 0
    with anyio.fail_after(60):
        async with (
            proxy(in_process_port) as between,
            WSClient(LOCAL, between.port).connect(reconnect=True) as connection,
        ):

            async def cut() -> None:
                await between.to_server.frozen()
                await between.reset()
                between.to_server.thaw()

            for step in range(0, 5000, 400):
                assert await connection.execute("1", idempotent=True) == 1
                between.to_server.freeze(after=step)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cut)
                    try:
                        await connection.execute(query)
                    except errors.ConnectionLost:
                        lost += 1
                assert await connection.execute("(+ 1 2)", idempotent=True) == 3
    assert lost >= 12


def rounds_of(connection: WSClientConnection) -> int:
    """Return how many delays a connection has had since it was stable."""
    assert isinstance(connection._exchange, ReconnectingExchange)
    return connection._exchange._reconnection._delays


@pytest.mark.anyio
async def test_500_connections_come_back_after_a_restart() -> None:
    """The server opens 32 connections at a time; none is refused for good, and few are refused at all."""
    with anyio.fail_after(90), serving() as (port, first):
        client = WSClient(LOCAL, port)
        async with anyio.create_task_group() as tasks:
            connections = [await client.connect(tasks, reconnect=True) for _ in range(500)]
            kill(first)
            for connection in connections:
                await until(connection, State.WAITING)
            before = [rounds_of(connection) for connection in connections]
            with serving(port):
                since = anyio.current_time()
                async with anyio.create_task_group() as calls:
                    for connection in connections:
                        calls.start_soon(connection.execute, "(+ 1 2)")
                elapsed = anyio.current_time() - since
                assert all(connection.state is State.CONNECTED for connection in connections)
                after = [rounds_of(connection) for connection in connections]
                failed = [rounds - earlier for rounds, earlier in zip(after, before, strict=True)]
                print(f"all are back after {elapsed:.2f} s; failed attempts: {sum(failed)}, of one: {max(failed)}")
                assert max(failed) <= 10
            tasks.cancel_scope.cancel()
