"""Checks that tests of our client share."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

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
