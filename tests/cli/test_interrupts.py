"""What a terminal shows while one waits, in virtual time."""

import io
import os
import signal
from collections.abc import Callable
from contextlib import redirect_stderr, suppress
from functools import partial

import anyio
import pytest
from anyio.abc import TaskGroup
from trio.testing import MockClock

from rayforce_trio._cli._console import Interrupted
from rayforce_trio._cli._interrupts import Interruptible, run


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


async def shown_during(seconds: float, *, show_progress: bool = True, status: Callable[[], str] | None = None) -> str:
    """Return what a terminal is shown during a call that takes so long."""
    with redirect_stderr(Screen()) as screen:
        async with anyio.create_task_group() as tasks:
            await Interruptible(tasks).call(partial(anyio.sleep, seconds), show_progress=show_progress, status=status)
    return screen.getvalue()


@pytest.mark.trio
async def test_of_what_takes_less_than_half_a_second_nothing_is_said(autojump_clock: MockClock) -> None:
    assert await shown_during(0.49) == ""


@pytest.mark.trio
async def test_what_takes_longer_is_counted_and_erased_in_the_end(autojump_clock: MockClock) -> None:
    *shown, rest = (await shown_during(0.75)).split("\r\x1b[K")[1:]
    assert shown == ["0.5 s, Ctrl-C cancels", "0.6 s, Ctrl-C cancels", "0.7 s, Ctrl-C cancels"]
    assert rest == ""


@pytest.mark.trio
async def test_a_status_is_shown_before_the_time(autojump_clock: MockClock) -> None:
    numbers = iter(range(10))
    shown = await shown_during(0.65, status=lambda: f"{next(numbers)} rows")
    assert shown.split("\r\x1b[K")[1:] == ["0 rows, 0.5 s, Ctrl-C cancels", "1 rows, 0.6 s, Ctrl-C cancels", ""]


@pytest.mark.trio
async def test_nothing_is_said_where_people_are_waited_for(autojump_clock: MockClock) -> None:
    assert await shown_during(60, show_progress=False) == ""


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_ctrl_c_in_the_last_moment_makes_no_group(backend: str) -> None:
    async def main(interruptible: Interruptible, tasks: TaskGroup) -> str:
        os.kill(os.getpid(), signal.SIGINT)
        return "done"

    for _ in range(20):
        with suppress(KeyboardInterrupt):
            assert run(main, backend=backend) == "done"


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_ctrl_c_cancels_what_is_called_and_nothing_else(backend: str) -> None:
    async def main(interruptible: Interruptible, tasks: TaskGroup) -> str:
        async def interrupted() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep_forever()

        for _ in range(3):
            with pytest.raises(Interrupted):
                await interruptible.call(interrupted)
        os.kill(os.getpid(), signal.SIGINT)  # nothing is called
        await anyio.wait_all_tasks_blocked()
        return "done"

    assert run(main, backend=backend) == "done"


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_an_error_is_raised_alone(backend: str) -> None:
    async def main(interruptible: Interruptible, _: TaskGroup) -> None:
        await interruptible.call(fail)

    async def fail() -> None:
        await anyio.lowlevel.checkpoint()
        raise LookupError("it")

    with pytest.raises(LookupError, match="it"):
        run(main, backend=backend)
