"""The lean streams, TCP and TLS over it, on real connections of this machine."""

import select
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trio.testing
from support.certificates import client_context, local_certificates, server_context
from support.leaks import no_leaks

from rayforce_trio._streams import READ_SIZE, ByteStream, TcpStream, TlsStream
from rayforce_trio.errors import HandshakeError

pytestmark = pytest.mark.trio

LOCAL = "127.0.0.1"
MEGABYTE = 1024 * 1024
TIMEOUT = 20  # seconds


async def tcp_pair() -> tuple[TcpStream, TcpStream]:
    """Connect two streams; whoever calls this closes them."""
    [listener] = await trio.open_tcp_listeners(0, host=LOCAL)
    async with listener:
        one = await trio.open_tcp_stream(LOCAL, listener.socket.getsockname()[1])
        other = await listener.accept()
    return TcpStream(one), TcpStream(other)


async def tls_pair(*, asked_later: bool = False) -> tuple[TlsStream, TlsStream]:
    """Connect two streams that have shaken hands; whoever calls this closes them.

    Args:
        asked_later: the client shows its certificate when it is asked for that, after the handshake.
    """
    one, other = await tcp_pair()
    clients = client_context(local_certificates(), shows_itself=asked_later)
    servers = server_context(local_certificates())
    clients.post_handshake_auth = servers.post_handshake_auth = asked_later
    client = TlsStream(one, clients, server_hostname="localhost")
    server = TlsStream(other, servers, server_hostname=None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
    return client, server


Pair = Callable[[], Awaitable[tuple[ByteStream, ByteStream]]]
Connected = Callable[[], AbstractAsyncContextManager[tuple[ByteStream, ByteStream]]]

TCP_OR_TLS = [pytest.param(tcp_pair, id="tcp"), pytest.param(tls_pair, id="tls")]


@pytest.fixture(params=TCP_OR_TLS)
def pair(request: pytest.FixtureRequest) -> Pair:
    """Connects two streams, of either kind."""
    made: Pair = request.param
    return made


@pytest.fixture
def connected(pair: Pair) -> Connected:
    """Two connected streams, for a while; in the end both are closed."""

    @asynccontextmanager
    async def opened() -> AsyncIterator[tuple[ByteStream, ByteStream]]:
        one, other = await pair()
        with trio.fail_after(TIMEOUT):
            async with one, other:
                yield one, other

    return opened


def fill(stream: ByteStream) -> int:
    """Send until the network takes no more, and has nothing left to move about; returns how many bytes it took."""
    taken = 0
    while True:
        while count := stream.send_nowait(bytes(MEGABYTE)):
            taken += count
        if not select.select([], [stream], [], 0.1)[1]:
            return taken


def reset(stream: ByteStream) -> None:
    """Break the connection: the other end gets an RST."""
    with socket.socket(fileno=stream.fileno()) as borrowed:
        borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        borrowed.detach()
    (stream._stream if isinstance(stream, TlsStream) else stream).close()  # TLS would say goodbye


async def receive_all(stream: ByteStream) -> bytes:
    data = bytearray()
    while piece := await stream.receive_some():
        data += piece
    return bytes(data)


# What trio asks of every stream


async def test_it_is_a_stream_that_can_be_half_closed(pair: Pair) -> None:
    with trio.fail_after(TIMEOUT):
        async with no_leaks():
            await trio.testing.check_half_closeable_stream(pair, None)


@pytest.mark.slow
async def test_it_is_a_stream_when_it_is_clogged_too(pair: Pair) -> None:
    async def clogged() -> tuple[ByteStream, ByteStream]:
        one, other = await pair()
        fill(one)
        fill(other)
        return one, other

    with trio.fail_after(TIMEOUT):
        async with no_leaks():
            await trio.testing.check_two_way_stream(pair, clogged)


# Sending


async def test_what_the_network_takes_at_once_is_sent_without_a_checkpoint(connected: Connected) -> None:
    async with connected() as (one, other):
        with trio.testing.assert_no_checkpoints():
            for data in (b"bytes,", bytearray(b"bytearray,"), memoryview(b"view")):
                assert one.send_nowait(data) == len(data)
        await one.send_eof()
        assert await receive_all(other) == b"bytes,bytearray,view"


async def test_a_full_network_takes_nothing_at_once_and_later_more(connected: Connected) -> None:
    async with connected() as (one, other):
        sent = fill(one)
        assert one.send_nowait(bytes(MEGABYTE)) == 0
        received = 0
        while received < sent:
            received += len(await other.receive_some(MEGABYTE))
        await one.wait_send_all_might_not_block()
        assert one.send_nowait(bytes(MEGABYTE)) > 0
        assert await other.receive_some()


async def test_much_is_sent_whole_and_in_order_to_a_slow_reader(connected: Connected) -> None:
    data = b"".join(n.to_bytes(4, "little") for n in range(5 * MEGABYTE // 4))
    received = bytearray()

    async def send() -> None:
        await one.send_all(data)
        await one.send_eof()

    async with connected() as (one, other), trio.open_nursery() as nursery:
        nursery.start_soon(send)
        while piece := await other.receive_some(50_000):
            received += piece
            await trio.testing.wait_all_tasks_blocked()
    assert received == data


async def test_a_send_that_waits_is_cancelled(connected: Connected) -> None:
    async with connected() as (one, _):
        fill(one)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one.send_all, b"never")
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught


async def test_urgent_data_reaches_the_peer_past_what_waits() -> None:
    one, other = await tcp_pair()
    async with one, other:
        assert one.send_nowait(b"normal") == 6
        with trio.testing.assert_no_checkpoints():
            assert one.send_urgent_nowait(b"!")
        assert await other.receive_some() == b"normal"  # the urgent byte stands apart
        with socket.socket(fileno=other.fileno()) as borrowed:
            try:
                assert borrowed.recv(1, socket.MSG_OOB) == b"!"
            finally:
                borrowed.detach()


async def test_a_full_network_takes_no_urgent_data_either() -> None:
    one, other = await tcp_pair()
    async with one, other:
        fill(one)
        assert not one.send_urgent_nowait(b"!")


async def test_urgent_data_on_what_broke_or_was_closed_says_so() -> None:
    one, other = await tcp_pair()
    async with one, other:
        reset(other)
        with trio.fail_after(TIMEOUT), pytest.raises(trio.BrokenResourceError):
            await one.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            one.send_urgent_nowait(b"1")
        one.close()
        with pytest.raises(trio.ClosedResourceError):
            one.send_urgent_nowait(b"1")


# Receiving


@pytest.mark.parametrize("size", [1, 10, READ_SIZE])
async def test_no_more_is_received_than_was_asked_for(size: int, connected: Connected) -> None:
    async with connected() as (one, other):
        assert one.send_nowait(bytes(READ_SIZE + 1)) == READ_SIZE + 1
        assert 1 <= len(await other.receive_some(size)) <= size
        assert 1 <= len(await other.receive_some()) <= READ_SIZE


async def test_it_receives_to_the_beginning_of_a_buffer_and_leaves_the_rest_as_it_is(connected: Connected) -> None:
    async with connected() as (one, other):
        await one.send_all(b"one two")
        buffer = bytearray(b"." * 10)
        with trio.testing.assert_checkpoints():
            assert await other.receive_into(memoryview(buffer)[:3]) == 3
        assert buffer == b"one......."
        assert await other.receive_into(memoryview(buffer)[3:]) == 4
        assert buffer == b"one two..."
        await one.send_eof()
        assert await other.receive_into(memoryview(buffer)) == 0
        assert buffer == b"one two..."


async def test_a_receive_to_a_buffer_waits_for_data(connected: Connected) -> None:
    buffer = bytearray(4)
    counts = []

    async def receive() -> None:
        counts.append(await other.receive_into(memoryview(buffer)))

    async with connected() as (one, other), trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        assert counts == []
        assert one.send_nowait(b"late") == 4
    assert counts == [4]
    assert buffer == b"late"


@pytest.mark.parametrize("into_buffer", [False, True])
async def test_a_cancelled_receive_loses_nothing(into_buffer: bool, connected: Connected) -> None:
    """It is cancelled before anything arrives, and in the very moment in which something does."""
    buffer = bytearray(100)
    received, sent = bytearray(), bytearray()

    async def receive(scope: trio.CancelScope) -> None:
        with scope:
            if into_buffer:
                count = await other.receive_into(memoryview(buffer))
                received.extend(buffer[:count])
            else:
                received.extend(await other.receive_some())

    async def cancel_after(steps: int, scope: trio.CancelScope) -> None:
        for _ in range(steps):
            await trio.lowlevel.checkpoint()
        scope.cancel()

    cancelled = 0
    async with connected() as (one, other):
        for n in range(80):
            scope = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive, scope)
                nursery.start_soon(cancel_after, n % 8 // 2, scope)
                for _ in range(n % 2):
                    await trio.lowlevel.checkpoint()
                assert one.send_nowait(bytes([n])) == 1
                sent.append(n)
            cancelled += scope.cancelled_caught
        while len(received) < len(sent):
            await receive(trio.CancelScope())
    assert cancelled
    assert received == sent


async def test_a_receive_in_a_cancelled_scope_takes_nothing(connected: Connected) -> None:
    async with connected() as (one, other):
        await one.send_all(b"waits")
        buffer = bytearray(5)
        with trio.CancelScope() as scope:
            scope.cancel()
            await other.receive_into(memoryview(buffer))
        assert scope.cancelled_caught
        assert buffer == bytes(5)
        assert await other.receive_some() == b"waits"


# The end


async def test_after_a_reset_everything_says_that_the_connection_broke(connected: Connected) -> None:
    async with connected() as (one, other):
        reset(other)
        with pytest.raises(trio.BrokenResourceError):
            await one.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            one.send_nowait(b"1")
        with pytest.raises(trio.BrokenResourceError):
            await one.send_all(b"1")


async def test_a_reset_while_it_receives_to_a_buffer_says_that_it_broke_and_why(
    connected: Connected,
) -> None:
    async def receive() -> None:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await one.receive_into(memoryview(bytearray(1)))
        assert isinstance(caught.value.__cause__, ConnectionResetError)

    async with connected() as (one, other), trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        reset(other)


async def test_a_closed_stream_says_so(connected: Connected) -> None:
    async with connected() as (one, other):
        one.close()
        assert one.fileno() == -1
        with pytest.raises(trio.ClosedResourceError):
            one.send_nowait(b"1")
        with pytest.raises(trio.ClosedResourceError):
            await one.send_all(b"1")
        with pytest.raises(trio.ClosedResourceError):
            await one.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await one.receive_into(memoryview(bytearray(1)))
        with pytest.raises(trio.ClosedResourceError):
            await one.wait_send_all_might_not_block()
        with pytest.raises(trio.ClosedResourceError):
            await one.send_eof()
        one.close()
        assert await other.receive_some() == b""


async def test_a_close_wakes_whoever_waits(connected: Connected) -> None:
    async def receive() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await one.receive_some()

    async def receive_into() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await other.receive_into(memoryview(bytearray(1)))

    async def send() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await one.send_all(b"1")

    async with connected() as (one, other):
        fill(one)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            with trio.testing.assert_no_checkpoints():
                one.close()
    async with connected() as (one, other), trio.open_nursery() as nursery:
        nursery.start_soon(receive_into)
        await trio.testing.wait_all_tasks_blocked()
        other.close()


async def test_the_end_of_one_side_leaves_the_other_open(connected: Connected) -> None:
    async with connected() as (one, other):
        await one.send_all(b"last")
        await one.send_eof()
        assert await receive_all(other) == b"last"
        await other.send_all(b"answer")
        assert await one.receive_some() == b"answer"


async def test_the_stream_it_comes_from_is_of_no_more_use_and_leaves_the_socket_alone() -> None:
    [listener] = await trio.open_tcp_listeners(0, host=LOCAL)
    async with listener:
        plain = await trio.open_tcp_stream(LOCAL, listener.socket.getsockname()[1])
        other = TcpStream(await listener.accept())
    one = TcpStream(plain)
    await plain.aclose()
    async with one, other:
        await one.send_all(b"alive")
        with trio.fail_after(TIMEOUT):
            assert await other.receive_some() == b"alive"


# TLS alone


async def test_what_has_arrived_can_be_read_after_the_end_was_sent() -> None:
    one, other = await tls_pair()
    with trio.fail_after(TIMEOUT):
        async with one, other:
            await one.send_all(b"one")
            await one.send_all(b"two")
            assert await other.receive_some(3) == b"one"
            await other.send_eof()
            await one.send_eof()
            assert await receive_all(other) == b"two"


async def test_what_was_read_in_part_can_be_read_after_the_end_was_sent() -> None:
    one, other = await tls_pair()
    with trio.fail_after(TIMEOUT):
        async with one, other:
            await one.send_all(b"one two")
            assert await other.receive_some(3) == b"one"
            await other.send_eof()
            assert await other.receive_some() == b" two"


async def test_what_comes_before_nonsense_is_received() -> None:
    one, other = await tls_pair()
    with trio.fail_after(TIMEOUT):
        async with one, other:
            await one.send_all(b"last words")
            await one._stream.send_all(b"nonsense" * 100)
            await trio.lowlevel.wait_readable(other)
            assert await other.receive_some() == b"last words"
            with pytest.raises(trio.BrokenResourceError):
                await receive_all(other)


def ask_for_certificate(server: TlsStream) -> None:
    server._tls.verify_client_post_handshake()  # the question waits for something to go with
    assert server.send_nowait(b"?") == 1


async def test_what_tls_asks_is_answered_by_whoever_only_receives() -> None:
    client, server = await tls_pair(asked_later=True)
    with trio.fail_after(TIMEOUT):
        async with client, server, trio.open_nursery() as nursery:
            assert server.certificate is None
            ask_for_certificate(server)
            assert await client.receive_some() == b"?"
            await trio.lowlevel.wait_readable(server.fileno())
            nursery.start_soon(server.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            assert server.certificate is not None
            nursery.cancel_scope.cancel()


async def test_who_asks_and_takes_no_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = await tls_pair(asked_later=True)
    with trio.fail_after(TIMEOUT):
        async with client, server:
            fill(client)
            ask_for_certificate(server)
            monkeypatch.setattr(
                "rayforce_trio._streams._tls._UNTAKEN", 1000
            )  # the answer, with a certificate, is longer
            with pytest.raises(trio.BrokenResourceError, match="the peer takes no answers"):
                await client.receive_some()


async def test_a_reset_during_the_handshake_is_a_failed_handshake() -> None:
    for nonsense in (b"", b"\x16\x03\x01\x00\x05hello"):
        one, other = await tcp_pair()
        server = TlsStream(other, server_context(local_certificates()), server_hostname=None)
        with trio.fail_after(TIMEOUT):
            async with one, server:
                await one.send_all(nonsense)
                reset(one)
                with pytest.raises(HandshakeError):
                    await server.do_handshake()
