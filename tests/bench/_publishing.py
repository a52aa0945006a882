"""Servers of subscribers that publish on command: `python -m bench._publishing KIND`.

KIND is `in-process` for our server with an `InProcessEngine`, or `broadcast` for a server of the `websockets` library,
which calls its `broadcast()`. Prints the server's port as soon as the server listens, and ends with its standard input.
"""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import anyio
import trio
from support.children import Commander
from support.serve import ours

from rayforce_trio import InProcessEngine, WSServer
from rayforce_trio._codec import encode_update
from rayforce_trio._protocol import Update, update_frame

from ._client import HOST

_TASKS = 4

TOPIC = "prices"
VALUE = "x" * 100
"""The value of each update: about as long as a row of prices."""

MESSAGE = update_frame(Update(1, 1, 0, bytes(encode_update(VALUE))))
"""An update on its way to a client. Only the sequence number differs from one to the next."""


async def publish_updates(publish: Callable[[], Awaitable[object]], command: dict[str, Any]) -> dict[str, list[float]]:
    """Publish the updates of a command, one every `interval` seconds, or without pauses if that is 0. A checkpoint.

    A few tasks take turns, so that a client need not wait for one reply before it sends the next request.

    Returns:
        `published`: when each was published, by `perf_counter`.
    """
    published: list[float] = []
    start = anyio.current_time()
    numbers = iter(range(command["updates"]))

    async def publish_some() -> None:
        for number in numbers:
            await anyio.sleep_until(start + number * command["interval"])
            published.append(perf_counter())
            await publish()

    async with anyio.create_task_group() as tasks:
        for _ in range(_TASKS):
            tasks.start_soon(publish_some)
    return {"published": published}


async def obey(publish: Callable[[], Awaitable[object]]) -> None:
    """Publish on commands of the standard input until it ends. A checkpoint."""
    commander = Commander()
    while (command := await anyio.to_thread.run_sync(commander.next, abandon_on_cancel=True)) is not None:
        try:
            answer = await publish_updates(publish, command)
        except Exception as error:  # noqa: BLE001 - the parent process reports the error
            commander.tell_failure(error)
        else:
            commander.tell(answer)


async def obey_with(server: WSServer) -> None:
    """Publish with `WSServer.publish` on commands. A checkpoint."""
    await obey(lambda: server.publish(TOPIC, VALUE))


async def broadcast() -> None:
    """Serve with the `websockets` library, whose every connection is a subscriber, and publish on commands."""
    from websockets.asyncio.server import broadcast, serve

    async def publish() -> None:
        broadcast(server.connections, MESSAGE)
        await asyncio.sleep(0)

    async with serve(lambda connection: connection.wait_closed(), HOST, 0, compression=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await obey(publish)


if __name__ == "__main__":
    match sys.argv[1]:
        case "in-process":
            trio.run(ours, InProcessEngine(), obey_with)
        case "broadcast":
            asyncio.run(broadcast())
