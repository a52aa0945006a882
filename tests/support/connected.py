"""A connection to a server of the tests, on either event loop, in a bounded block."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from rayforce_trio import WSClient, WSClientConnection
from rayforce_trio._client._exchange import Exchange


@asynccontextmanager
async def connected_to(port: int) -> AsyncIterator[WSClientConnection]:
    with anyio.fail_after(60):
        async with WSClient("127.0.0.1", port).connect() as connection:
            yield connection


def exchange_of(connection: WSClientConnection) -> Exchange:
    """Return the exchange of a connection that does not come back."""
    assert isinstance(connection._exchange, Exchange)
    return connection._exchange
