"""Clients whose queries print."""

from itertools import count

import pytest
import trio

from rayforce_trio import WSClient
from rayforce_trio._engines._output import MAX_LINES, MAX_LOGGED_SIZE, MAX_WARNINGS

from . import _servers
from .harness import assert_added_delay, attacked, served

pytestmark = pytest.mark.withstand

_LINE_OVERHEAD = 100  # bytes: the name of the process, and what a handler adds


async def print_much(port: int, text: str, *, task_status: trio.TaskStatus[None]) -> None:
    """Attack with queries that print a line 300,000 times, one after the other."""
    async with WSClient("127.0.0.1", port).connect() as connection:
        task_status.started()
        for _ in count():
            await connection.execute(f'(do (map (fn [x] (println "{text}")) (til 300000)) null)')


@pytest.mark.parametrize("text", ["1", "ipc: 1", "x" * 200], ids=["short lines", "warnings", "long lines"])
def test_output_delays_nobody_and_does_not_fill_the_log(text: str) -> None:
    with served(_servers.child, engine={"read_only": True}) as server:
        undisturbed = server.measure("pings")
        logged = server.logged()
        with attacked(print_much, server, text=text):
            disturbed = server.measure("pings")
        logged = server.logged() - logged
    assert_added_delay(undisturbed, disturbed, 0.015)
    assert_added_delay(undisturbed, disturbed, 0.1, quantile="longest")
    assert logged < MAX_LOGGED_SIZE + (MAX_LINES + MAX_WARNINGS) * _LINE_OVERHEAD
