"""trio-websocket does the opening handshake with one head, without a task of its own."""

import pytest
import trio
import trio_websocket
from support.leaks import no_leaks
from support.raw import KEY, response, upgrade, upgraded

from rayforce_trio._transports._head_stream import (
    ClientNursery,
    HeadRead,
    HeadStream,
    ReaderStarted,
    ServerNursery,
    send_head,
)


async def unexpected() -> bytes:
    raise AssertionError("nothing should be received")


def receives(head: bytes) -> HeadStream:
    async def receive_head() -> bytes:
        return head

    return HeadStream(receive_head)


@pytest.mark.trio
async def test_it_receives_the_head_once_and_whole() -> None:
    head = receives(b"a head")
    assert await head.receive_some(1) == b"a head"
    for _ in range(2):
        with pytest.raises(HeadRead):
            await head.receive_some()


@pytest.mark.trio
async def test_it_keeps_what_is_sent_and_is_not_closed() -> None:
    head = HeadStream(unexpected)
    await head.wait_send_all_might_not_block()
    await head.aclose()
    await head.send_all(memoryview(b"a "))
    await head.send_all(b"response")
    assert head.sent == b"a response"


async def wrap_server_stream(stream: HeadStream) -> trio_websocket.WebSocketRequest:
    return await trio_websocket.wrap_server_stream(ServerNursery(), stream)  # type: ignore[arg-type]  # as the server


@pytest.mark.trio
async def test_trio_websocket_accepts_a_request_without_a_task() -> None:
    stream = receives(upgrade())
    async with no_leaks():
        with trio.fail_after(5):
            request = await wrap_server_stream(stream)
            await request.accept()
    assert stream.sent.startswith(b"HTTP/1.1 101 ")
    assert KEY.encode() not in stream.sent


@pytest.mark.trio
async def test_a_cancelled_server_leaves_no_task() -> None:
    async with no_leaks():
        with trio.CancelScope() as scope:
            scope.cancel()
            await wrap_server_stream(receives(upgrade()))
    assert scope.cancelled_caught


async def request_upgrade(stream: HeadStream) -> None:
    """Do what the client does: run trio-websocket's reader task in this task."""
    with pytest.raises(ReaderStarted) as started:
        await trio_websocket.wrap_client_stream(
            ClientNursery(),  # type: ignore[arg-type]  # as the client
            stream,  # type: ignore[arg-type]  # as the client
            "127.0.0.1",
            "/",
            subprotocols=["rayforce.v1"],
        )
    assert not stream.sent
    with trio.fail_after(5), pytest.raises(HeadRead):
        await started.value.reader()


@pytest.mark.trio
async def test_trio_websocket_requests_an_upgrade_without_a_task() -> None:
    async def receive_head() -> bytes:
        assert stream.sent.startswith(b"GET / HTTP/1.1\r\n")
        return upgraded(stream.sent)

    stream = HeadStream(receive_head)
    async with no_leaks():
        await request_upgrade(stream)


@pytest.mark.trio
async def test_a_response_that_trio_websocket_refuses_is_an_error() -> None:
    """The client never passes one, since it has checked the response."""
    with pytest.raises(trio_websocket.ConnectionRejected):
        await request_upgrade(receives(response("HTTP/1.1 403 Forbidden", {"Content-Length": "0"})))


@pytest.mark.trio
async def test_an_error_of_the_head_ends_the_handshake() -> None:
    async def receive_head() -> bytes:
        raise ConnectionError("refused")

    with pytest.raises(ConnectionError, match="refused"):
        await request_upgrade(HeadStream(receive_head))


@pytest.mark.trio
async def test_a_request_that_trio_websocket_refuses_is_an_error() -> None:
    """The server never passes one, since it has normalized the request."""
    with trio.fail_after(5), pytest.raises(RuntimeError):
        await wrap_server_stream(receives(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"))


@pytest.mark.trio
async def test_a_head_is_sent_whole_though_the_network_takes_it_in_parts() -> None:
    class Slow:
        sent = b""

        def send_nowait(self, data: bytes) -> int:
            self.sent += data[:3]
            return 3

        async def send_all(self, data: bytes) -> None:
            self.sent += data

    stream = Slow()
    await send_head(stream, b"a head")  # type: ignore[arg-type]  # it has what is needed
    assert stream.sent == b"a head"
