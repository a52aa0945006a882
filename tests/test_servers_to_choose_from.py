"""Servers that refuse connections that come back, and several servers, with real sockets."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
import trio

from rayforce_trio import ClientConnectionState as State
from rayforce_trio import WSClient, WSServer, auth, errors

LOCAL = "127.0.0.1"


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
