"""The transport under trio, over real sockets, its opening handshake included."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from support.transport_contract import CHECKS, Check, check_that_pings_pass_between_fragments, check_transport

from rayforce_trio._transports import KeepAlive, Transport
from rayforce_trio._transports._trio_opening import OpeningRequest, accept, connect
from rayforce_trio._transports._trio_websocket import TrioWebSocket

pytestmark = pytest.mark.trio


async def open_client(port: int, max_message_size: int = 1024) -> TrioWebSocket:
    return await connect(
        "127.0.0.1",
        port,
        subprotocols=["rayforce.v1"],
        max_message_size=max_message_size,
        keepalive=KeepAlive(),
    )


async def open_server(listener: trio.SocketListener, max_message_size: int) -> TrioWebSocket:
    async def welcome(request: OpeningRequest) -> None:
        assert request.peer == "127.0.0.1"

    return await accept(
        await listener.accept(),
        decide=welcome,
        subprotocols=["rayforce.v1"],
        max_message_size=max_message_size,
        keepalive=KeepAlive(),
    )


@asynccontextmanager
async def trio_pair(max_message_size: int) -> AsyncIterator[tuple[Transport, Transport]]:
    servers: list[TrioWebSocket] = []

    async def serve() -> None:
        servers.append(await open_server(listener, max_message_size))

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            client = await open_client(listener.socket.getsockname()[1], max_message_size)
        try:
            yield client, servers[0]
        finally:
            client.abort()
            servers[0].abort()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_keeps_the_contract_of_transports(check: Check) -> None:
    await check_transport(check, trio_pair)


async def test_pings_pass_between_the_fragments_of_a_large_message() -> None:
    await check_that_pings_pass_between_fragments(open_client)


async def test_both_ends_know_the_subprotocol_and_their_peer() -> None:
    async with trio_pair(1024) as ends:
        assert [end.subprotocol for end in ends] == ["rayforce.v1"] * 2
        assert [end.peer.rpartition(":")[0] for end in ends] == ["127.0.0.1"] * 2


async def test_the_limit_on_messages_may_be_changed_meanwhile() -> None:
    async with trio_pair(4) as (client, server):
        server.max_message_size = 1024
        await client.send(bytes(1024))
        assert await server.receive() == bytes(1024)
