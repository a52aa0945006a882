"""Fixtures for the tests of programs that use this package: a server with an engine of its own, and a connection.

Put `pytest_plugins = ["rayforce_trio.pytest_plugin"]` into the top `conftest.py`. The fixtures work with pytest-trio,
with anyio's pytest plugin on trio and asyncio, and `rayforce_server` also in tests that are not async.
"""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from anyio.from_thread import start_blocking_portal

from . import Engine, NativeProcess, WSClient, WSClientConnection, WSServer

__all__ = ["RayforceServer", "rayforce_connection", "rayforce_engine", "rayforce_server"]

_HOST = "127.0.0.1"


@dataclass(frozen=True)
class RayforceServer:
    """The address of the server that `rayforce_server` has started."""

    host: str
    port: int
    url: str
    """For `WSClient.from_url` and the command line."""


@pytest.fixture
def rayforce_engine() -> Engine:
    """The engine of `rayforce_server`: an empty engine process, a new one for each test.

    Override this fixture to run a script first: `return NativeProcess("tests/tables.rfl")`. An `InProcessEngine` would
    have to run in the thread that imports `rayforce` first, and the server runs in another.
    """
    return NativeProcess()


@pytest.fixture
def rayforce_server(rayforce_engine: Engine) -> Iterator[RayforceServer]:
    """A server on a free port of the loopback interface, until the test ends. It runs in a thread of its own.

    Raises:
        EngineError: The engine does not start, for example because its script fails.
    """
    server = WSServer(port=0, host=_HOST, engine=rayforce_engine)
    with start_blocking_portal("trio") as portal, portal.wrap_async_context_manager(server):
        yield RayforceServer(_HOST, server.port, server.url)


@pytest.fixture
async def rayforce_connection(rayforce_server: RayforceServer) -> AsyncIterator[WSClientConnection]:
    """A connection to `rayforce_server` in the event loop of the test. It is closed when the test ends.

    A checkpoint; if cancelled, the connection is closed.
    """
    async with WSClient.from_url(rayforce_server.url).connect() as connection:
        yield connection
