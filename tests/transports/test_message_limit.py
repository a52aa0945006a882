"""A server announces the longest message that it accepts in its opening handshake."""

import anyio
import pytest
from support.opening import answer_to
from support.raw import RawPeer, accept_raw, raw_server

from rayforce_trio import WSServer
from rayforce_trio._addresses import Endpoint
from rayforce_trio._protocol import SUBPROTOCOL
from rayforce_trio._transports import KeepAlive, connect

LOCAL = "127.0.0.1"
HEADER = "Rayforce-Max-Message-Size"


@pytest.mark.trio
async def test_a_client_that_speaks_the_extended_protocol_is_told_the_limit() -> None:
    async with WSServer(0, host=LOCAL, max_message_size=12345) as server:
        answer = await answer_to(server.port, {"Sec-WebSocket-Protocol": SUBPROTOCOL})
        assert answer.headers[HEADER.lower()] == "12345"
        assert HEADER.lower() not in (await answer_to(server.port)).headers


@pytest.mark.anyio
@pytest.mark.parametrize(("value", "limit"), [("12345", 12345), ("many", None), (None, None)])
async def test_the_client_reads_the_limit(value: str | None, limit: int | None) -> None:
    async def accept(peer: RawPeer) -> None:
        await accept_raw(peer, hello=None, headers={HEADER: value})
        await peer.receive_rest()

    with anyio.fail_after(30):
        async with raw_server(accept) as port:
            transport = await connect(
                Endpoint(LOCAL, port),
                subprotocols=[SUBPROTOCOL],
                max_message_size=1000,
                keepalive=KeepAlive(None, None),
            )
            assert transport.peer_max_message_size == limit
            transport.abort()
