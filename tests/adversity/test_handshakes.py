"""Clients that abort, delay or break the handshake of the Rayforce protocol, which follows the HTTP request."""

import pytest
import trio
from support.probed_server import QUERY, SHORT, probed_server
from support.raw import BINARY, HELLO, HELLO_REPLY, PING, TEXT, frame, upgrade

from rayforce_trio import InProcessEngine
from rayforce_trio._codec import decode, encode
from rayforce_trio._engines import Session
from rayforce_trio._protocol import MessageType, Result


class SlowToOpen(InProcessEngine):
    """An engine whose sessions do not open until `release` is set."""

    def __init__(self) -> None:
        self.release = trio.Event()

    async def open_session(self) -> Session:
        await self.release.wait()
        return await super().open_session()


@pytest.mark.usefixtures("each_engine")
@pytest.mark.trio
async def test_resets_right_after_the_handshakes() -> None:
    async with probed_server() as server:
        for _ in range(20):
            (await server.open(hello=False)).reset()
            (await server.open()).reset()


@pytest.mark.trio
async def test_a_normal_close_is_answered_with_the_same_code() -> None:
    async with probed_server() as server:
        peer = await server.open()
        await peer.send_close(1000)
        assert await peer.receive_close() == 1000
        assert await peer.receive_rest() == b""


@pytest.mark.trio
async def test_a_peer_that_sends_no_hello_is_disconnected() -> None:
    async with probed_server(open_timeout=SHORT) as server:
        peer = await server.open(hello=False)
        await peer.send_frame(opcode=PING)
        await server.serves_others()
        await peer.receive_rest()
        await server.closes_every_peer()


@pytest.mark.trio
@pytest.mark.parametrize("headers", [{"Sec-WebSocket-Protocol": "rayforce.v1"}, {}], ids=["extended", "baseline"])
async def test_opening_request_hello_and_queries_in_one_packet_are_served(headers: dict[str, str]) -> None:
    """The bytes after the HTTP head are not lost between the two parsers, even if a query is longer than any hello."""
    long_query = encode(f'(count "{10_000 * "x"}")', MessageType.SYNC)
    async with probed_server() as server:
        peer = server.connect()
        await peer.send(upgrade(headers) + frame(HELLO) + frame(QUERY) + frame(long_query))
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 101 ")
        assert await peer.receive_frame() == (BINARY, HELLO_REPLY)
        assert decode(Result((await peer.receive_frame())[1])) == 3
        assert decode(Result((await peer.receive_frame())[1])) == 10_000


@pytest.mark.trio
async def test_nothing_is_read_before_the_session_is_open() -> None:
    """Bytes that a peer sends early wait in the buffers of the system, not in this process."""
    engine = SlowToOpen()
    async with probed_server(engine=engine, open_timeout=SHORT) as server:
        peer = server.connect()
        assert await peer.send(upgrade() + frame(bytes(100_000)) * 1000) < 30_000_000
        engine.release.set()
        await server.closes_every_peer()


BAD_HELLOS = {
    "text": (frame(b"\x01\x00", TEXT), 1002),
    "1 byte": (frame(b"\x01"), 1002),
    "3 bytes": (frame(b"\x01\x00\x00"), 1002),
    "a second byte that is not 0": (frame(b"\x01\x01"), 1002),
    "5 KB": (frame(bytes(5000)), 1009),
    "100 MB": (frame(size=100_000_000), 1009),
    "a request": (frame(QUERY), 1002),
    "an unmasked frame": (frame(HELLO, masked=False), 1002),
}


@pytest.mark.trio
@pytest.mark.parametrize(("hello", "code"), BAD_HELLOS.values(), ids=BAD_HELLOS.keys())
@pytest.mark.usefixtures("short_close")
async def test_a_wrong_hello_is_closed_with_a_code(hello: bytes, code: int) -> None:
    async with probed_server() as server:
        peer = await server.open(hello=False)
        await peer.send(hello)
        assert await peer.receive_close() == code
        await server.closes_every_peer()
