"""Fixtures: the event loops, the servers, and what must be as before when a test ends."""

import itertools
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from rayforce import core_version
from support.native import native_server
from support.processes import server_process
from support.serve_native import Served, natively_served
from support.short_paths import short_directory
from support.watched import Queries

from rayforce_trio import InProcessEngine, NativeEngine, NativeProcess

_names = itertools.count()

# Machines are busy: a slow example is not an error.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")

# A shell starts what it runs in the background with SIGINT ignored, and child processes inherit that; some are sent it.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"rayforce core {core_version}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Refuse a clock that a mark requests: pytest-trio takes clocks from arguments, and would use the real one."""
    for item in items:
        requested = {name for mark in item.iter_markers("usefixtures") for name in mark.args}
        if ignored := requested & {"autojump_clock", "mock_clock"}:
            raise pytest.UsageError(f"{item.nodeid}: make {ignored.pop()} an argument; a mark has no effect")


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A temporary directory for Unix sockets; the path of `tmp_path` is too long under nox."""
    with short_directory() as made:
        yield made


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """Tests marked `anyio` run on both event loops."""
    return str(request.param)


@pytest.fixture(scope="session", params=["in-process", "native", "child"])
def engine(request: pytest.FixtureRequest) -> str:
    """Tests that ask for this, or for `our_port` or `each_engine`, run on every engine."""
    return str(request.param)


@pytest.fixture(scope="session")
def our_port(engine: str) -> Iterator[int]:
    """The port of our server, in a process of its own."""
    with server_process(engine) as port:
        yield port


@pytest.fixture(scope="session")
def in_process_port() -> Iterator[int]:
    """The port of our server, in a process of its own, for tests that do not depend on the engine."""
    with server_process("in-process") as port:
        yield port


@pytest.fixture(scope="session")
def native_port() -> Iterator[int]:
    """The port of a native server."""
    with native_server() as server:
        yield server.port


@pytest.fixture
def each_engine(engine: str, native_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have servers without an engine of the test's choice use each engine in turn."""
    engines = {
        "in-process": InProcessEngine,
        "native": lambda: NativeEngine("127.0.0.1", native_port),
        "child": NativeProcess,
        "read-only": partial(NativeProcess, read_only=True),
    }
    monkeypatch.setattr("rayforce_trio._server._server.InProcessEngine", engines[engine])


@pytest.fixture(scope="module", params=["one in flight", "several in flight"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """A server with an engine of its own, in a child process.

    The engine receives one request of each client at a time, or several.
    """
    if request.param == "one in flight":
        with natively_served() as made:
            yield made
    else:
        with native_server() as native, natively_served(native.port, in_flight=8) as made:
            yield replace(made, engine_pid=native.pid)


@pytest.fixture(scope="session")
def their_port() -> Iterator[int]:
    """The port of rayforce-py's server, in a process of its own."""
    with server_process("theirs") as port:
        yield port


@pytest.fixture
def queries(tmp_path: Path) -> Iterator[Queries]:
    """Queries that tell when they begin, and end when they are told to; in the end all do."""
    made = Queries(tmp_path)
    yield made
    made.release_all()


@pytest.fixture
def name() -> str:
    """A variable name nobody used before: the engine's variables are global, and outlive a test."""
    return f"test_{next(_names)}"
