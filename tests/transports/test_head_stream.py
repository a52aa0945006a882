"""The stream that trio-websocket does the opening handshake on passes one head, and nothing after it."""

import pytest
import trio
import trio.testing
import trio_websocket
from support.raw import KEY, upgrade

from rayforce_trio._transports._head_stream import HeadStream


async def unexpected() -> bytes:
    raise AssertionError("nothing should be received")


async def check_that_nothing_more_is_received(head: HeadStream) -> None:
    """trio-websocket's reader task must wait from here on, until it is cancelled."""
    with trio.move_on_after(0) as scope:
        await trio.testing.wait_all_tasks_blocked()
        await head.receive_some()
    assert scope.cancelled_caught


async def ignore(data: bytes) -> None:
    await trio.lowlevel.checkpoint()


@pytest.mark.trio
async def test_it_receives_the_head_once_and_whole() -> None:
    async def receive_head() -> bytes:
        return b"a head"

    head = HeadStream(send=ignore, receive_head=receive_head)
    assert await head.receive_some(1) == b"a head"
    await check_that_nothing_more_is_received(head)


@pytest.mark.trio
async def test_it_sends_and_is_not_closed() -> None:
    sent = []

    async def send(data: bytes) -> None:
        sent.append(data)

    head = HeadStream(send=send, receive_head=unexpected)
    await head.wait_send_all_might_not_block()
    await head.aclose()
    await head.send_all(memoryview(b"a response"))
    assert sent == [b"a response"]


@pytest.mark.trio
async def test_an_error_of_the_head_ends_the_handshake() -> None:
    async def receive_head() -> bytes:
        raise ConnectionError("refused")

    head = HeadStream(send=ignore, receive_head=receive_head)
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionError, match="refused")):
        async with trio.open_nursery() as nursery:
            await trio_websocket.wrap_server_stream(nursery, head)


@pytest.mark.trio
async def test_trio_websocket_accepts_a_request_and_then_only_waits() -> None:
    sent = []

    async def receive_head() -> bytes:
        return upgrade()

    async def send(data: bytes) -> None:
        sent.append(data)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            request = await trio_websocket.wrap_server_stream(nursery, HeadStream(send=send, receive_head=receive_head))
            await request.accept()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    [response] = sent
    assert response.startswith(b"HTTP/1.1 101 ")
    assert KEY.encode() not in response
