"""A few seconds of the soak run, in every test run."""

import sys

import pytest
import trio

from ._run import soak
from ._server import ENGINES

REPLIES = 100e6  # bytes; less than the long replies of a few seconds, more than a server needs to warm up


@pytest.mark.slow
@pytest.mark.trio
@pytest.mark.skipif(sys.platform != "linux", reason="memory is told by Linux")
@pytest.mark.parametrize("engine", ENGINES)
async def test_a_server_stays_what_it_was(engine: str) -> None:
    with trio.fail_after(100):
        result = await soak(engine, clients=8, seconds=8, every=0.5)
    assert result.complaints(growth=REPLIES) == []
