"""Both sides can give their versions in the HTTP heads; then no handshake messages follow."""

import anyio
import pytest
from support.probed_server import QUERY, probed_server
from support.raw import BINARY, HELLO, HELLO_REPLY, SUBPROTOCOL, RawPeer, accept_raw, frame, raw_server, upgrade

from rayforce_trio import WSClient
from rayforce_trio._codec import decode, encode
from rayforce_trio._protocol import MessageType, Result
from rayforce_trio.errors import HandshakeError

HEADER = "Rayforce-Version"
TIMEOUT = 20  # seconds
LONG = 10_000
LONG_QUERY = encode(f'(count "{LONG * "x"}")', MessageType.SYNC)  # longer than a greeting may be
THREE = frame(
    b"\xfa\xde\xfa\xce\x03\x00\x00\x02" + (10).to_bytes(8, "little") + b"\xfb\x00" + (3).to_bytes(8, "little"),
    masked=False,
)


# The server


@pytest.mark.trio
@pytest.mark.parametrize("version", ["1", "2", "255"])
async def test_requests_right_behind_the_head_are_answered(version: str) -> None:
    head = upgrade({"Sec-WebSocket-Protocol": SUBPROTOCOL, HEADER: version})
    async with probed_server() as server:
        peer = server.connect()
        await peer.send(head + frame(LONG_QUERY) + frame(QUERY))
        assert b"\r\nRayforce-Version: 1\r\n" in await peer.receive_head()
        assert decode(Result((await peer.receive_frame())[1])) == LONG
        assert decode(Result((await peer.receive_frame())[1])) == 3


NO_VERSIONS = {
    "no header": {"Sec-WebSocket-Protocol": SUBPROTOCOL},
    "no subprotocol": {HEADER: "1"},
    "another subprotocol": {"Sec-WebSocket-Protocol": "other", HEADER: "1"},
    "empty": {"Sec-WebSocket-Protocol": SUBPROTOCOL, HEADER: ""},
    "no number": {"Sec-WebSocket-Protocol": SUBPROTOCOL, HEADER: "one"},
    "too large": {"Sec-WebSocket-Protocol": SUBPROTOCOL, HEADER: "256"},
    "twice": {"Sec-WebSocket-Protocol": SUBPROTOCOL, HEADER: f"1\r\n{HEADER}: 1"},
}


@pytest.mark.trio
@pytest.mark.parametrize("headers", NO_VERSIONS.values(), ids=NO_VERSIONS.keys())
async def test_without_a_version_requests_right_behind_the_greeting_are_answered(headers: dict[str, str]) -> None:
    """The server does not lose a request that is longer than a greeting may be."""
    async with probed_server() as server:
        peer = server.connect()
        await peer.send(upgrade(headers) + frame(HELLO) + frame(LONG_QUERY))
        assert HEADER.encode() not in await peer.receive_head()
        assert await peer.receive_frame() == (BINARY, HELLO_REPLY)
        assert decode(Result((await peer.receive_frame())[1])) == LONG


# The client


async def answer_a_query(peer: RawPeer) -> None:
    """Take a query, answer it, and close the connection."""
    assert await peer.receive_frame() == (BINARY, encode("(+ 1 2)", MessageType.SYNC))
    await peer.send(THREE)
    await peer.receive_close()
    await peer.send_close(1000)


@pytest.mark.anyio
@pytest.mark.parametrize("version", ["1", "2", None, "", "one", "256"])
async def test_the_client_greets_unless_the_server_has_given_its_version(version: str | None) -> None:
    async def serve(peer: RawPeer) -> None:
        hello = None if version in ("1", "2") else frame(HELLO_REPLY, masked=False)
        await accept_raw(peer, hello=hello, headers={HEADER: version})
        await answer_a_query(peer)

    with anyio.fail_after(TIMEOUT):
        async with raw_server(serve) as port, WSClient("127.0.0.1", port).connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.anyio
async def test_a_version_without_the_subprotocol_does_not_count() -> None:
    async def serve(peer: RawPeer) -> None:
        await accept_raw(
            peer, hello=frame(b"no greeting", masked=False), headers={"Sec-WebSocket-Protocol": None, HEADER: "1"}
        )

    with anyio.fail_after(TIMEOUT):
        async with raw_server(serve) as port:
            with pytest.raises(HandshakeError, match="not a Rayforce server"):
                await WSClient("127.0.0.1", port).connect()


@pytest.mark.anyio
async def test_the_client_gives_its_version() -> None:
    heads = []

    async def serve(peer: RawPeer) -> None:
        heads.append(await peer.receive_head())

    with anyio.fail_after(TIMEOUT):
        async with raw_server(serve) as port:
            with pytest.raises(HandshakeError):
                await WSClient("127.0.0.1", port).connect()
    assert b"\r\nRayforce-Version: 1\r\n" in heads[0]
