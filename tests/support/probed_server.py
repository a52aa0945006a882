"""A server of ours in this process, and the raw clients that misbehave towards it."""

import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import trio

from rayforce_trio import WSClient, WSServer
from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType
from support.engine_processes import fill_reserves
from support.leaks import descriptors
from support.polling import until
from support.raw import RawPeer, connect_raw, open_raw

QUERY = encode("(+ 1 2)", MessageType.SYNC)
OTHER_QUERY = encode("(+ 2 2)", MessageType.SYNC)
POST = encode("(+ 1 2)", MessageType.ASYNC)
BIG = 104_000_000  # bytes of the reply to BIG_QUERY
BIG_QUERY = encode("(til 13000000)", MessageType.SYNC)
EIGHT_GB = 8 * 1024**3
COMPRESSED = 1  # the flag in a header
SHORT = 1.0
"""The time limit, in seconds, for a peer that does not open its connection, or does not read."""


def with_header(flags: int = 0, message_type: int = 1, version: int = 3, size: int | None = None) -> bytes:
    """Return QUERY with another header."""
    payload = QUERY[16:]
    size = len(payload) if size is None else size
    return struct.pack("<4sBBBBq", b"\xfa\xde\xfa\xce", version, flags, 0, message_type, size) + payload


class ProbedServer:
    """A server, with the raw clients that a test connects to it."""

    def __init__(self, port: int, peers: ExitStack, tls: ssl.SSLContext | None = None) -> None:
        self.port = port
        self._tls = tls
        self._idle = len(descriptors())
        self._peers = peers
        self._sockets: list[RawPeer] = []

    def connect(self) -> RawPeer:
        return self._with(connect_raw(self.port))

    async def open(self, *, receive_buffer: int | None = None, hello: bool = True, baseline: bool = False) -> RawPeer:
        subprotocol = None if baseline else "rayforce.v1"
        return self._with(
            await open_raw(self.port, subprotocol=subprotocol, hello=hello, receive_buffer=receive_buffer)
        )

    def _with(self, peer: RawPeer) -> RawPeer:
        self._sockets.append(self._peers.enter_context(peer))
        return peer

    async def serves_others(self) -> None:
        """Check that a client of ours is served."""
        with trio.fail_after(20):
            async with WSClient("127.0.0.1", self.port, ssl=self._tls or False).connect() as other:
                assert await other.execute("(+ 1 2)") == 3

    async def closes_every_peer(self) -> None:
        """Wait until the server has closed the connection to every peer, even if the peers keep their sockets."""
        held = sum(peer.socket.fileno() >= 0 for peer in self._sockets)
        with trio.fail_after(5):  # below CLOSE_TIMEOUT, after which it closes them in any case
            await until(lambda: len(descriptors()) <= self._idle + held)


@asynccontextmanager
async def probed_server(client_tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[ProbedServer]:
    """Serve. Afterwards, another client must be served, every socket closed, and a sibling task of the server alive.

    Args:
        client_tls: the TLS context of that client.
        options: those of `WSServer`.
    """
    questions, to_sibling = trio.open_memory_channel[trio.Event](0)

    async def sibling() -> None:
        async for answered in to_sibling:
            answered.set()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sibling)
            async with WSServer(0, host="127.0.0.1", **options) as server:
                await fill_reserves(server)
                with ExitStack() as peers:
                    probed = ProbedServer(server.port, peers, client_tls)
                    yield probed
                    await probed.serves_others()
                await probed.closes_every_peer()
                with trio.fail_after(5):
                    await questions.send(answered := trio.Event())
                    await answered.wait()
            nursery.cancel_scope.cancel()
