"""The question for the server's features, with a server that does not answer it, on both event loops."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
import trio
from support.leaks import no_leaks

from rayforce_trio import errors
from rayforce_trio._client._exchange import HELLO_TIMEOUT, Exchange
from rayforce_trio._protocol import STREAMS, SUBPROTOCOL, SUBSCRIPTIONS
from rayforce_trio._transports._memory import MemoryTransport, memory_pair

LONG = 1000.0
"""Seconds. A test that waits for so long hangs."""


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[Exchange, MemoryTransport]]:
    """Yield a client's exchange, and the other end of its connection, which is silent."""
    mine, theirs = memory_pair(SUBPROTOCOL)
    exchange = Exchange(mine)
    async with no_leaks():
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(exchange.run)
            yield exchange, theirs
            exchange.abort()
        theirs.abort()


async def fail_to_require(exchange: Exchange) -> None:
    with pytest.raises(errors.UnsupportedByServer, match="this server does not offer subscriptions"):
        await exchange.require(SUBSCRIPTIONS)


@pytest.mark.trio
async def test_a_silent_server_costs_the_calls_of_a_connection_five_seconds_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with connected() as (exchange, _):
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_to_require, exchange)
            await trio.sleep(HELLO_TIMEOUT / 2)
            nursery.start_soon(fail_to_require, exchange)
        await fail_to_require(exchange)
        assert trio.current_time() - start == pytest.approx(HELLO_TIMEOUT)


@pytest.mark.anyio
async def test_after_one_call_has_waited_no_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._exchange.HELLO_TIMEOUT", 0.01)
    with anyio.fail_after(20):
        async with connected() as (exchange, _):
            await fail_to_require(exchange)
            monkeypatch.setattr("rayforce_trio._client._exchange.HELLO_TIMEOUT", LONG)
            await fail_to_require(exchange)


@pytest.mark.anyio
async def test_a_late_answer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._client._exchange.HELLO_TIMEOUT", 0.01)
    with anyio.fail_after(20):
        async with connected() as (exchange, server):
            await fail_to_require(exchange)
            await server.send('{"hello": {"features": ["subscriptions"]}}')
            await anyio.wait_all_tasks_blocked()
            assert await exchange.require(SUBSCRIPTIONS) is exchange


@pytest.mark.anyio
async def test_a_cancelled_call_does_not_spoil_the_answer_for_others() -> None:
    with anyio.fail_after(20):
        async with connected() as (exchange, server), anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(exchange.require, SUBSCRIPTIONS)
                tasks.start_soon(exchange.require, STREAMS)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
                await exchange.require(SUBSCRIPTIONS)
            assert scope.cancelled_caught
            assert json.loads(await server.receive()) == {"hello": {"features": [STREAMS, SUBSCRIPTIONS]}}
            await server.send(json.dumps({"hello": {"features": [STREAMS, SUBSCRIPTIONS]}}))
