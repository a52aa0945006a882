"""The transport under asyncio, against the server of the library it stands on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from support.certificates import client_context, local_certificates, server_context
from support.transport_contract import (
    CHECKS,
    Check,
    a_close_in_the_middle_of_a_send_tells_code_and_reason,
    check_that_pings_pass_between_fragments,
    check_transport,
)
from websockets.asyncio.server import ServerConnection, serve
from websockets.typing import Subprotocol

from rayforce_trio._addresses import Endpoint
from rayforce_trio._tasks import TimeSlice
from rayforce_trio._transports import KeepAlive, Transport
from rayforce_trio._transports._asyncio_websockets import AsyncioWebSocket, connect

pytestmark = pytest.mark.anyio

# In the middle of a fragmented message the library closes with 1011, whatever it is given.
KEPT = [check for check in CHECKS if check is not a_close_in_the_middle_of_a_send_tells_code_and_reason]


class ServerEnd(ServerConnection):
    """The library's end of a connection, with what our transport needs of it."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.time_slice = TimeSlice()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def open_client(port: int, max_message_size: int = 1024, *, tls: bool = False) -> AsyncioWebSocket:
    return await connect(
        Endpoint("127.0.0.1", port, tls=client_context(local_certificates()) if tls else None),
        subprotocols=["rayforce.v1"],
        max_message_size=max_message_size,
        keepalive=KeepAlive(),
    )


@asynccontextmanager
async def asyncio_pair(max_message_size: int, *, tls: bool = False) -> AsyncIterator[tuple[Transport, Transport]]:
    """Connect to the library's server; its end is seen through the same transport, which is never `run` there."""
    connected: asyncio.Future[ServerConnection] = asyncio.get_running_loop().create_future()

    async def handle(connection: ServerConnection) -> None:
        connected.set_result(connection)
        await connection.wait_closed()

    async with serve(
        handle,
        "127.0.0.1",
        0,
        subprotocols=[Subprotocol("rayforce.v1")],
        compression=None,
        ping_interval=None,
        create_connection=ServerEnd,
        max_size=max_message_size,
        ssl=server_context(local_certificates()) if tls else None,
    ) as listener:
        [sock] = listener.sockets
        client = await open_client(sock.getsockname()[1], max_message_size, tls=tls)
        server = AsyncioWebSocket(
            await connected,  # type: ignore[arg-type]
            "the client",
            max_message_size,
            KeepAlive(),
        )
        try:
            yield client, server
        finally:
            client.abort()
            server.abort()


@pytest.mark.parametrize("check", KEPT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_it_keeps_the_contract_of_transports(check: Check, tls: bool) -> None:
    await check_transport(check, partial(asyncio_pair, tls=tls))


async def test_pings_pass_between_the_fragments_of_a_large_message() -> None:
    await check_that_pings_pass_between_fragments(open_client)


async def test_it_knows_the_subprotocol_and_its_peer() -> None:
    async with asyncio_pair(1024) as (client, _):
        assert client.subprotocol == "rayforce.v1"
        assert client.peer.rpartition(":")[0] == "127.0.0.1"
