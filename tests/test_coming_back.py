"""Connections that come back to real servers, which are killed, stopped and restarted, on both event loops."""

from collections import Counter
from contextlib import AsyncExitStack
from itertools import count
from time import perf_counter
from typing import Any

import anyio
import pytest
from rayforce import I64
from support.leaks import no_leaks
from support.proxy import Lane, Proxy, proxy
from support.restarted import Restarted, restarted

from rayforce_trio import ClientConnectionState as State
from rayforce_trio import WSClient, WSClientConnection, errors

LOCAL = "127.0.0.1"


class Attempts:
    """Counts the attempts to connect, of all clients."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        connect = WSClient._open_exchange

        async def counting(client: WSClient, *arguments: Any) -> Any:
            self.count += 1
            return await connect(client, *arguments)

        monkeypatch.setattr(WSClient, "_open_exchange", counting)


async def until(connection: WSClientConnection, state: State) -> None:
    changes = connection.state_changes()
    if connection.state is not state:
        async for change in changes:
            if change is state:
                return


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_a_server_that_is_restarted(how: str) -> None:
    with restarted("in-process") as server, anyio.fail_after(60):
        async with WSClient(LOCAL, server.port).connect(reconnect=True) as connection:
            assert await connection.execute("(+ 1 2)") == I64(3)
            for _ in range(2):
                await (server.kill() if how == "kill" else server.stop())
                await until(connection, State.WAITING)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(server.start)
                    assert await connection.execute("(+ 1 2)") == I64(3)
                rows = await connection.create_table("t", {"a": [1, 2]}, replace=True)
                assert (rows, await connection.tables()) == (2, ["t"])
                assert (await connection.fetch("t")).to_dict() == {"a": [1, 2]}
            assert connection.state is State.CONNECTED


@pytest.mark.anyio
async def test_five_hundred_connections_come_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server lets 32 connections be opened at a time, and makes the others wait or refuses them."""
    clients = 500
    with anyio.fail_after(120):
        async with no_leaks():
            with restarted("in-process") as server:
                await come_back(clients, server, monkeypatch)


async def come_back(clients: int, server: Restarted, monkeypatch: pytest.MonkeyPatch) -> None:
    attempts = Attempts(monkeypatch)
    client = WSClient(LOCAL, server.port)
    async with AsyncExitStack() as stack:
        connections = [await stack.enter_async_context(client.connect(reconnect=True)) for _ in range(clients)]
        attempts.count = 0
        await server.kill()
        await server.start()
        since_start = attempts.count
        begun = perf_counter()
        async with anyio.create_task_group() as tasks:
            for connection in connections:
                tasks.start_soon(connection.execute, "(+ 1 2)")
        print(
            f"{clients} connections are back within {perf_counter() - begun:.1f} s: "
            f"{since_start} attempts before the start, {attempts.count - since_start} after it"
        )
        assert all(connection.state is State.CONNECTED for connection in connections)
        assert since_start <= 10 * clients
        assert attempts.count - since_start <= 3 * clients


async def cut(connection: WSClientConnection, between: Proxy, lane: Lane, after: int, *, idempotent: bool) -> str:
    """Cut the connection when so many bytes of a call have passed; return what came of the call.

    Returns:
        "returned", "lost", or "passed" if it returned before so many bytes had passed.
    """
    outcome, was_cut = "", False
    await connection.execute("1", idempotent=True)
    lane.freeze(after=after)

    async def call() -> None:
        nonlocal outcome
        try:
            await connection.execute("(set cut_calls (+ cut_calls 1))", idempotent=idempotent)
            outcome = "returned" if was_cut else "passed"
        except errors.ConnectionLost:
            outcome = "lost"
        tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(call)
        await lane.frozen()
        was_cut = True
        lane.thaw()
        await between.reset()
        await anyio.sleep_forever()
    lane.thaw()
    return outcome


@pytest.mark.anyio
@pytest.mark.parametrize("idempotent", [False, True])
async def test_a_call_whose_connection_is_cut_behind_each_byte(
    in_process_port: int, idempotent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server counts how often it was carried out: at most once, unless it may be repeated."""
    monkeypatch.setattr("rayforce_trio._client._reconnection.MAX_DELAY", 0.001)
    came_of_it: Counter[str] = Counter()
    with anyio.fail_after(60):
        async with WSClient(LOCAL, in_process_port).connect() as observer, proxy(in_process_port) as between:
            await observer.execute("(set cut_calls 0)")
            async with WSClient(LOCAL, between.port).connect(reconnect=True) as connection:
                for lane in (between.to_server, between.to_client):
                    for after in count():
                        outcome = await cut(connection, between, lane, after, idempotent=idempotent)
                        came_of_it[outcome] += 1
                        if outcome == "passed":
                            break
            carried_out = int((await observer.execute("cut_calls")).to_python())
    returned = came_of_it["returned"] + came_of_it["passed"]
    assert came_of_it["passed"] == 2
    if idempotent:
        assert came_of_it["lost"] == 0
        assert carried_out >= returned
    else:
        assert came_of_it["lost"] >= 20
        assert returned <= carried_out <= returned + came_of_it["lost"]
