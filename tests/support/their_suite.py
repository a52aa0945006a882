"""A pytest plugin that runs rayforce-py's own WebSocket tests with our client in the place of theirs, on asyncio.

It stands in for pytest-asyncio, which those tests want: anyio's plugin runs them, in its `auto` mode. The tests are in
rayforce-py's wheel.
"""

import sys
from types import ModuleType

import pytest
import rayforce.network.websocket

from rayforce_trio import WSClient, WSClientConnection

_pytest_asyncio = ModuleType("pytest_asyncio")
_pytest_asyncio.fixture = pytest.fixture  # type: ignore[attr-defined]  # made here
sys.modules[_pytest_asyncio.__name__] = _pytest_asyncio

setattr(rayforce.network.websocket, "WSClient", WSClient)  # noqa: B010 - a type checker would not let it be replaced
# Their tests read this private attribute of theirs; ours is public, and says why.
WSClientConnection._closed = property(lambda self: bool(self.closed))  # type: ignore[attr-defined]  # added here


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "asyncio: what the tests themselves are marked with")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items[:] = [item for item in items if not _is_for_trio(item)]


def _is_for_trio(item: pytest.Item) -> bool:
    return (
        isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and item.callspec.params.get("anyio_backend") == "trio"
    )
