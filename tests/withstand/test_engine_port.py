"""Other programs on the machine that connect to the port of an engine process."""

import resource
from contextlib import ExitStack

import pytest
import trio
from support.watched import parent_of

from . import _servers
from .harness import ServerProcess, assert_added_delay, attacked, served

pytestmark = pytest.mark.withstand


async def hold_connections(port: int, engine_port: int, number: int, *, task_status: trio.TaskStatus[None]) -> None:
    """Attack with connections to the engine, which send nothing. Starts when the system has accepted all of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, number + 100)), hard))
    with ExitStack() as sockets:
        for _ in range(number):
            stream = trio.socket.socket()
            sockets.callback(stream.close)
            await stream.connect(("127.0.0.1", engine_port))
        task_status.started()
        await trio.sleep_forever()


def engine_port(server: ServerProcess) -> int:
    """Return the port of the engine, which every user of the machine can find."""
    pid = server.engine_pid()
    assert parent_of(parent_of(pid)) == server.pid
    with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - one expression
        return int(file.read().split(b"-p\0")[1].split(b"\0")[0].rpartition(b":")[2])


def test_connections_to_the_engine_delay_nobody() -> None:
    with served(_servers.child, engine={"read_only": True}) as server:
        undisturbed = server.measure("requests", "pings", "connects", clients=1)
        with attacked(hold_connections, server, engine_port=engine_port(server), number=1500):
            disturbed = server.measure("requests", "pings", "connects", clients=1)
    assert_added_delay(undisturbed, disturbed, 0.020)
