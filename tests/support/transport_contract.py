"""The contract of transports: each of `CHECKS` checks one promise on a pair, on the running event loop."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress

import anyio
import anyio.lowlevel
import pytest
import sniffio
import trio.testing

from rayforce_trio._protocol import Frame
from rayforce_trio._transports import Transport
from rayforce_trio._transports._base import TEXT_LIMIT, end
from rayforce_trio._websocket import REASON_LIMIT
from rayforce_trio.errors import ConnectionClosed, ConnectionLost, MessageTooLarge, RayforceWSError
from support.frames import whole_frame
from support.leaks import no_leaks
from support.raw import BINARY, CONTINUATION, PING, PONG, RawPeer, accept_raw, raw_server

Check = Callable[[Transport, Transport], Awaitable[None]]
MakePair = Callable[[int], AbstractAsyncContextManager[tuple[Transport, Transport]]]
Connect = Callable[[int], Awaitable[Transport]]

MEGABYTE = 1024 * 1024
MAX_SIZE = 4 * MEGABYTE
TIMEOUT = 8  # seconds; below CLOSE_TIMEOUT, so that a close which is not answered fails the check


async def check_transport(check: Check, make_pair: MakePair) -> None:
    """Run a check on a pair, and again with its ends exchanged.

    Args:
        check: one of `CHECKS`.
        make_pair: opens a connection with a given `max_message_size`, and aborts both ends afterwards.
    """
    for exchanged in (False, True):
        with anyio.fail_after(TIMEOUT):
            async with no_leaks(), make_pair(MAX_SIZE) as (client, server):
                await (check(server, client) if exchanged else check(client, server))


async def check_that_pings_pass_between_fragments(connect: Connect) -> None:
    """Check that a ping is answered in the middle of a large message to a peer that reads slowly.

    Args:
        connect: opens a connection to a port of this machine.
    """
    size = 20 * MEGABYTE
    taken_before_pong = size

    async def read_slowly(peer: RawPeer) -> None:
        nonlocal taken_before_pong
        await accept_raw(peer, hello=None)
        taken = 0
        while taken < size:
            opcode, payload = await peer.receive_frame()
            if opcode == PONG:
                assert payload == b"still there?"
                taken_before_pong = taken
                continue
            assert opcode == (CONTINUATION if taken else BINARY)
            if not taken:
                await peer.send_frame(b"still there?", PING)
            taken += len(payload)
            await anyio.wait_all_tasks_blocked()
        await peer.send_frame(b"got it")

    with anyio.fail_after(TIMEOUT):
        async with no_leaks(), raw_server(read_slowly) as port:
            transport = await connect(port)
            try:
                async with anyio.create_task_group() as task_group:
                    task_group.start_soon(transport.run)
                    task_group.start_soon(transport.send, bytes(size))
                    assert await transport.receive() == b"got it"
                    task_group.cancel_scope.cancel()
            finally:
                transport.abort()
    assert 0 < taken_before_pong < size


async def messages_arrive_whole_and_in_order(one: Transport, other: Transport) -> None:
    sizes = (0, 1, 125, 126, 65535, 65536, MEGABYTE, MEGABYTE + 1, 3_000_000, MAX_SIZE)
    messages: list[bytes | str] = [bytes(range(256)) * (size // 256) + bytes(range(size % 256)) for size in sizes]
    messages += ["", "text", "þ€xt 𝄞", "x" * TEXT_LIMIT, b"last"]
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(_send_all, one, messages)
        received = [await other.receive() for _ in messages]
    # If messages this long differ, pytest would take a minute to say where.
    assert list(map(len, received)) == list(map(len, messages))
    assert all(map(_same, received, messages))


async def both_ends_may_send_much_at_once(one: Transport, other: Transport) -> None:
    large: list[bytes | str] = [bytes([n]) * MAX_SIZE for n in range(5)]

    async def receive_all(transport: Transport) -> None:
        for message in large:
            assert _same(await transport.receive(), message)

    async with anyio.create_task_group() as task_group:
        for transport in (one, other):
            task_group.start_soon(_send_all, transport, large)
            task_group.start_soon(receive_all, transport)


async def a_cancelled_receive_loses_nothing(one: Transport, other: Transport) -> None:
    """It is cancelled after different numbers of steps: before, in the middle of and after messages of all sizes."""
    messages: list[bytes | str] = [bytes([n]) * size for n in range(20) for size in (0, 10, 70_000)]
    messages += [b"x" * (2 * MEGABYTE + 1), "text"] * 4
    received: list[Frame | str] = []
    cancelled = 0

    async def cancel_after(steps: int, scope: anyio.CancelScope) -> None:
        for _ in range(steps):
            await anyio.lowlevel.checkpoint()
        scope.cancel()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(_send_all, one, messages)
        while len(received) < len(messages):
            with anyio.CancelScope() as scope:
                task_group.start_soon(cancel_after, cancelled % 8, scope)
                received.append(await other.receive())
            cancelled += scope.cancelled_caught
    assert cancelled
    assert [len(message) for message in received] == [len(message) for message in messages]
    assert all(map(_same, received, messages))


async def a_receive_in_a_cancelled_scope_is_cancelled(one: Transport, other: Transport) -> None:
    """Even if a message has arrived. The message is not lost."""
    await _send_all(one, ["first", "second"])
    assert await other.receive() == "first"
    await _check_that_it_is_cancelled(other.receive)
    assert await other.receive() == "second"


async def a_send_in_a_cancelled_scope_is_cancelled(one: Transport, other: Transport) -> None:
    await _check_that_it_is_cancelled(lambda: one.send("never"))
    other.abort()


async def a_receive_that_waits_is_a_checkpoint(one: Transport, other: Transport) -> None:
    async with anyio.create_task_group() as task_group:
        for n in range(3):
            task_group.start_soon(one.send, str(n))
            with _checkpoints():
                assert await other.receive() == str(n)


async def messages_that_have_arrived_are_received_without_waiting(one: Transport, other: Transport) -> None:
    """In order, and mixed with those that `receive` waits for."""
    messages: list[bytes | str] = [str(n) for n in range(100)]
    received: list[Frame | str] = []
    waits = 0
    assert other.receive_nowait() is None
    await _send_all(one, messages)
    while len(received) < len(messages):
        more = other.has_bytes()
        message = other.receive_nowait()
        if message is None:
            message = await other.receive()
            waits += 1
        else:
            assert more
        received.append(message)
    assert received == messages
    assert waits < len(messages)
    assert other.receive_nowait() is None


async def a_message_sent_now_arrives(one: Transport, other: Transport) -> None:
    """`send` sends it if it cannot be sent now."""
    messages: list[bytes | str] = [b"", b"bytes", "text", bytes(1000), bytes(200_000), b"last"]
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(_send_all_now, one, messages)
        assert [_same(await other.receive(), message) for message in messages] == [True] * len(messages)


async def receiving_many_messages_yields_to_other_tasks(one: Transport, other: Transport) -> None:
    """Each takes a few microseconds; after `TIME_SLICE`, the other tasks run."""
    messages: list[bytes | str] = [str(n) for n in range(2000)]
    yields = 0

    async def count_yields() -> None:
        nonlocal yields
        while True:
            await anyio.lowlevel.checkpoint()
            yields += 1

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(_send_all, one, messages)
        await anyio.wait_all_tasks_blocked()
        task_group.start_soon(count_yields)
        for message in messages:
            assert await other.receive() == message
        task_group.cancel_scope.cancel()
    assert yields > 5


async def a_send_is_a_checkpoint(one: Transport, other: Transport) -> None:
    for n in range(3):
        with _checkpoints():
            await one.send(str(n))
        assert await other.receive() == str(n)


async def a_close_is_a_checkpoint(one: Transport, other: Transport) -> None:
    """A second one, which has nothing to do, is one too."""
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(_answer_close, other)
        for _ in range(2):
            with _checkpoints():
                await one.aclose()


async def a_message_longer_than_the_limit_is_refused(one: Transport, other: Transport) -> None:
    await _check_refusal(one, other, bytes(MAX_SIZE + 1), "longer than the 4194304 bytes allowed here")


async def a_text_longer_than_the_limit_is_refused(one: Transport, other: Transport) -> None:
    await _check_refusal(one, other, "x" * (TEXT_LIMIT + 1), "a text message is longer than the 65536 characters")


async def a_close_tells_the_peer_code_and_reason(one: Transport, other: Transport) -> None:
    await one.send(b"last")
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(one.aclose, 1011, "brøken")
        assert await other.receive() == b"last"
        for call in (other.receive, other.receive, lambda: other.send(b"late")):  # every call raises the same
            with pytest.raises(
                ConnectionClosed, match="the peer closed the connection with code 1011: brøken"
            ) as closed:
                await call()
            assert (closed.value.code, closed.value.reason, closed.value.by_peer) == (1011, "brøken", True)
        await other.aclose()


async def a_long_reason_is_truncated(one: Transport, other: Transport) -> None:
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(one.aclose, 1000, "€" * REASON_LIMIT)
        closed = await _answer_close(other)
    assert closed.reason == "€" * (REASON_LIMIT // 3)


async def the_end_that_closed_can_neither_send_nor_receive(one: Transport, other: Transport) -> None:
    await _close(one, other, 1001)
    await _check_that_it_is_closed(one)


async def a_close_with_an_error_code_is_a_normal_close_for_the_end_that_closed(
    one: Transport, other: Transport
) -> None:
    """The error code is for the peer."""
    await _close(one, other, 1002)
    await _check_that_it_is_closed(one)


async def a_second_close_does_nothing(one: Transport, other: Transport) -> None:
    await _close(one, other, 1001)
    await one.aclose(1002)
    one.abort()
    await one.aclose()
    await other.aclose()


async def both_ends_may_close_at_once(one: Transport, other: Transport) -> None:
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(one.aclose)
        task_group.start_soon(other.aclose)


async def a_close_ends_a_receive_under_way(one: Transport, other: Transport) -> None:
    """At both ends."""
    closed: dict[Transport, ConnectionClosed] = {}

    async def receive(transport: Transport) -> None:
        closed[transport] = await _answer_close(transport)

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(receive, one)
        task_group.start_soon(receive, other)
        await anyio.wait_all_tasks_blocked()
        await one.aclose()
    assert (closed[one].by_peer, closed[other].by_peer) == (False, True)


async def a_close_in_the_middle_of_a_send_tells_code_and_reason(one: Transport, other: Transport) -> None:
    """The send ends. Its message arrives whole or not at all."""

    async def send() -> None:
        with suppress(ConnectionClosed):
            await _send_all(one, [bytes(3 * MEGABYTE)] * 7)

    async def receive_all() -> None:
        while True:
            assert _same(await other.receive(), bytes(3 * MEGABYTE))

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        task_group.start_soon(one.aclose, 1001, "bye")
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(ConnectionClosed) as closed:
            await receive_all()
        await other.aclose()
    assert (closed.value.code, closed.value.reason) == (1001, "bye")


async def a_cancelled_close_closes_the_socket(one: Transport, other: Transport) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await one.aclose()
    assert scope.cancelled_caught
    with pytest.raises((ConnectionClosed, ConnectionLost)):
        await other.receive()


async def an_abort_says_nothing_to_the_peer(one: Transport, other: Transport) -> None:
    one.abort()
    one.abort()
    with pytest.raises(ConnectionLost):
        await other.receive()
    with pytest.raises((ConnectionClosed, ConnectionLost)):
        await one.send(b"late")
    await one.aclose()
    other.abort()


async def an_abort_ends_a_receive_under_way(one: Transport, other: Transport) -> None:
    async def receive(transport: Transport) -> None:
        with pytest.raises((ConnectionClosed, ConnectionLost)):
            await transport.receive()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(receive, one)
        task_group.start_soon(receive, other)
        await anyio.wait_all_tasks_blocked()
        one.abort()


CHECKS: tuple[Check, ...] = (
    messages_arrive_whole_and_in_order,
    both_ends_may_send_much_at_once,
    a_cancelled_receive_loses_nothing,
    a_receive_in_a_cancelled_scope_is_cancelled,
    a_send_in_a_cancelled_scope_is_cancelled,
    a_receive_that_waits_is_a_checkpoint,
    messages_that_have_arrived_are_received_without_waiting,
    a_message_sent_now_arrives,
    receiving_many_messages_yields_to_other_tasks,
    a_send_is_a_checkpoint,
    a_close_is_a_checkpoint,
    a_message_longer_than_the_limit_is_refused,
    a_text_longer_than_the_limit_is_refused,
    a_close_tells_the_peer_code_and_reason,
    a_long_reason_is_truncated,
    the_end_that_closed_can_neither_send_nor_receive,
    a_close_with_an_error_code_is_a_normal_close_for_the_end_that_closed,
    a_second_close_does_nothing,
    both_ends_may_close_at_once,
    a_close_ends_a_receive_under_way,
    a_close_in_the_middle_of_a_send_tells_code_and_reason,
    a_cancelled_close_closes_the_socket,
    an_abort_says_nothing_to_the_peer,
    an_abort_ends_a_receive_under_way,
)


async def _send_all(transport: Transport, messages: list[bytes | str]) -> None:
    for message in messages:
        await transport.send(message)


async def _send_all_now(transport: Transport, messages: list[bytes | str]) -> None:
    for message in messages:
        if not transport.send_now(message):
            await transport.send(message)


async def _answer_close(transport: Transport) -> ConnectionClosed:
    """Wait for the peer's close, and then close this end, as the owner of a transport must."""
    with pytest.raises(ConnectionClosed) as closed:
        await transport.receive()
    await transport.aclose()
    return closed.value


async def _close(one: Transport, other: Transport, code: int) -> None:
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(one.aclose, code)
        assert (await _answer_close(other)).code == code


async def _check_that_it_is_closed(transport: Transport) -> None:
    for call in (transport.receive, lambda: transport.send(b"late"), lambda: transport.send("late")):
        with pytest.raises(ConnectionClosed, match="the connection is closed") as closed:
            await call()
        assert not closed.value.by_peer


async def _check_that_it_is_cancelled(call: Callable[[], Awaitable[object]]) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        await call()
    assert scope.cancelled_caught


async def _check_refusal(one: Transport, other: Transport, message: bytes | str, match: str) -> None:
    async def send() -> None:
        with suppress(RayforceWSError):  # the peer may refuse the message before it has arrived
            await one.send(message)

    async def receive_the_refusal() -> None:
        with pytest.raises(MessageTooLarge, match="the peer refused a message as too large"):
            await one.receive()
        await one.aclose()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(send)
        task_group.start_soon(receive_the_refusal)
        with pytest.raises(MessageTooLarge, match=match) as refused:
            await other.receive()
        await end(other, refused.value)


def _same(received: Frame | str, sent: bytes | str) -> bool:
    return (received if isinstance(received, str) else whole_frame(received)) == sent


@contextmanager
def _checkpoints() -> Iterator[None]:
    """Fail if no other task runs during the block."""
    if sniffio.current_async_library() == "trio":
        with trio.testing.assert_checkpoints():
            yield
        return
    others_ran = asyncio.Event()
    asyncio.get_running_loop().call_soon(others_ran.set)
    yield
    assert others_ran.is_set(), "no checkpoint"
