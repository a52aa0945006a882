"""Fixtures of the tests of engines."""

import os
import signal
from collections.abc import Iterator

import pytest
from support.engine_processes import Family, Log, logged


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Iterator[Family]:
    """The processes that the test starts; none may be left."""
    family = Family()
    monkeypatch.setenv(*family.variable)
    yield family
    left = family.pids()
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left


@pytest.fixture
def log() -> Iterator[Log]:
    with logged("rayforce_trio.engine") as log:
        yield log
