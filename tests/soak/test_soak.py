"""A few seconds of it at every test run."""

import sys

import pytest
import trio

from ._run import soak
from ._server import ENGINES

REPLIES = 100e6  # bytes; the long replies of a few seconds are more, what a server needs until it is warm is less


@pytest.mark.slow
@pytest.mark.trio
@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by Linux")
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_server_stays_what_it_was(engine: str) -> None:
    with trio.fail_after(100):
        result = await soak(engine, clients=8, seconds=8, every=0.5)
    assert result.complaints(growth=REPLIES) == []
