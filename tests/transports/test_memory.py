from collections.abc import Iterator

import anyio
import pytest

from rayforce_trio._transports._memory import MemoryTransport, memory_pair
from rayforce_trio.errors import ConnectionClosed, ConnectionLost, MessageTooLarge

pytestmark = pytest.mark.anyio

Pair = tuple[MemoryTransport, MemoryTransport]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ends = memory_pair("rayforce.v1")
    yield ends
    for end in ends:
        end.abort()


async def test_messages_arrive_whole_and_in_order_both_ways(pair: Pair) -> None:
    one, other = pair
    messages: list[bytes | str] = [b"a", "text", b"", b"x" * 100_000]
    for sender, receiver in ((one, other), (other, one)):
        for message in messages:
            await sender.send(message)
        assert [await receiver.receive() for _ in messages] == messages


async def test_it_records_what_was_sent(pair: Pair) -> None:
    one, other = pair
    await one.send(b"1")
    await one.send("2")
    assert one.sent == [b"1", "2"]
    assert other.sent == []


def test_the_subprotocol_is_known_at_both_ends(pair: Pair) -> None:
    assert [end.subprotocol for end in pair] == ["rayforce.v1"] * 2


async def test_a_cancelled_receive_loses_nothing(pair: Pair) -> None:
    one, other = pair
    with anyio.CancelScope() as scope:
        scope.cancel()
        await other.receive()
    assert scope.cancelled_caught
    await one.send(b"kept")
    assert await other.receive() == b"kept"


async def test_closing_tells_the_other_end_code_and_reason_after_what_was_sent(pair: Pair) -> None:
    one, other = pair
    await one.send(b"last")
    await one.aclose(1002, "nonsense")
    assert await other.receive() == b"last"
    for _ in range(2):  # and so it stays
        with pytest.raises(ConnectionClosed, match="code 1002: nonsense") as caught:
            await other.receive()
        assert caught.value.by_peer
    with pytest.raises(ConnectionClosed, match="code 1002"):
        await other.send(b"late")


async def test_the_end_that_closed_can_neither_send_nor_receive(pair: Pair) -> None:
    one, _ = pair
    await one.aclose()
    for call in (one.receive, lambda: one.send(b"late")):
        with pytest.raises(ConnectionClosed, match="the connection is closed") as caught:
            await call()
        assert not caught.value.by_peer
    assert one.sent == []


async def test_closing_twice_and_aborting_after_it_do_nothing(pair: Pair) -> None:
    one, other = pair
    await one.aclose(1001)
    await one.aclose(1002)
    one.abort()
    one.abort()
    with pytest.raises(ConnectionClosed, match="code 1001"):
        await other.receive()


async def test_an_abort_says_nothing_to_the_other_end(pair: Pair) -> None:
    one, other = pair
    one.abort()
    with pytest.raises(ConnectionLost, match="the other end is gone"):
        await other.receive()
    with pytest.raises(ConnectionLost, match="the other end is gone"):
        await other.send(b"late")


async def test_a_close_ends_a_receive_under_way(pair: Pair) -> None:
    one, other = pair

    async def receive() -> None:
        with pytest.raises(ConnectionClosed, match="code 1000"):
            await other.receive()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            await one.aclose()


async def test_a_message_longer_than_the_limit_is_refused(pair: Pair) -> None:
    one, other = pair
    other.max_message_size = 3
    await one.send(b"123")
    await one.send(b"1234")
    assert await other.receive() == b"123"
    with pytest.raises(MessageTooLarge, match="longer than the 3 bytes allowed here"):
        await other.receive()


async def test_run_waits_until_it_is_cancelled(pair: Pair) -> None:
    one, _ = pair
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(one.run)
        await anyio.wait_all_tasks_blocked()
        task_group.cancel_scope.cancel()
