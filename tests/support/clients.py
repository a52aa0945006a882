"""Checks that tests of our client share."""

import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import trio

from rayforce_trio import WSClientConnection, errors

from .leaks import no_leaks


@asynccontextmanager
async def in_time() -> AsyncIterator[None]:
    """Bound a test, and check that it leaves nothing behind."""
    with anyio.fail_after(60):
        async with no_leaks():
            yield


async def check_answers(connection: WSClientConnection) -> None:
    assert (await connection.execute("(+ 1 2)")).to_python() == 3


def is_closed_by_us(connection: WSClientConnection) -> bool:
    reason = connection.closed
    return isinstance(reason, errors.ConnectionClosed) and not reason.by_peer


async def run_until_it_prints(program: str, port: int) -> None:
    """Run a Python program that connects to a server on this port, and kill it when it prints something."""
    client = await trio.lowlevel.open_process([sys.executable, "-c", program, str(port)], stdout=subprocess.PIPE)
    assert client.stdout is not None
    async with client.stdout:
        assert await client.stdout.receive_some()
        client.send_signal(signal.SIGKILL)
        await client.wait()
