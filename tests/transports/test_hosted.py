"""The transport of hosted connections keeps the contract, as far as its host can: a client of ours, and each host."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio_websocket
from support import transport_contract as contract
from support.hosts import HOST_LIMIT, hypercorn_with

from rayforce_trio._addresses import Endpoint
from rayforce_trio._transports import (
    AsgiRequest,
    HostedRequest,
    HostedTransport,
    KeepAlive,
    Transport,
    TrioWebSocketRequest,
    connect,
)

Handle = Callable[[HostedRequest], Awaitable[None]]


class _Reporting(HostedTransport):
    """Tells when it is closed, as the end of `ConnectionHandler.handle_hosted` does."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.closed = trio.Event()

    def abort(self) -> None:
        super().abort()
        self.closed.set()


@asynccontextmanager
async def trio_websocket_host(handle: Handle) -> AsyncIterator[int]:
    async def received(request: trio_websocket.WebSocketRequest) -> None:
        await handle(TrioWebSocketRequest(request))

    async with trio.open_nursery() as nursery:
        serve = partial(trio_websocket.serve_websocket, max_message_size=HOST_LIMIT)
        host = await nursery.start(serve, received, "127.0.0.1", 0, None)
        yield host.port
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def hypercorn_host(handle: Handle) -> AsyncIterator[int]:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for event in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{event}.complete"})
        else:
            await handle(AsgiRequest(scope, receive, send))

    async with hypercorn_with(app) as port:
        yield port


MakeHost = Callable[[Handle], AbstractAsyncContextManager[int]]


@asynccontextmanager
async def pair_on(host: MakeHost, max_message_size: int) -> AsyncIterator[tuple[Transport, Transport]]:
    accepted: list[_Reporting] = []
    is_accepted = trio.Event()

    async def handle(request: HostedRequest) -> None:
        try:
            channel = await request.accept(None, ())
            transport = _Reporting(
                channel, subprotocol=None, peer="", max_message_size=max_message_size, write_timeout=30.0
            )
            accepted.append(transport)
            is_accepted.set()
            await transport.closed.wait()
        finally:
            await request.end()

    async with host(handle) as port:
        endpoint = Endpoint("127.0.0.1", port)
        client = await connect(
            endpoint, subprotocols=(), max_message_size=max_message_size, keepalive=KeepAlive(None, None)
        )
        await is_accepted.wait()
        try:
            yield client, accepted[0]
        finally:
            client.abort()
            accepted[0].abort()


WITHOUT_NOWAIT = contract.messages_that_have_arrived_are_received_without_waiting
"""No host has a function that receives without waiting."""

NOT_UNDER_HYPERCORN = (WITHOUT_NOWAIT, contract.an_abort_says_nothing_to_the_peer)
"""Hypercorn sends a close frame if the application aborts."""

CLOSED_BY_ONE = (
    contract.a_close_is_a_checkpoint,
    contract.a_close_tells_the_peer_code_and_reason,
    contract.a_long_reason_is_truncated,
    contract.the_end_that_closed_can_neither_send_nor_receive,
    contract.a_close_with_an_error_code_is_a_normal_close_for_the_end_that_closed,
    contract.a_second_close_does_nothing,
    contract.a_close_ends_a_receive_under_way,
    contract.a_close_in_the_middle_of_a_send_tells_code_and_reason,
)
CLOSED_BY_OTHER = (
    contract.a_message_longer_than_the_limit_is_refused,
    contract.a_text_longer_than_the_limit_is_refused,
)
"""The checks in which an end learns the code with which the first or the second one closes."""


@pytest.mark.trio
@pytest.mark.parametrize(
    "check", [check for check in contract.CHECKS if check is not WITHOUT_NOWAIT], ids=lambda check: check.__name__
)
async def test_it_keeps_the_contract_under_trio_websocket(check: contract.Check) -> None:
    await contract.check_transport(check, partial(pair_on, trio_websocket_host))


@pytest.mark.trio
@pytest.mark.parametrize(
    "check",
    [check for check in contract.CHECKS if check not in {*NOT_UNDER_HYPERCORN, *CLOSED_BY_ONE, *CLOSED_BY_OTHER}],
    ids=lambda check: check.__name__,
)
async def test_it_keeps_the_contract_under_hypercorn(check: contract.Check) -> None:
    await contract.check_transport(check, partial(pair_on, hypercorn_host))


@pytest.mark.trio
@pytest.mark.parametrize("check", CLOSED_BY_ONE + CLOSED_BY_OTHER, ids=lambda check: check.__name__)
async def test_clients_learn_the_close_code_under_hypercorn(check: contract.Check) -> None:
    """Hypercorn does not report the code of the client, so only the hosted end closes."""
    with trio.fail_after(contract.TIMEOUT):
        async with pair_on(hypercorn_host, contract.MAX_SIZE) as (client, hosted):
            await (check(hosted, client) if check in CLOSED_BY_ONE else check(client, hosted))
