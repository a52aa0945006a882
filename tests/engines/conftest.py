"""Fixtures of the tests of engines."""

from collections.abc import Iterator

import pytest
from support.engine_processes import Log, logged


@pytest.fixture
def log() -> Iterator[Log]:
    with logged("rayforce_trio.engine") as log:
        yield log
