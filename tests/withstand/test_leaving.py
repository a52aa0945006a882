"""Clients that leave behind a long query and thousands of posts."""

import sys
from collections.abc import Callable

import pytest
import trio
from support.raw import frame, open_raw

from rayforce_trio import WSClient, WSServer
from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType

from . import _servers
from .harness import assert_added_delay, attacked, served

pytestmark = pytest.mark.withstand

LOCAL = "127.0.0.1"
NOTICED = 1.0  # seconds until the engine is free
ENDLESS = "(while true 1)"
LONG = "(do (set moment 0) (while (< moment 100000) (set moment (+ moment 1))))"
POST = "(do (set moment 0) (while (< moment 200) (set moment (+ moment 1))))"

CLIENT_PROGRAM = f"""
import sys
import trio
import trio.testing
from rayforce_trio import WSClient

async def main():
    async with WSClient("{LOCAL}", int(sys.argv[1])).connect() as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.execute, "{ENDLESS}")
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(900):
                await connection.post("{POST}")
            print("posted", flush=True)
            await trio.sleep_forever()

trio.run(main)
"""


async def leave(port: int, how: str, query: str) -> float:
    """Leave behind a query and posts; return the time at which the client has left."""
    if how == "kill":
        command = [sys.executable, "-c", CLIENT_PROGRAM, str(port)]
        client = await trio.lowlevel.open_process(command, stdout=-1)
        assert client.stdout is not None
        async with client.stdout:
            await client.stdout.receive_some()
        client.kill()
        left = trio.current_time()
        await client.wait()
        return left
    with await open_raw(port) as peer:
        await peer.send(frame(encode(query, MessageType.SYNC)) + frame(encode(POST, MessageType.ASYNC)) * 3000)
        await trio.sleep(0.5)
        if how == "rst":
            peer.reset()
    return trio.current_time()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("make", "how"),
    [(_servers.child, how) for how in ("fin", "rst", "kill")] + [(_servers.in_process, how) for how in ("fin", "rst")],
)
async def test_the_engine_is_free_within_a_second(make: Callable[[], WSServer], how: str) -> None:
    with served(make) as server:
        async with WSClient(LOCAL, server.port).connect() as other:
            await other.execute("1")
            left = await leave(server.port, how, ENDLESS if make is _servers.child else LONG)
            await other.execute("1")
            delay = trio.current_time() - left
            print(f"{make.__name__}, {how}: answered after {delay:.3f} s")
            assert delay <= NOTICED


async def leave_posts_behind(port: int, clients: int, *, task_status: trio.TaskStatus[None]) -> None:
    """Attack with clients that leave behind posts, which are carried out for up to 10 seconds."""
    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(leave, port, "rst", "(+ 1 2)")
    task_status.started()
    await trio.sleep_forever()


@pytest.mark.parametrize("make", [_servers.child, _servers.in_process])
def test_posts_of_clients_that_have_left_take_turns_with_requests(make: Callable[[], WSServer]) -> None:
    with served(make) as server:
        undisturbed = server.measure("requests")
        with attacked(leave_posts_behind, server, clients=3):
            disturbed = server.measure("requests")
    assert_added_delay(undisturbed, disturbed, 0.010)
