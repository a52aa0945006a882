from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import anyio
import pytest
from support.transport_contract import CHECKS, Check, check_transport

from rayforce_trio._transports import Transport
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


@asynccontextmanager
async def limited_pair(max_message_size: int) -> AsyncIterator[tuple[Transport, Transport]]:
    ends = memory_pair()
    for end in ends:
        end.max_message_size = max_message_size
    try:
        yield ends
    finally:
        for end in ends:
            end.abort()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_it_keeps_the_contract_of_transports(check: Check) -> None:
    await check_transport(check, limited_pair)


async def test_it_records_what_was_sent(pair: Pair) -> None:
    one, other = pair
    await one.send(b"1")
    await one.send("2")
    assert one.sent == [b"1", "2"]
    assert other.sent == []


def test_the_subprotocol_is_known_at_both_ends(pair: Pair) -> None:
    assert [end.subprotocol for end in pair] == ["rayforce.v1"] * 2


async def test_the_end_that_closed_can_neither_send_nor_receive(pair: Pair) -> None:
    one, _ = pair
    await one.aclose()
    for call in (one.receive, lambda: one.send(b"late")):
        with pytest.raises(ConnectionClosed, match="the connection is closed") as caught:
            await call()
        assert not caught.value.by_peer
    assert one.sent == []


async def test_an_abort_says_nothing_to_the_other_end(pair: Pair) -> None:
    one, other = pair
    one.abort()
    with pytest.raises(ConnectionLost, match="the other end was closed"):
        await other.receive()
    with pytest.raises(ConnectionLost, match="the other end was closed"):
        await other.send(b"late")


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
