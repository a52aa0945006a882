"""Servers of other libraries that hand their connections over to a `WSServer`."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import Any

import hypercorn.trio
import trio
import trio_websocket
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.routing import Mount

from rayforce_trio import WSServer

HOST_LIMIT = 128 * 1024**2
"""The longest message that the hosts pass on, in bytes."""

GRACEFUL_TIMEOUT = 1.0

MakeHost = Callable[[WSServer], AbstractAsyncContextManager[str]]
"""Runs a host and a server for the block, which gets the URL of the server."""


@asynccontextmanager
async def on_trio_websocket(server: WSServer) -> AsyncIterator[str]:
    """`WSServer.handle` under the program's own trio-websocket server."""
    async with trio.open_nursery() as nursery:
        async with server:
            serve = partial(trio_websocket.serve_websocket, max_message_size=HOST_LIMIT)
            host = await nursery.start(serve, server.handle, "127.0.0.1", 0, None)
            yield f"ws://127.0.0.1:{host.port}"
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def on_hypercorn(server: WSServer) -> AsyncIterator[str]:
    """`WSServer.asgi` as the application of Hypercorn, which starts and stops the server."""
    async with hypercorn_with(server.asgi) as port:
        yield f"ws://127.0.0.1:{port}"


@asynccontextmanager
async def under_starlette(server: WSServer) -> AsyncIterator[str]:
    """`WSServer.asgi` as a mounted application; the outer application starts and stops the server."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with server:
            yield

    async with hypercorn_with(Starlette(routes=[Mount("/db", server.asgi)], lifespan=lifespan)) as port:
        yield f"ws://127.0.0.1:{port}/db/"


@asynccontextmanager
async def hypercorn_with(app: Callable[..., Awaitable[None]], **options: Any) -> AsyncIterator[int]:
    """Run Hypercorn's trio worker, which shuts down at the end of the block; give its port to the block."""
    config = Config()
    config.bind = ["127.0.0.1:0"]
    config.errorlog = None
    config.websocket_max_message_size = HOST_LIMIT
    config.graceful_timeout = GRACEFUL_TIMEOUT
    for name, value in options.items():
        setattr(config, name, value)
    shutdown = trio.Event()
    async with trio.open_nursery() as nursery:
        serve = partial(hypercorn.trio.serve, shutdown_trigger=shutdown.wait)
        [bound] = await nursery.start(serve, app, config)
        yield int(bound.rpartition(":")[2])
        shutdown.set()


HOSTS: tuple[MakeHost, ...] = (on_trio_websocket, on_hypercorn, under_starlette)
