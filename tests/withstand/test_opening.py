"""Peers that hold up the opening of connections, or connect and disconnect as fast as they can."""

import pytest
import trio
from support.raw import RawPeer, connect_raw, open_raw, upgrade

from . import _servers
from .harness import assert_added_delay, attacked, served

pytestmark = pytest.mark.withstand

LOG_BYTES_PER_SECOND = 5000
ANY_NUMBER = {"max_connections": None, "max_connections_per_address": None}


async def hold_half_open(port: int, peers: int, *, task_status: trio.TaskStatus[None]) -> None:
    """Attack with `peers` requests whose heads do not end, and replace each one that the server ends."""

    async def hold(started: trio.Event) -> None:
        while True:
            with connect_raw(port) as peer:
                await peer.send(upgrade()[:-2])
                started.set()
                await peer.receive_rest()

    async with trio.open_nursery() as nursery:
        for _ in range(peers):
            started = trio.Event()
            nursery.start_soon(hold, started)
            await started.wait()
        task_status.started()


async def connect_and_leave(port: int, rate: int, *, task_status: trio.TaskStatus[None]) -> None:
    """Attack with `rate` connections a second that end at once."""
    task_status.started()
    due = trio.current_time()
    while True:
        await trio.sleep_until(due)
        connect_raw(port).close()
        due += 1 / rate


async def time_to_connect_at_once(port: int, peers: int) -> float:
    """Open `peers` connections at once, and keep them until all are open; return how many seconds that took."""
    opened: list[RawPeer] = []

    async def connect() -> None:
        opened.append(await open_raw(port))

    start = trio.current_time()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for _ in range(peers):
                nursery.start_soon(connect)
    seconds = trio.current_time() - start
    for peer in opened:
        peer.close()
    return seconds


async def times_to_connect(port: int, number: int) -> list[float]:
    """Open `number` connections, one after the other, and return how many seconds each took."""
    times = []
    for _ in range(number):
        start = trio.current_time()
        with trio.fail_after(10):
            (await open_raw(port)).close()
        times.append(trio.current_time() - start)
    return times


def test_newcomers_get_in_beside_half_open_requests_of_their_address() -> None:
    with served(_servers.in_process, **ANY_NUMBER) as server:
        undisturbed = server.measure("pings")
        alone = max(trio.run(times_to_connect, server.port, 10))
        with attacked(hold_half_open, server, peers=100):
            disturbed = server.measure("pings")
            times = trio.run(times_to_connect, server.port, 10)
    print(f"to connect: alone {alone:.3f} s, beside the attack {[round(time, 3) for time in times]} s")
    assert max(times) - alone <= 1.2
    assert_added_delay(undisturbed, disturbed, 0.010)


def test_peers_that_connect_and_leave_delay_nobody_and_fill_no_log() -> None:
    with served(_servers.in_process, **ANY_NUMBER) as server:
        undisturbed = server.measure()
        with attacked(connect_and_leave, server, rate=2000):
            logged = server.logged()
            disturbed = server.measure(seconds=5.0)
            logged = server.logged() - logged
    assert_added_delay(undisturbed, disturbed, 0.010)
    assert logged <= 6 * LOG_BYTES_PER_SECOND, f"{logged} bytes"


def test_200_clients_that_connect_at_once_get_in_within_a_second() -> None:
    with served(_servers.in_process, **ANY_NUMBER) as server:
        seconds = trio.run(time_to_connect_at_once, server.port, 200)
    print(f"200 connections opened in {seconds:.3f} s")
    assert seconds <= 1.0
