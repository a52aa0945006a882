"""The transport under trio, over real sockets, its opening handshake included."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing
from support.certificates import client_context, local_certificates, server_context
from support.frames import whole_frame
from support.raw import CONTINUATION, PING, PONG, TEXT, RawPeer, accept_raw, frame, open_raw, raw_server
from support.transport_contract import CHECKS, Check, check_that_pings_pass_between_fragments, check_transport

from rayforce_trio._addresses import Endpoint
from rayforce_trio._transports import AcceptOptions, KeepAlive, OpeningRequest, Transport, accept, connect
from rayforce_trio._transports._trio_websocket import TrioWebSocket

pytestmark = pytest.mark.trio


async def open_client(port: int, max_message_size: int = 1024, *, tls: bool = False) -> TrioWebSocket:
    return await connect(
        Endpoint("127.0.0.1", port, tls=client_context(local_certificates()) if tls else None),
        subprotocols=["rayforce.v1"],
        max_message_size=max_message_size,
        keepalive=KeepAlive(),
    )


async def open_server(listener: trio.SocketListener, max_message_size: int, *, tls: bool = False) -> TrioWebSocket:
    async def welcome(request: OpeningRequest) -> None:
        assert request.peer == "127.0.0.1"

    options = AcceptOptions(
        subprotocols=["rayforce.v1"],
        max_message_size=max_message_size,
        keepalive=KeepAlive(),
        tls=server_context(local_certificates()) if tls else None,
    )
    return await accept(await listener.accept(), options, decide=welcome)


@asynccontextmanager
async def trio_pair(max_message_size: int, *, tls: bool = False) -> AsyncIterator[tuple[Transport, Transport]]:
    servers: list[TrioWebSocket] = []

    async def serve() -> None:
        servers.append(await open_server(listener, max_message_size, tls=tls))

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            client = await open_client(listener.socket.getsockname()[1], max_message_size, tls=tls)
        try:
            yield client, servers[0]
        finally:
            client.abort()
            servers[0].abort()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_it_keeps_the_contract_of_transports(check: Check, tls: bool) -> None:
    await check_transport(check, partial(trio_pair, tls=tls))


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


# Frames that come in pieces, which no peer of ours would send

MESSAGES: list[bytes | str] = [b"", b"short", bytes(range(200)), "té€xt", b"in two parts"]


def in_frames(*, masked: bool) -> bytes:
    """Return MESSAGES in all forms that a header can have but the longest, with pings in between."""
    half = frame(b"in two", fin=False, masked=masked)
    return b"".join(
        [
            frame(b"", masked=masked),
            frame(b"short", masked=masked),
            frame(b"ping", PING, masked=masked),
            frame(bytes(range(200)), masked=masked),
            frame("té€xt".encode(), TEXT, masked=masked),
            half + frame(b"pong", PING, masked=masked) + frame(b" parts", CONTINUATION, masked=masked),
        ]
    )


async def send_byte_by_byte(peer: RawPeer, data: bytes) -> None:
    """Send every byte once the one before it was taken, and nobody has anything to do."""
    peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or the system would put them together
    for byte in data:
        await peer.send(bytes([byte]))
        await trio.testing.wait_all_tasks_blocked()


async def send_in_frames(peer: RawPeer, *, masked: bool) -> None:
    await send_byte_by_byte(peer, in_frames(masked=masked))
    assert await peer.receive_frame() == (PONG, b"ping")
    assert await peer.receive_frame() == (PONG, b"pong")


async def check_what_arrives(transport: Transport, answered: trio.Event) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(transport.run)
        for message in MESSAGES:
            received = await transport.receive()
            assert (received if isinstance(received, str) else whole_frame(received)) == message
        await answered.wait()
        nursery.cancel_scope.cancel()


async def test_a_server_reads_frames_that_arrive_byte_by_byte() -> None:
    async def send() -> None:
        with await open_raw(listener.socket.getsockname()[1], hello=False) as peer:
            await send_in_frames(peer, masked=True)
            answered.set()

    answered = trio.Event()
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(20):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            server = await open_server(listener, 1024)
            try:
                await check_what_arrives(server, answered)
            finally:
                server.abort()


async def test_a_client_reads_frames_that_arrive_byte_by_byte() -> None:
    async def script(peer: RawPeer) -> None:
        await accept_raw(peer, hello=None)
        await send_in_frames(peer, masked=False)
        answered.set()

    answered = trio.Event()
    with trio.fail_after(20):
        async with raw_server(script) as port:
            client = await open_client(port)
            try:
                await check_what_arrives(client, answered)
            finally:
                client.abort()


async def test_a_long_message_that_arrives_after_the_first_bytes_of_its_header_is_read() -> None:
    """The rest of it comes in few pieces, most of which are received right where they belong."""
    size = 3_000_000
    data = frame(b"first", masked=True) + frame(bytes(range(250)) * (size // 250), masked=True) + frame(b"last")

    async def send() -> None:
        with await open_raw(listener.socket.getsockname()[1], hello=False) as peer:
            await send_byte_by_byte(peer, data[:25])
            await peer.send(data[25:])
            await received_all.wait()

    received_all = trio.Event()
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(20):
        async with listener, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            server = await open_server(listener, size)
            try:
                assert await server.receive() == b"first"
                received = await server.receive()
                assert not isinstance(received, str)
                assert whole_frame(received) == bytes(range(250)) * (size // 250)
                assert await server.receive() == b"last"
            finally:
                server.abort()
                received_all.set()


async def test_pongs_that_the_peer_does_not_take_do_not_pile_up_before_the_transport_runs() -> None:
    """As in the greeting: nobody waits for the network to take more, and pings go on coming."""
    servers: list[TrioWebSocket] = []

    async def serve() -> None:
        servers.append(await open_server(listener, 1024))

    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    with trio.fail_after(30):
        async with listener:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                peer = await open_raw(listener.socket.getsockname()[1], hello=False, receive_buffer=4096)
            [server] = servers
            with peer:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(peer.send, frame(bytes(125), PING) * 60_000 + frame(b"done"))
                    assert await server.receive() == b"done"
                assert len(server._outgoing) < 200_000
            server.abort()
