"""A raw server that plays a script, and our client that connects to it, on either event loop."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest

from rayforce_trio import WSClient, WSClientConnection
from rayforce_trio.errors import RayforceWSError
from support.raw import RawPeer, accept_raw, raw_server

Script = Callable[[RawPeer], Awaitable[None]]


async def fail_to_connect(script: Script) -> RayforceWSError:
    """Connect to a server that plays `script` and execute a query; returns the exception that this raises."""
    with anyio.fail_after(20):
        async with raw_server(script) as port:
            with pytest.raises(RayforceWSError) as caught:
                await (await WSClient("127.0.0.1", port).connect()).execute("(+ 1 2)")
            with pytest.raises(type(caught.value)):
                async with WSClient("127.0.0.1", port).connect() as connection:
                    await connection.execute("(+ 1 2)")
    return caught.value


@asynccontextmanager
async def connected(script: Script, **options: Any) -> AsyncIterator[WSClientConnection]:
    """Connect to a server that opens properly and then plays `script`."""

    async def serve(peer: RawPeer) -> None:
        await accept_raw(peer)
        await script(peer)

    with anyio.fail_after(20):
        async with raw_server(serve) as port, WSClient("127.0.0.1", port, **options).connect() as connection:
            yield connection


async def failure_of(call: Awaitable[Any]) -> BaseException:
    with pytest.raises(RayforceWSError) as caught:
        await call
    return caught.value


async def failures_of_ten(connection: WSClientConnection) -> list[BaseException]:
    """Execute ten queries at once; returns their exceptions."""
    failures: list[BaseException] = []

    async def execute() -> None:
        failures.append(await failure_of(connection.execute("(+ 1 2)")))

    async with anyio.create_task_group() as task_group:
        for _ in range(10):
            task_group.start_soon(execute)
    return failures


async def check_that_it_stays_closed(connection: WSClientConnection, expected: type[RayforceWSError]) -> None:
    assert type(connection.closed) is expected
    assert type(await failure_of(connection.execute("(+ 1 2)"))) is expected
    assert type(await failure_of(connection.post("(+ 1 2)"))) is expected
    await connection.close()
    assert type(connection.closed) is expected


async def answer_the_close(peer: RawPeer) -> None:
    await peer.send_close(await peer.receive_close())


async def take_request_and_say(answer: bytes, peer: RawPeer) -> None:
    await peer.receive_head()
    await peer.send(answer)
