"""The transport over real sockets, on each event loop, after the opening handshake."""

import math
import select
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import anyio
import anyio.lowlevel
import pytest
from support.frames import whole_frame
from support.raw import (
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    RawPeer,
    accept_raw,
    close_frame,
    frame,
    raw_server,
    upgrade,
)
from support.streams import fill, socket_of, tcp_pair, tls_pair
from support.transport_contract import CHECKS, Check, check_that_pings_pass_between_fragments, check_transport
from support.websockets import websocket

from rayforce_trio._streams import connect_tcp
from rayforce_trio._transports import Transport
from rayforce_trio._transports._websocket import WebSocketTransport
from rayforce_trio.errors import ConnectionClosed, ConnectionLost, MessageTooLarge, ProtocolError

pytestmark = pytest.mark.anyio

TIMEOUT = 8  # seconds; below CLOSE_TIMEOUT


@pytest.fixture(params=["trio", "asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> object:
    """Run the tests on each event loop."""
    return ("asyncio", {"use_uvloop": True}) if request.param == "uvloop" else request.param


@asynccontextmanager
async def websocket_pair(
    max_message_size: int, *, tls: bool = False
) -> AsyncIterator[tuple[WebSocketTransport, WebSocketTransport]]:
    one, other = await (tls_pair() if tls else tcp_pair())
    client = websocket(one, client=True, max_message_size=max_message_size)
    server = websocket(other, client=False, max_message_size=max_message_size)
    try:
        yield client, server
    finally:
        client.abort()
        server.abort()


@asynccontextmanager
async def with_raw_peer(
    *,
    client: bool,
    max_message_size: int = 1024,
    write_timeout: float = math.inf,
    leftover: bytes = b"",
    time_limit: float = TIMEOUT,
) -> AsyncIterator[tuple[WebSocketTransport, RawPeer]]:
    """Connect a transport with a peer that is made by hand; `client` says what the transport is."""
    one, other = await tcp_pair()
    transport = websocket(
        one, client=client, max_message_size=max_message_size, write_timeout=write_timeout, leftover=leftover
    )
    with anyio.fail_after(time_limit), RawPeer(socket_of(other), is_client=not client) as peer:
        try:
            yield transport, peer
        finally:
            transport.abort()


async def open_client(port: int) -> Transport:
    """Connect, with an opening handshake that checks nothing."""
    stream = await connect_tcp("127.0.0.1", port)
    await stream.send_all(upgrade())
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await stream.receive_some(1)
    return websocket(stream, client=True)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
async def test_it_keeps_the_contract_of_transports(check: Check, tls: bool) -> None:
    await check_transport(check, partial(websocket_pair, tls=tls))


async def test_pings_pass_between_the_fragments_of_a_large_message() -> None:
    await check_that_pings_pass_between_fragments(open_client)


async def test_the_limit_may_be_changed() -> None:
    async with websocket_pair(4) as (client, server):
        server.max_message_size = 1024
        assert server.max_message_size == 1024
        await client.send(bytes(1024))
        assert await server.receive() == bytes(1024)
        await client.send(bytes(1025))
        with pytest.raises(MessageTooLarge):
            await server.receive()


# Frames that arrive in pieces

MESSAGES: list[bytes | str] = [b"", b"short", bytes(range(200)), "té€xt", b"in two parts"]


def in_frames(*, masked: bool) -> bytes:
    """Return MESSAGES, with headers of each form but the longest, and with pings between them."""
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


async def send_byte_by_byte(peer: RawPeer, data: bytes, transport: WebSocketTransport) -> None:
    """Send each byte when the transport has received the one before it."""
    peer.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or the system would join them
    received_by = socket_of(transport._stream)
    for byte in data:
        await peer.send(bytes([byte]))
        while select.select([received_by], [], [], 0)[0]:
            await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("client", [True, False], ids=["client", "server"])
async def test_frames_that_arrive_byte_by_byte_are_read(client: bool) -> None:
    async with with_raw_peer(client=client) as (transport, peer):

        async def send() -> None:
            await send_byte_by_byte(peer, in_frames(masked=not client), transport)
            assert await peer.receive_frame() == (PONG, b"ping")
            assert await peer.receive_frame() == (PONG, b"pong")
            answered.set()

        answered = anyio.Event()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            tasks.start_soon(transport.run)
            for message in MESSAGES:
                received = await transport.receive()
                assert (received if isinstance(received, str) else whole_frame(received)) == message
            await answered.wait()
            tasks.cancel_scope.cancel()


async def test_what_arrived_with_the_opening_handshake_is_read_first() -> None:
    async with with_raw_peer(client=True, leftover=frame(b"first", masked=False)) as (transport, peer):
        await peer.send_frame(b"second")
        assert [await transport.receive(), await transport.receive()] == [b"first", b"second"]


async def test_a_long_message_is_read_though_its_first_bytes_arrive_alone() -> None:
    """Most of it is received directly into the message."""
    size = 3_000_000
    message = bytes(range(250)) * (size // 250)
    data = frame(b"first") + frame(message) + frame(b"last")
    async with with_raw_peer(client=False, max_message_size=size) as (transport, peer):

        async def send() -> None:
            await send_byte_by_byte(peer, data[:25], transport)
            await peer.send(data[25:])

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(send)
            assert await transport.receive() == b"first"
            received = await transport.receive()
            assert not isinstance(received, str)
            assert whole_frame(received) == message
            assert await transport.receive() == b"last"


async def test_pongs_that_the_peer_does_not_take_do_not_pile_up() -> None:
    """Not even before `run` is started, when nothing waits for the network to take more."""
    async with with_raw_peer(client=False, time_limit=60) as (transport, peer):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(peer.send, frame(bytes(125), PING) * 60_000 + frame(b"done"))
            assert await transport.receive() == b"done"
        assert len(transport._connection._outgoing) < 200_000


# Receiving without waiting


@pytest.mark.parametrize("client", [True, False], ids=["client", "server"])
async def test_messages_before_and_after_a_ping_are_received_without_waiting(client: bool) -> None:
    """`receive` handles the ping, since it yields to other tasks between thousands of pings."""
    masked = not client
    data = frame(b"1", masked=masked) + frame(b"2", masked=masked) + frame(b"", PING, masked=masked)
    data += frame(b"3", masked=masked) + frame(b"4", TEXT, masked=masked)
    async with with_raw_peer(client=client, leftover=data) as (transport, _):
        assert [transport.receive_nowait() for _ in range(3)] == [b"1", b"2", None]
        assert await transport.receive() == b"3"
        assert [transport.receive_nowait() for _ in range(3)] == ["4", None, None]


@pytest.mark.parametrize(
    ("last", "error"),
    [(close_frame(1001), ConnectionClosed), (frame(opcode=3), ProtocolError), (frame(bytes(1025)), MessageTooLarge)],
    ids=["close", "violation", "too large"],
)
async def test_receiving_without_waiting_raises_the_same_errors(last: bytes, error: type[Exception]) -> None:
    async with with_raw_peer(client=False, leftover=frame(b"message") + last) as (transport, _):
        assert transport.receive_nowait() == b"message"
        with pytest.raises(error):
            transport.receive_nowait()
        for call in (transport.receive, partial(transport.send, b"late")):
            with pytest.raises(error):
                await call()


async def test_nothing_is_received_without_waiting_while_a_close_reads() -> None:
    leftover = frame(b"message", masked=False)
    async with (
        with_raw_peer(client=True, leftover=leftover) as (transport, peer),
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(transport.aclose)
        assert await peer.receive_close() == 1000
        await anyio.wait_all_tasks_blocked()
        assert transport.receive_nowait() is None
        await peer.send_close(1000)


# What is sent when the network is slow


async def test_a_short_message_that_was_cancelled_is_still_sent_whole() -> None:
    """`run` sends what is left of it, before all that follows."""
    async with with_raw_peer(client=True) as (transport, peer):
        before = fill(transport._stream)
        with anyio.move_on_after(0.05) as scope:
            await transport.send(b"cancelled")
        assert scope.cancelled_caught
        assert transport.send_nowait(b"next")
        transport.flush()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.run)
            await peer._take(before)
            assert [(await peer.receive_frame())[1] for _ in range(2)] == [b"cancelled", b"next"]
            tasks.cancel_scope.cancel()


async def test_nothing_follows_a_long_message_that_was_cut() -> None:
    async with with_raw_peer(client=True) as (transport, peer):
        fill(transport._stream)
        with anyio.move_on_after(0.05) as scope:
            await transport.send(bytes(20_000_000))
        assert scope.cancelled_caught
        for send in (partial(transport.send, b"late"), partial(transport.send_part, b"late", last=True)):
            with pytest.raises(ConnectionClosed):
                await send()
        for send_nowait in (transport.send_nowait, transport.send_now):
            with pytest.raises(ConnectionClosed):
                send_nowait(b"late")
        await transport.aclose()
        peer.close()


async def test_a_peer_that_takes_nothing_for_too_long_is_lost() -> None:
    async with with_raw_peer(client=False, write_timeout=0.1) as (transport, _):
        with pytest.raises(ConnectionLost, match=r"^the peer has read less than 16 KiB per second for 0\.1 seconds$"):
            await transport.send(bytes(50_000_000))
        for call in (transport.receive, partial(transport.send, b"late")):
            with pytest.raises(ConnectionLost, match="read less than 16 KiB"):
                await call()


async def test_what_flush_cannot_send_is_sent_by_run() -> None:
    async with with_raw_peer(client=True) as (transport, peer):
        before = fill(transport._stream)
        assert transport.send_nowait(b"message")
        transport.flush()
        assert transport.send_now(b"now")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.run)
            await peer._take(before)
            assert [(await peer.receive_frame())[1] for _ in range(2)] == [b"message", b"now"]
            tasks.cancel_scope.cancel()


async def test_the_rest_of_a_longer_message_is_sent_by_run() -> None:
    """Cancelling a message that waits behind the longer one does not cut that one."""
    longer = bytes(range(256)) * 2000
    async with with_raw_peer(client=True) as (transport, peer):
        before = fill(transport._stream)
        assert transport.send_now(longer)
        assert not transport.send_now(b"refused")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.send, b"cancelled")
            while not transport._writing:
                await anyio.lowlevel.checkpoint()
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.run)
            tasks.start_soon(transport.send, b"next")
            await peer._take(before)
            assert [(await peer.receive_frame())[1] for _ in range(2)] == [longer, b"next"]
            tasks.cancel_scope.cancel()


async def test_a_close_finishes_a_longer_message_first() -> None:
    longer = bytes(range(256)) * 2000
    async with with_raw_peer(client=True) as (transport, peer):
        before = fill(transport._stream)
        assert transport.send_now(longer)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.aclose)
            await peer._take(before)
            assert (await peer.receive_frame())[1] == longer
            await peer.send_close(await peer.receive_close())


# The end


async def test_the_error_of_a_violation_is_raised_again() -> None:
    async with with_raw_peer(client=True) as (transport, peer):
        await peer.send_frame(opcode=3)
        for _ in range(2):
            with pytest.raises(ProtocolError, match="the peer broke the WebSocket protocol: a frame with the reserved"):
                await transport.receive()
        with pytest.raises(ProtocolError):
            await transport.send(b"late")

        async def answer() -> None:
            assert await peer.receive_close() == 1002
            assert await peer.receive_rest() == b""  # the transport sends its end, and waits for that of the peer
            peer.half_close()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(answer)
            await transport.aclose(1002)


async def test_a_receive_that_is_cancelled_does_not_hold_up_a_close() -> None:
    """The close goes on reading for it."""
    async with with_raw_peer(client=True) as (transport, peer):
        closed = anyio.Event()

        async def close() -> None:
            await transport.aclose()
            closed.set()

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as receiving:

                async def close_and_cancel() -> None:
                    await anyio.wait_all_tasks_blocked()
                    tasks.start_soon(close)
                    await peer.receive_close()
                    receiving.cancel()

                tasks.start_soon(close_and_cancel)
                await transport.receive()
            await peer.send(close_frame(1000, masked=False))
            await closed.wait()


@pytest.mark.parametrize("receiving", [True, False])
async def test_several_tasks_may_close_at_once(receiving: bool) -> None:
    async def receive(transport: Transport) -> None:
        with pytest.raises(ConnectionClosed):
            await transport.receive()

    async with with_raw_peer(client=True) as (transport, peer), anyio.create_task_group() as tasks:
        if receiving:
            tasks.start_soon(receive, transport)
            await anyio.wait_all_tasks_blocked()
        for _ in range(2):
            tasks.start_soon(transport.aclose)
        assert await peer.receive_close() == 1000
        await anyio.wait_all_tasks_blocked()
        await peer.send_close(1000)
        assert await peer.receive_rest() == b""


@pytest.mark.parametrize("last", [close_frame(1001), frame(opcode=3)], ids=["close", "violation"])
async def test_a_close_finds_the_end_that_has_arrived_behind_a_message(last: bytes) -> None:
    """The peer sends nothing more, and does not end the connection, but waits for its end."""
    async with with_raw_peer(client=False, leftover=frame(b"message") + last) as (transport, peer):
        assert await transport.receive() == b"message"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(transport.aclose)
            assert await peer.receive_close() == 1000
            assert await peer.receive_rest() == b""


@pytest.mark.parametrize("receiving", [True, False])
async def test_a_violation_ends_a_close_at_once(receiving: bool) -> None:
    """The peer does not end the connection, and is not waited for."""

    async def receive(transport: Transport) -> None:
        with pytest.raises(ConnectionClosed):
            await transport.receive()

    async with with_raw_peer(client=True) as (transport, peer), anyio.create_task_group() as tasks:
        if receiving:
            tasks.start_soon(receive, transport)
            await anyio.wait_all_tasks_blocked()
        tasks.start_soon(transport.aclose)
        assert await peer.receive_close() == 1000
        await peer.send_frame(opcode=3)


async def test_an_abort_at_the_moment_when_bytes_arrive_ends_a_receive() -> None:
    """Also one that receives directly into a long message."""
    async with with_raw_peer(client=False, max_message_size=1_000_000) as (transport, peer):
        await peer.send(frame(bytes(10), size=1_000_000))

        async def abort() -> None:
            await anyio.wait_all_tasks_blocked()
            peer.socket.send(bytes(1000))
            await anyio.lowlevel.checkpoint()
            transport.abort()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(abort)
            with pytest.raises(ConnectionClosed):
                await transport.receive()


async def test_a_peer_that_hangs_up_without_a_close_is_lost() -> None:
    async with with_raw_peer(client=True) as (transport, peer):
        peer.close()
        for _ in range(2):
            with pytest.raises(ConnectionLost, match=r"^the peer disconnected without closing the connection$"):
                await transport.receive()


async def test_a_peer_that_breaks_the_connection_is_lost() -> None:
    async with with_raw_peer(client=True) as (transport, peer):
        peer.reset()
        for _ in range(2):
            with pytest.raises(ConnectionLost, match=r"^the connection broke: "):
                await transport.receive()


async def test_a_server_of_its_own_opening_is_read() -> None:
    """The helper of this module that opens a connection gives the transport what follows the handshake."""

    async def greet(peer: RawPeer) -> None:
        await accept_raw(peer, hello=None)
        await peer.send_frame(b"hello")
        await peer.receive_rest()

    with anyio.fail_after(TIMEOUT):
        async with raw_server(greet) as port:
            transport = await open_client(port)
            assert await transport.receive() == b"hello"
            transport.abort()
