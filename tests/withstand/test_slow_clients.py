"""Clients that send or read slowly."""

import pytest
import trio
from soak._slow import SLOW, again_and_again

from . import _servers
from .harness import assert_added_delay, attacked, served

pytestmark = pytest.mark.withstand


async def be_slow(port: int, peers: int, *, task_status: trio.TaskStatus[None]) -> None:
    """Attack from `peers` connections: open slowly, send slowly, and read slowly."""
    async with trio.open_nursery() as nursery:
        for number in range(peers):
            nursery.start_soon(again_and_again, SLOW[number % len(SLOW)], port)
        task_status.started()


def test_slow_clients_delay_nobody() -> None:
    with served(_servers.in_process, max_connections_per_address=200, max_unauthenticated=None) as server:
        undisturbed = server.measure()
        with attacked(be_slow, server, peers=60):
            disturbed = server.measure()
    assert_added_delay(undisturbed, disturbed, 0.010)
