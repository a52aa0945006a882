"""The clock of an event loop that stands still for a while, without the wait."""

import asyncio

import pytest
import sniffio
import trio


def stand_still(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the clock of the running event loop forward, as if the program had blocked the loop for so long."""
    if sniffio.current_async_library() == "asyncio":
        loop = asyncio.get_running_loop()
        loop_time = loop.time
        monkeypatch.setattr(loop, "time", lambda: loop_time() + seconds)
    else:
        clock = type(trio.lowlevel.current_clock())
        clock_time = clock.current_time
        monkeypatch.setattr(clock, "current_time", lambda self: clock_time(self) + seconds)
