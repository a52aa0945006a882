"""The stream that trio-websocket shakes hands on: one HTTP head passes, and the stream behind it stays whole."""

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio_websocket
from support.raw import frame, upgrade, upgraded
from support.streams import MemoryByteStream, memory_byte_streams

from rayforce_trio._transports._base import BODY_LIMIT
from rayforce_trio._transports._head_stream import HEAD_LIMIT, HeadStream, HeadTooLong
from rayforce_trio.errors import ConnectionRejected, HandshakeError

HEAD = upgrade()


async def check_that_nothing_more_comes(head: HeadStream) -> None:
    """trio-websocket's reader must wait from here on, until it is cancelled."""
    with trio.move_on_after(0) as scope:
        await trio.testing.wait_all_tasks_blocked()
        await head.receive_some()
    assert scope.cancelled_caught


@pytest.mark.trio
async def test_a_head_passes_whole() -> None:
    peer, stream = memory_byte_streams()
    head = HeadStream(stream)
    await peer.send_all(HEAD)
    assert await head.receive_some(1) == HEAD
    assert head.leftover == b""
    await check_that_nothing_more_comes(head)


@pytest.mark.trio
async def test_a_head_that_comes_byte_by_byte_passes_whole() -> None:
    peer, stream = memory_byte_streams()
    head = HeadStream(stream)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def _receive() -> None:
            assert await head.receive_some() == HEAD

        for byte in HEAD:
            await peer.send_all(bytes([byte]))
            await trio.testing.wait_all_tasks_blocked()
    assert head.leftover == b""


@pytest.mark.trio
async def test_what_follows_a_head_is_kept_back() -> None:
    peer, stream = memory_byte_streams()
    head = HeadStream(stream)
    await peer.send_all(HEAD + b"\r\n\r\nframes")
    assert await head.receive_some() == HEAD
    assert head.leftover == b"\r\n\r\nframes"
    await check_that_nothing_more_comes(head)
    assert head.leftover == b"\r\n\r\nframes"


@pytest.mark.trio
async def test_what_follows_a_head_need_not_be_ascii() -> None:
    peer, stream = memory_byte_streams()
    head = HeadStream(stream)
    await peer.send_all(HEAD + b"\xff\xfe")
    assert await head.receive_some() == HEAD
    assert head.leftover == b"\xff\xfe"


@pytest.mark.trio
@pytest.mark.parametrize("trailing", [b"", b"frames" * HEAD_LIMIT], ids=["alone", "with trailing data"])
async def test_a_head_of_just_the_limit_passes(trailing: bytes) -> None:
    peer, stream = memory_byte_streams()
    longest = b"x" * (HEAD_LIMIT - 4) + b"\r\n\r\n"
    await peer.send_all(longest + trailing)
    assert await HeadStream(stream).receive_some() == longest


@pytest.mark.trio
@pytest.mark.parametrize("data", [b"x" * HEAD_LIMIT, b"x" * (HEAD_LIMIT - 3) + b"\r\n\r\n"], ids=["no end", "one over"])
async def test_a_head_over_the_limit_is_refused(data: bytes) -> None:
    peer, stream = memory_byte_streams()
    await peer.send_all(data)
    with pytest.raises(HeadTooLong, match=f"longer than {HEAD_LIMIT} bytes"):
        await HeadStream(stream).receive_some()


@pytest.mark.trio
async def test_a_head_that_is_not_ascii_is_refused() -> None:
    peer, stream = memory_byte_streams()
    await peer.send_all(upgrade({"Host": "caf\xe9"}))
    with pytest.raises(HandshakeError, match="bytes that are not ASCII"):
        await HeadStream(stream).receive_some()


@pytest.mark.trio
@pytest.mark.parametrize("data", [b"", HEAD[:-1]], ids=["before the head", "in the head"])
async def test_the_end_of_the_stream_is_an_error(data: bytes) -> None:
    peer, stream = memory_byte_streams()
    await peer.send_all(data)
    await peer.send_eof()
    with pytest.raises(HandshakeError, match="the peer closed the connection during the opening handshake"):
        await HeadStream(stream).receive_some()


@pytest.mark.trio
async def test_a_broken_stream_is_an_error_whether_read_or_written() -> None:
    _, stream = memory_byte_streams()
    await stream.aclose()
    with pytest.raises(HandshakeError, match="the connection broke during the opening handshake"):
        await HeadStream(stream).receive_some()
    with pytest.raises(HandshakeError, match="the connection broke during the opening handshake"):
        await HeadStream(stream).send_all(b"x")


@pytest.mark.trio
async def test_what_is_sent_passes() -> None:
    peer, stream = memory_byte_streams()
    head = HeadStream(stream)
    await head.wait_send_all_might_not_block()
    await head.send_all(b"answer")
    assert await peer.receive_some() == b"answer"


@pytest.mark.trio
async def test_closing_it_is_an_error_and_leaves_the_stream_open() -> None:
    """trio-websocket closes when it has refused a peer; only so does anybody learn of it."""
    peer, stream = memory_byte_streams()
    with pytest.raises(HandshakeError, match="makes no sense"):
        await HeadStream(stream).aclose()
    await peer.send_all(b"still open")
    assert await stream.receive_some() == b"still open"


@pytest.mark.trio
async def test_the_body_of_a_refusal_passes_up_to_its_limit() -> None:
    peer, stream = memory_byte_streams()
    head = HeadStream(stream, with_body=True)
    await peer.send_all(b"HTTP/1.1 403 Forbidden\r\n\r\nbody")
    assert await head.receive_some() == b"HTTP/1.1 403 Forbidden\r\n\r\n"
    assert await head.receive_some() == b"body"
    await peer.send_all(b"x" * BODY_LIMIT)
    with pytest.raises(ConnectionRejected) as rejected:
        await head.receive_some()
    assert rejected.value.status == 403
    assert rejected.value.body == "body" + "x" * (BODY_LIMIT - len("body"))


@pytest.mark.trio
async def test_the_body_of_a_refusal_ends_with_the_stream() -> None:
    peer, stream = memory_byte_streams()
    head = HeadStream(stream, with_body=True)
    await peer.send_all(b"HTTP/1.1 403 Forbidden\r\n\r\nnot you")
    await peer.send_eof()
    await head.receive_some()
    await head.receive_some()
    with pytest.raises(ConnectionRejected, match="403: not you"):
        await head.receive_some()


@pytest.mark.trio
async def test_what_follows_an_accepted_upgrade_is_no_body() -> None:
    peer, stream = memory_byte_streams()
    head = HeadStream(stream, with_body=True)
    await peer.send_all(b"HTTP/1.1 101 Switching Protocols\r\n\r\nframes")
    await head.receive_some()
    assert head.leftover == b"frames"
    await check_that_nothing_more_comes(head)


# The takeover: trio-websocket's reader task is cancelled, and somebody else goes on with the stream.

FRAMES = frame(b"first") + frame(b"second")


async def take_over(shake_hands: Callable[[trio.Nursery], Awaitable[None]]) -> None:
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await shake_hands(nursery)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def check_that_it_is_whole(
    peer: MemoryByteStream, stream: MemoryByteStream, head: HeadStream, early: bytes
) -> None:
    """No byte is lost on either side of the takeover, nothing was said to the peer, and the stream is open."""
    await peer.send_all(FRAMES[len(early) :])
    assert head.leftover == early
    assert head.leftover + await stream.receive_some() == FRAMES
    await stream.send_all(b"only this")
    assert await peer.receive_some() == b"only this"


@pytest.mark.trio
@pytest.mark.parametrize("early", [0, 1, len(FRAMES) - 1], ids=["none early", "a byte early", "nearly all early"])
async def test_a_cancelled_reader_leaves_the_servers_stream_alone(early: int) -> None:
    peer, stream = memory_byte_streams()
    head = HeadStream(stream)
    await peer.send_all(HEAD + FRAMES[:early])

    async def shake_hands(nursery: trio.Nursery) -> None:
        request = await trio_websocket.wrap_server_stream(nursery, head)
        await request.accept()

    await take_over(shake_hands)
    assert bytes(await peer.receive_some()).startswith(b"HTTP/1.1 101 ")
    await check_that_it_is_whole(peer, stream, head, FRAMES[:early])


@pytest.mark.trio
@pytest.mark.parametrize("early", [0, 1, len(FRAMES) - 1], ids=["none early", "a byte early", "nearly all early"])
async def test_a_cancelled_reader_leaves_the_clients_stream_alone(early: int) -> None:
    peer, stream = memory_byte_streams()
    head = HeadStream(stream, with_body=True)

    async def shake_hands(nursery: trio.Nursery) -> None:
        nursery.start_soon(answer)
        # As in the transport: trio-websocket asks for a socket and needs but a stream.
        await trio_websocket.wrap_client_stream(nursery, head, "localhost", "/")  # type: ignore[arg-type]

    async def answer() -> None:
        request = bytes(await peer.receive_some())
        await peer.send_all(upgraded(request, {"Sec-WebSocket-Protocol": None}) + FRAMES[:early])

    await take_over(shake_hands)
    await check_that_it_is_whole(peer, stream, head, FRAMES[:early])
