"""Who may import what: the rooms of the package, held to by reading every import in it."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rayforce_trio

PACKAGE = rayforce_trio.__name__
ROOT = Path(rayforce_trio.__file__).parent

# Imports go down only: from a room to those of a lower level. `__init__` is the room at the top.
LEVELS = {
    "errors": 0,
    "_text": 0,
    "_protocol": 1,
    "_websocket": 1,
    "_values": 1,
    "_tasks": 1,
    "_addresses": 1,
    "_checks": 1,
    "_credentials": 1,
    "_traces": 1,
    "statistics": 1,
    "auth": 2,
    "prometheus": 2,
    "_streams": 2,
    "_codec": 2,
    "_transports": 3,
    "_engines": 4,
    "_client": 5,
    "_server": 5,
    "__init__": 6,
    "pytest_plugin": 7,
    "_cli": 7,
    "__main__": 8,
}

# What a room may import from elsewhere. An event loop counts as elsewhere, even the one of the standard library.
OUTSIDE = {
    "errors": {"rayforce.errors"},
    "_protocol": set[str](),
    "_websocket": {"numpy", "h11"},
    "_values": {"numpy"},
    "_tasks": {"trio", "anyio", "asyncio", "sniffio"},
    "_addresses": set[str](),
    "_checks": set[str](),
    "_credentials": set[str](),
    "_text": set[str](),
    "_traces": set[str](),
    "statistics": set[str](),
    "auth": {"trio"},
    "prometheus": set[str](),
    "_streams": {"trio", "asyncio", "anyio", "sniffio"},
    "_codec": {"rayforce", "numpy"},
    "_transports": {"trio", "anyio", "sniffio", "asyncio"},
    "_engines": {"trio"},
    "_client": {"anyio"},
    "_server": {"trio"},
    "__init__": set[str](),
    "pytest_plugin": {"anyio"},
    "_cli": {"trio", "anyio", "rayforce", "numpy"},
    "__main__": set[str](),
}

# Replacing a library must not reach further than the modules built on it.
LIBRARIES = {
    "websockets": set[str](),
    "trio_websocket": {
        "_transports._accepting",
        "_transports._connecting",
        "_transports._hosted_trio_websocket",
    },
    "aiohappyeyeballs": {"_streams._connecting"},
    "wsproto": {"_websocket._opening_response"},
    "prompt_toolkit": {"_cli._prompt"},
    "prometheus_client": {"prometheus"},
    "opentelemetry": {"_traces"},
    "pytest": {"pytest_plugin"},
    "pyarrow": {"_values._arrow", "_values._arrow_import", "_cli._files"},
    "nanoarrow": {"_values._arrow"},
    "pandas": {"_values._pandas"},
    "polars": {"_values._polars"},
    "sqlglot": {"_codec._sql._syntax"},
}

PUBLIC = {"__init__", *rayforce_trio.__all__}
"""The names of the package that `_cli` and `pytest_plugin` may import, which suffice for a program built on it."""

SHARED_WITH_CLI = {
    "_addresses.ParsedUrl",
    "_addresses.parse_url",
    "_protocol.topic_problem",
    "_text.escape_controls",
    "_values.json_cells",
    "_values.null_indexes",
    "_values.number_cells",
    "_values.text_cells",
}
"""Private names that `_cli` may import as well: a second parser of URLs, a second check of topics, a second list of
control characters, or a second form of values in JSON, could disagree with the first."""

SANS_IO = {"_protocol", "_websocket"}
"""Packages without I/O and clocks, which import nothing of this package but `_text`, the words of errors."""

IO = {"socket", "ssl", "time", "threading"}
"""Modules of the standard library that packages without I/O must not import."""

DYNAMIC = {"importlib", "runpy", "pkgutil"}
"""No imports that this test does not see."""


def room(module: str) -> str:
    return module.partition(".")[0]


def imported(module: str, source: str, *, is_package: bool = False) -> Iterator[str]:
    """Yield what a module imports, anywhere in it: absolute names, `from package import name` naming the name."""
    inside = [PACKAGE, *module.split(".")] if module != "__init__" else [PACKAGE, module]
    if module != "__init__" and is_package:
        inside.append("__init__")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*(inside[: -node.level] if node.level else []), *(node.module.split(".") if node.module else [])]
            whole = ".".join(base)
            shared = {room(name) for name in SHARED_WITH_CLI} if room(module) == "_cli" else set[str]()
            if base == [PACKAGE] or whole.removeprefix(f"{PACKAGE}.") in shared:
                yield from (f"{whole}.{alias.name}" for alias in node.names)
            else:
                yield whole
        elif isinstance(node, ast.Name) and node.id == "__import__":
            yield "importlib"


def allowed(module: str, target: str) -> bool:
    own = room(module)
    top, _, rest = target.partition(".")
    if top == PACKAGE:
        other = room(rest) or "__init__"
        if own in ("_cli", "pytest_plugin"):
            return other == own or other in PUBLIC or (own == "_cli" and rest in SHARED_WITH_CLI)
        return other == own or ((own not in SANS_IO or other == "_text") and LEVELS.get(other, 99) < LEVELS[own])
    if top in LIBRARIES:
        return module in LIBRARIES[top]
    if any(target == name or target.startswith(f"{name}.") for name in OUTSIDE[own]):
        return True
    if top in DYNAMIC or top == "asyncio" or (own in SANS_IO and top in IO):
        return False
    return top in sys.stdlib_module_names


def violations(module: str, source: str, *, is_package: bool = False) -> list[str]:
    return [target for target in imported(module, source, is_package=is_package) if not allowed(module, target)]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts) or "__init__"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=module_name)
def test_a_module_imports_only_what_its_room_allows(path: Path) -> None:
    module = module_name(path)
    assert room(module) in LEVELS, "a room of its own needs a level and a list of what it may import"
    assert violations(module, path.read_text(encoding="utf-8"), is_package=path.stem == "__init__") == []


@pytest.mark.parametrize(
    ("module", "source", "violation"),
    [
        ("errors", "from rayforce import Table", "rayforce"),
        ("errors", "from ._codec import decode", "rayforce_trio._codec"),
        ("_protocol._frames", "from ..errors import RayforceError", "rayforce_trio.errors"),
        ("_protocol._frames", "import asyncio", "asyncio"),
        ("_protocol._frames", "from time import monotonic", "time"),
        ("_protocol._client", "import ssl, json", "ssl"),
        ("_protocol", "import rayforce", "rayforce"),
        ("_websocket._connection", "from ..errors import ProtocolError", "rayforce_trio.errors"),
        ("_websocket._reader", "from .._protocol import Frame", "rayforce_trio._protocol"),
        ("_websocket._frames", "import time", "time"),
        ("_codec", "import trio", "trio"),
        ("_codec", "def f():\n    from ._transports import connect", "rayforce_trio._transports"),
        ("_transports._base", "import rayforce.errors", "rayforce.errors"),
        ("_transports._base", "import websockets.frames", "websockets.frames"),
        ("_transports._memory", "from .._engines import Engine", "rayforce_trio._engines"),
        ("_transports._websocket", "import wsproto", "wsproto"),
        ("_websocket._connection", "import trio", "trio"),
        ("_transports._connecting", "from websockets import connect", "websockets"),
        ("_tasks", "from ._transports import connect", "rayforce_trio._transports"),
        ("auth", "from ._transports import OpeningRequest", "rayforce_trio._transports"),
        ("auth", "import anyio", "anyio"),
        ("prometheus", "from ._server import WSServer", "rayforce_trio._server"),
        ("statistics", "import prometheus_client", "prometheus_client"),
        ("_server._plain", "import prometheus_client", "prometheus_client"),
        ("__init__", "from prometheus_client import REGISTRY", "prometheus_client"),
        ("_transports._base", "from .. import auth, _server", "rayforce_trio._server"),
        ("_engines._base", "import anyio", "anyio"),
        ("_engines._in_process", "import rayforce", "rayforce"),
        ("_client", "import trio", "trio"),
        ("_client", "import asyncio.tasks", "asyncio.tasks"),
        ("_client", "from . import _server", "rayforce_trio._server"),
        ("_client", "if TYPE_CHECKING:\n    import rayforce_trio._server", "rayforce_trio._server"),
        ("_server._server", "import anyio", "anyio"),
        ("_server._server", "from .. import errors, _client", "rayforce_trio._client"),
        ("_server._server", "from rayforce_trio import _client", "rayforce_trio._client"),
        ("_server._server", "from rayforce_trio._client import WSClient", "rayforce_trio._client"),
        ("_server._server", "from .. import WSClient", "rayforce_trio.WSClient"),
        ("_server", "import rayforce_trio", "rayforce_trio"),
        ("_server", "from importlib import import_module", "importlib"),
        ("_server", "__import__('anyio')", "importlib"),
        ("__init__", "import trio", "trio"),
        ("__init__", "from ._cli import main", "rayforce_trio._cli"),
        ("_cli._query", "from .._codec import decode", "rayforce_trio._codec"),
        ("_cli._query", "from .. import _client", "rayforce_trio._client"),
        ("_cli._query", "from .. import _addresses", "rayforce_trio._addresses"),
        ("_cli._query", "from .._addresses import Endpoint", "rayforce_trio._addresses.Endpoint"),
        ("_cli._repl", "import prompt_toolkit", "prompt_toolkit"),
        ("_cli._repl", "import asyncio", "asyncio"),
        ("__main__", "import trio", "trio"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, violation: str) -> None:
    is_package = module in ("__init__", "_protocol", "_server")
    assert violations(module, source, is_package=is_package) == [violation]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_protocol._client", "from ._frames import parse_frame"),
        ("_protocol", "from ._frames import parse_frame"),
        ("_engines._in_process", "from .. import _codec"),
        ("_server", "from ._server import WSServer"),
        ("__init__", "from . import errors"),
        ("_tasks", "import trio.lowlevel, socket, time"),
        ("_engines._native", "from .._tasks import race"),
        ("_cli._query", "from .. import WSClient, errors"),
        ("_cli._query", "from ..errors import RayforceError"),
        ("_cli._query", "from ._interrupts import run"),
        ("_cli._target", "from .._addresses import parse_url"),
        ("_cli._prompt", "from prompt_toolkit.history import FileHistory"),
        ("__main__", "from ._cli import main"),
        ("_server._plain", "def f():\n    from .. import prometheus"),
    ],
)
def test_what_is_allowed_is_not_found(module: str, source: str) -> None:
    assert violations(module, source, is_package=module in ("__init__", "_protocol", "_server")) == []
