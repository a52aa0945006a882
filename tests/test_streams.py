"""TCP and TLS streams, on real connections of this machine and on every event loop."""

import asyncio
import contextvars
import select
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from typing import Any

import anyio
import pytest
import sniffio
import trio
import trio.testing
import uvloop
from anyio import BusyResourceError
from anyio.lowlevel import checkpoint
from support.certificates import client_context, local_certificates, server_context
from support.leaks import no_leaks
from support.streams import (
    EVENT_LOOPS,
    LOCAL,
    MEGABYTE,
    TrioStream,
    fill,
    receive_all,
    reset,
    socket_of,
    tcp_pair,
    tls_pair,
)

from rayforce_trio._streams import (
    READ_SIZE,
    STREAM_ERRORS,
    BrokenResourceError,
    ByteStream,
    ClosedResourceError,
    TlsStream,
    stream_of,
)
from rayforce_trio._streams._asyncio_tcp import AsyncioTcpStream, Waiter
from rayforce_trio.errors import HandshakeError

pytestmark = pytest.mark.anyio

TIMEOUT = 20  # seconds

on_asyncio = pytest.mark.parametrize("anyio_backend", EVENT_LOOPS[1:])


@pytest.fixture(params=EVENT_LOOPS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Each test runs on every event loop."""
    return request.param


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
        with anyio.fail_after(TIMEOUT):
            async with one, other:
                yield one, other

    return opened


# What trio asks of every stream


def trio_streams(pair: Pair, *, clogged: bool = False) -> Callable[[], Awaitable[tuple[TrioStream, TrioStream]]]:
    async def make() -> tuple[TrioStream, TrioStream]:
        one, other = await pair()
        if clogged:
            fill(one)
            fill(other)
        return TrioStream(one), TrioStream(other)

    return make


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_it_passes_trios_checks_of_half_closeable_streams(pair: Pair) -> None:
    with anyio.fail_after(TIMEOUT):
        async with no_leaks():
            await trio.testing.check_half_closeable_stream(trio_streams(pair), None)


@pytest.mark.slow
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_it_passes_trios_checks_of_clogged_streams(pair: Pair) -> None:
    with anyio.fail_after(TIMEOUT):
        async with no_leaks():
            await trio.testing.check_two_way_stream(trio_streams(pair), trio_streams(pair, clogged=True))


@contextmanager
def assert_checkpoint() -> Iterator[None]:
    """Fail unless the block lets other tasks run."""
    if sniffio.current_async_library() == "trio":
        with trio.testing.assert_checkpoints():
            yield
    else:
        others = asyncio.Event()
        asyncio.get_running_loop().call_soon(others.set)
        yield
        assert others.is_set()


async def test_every_async_method_is_a_checkpoint(connected: Connected) -> None:
    buffer = memoryview(bytearray(3))
    async with connected() as (one, other):
        with assert_checkpoint():
            await one.send_all(b"one")
        with assert_checkpoint():
            await one.send_all(b"")
        with assert_checkpoint():
            await one.wait_writable()
        with assert_checkpoint():
            assert await other.receive_some(1) == b"o"
        with assert_checkpoint():
            assert await other.receive_into(buffer) == 2
        with assert_checkpoint():
            await one.send_eof()
        for _ in range(2):
            with assert_checkpoint():
                assert await other.receive_some() == b""
            with assert_checkpoint():
                assert await other.receive_into(buffer) == 0
        for _ in range(2):
            with assert_checkpoint():
                await one.aclose()
        for method in (one.wait_writable, one.receive_some, one.send_eof):
            with assert_checkpoint(), pytest.raises(ClosedResourceError):
                await method()


# Sending


async def test_it_sends_what_the_network_takes(connected: Connected) -> None:
    async with connected() as (one, other):
        for data in (b"bytes,", bytearray(b"bytearray,"), memoryview(b"view")):
            assert one.send_nowait(data) == len(data)
        await one.send_eof()
        assert await receive_all(other) == b"bytes,bytearray,view"


async def test_send_nowait_sends_nothing_while_the_network_is_full(connected: Connected) -> None:
    async with connected() as (one, other):
        sent = fill(one)
        assert one.send_nowait(bytes(MEGABYTE)) == 0
        received = 0
        while received < sent:
            received += len(await other.receive_some(MEGABYTE))
        await one.wait_writable()
        assert one.send_nowait(bytes(MEGABYTE)) > 0
        assert await other.receive_some()


async def test_send_all_sends_everything_in_order_to_a_slow_reader(connected: Connected) -> None:
    data = b"".join(n.to_bytes(4, "little") for n in range(5 * MEGABYTE // 4))
    received = bytearray()

    async def send() -> None:
        await one.send_all(data)
        await one.send_eof()

    async with connected() as (one, other), anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        while piece := await other.receive_some(50_000):
            received += piece
            for _ in range(3):
                await checkpoint()
    assert received == data


async def test_a_waiting_send_can_be_cancelled(connected: Connected) -> None:
    async with connected() as (one, _):
        fill(one)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.send_all, b"never")
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        assert scope.cancelled_caught


async def test_the_caller_may_reuse_the_memory_of_bytes_that_were_sent(connected: Connected) -> None:
    data = b"".join(n.to_bytes(4, "little") for n in range(5 * MEGABYTE // 4))
    memory = bytearray(data)
    received = bytearray()

    async def send() -> None:
        sent = 0
        while sent < len(memory):
            with memoryview(memory)[sent:] as rest:
                count = one.send_nowait(rest)
            memory[sent : sent + count] = bytes(count)
            sent += count
            if sent < len(memory):
                await one.wait_writable()
        await one.send_eof()

    async with connected() as (one, other), anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        received += await receive_all(other)
    assert received == data


async def test_urgent_data_reaches_the_peer_out_of_band() -> None:
    one, other = await tcp_pair()
    async with one, other:
        assert one.send_nowait(b"normal") == 6
        assert one.send_urgent_nowait(b"!")
        assert await other.receive_some() == b"normal"  # the urgent byte stands apart
        assert socket_of(other).recv(1, socket.MSG_OOB) == b"!"


async def test_urgent_data_is_not_sent_while_the_network_is_full() -> None:
    one, other = await tcp_pair()
    async with one, other:
        fill(one)
        assert not one.send_urgent_nowait(b"!")


async def test_urgent_data_on_a_broken_or_closed_stream_is_an_error() -> None:
    one, other = await tcp_pair()
    async with one, other:
        reset(other)
        with anyio.fail_after(TIMEOUT), pytest.raises(BrokenResourceError):
            await one.receive_some()
        with pytest.raises(BrokenResourceError):
            one.send_urgent_nowait(b"1")
        one.close()
        with pytest.raises(ClosedResourceError):
            one.send_urgent_nowait(b"1")


# Receiving


@pytest.mark.parametrize("size", [1, 10, READ_SIZE])
async def test_no_more_is_received_than_requested(size: int, connected: Connected) -> None:
    async with connected() as (one, other):
        assert one.send_nowait(bytes(READ_SIZE + 1)) == READ_SIZE + 1
        assert 1 <= len(await other.receive_some(size)) <= size
        assert 1 <= len(await other.receive_some()) <= READ_SIZE


async def test_receive_into_fills_the_beginning_of_the_buffer_only(connected: Connected) -> None:
    async with connected() as (one, other):
        await one.send_all(b"one two")
        buffer = bytearray(b"." * 10)
        assert await other.receive_into(memoryview(buffer)[:3]) == 3
        assert buffer == b"one......."
        assert await other.receive_into(memoryview(buffer)[3:]) == 4
        assert buffer == b"one two..."
        await one.send_eof()
        assert await other.receive_into(memoryview(buffer)) == 0
        assert buffer == b"one two..."


async def test_it_keeps_no_buffer_that_it_received_into(connected: Connected) -> None:
    async with connected() as (one, other):
        memory = bytearray(100)
        await one.send_all(b"1")
        assert await other.receive_into(memoryview(memory)) == 1
        memory.clear()  # an error if there is still a view of it


async def test_receive_into_waits_for_bytes(connected: Connected) -> None:
    buffer = bytearray(4)
    counts = []

    async def receive() -> None:
        counts.append(await other.receive_into(memoryview(buffer)))

    async with connected() as (one, other), anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        assert counts == []
        assert one.send_nowait(b"late") == 4
    assert counts == [4]
    assert buffer == b"late"


@pytest.mark.parametrize("into_buffer", [False, True])
async def test_a_cancelled_receive_loses_nothing(into_buffer: bool, connected: Connected) -> None:
    """It is cancelled before anything arrives, and in the very moment in which something does."""
    buffer = bytearray(100)
    received, sent = bytearray(), bytearray()

    async def receive(scope: anyio.CancelScope) -> None:
        with scope:
            if into_buffer:
                count = await other.receive_into(memoryview(buffer))
                received.extend(buffer[:count])
            else:
                received.extend(await other.receive_some())

    async def cancel_after(steps: int, scope: anyio.CancelScope) -> None:
        for _ in range(steps):
            await checkpoint()
        scope.cancel()

    cancelled = 0
    async with connected() as (one, other):
        for n in range(80):
            scope = anyio.CancelScope()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive, scope)
                tasks.start_soon(cancel_after, n % 8 // 2, scope)
                for _ in range(n % 2):
                    await checkpoint()
                assert one.send_nowait(bytes([n])) == 1
                sent.append(n)
            cancelled += scope.cancelled_caught
        while len(received) < len(sent):
            await receive(anyio.CancelScope())
    assert cancelled
    assert received == sent


async def test_a_cancelled_receive_ends_even_if_bytes_always_arrive(connected: Connected) -> None:
    """On uvloop the bytes arrive first in the first few calls."""
    async with connected() as (one, other):
        sent, received = 0, 0
        with anyio.CancelScope() as scope:
            scope.cancel()
            while sent < 1000:
                sent += one.send_nowait(b"1")
                received += len(await other.receive_some())
        assert scope.cancelled_caught
        while received < sent:
            received += len(await other.receive_some())


@pytest.mark.parametrize("into_buffer", [False, True])
@on_asyncio
async def test_bytes_that_arrive_as_the_task_is_cancelled_are_kept(into_buffer: bool) -> None:
    one, other = await tcp_pair()
    assert isinstance(other, AsyncioTcpStream)
    buffer = bytearray(10)
    async with one, other:
        task: asyncio.Task[bytes | int] = asyncio.create_task(
            other.receive_into(memoryview(buffer)) if into_buffer else other.receive_some(10)
        )
        await asyncio.sleep(0)
        assert one.send_nowait(b"kept") == 4
        task.cancel()
        other._on_readable()  # the event loop calls this in the moment before the task ends
        with pytest.raises(asyncio.CancelledError):
            await task
        assert buffer == bytes(10)
        assert await other.receive_some(1) == b"k"
        assert await other.receive_into(memoryview(buffer)) == 3
        assert buffer[:3] == b"ept"


@on_asyncio
async def test_an_error_that_arrives_as_the_task_is_cancelled_is_kept() -> None:
    one, other = await tcp_pair()
    assert isinstance(other, AsyncioTcpStream)
    async with one, other:
        task = asyncio.create_task(other.receive_some())
        await asyncio.sleep(0)
        reset(one)
        task.cancel()
        other._on_readable()
        with pytest.raises(asyncio.CancelledError):
            await task
        with assert_checkpoint(), pytest.raises(BrokenResourceError) as caught:
            await other.receive_some()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


@on_asyncio
async def test_no_task_can_wait_before_a_cancelled_one_has_ended() -> None:
    """It would get the other's cancellation."""
    one, other = await tcp_pair()
    async with one, other:
        task = asyncio.create_task(other.receive_some())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(BusyResourceError):
            await other.receive_some()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_bytes_that_no_task_waits_for_stay_with_the_system(connected: Connected) -> None:
    async with connected() as (one, other):
        assert one.send_nowait(b"1") == 1
        assert await other.receive_some() == b"1"
        sent = fill(one)
        await anyio.wait_all_tasks_blocked()
        assert one.send_nowait(bytes(MEGABYTE)) == 0
        received = 0
        while received < sent:
            received += len(await other.receive_some())


async def test_two_tasks_cannot_do_the_same_at_once(connected: Connected) -> None:
    async with connected() as (one, other):
        fill(one)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.receive_some)
            tasks.start_soon(one.wait_writable)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(BusyResourceError):
                await one.receive_some()
            with pytest.raises(BusyResourceError):
                await one.wait_writable()
            tasks.cancel_scope.cancel()
        assert await other.receive_some()


async def test_tls_keeps_no_bytes_that_were_sent_or_decrypted() -> None:
    one, other = await tls_pair()
    async with one, other:
        with anyio.fail_after(TIMEOUT):
            await one.send_all(b"1")
            assert await receive_when_readable(other, 1) == b"1"
        for kept in (one._unsent, other._received):
            assert kept.obj == b""


async def test_a_reader_that_is_woken_leaves_the_stream_usable(connected: Connected) -> None:
    async with connected() as (one, other):
        assert one.receive_nowait(1) is None
        unread = 20 * MEGABYTE
        woken = anyio.Event()

        async def read() -> None:
            with suppress(trio.ClosedResourceError):
                await one.wait_readable()
            woken.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            tasks.start_soon(one.send_all, bytes(unread))
            await anyio.wait_all_tasks_blocked()
            one.wake_reader()
            assert not woken.is_set()
            await woken.wait()
            assert not one.closed
            assert one.receive_nowait(1) is None
            while unread:
                unread -= len(await other.receive_some())
        await other.send_all(b"2")
        assert await receive_when_readable(one, 1) == b"2"


async def receive_when_readable(stream: ByteStream, max_bytes: int) -> bytes:
    """Receive with the methods that wait and receive separately."""
    while True:
        await stream.wait_readable()
        data = stream.receive_nowait(max_bytes)
        if data is not None:
            return data


async def test_receiving_without_waiting_returns_what_has_arrived(connected: Connected) -> None:
    buffer = bytearray(3)
    async with connected() as (one, other):
        assert other.receive_nowait(1) is None
        assert other.receive_into_nowait(memoryview(buffer)) is None
        assert one.send_nowait(b"123") == 3
        assert await receive_when_readable(other, 1) == b"1"
        assert other.receive_nowait(1) == b"2"
        assert other.receive_into_nowait(memoryview(buffer)) == 1
        assert buffer == b"3\0\0"
        assert other.receive_nowait(1) is None
        await one.send_eof()
        assert await receive_when_readable(other, 1) == b""
        assert other.receive_nowait(1) == b""
        assert other.receive_into_nowait(memoryview(buffer)) == 0


async def test_waiting_for_bytes_is_a_checkpoint_and_can_be_cancelled(connected: Connected) -> None:
    async with connected() as (one, other):
        with anyio.move_on_after(0.05) as scope:
            while True:
                with assert_checkpoint():
                    await other.wait_readable()
                assert other.receive_nowait(1) is None
        assert scope.cancelled_caught
        assert one.send_nowait(b"1") == 1
        assert await receive_when_readable(other, 1) == b"1"


async def test_receiving_without_waiting_raises_that_the_connection_broke(connected: Connected) -> None:
    async with connected() as (one, other):
        reset(other)
        with pytest.raises(BrokenResourceError) as caught:
            await receive_when_readable(one, 1)
        assert isinstance(caught.value.__cause__, ConnectionResetError)


# The end


async def test_after_a_reset_every_method_says_that_the_connection_broke(connected: Connected) -> None:
    async with connected() as (one, other):
        reset(other)
        with pytest.raises(BrokenResourceError):
            await one.receive_some()
        with pytest.raises(BrokenResourceError):
            one.send_nowait(b"1")
        with pytest.raises(BrokenResourceError):
            await one.send_all(b"1")


async def test_a_reset_during_receive_into_is_an_error_with_its_cause(
    connected: Connected,
) -> None:
    async def receive() -> None:
        with pytest.raises(BrokenResourceError) as caught:
            await one.receive_into(memoryview(bytearray(1)))
        assert isinstance(caught.value.__cause__, ConnectionResetError)

    async with connected() as (one, other), anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        reset(other)


async def test_bytes_before_a_reset_are_received_before_the_error(connected: Connected) -> None:
    """On uvloop this is a case of its own once the stream has received: see `AsyncioTcpStream._watch`."""
    async with connected() as (one, other):
        assert other.send_nowait(b"1") == 1
        assert await one.receive_some() == b"1"
        assert other.send_nowait(b"last") == 4
        reset(other)
        assert await one.receive_some() == b"last"
        with pytest.raises(BrokenResourceError):
            await one.receive_some()


async def test_it_can_wait_to_send_after_a_reset() -> None:
    """On uvloop this is a case of its own once the stream has received: see `AsyncioTcpStream._watch`."""
    one, other = await tcp_pair()
    with anyio.fail_after(TIMEOUT):
        async with one, other:
            assert other.send_nowait(b"1") == 1
            assert await one.receive_some() == b"1"
            assert other.send_nowait(b"last") == 4
            reset(other)
            assert await one.receive_some() == b"last"
            await one.wait_writable()
            with pytest.raises(BrokenResourceError):
                await one.send_all(b"1")


@pytest.mark.parametrize("new_event_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_stream_of_a_closed_event_loop_says_so(new_event_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def use() -> tuple[ByteStream, ByteStream]:
        one, other = await tcp_pair()
        await one.send_all(b"1")
        assert await other.receive_some() == b"1"
        return one, other

    async def check() -> None:
        for stream in (one, other):  # the second one's event loop watched it
            with pytest.raises(ClosedResourceError, match="event loop"):
                await stream.receive_some()
            with pytest.raises(ClosedResourceError, match="event loop"):
                await stream.wait_writable()
        for stream in (one, other):
            stream.close()
            assert stream.closed

    loop = new_event_loop()
    one, other = loop.run_until_complete(use())
    loop.close()
    asyncio.run(check())


def test_a_stream_can_be_closed_after_the_end_of_trio() -> None:
    for stream in trio.run(tcp_pair):
        stream.close()
        assert stream.closed


async def test_every_method_of_a_closed_stream_says_so(connected: Connected) -> None:
    async with connected() as (one, other):
        one.close()
        assert one.closed
        with pytest.raises(ClosedResourceError):
            one.send_nowait(b"1")
        with pytest.raises(ClosedResourceError):
            one.receive_nowait(1)
        with pytest.raises(ClosedResourceError):
            one.receive_into_nowait(memoryview(bytearray(1)))
        with assert_checkpoint(), pytest.raises(STREAM_ERRORS):
            await receive_when_readable(one, 1)
        with pytest.raises(ClosedResourceError):
            await one.send_all(b"1")
        with pytest.raises(ClosedResourceError):
            await one.receive_some()
        with pytest.raises(ClosedResourceError):
            await one.receive_into(memoryview(bytearray(1)))
        with pytest.raises(ClosedResourceError):
            await one.wait_writable()
        with pytest.raises(ClosedResourceError):
            await one.send_eof()
        one.close()
        assert await other.receive_some() == b""


async def test_close_wakes_the_waiting_tasks(connected: Connected) -> None:
    async def receive() -> None:
        with pytest.raises(ClosedResourceError):
            await one.receive_some()

    async def wait_readable() -> None:
        with pytest.raises(STREAM_ERRORS):
            await receive_when_readable(one, 1)

    async def receive_into() -> None:
        with pytest.raises(ClosedResourceError):
            await other.receive_into(memoryview(bytearray(1)))

    async def send() -> None:
        with pytest.raises(ClosedResourceError):
            await one.send_all(b"1")

    async with connected() as (one, other):
        fill(one)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            tasks.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            one.close()
    async with connected() as (one, other), anyio.create_task_group() as tasks:
        tasks.start_soon(wait_readable)
        await anyio.wait_all_tasks_blocked()
        one.close()
    async with connected() as (one, other), anyio.create_task_group() as tasks:
        tasks.start_soon(receive_into)
        await anyio.wait_all_tasks_blocked()
        other.close()


async def test_a_close_just_after_a_receive_began_ends_it(connected: Connected) -> None:
    async def receive(stream: ByteStream) -> None:
        with pytest.raises(ClosedResourceError):
            await stream.receive_some()

    for receives in range(3):
        async with connected() as (one, other), anyio.create_task_group() as tasks:
            for _ in range(receives):
                assert one.send_nowait(b"1") == 1
                assert await other.receive_some() == b"1"
            tasks.start_soon(receive, other)
            await checkpoint()
            other.close()


async def test_send_eof_closes_one_direction_only(connected: Connected) -> None:
    async with connected() as (one, other):
        await one.send_all(b"last")
        await one.send_eof()
        assert await receive_all(other) == b"last"
        await other.send_all(b"answer")
        assert await one.receive_some() == b"answer"


async def test_a_cancelled_send_eof_can_be_repeated(connected: Connected) -> None:
    async with connected() as (one, other):
        sent = fill(one)
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one.send_eof)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one.send_eof)
            assert len(await receive_all(other)) >= sent


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_it_takes_the_socket_from_a_stream_of_trios() -> None:
    [listener] = await trio.open_tcp_listeners(0, host=LOCAL)
    async with listener:
        original = await trio.open_tcp_stream(LOCAL, listener.socket.getsockname()[1])
        other = stream_of(await listener.accept())
    one = stream_of(original)
    await original.aclose()
    async with one, other:
        await one.send_all(b"alive")
        with anyio.fail_after(TIMEOUT):
            assert await other.receive_some() == b"alive"


# Waiting on asyncio


variable = contextvars.ContextVar("variable", default=0)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_waiter_resumes_its_task_at_once_and_in_its_context() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    assert asyncio.isfuture(waiter)
    steps = []

    async def wait() -> None:
        variable.set(1)
        for step in range(3):
            await waiter
            assert asyncio.current_task() is task
            steps.append((step, variable.get()))

    task = asyncio.create_task(wait())
    assert not waiter.wake()
    await asyncio.sleep(0)
    resumed = asyncio.Event()

    def callback() -> None:
        for count in range(1, 4):
            assert waiter.wake()
            assert len(steps) == count
        assert not waiter.wake()
        assert variable.get() == 0
        resumed.set()

    asyncio.get_running_loop().call_soon(callback)
    await resumed.wait()
    await task
    assert steps == [(0, 1), (1, 1), (2, 1)]


@on_asyncio
async def test_a_waiter_that_a_task_wakes_resumes_its_task_later() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    steps: list[object] = []

    async def wait() -> None:
        await waiter
        steps.append(asyncio.current_task())

    task = asyncio.create_task(wait())
    await asyncio.sleep(0)
    assert waiter.wake()
    assert not waiter.wake()
    assert steps == []
    await task
    assert steps == [task]


@pytest.mark.parametrize("anyio_backend", EVENT_LOOPS[2:])
async def test_a_waiter_of_uvloop_lets_tasks_that_are_ready_run_first() -> None:
    waiter = Waiter(asyncio.get_running_loop())
    asyncio.get_running_loop().call_soon(waiter.wake)
    with assert_checkpoint():
        await waiter


@on_asyncio
async def test_a_waiter_that_was_cancelled_or_failed_can_be_used_again() -> None:
    waiter = Waiter(asyncio.get_running_loop())

    async def wait() -> None:
        await waiter

    assert not waiter.fail(OSError())
    assert not waiter.cancel()
    for _ in range(2):
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        task.cancel("why")
        task.cancel()
        assert not waiter.wake()
        with pytest.raises(asyncio.CancelledError, match=r"^why$"):
            await task
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        assert waiter.fail(OSError("broken"))
        assert not waiter.fail(OSError("again"))
        with pytest.raises(OSError, match=r"^broken$"):
            await task
        task = asyncio.create_task(wait())
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(waiter.wake)
        await task


def test_a_waiter_serves_one_event_loop() -> None:
    async def wait() -> None:
        with pytest.raises(ClosedResourceError, match="event loop"):
            await waiter

    loop = asyncio.new_event_loop()
    waiter = Waiter(loop)
    asyncio.run(wait())
    assert not waiter.waiting
    loop.close()


# TLS alone


async def test_bytes_that_have_arrived_can_be_received_after_send_eof() -> None:
    one, other = await tls_pair()
    with anyio.fail_after(TIMEOUT):
        async with one, other:
            await one.send_all(b"one")
            await one.send_all(b"two")
            assert await other.receive_some(3) == b"one"
            await other.send_eof()
            await one.send_eof()
            assert await receive_all(other) == b"two"


async def test_the_rest_of_a_record_can_be_received_after_send_eof() -> None:
    one, other = await tls_pair()
    with anyio.fail_after(TIMEOUT):
        async with one, other:
            await one.send_all(b"one two")
            assert await other.receive_some(3) == b"one"
            await other.send_eof()
            assert await other.receive_some() == b" two"


async def test_bytes_before_an_invalid_record_are_received() -> None:
    one, other = await tls_pair()
    with anyio.fail_after(TIMEOUT):
        async with one, other:
            await one.send_all(b"last words")
            await one._stream.send_all(b"nonsense" * 100)
            assert select.select([socket_of(other)], [], [], TIMEOUT)[0]
            assert await other.receive_some() == b"last words"
            with pytest.raises(BrokenResourceError):
                await receive_all(other)


async def test_few_tls_records_are_decrypted_at_once() -> None:
    """A record may have a single byte. Other tasks run in between."""
    one, other = await tls_pair()
    sent = bytes(range(250)) * 4
    with anyio.fail_after(TIMEOUT):
        async with one, other:
            for byte in sent:
                assert one.send_nowait(bytes([byte])) == 1
            received = b""
            while len(received) < len(sent):
                await other.wait_readable()
                data = other.receive_nowait(len(sent))
                assert data is None or 0 < len(data) <= 64
                received += data or b""
            assert received == sent
            assert one.send_nowait(sent * 10) == len(sent) * 10
            await other.wait_readable()
            assert other.receive_nowait(len(sent) * 10) == sent * 10


def ask_for_certificate(server: TlsStream) -> None:
    server._tls.verify_client_post_handshake()  # the question waits for something to go with
    assert server.send_nowait(b"?") == 1


async def test_a_receiving_client_answers_a_request_for_its_certificate() -> None:
    client, server = await tls_pair(post_handshake_auth=True)
    with anyio.fail_after(TIMEOUT):
        async with client, server, anyio.create_task_group() as tasks:
            ask_for_certificate(server)
            assert await client.receive_some() == b"?"
            assert select.select([socket_of(server)], [], [], TIMEOUT)[0]
            tasks.start_soon(server.receive_some)
            await anyio.wait_all_tasks_blocked()
            assert server.certificate is not None
            tasks.cancel_scope.cancel()


async def test_a_peer_that_does_not_read_tls_answers_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    client, server = await tls_pair(post_handshake_auth=True)
    with anyio.fail_after(TIMEOUT):
        async with client, server:
            fill(client)
            ask_for_certificate(server)
            monkeypatch.setattr(
                "rayforce_trio._streams._tls._MAX_UNSENT_ANSWERS", 1000
            )  # the answer, with a certificate, is longer
            with pytest.raises(BrokenResourceError, match="the peer does not read"):
                await client.receive_some()


async def test_a_reset_during_the_handshake_is_a_failed_handshake() -> None:
    for nonsense in (b"", b"\x16\x03\x01\x00\x05hello"):
        one, other = await tcp_pair()
        server = TlsStream(other, server_context(local_certificates()), server_hostname=None)
        with anyio.fail_after(TIMEOUT):
            async with one, server:
                await one.send_all(nonsense)
                reset(one)
                with pytest.raises(HandshakeError):
                    await server.do_handshake()


async def test_each_step_of_a_handshake_takes_its_turn() -> None:
    one, other = await tcp_pair()
    client = TlsStream(one, client_context(local_certificates()), server_hostname="localhost")
    server = TlsStream(other, server_context(local_certificates()), server_hostname=None)
    turns = anyio.Lock()
    waiting: list[str] = []

    @contextmanager
    def waiting_for_peer() -> Iterator[None]:
        waiting.append("begins")
        yield
        waiting.append("ends")

    with anyio.fail_after(TIMEOUT):
        async with client, server, anyio.create_task_group() as tasks:
            await turns.acquire()
            tasks.start_soon(client.do_handshake)
            tasks.start_soon(server.do_handshake, turns, waiting_for_peer)
            while not turns.statistics().tasks_waiting:
                await anyio.lowlevel.checkpoint()
            await anyio.wait_all_tasks_blocked()
            assert turns.statistics().tasks_waiting == 1
            assert waiting == []  # the time until its turn is not the peer's
            turns.release()
        assert waiting[-1] == "ends"
