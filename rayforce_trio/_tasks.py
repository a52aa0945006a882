"""Tasks that live and die together, and single exceptions instead of groups."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import anyio
import anyio.lowlevel
import trio

from .errors import RayforceWSError

TIME_SLICE = 100e-6
"""How long a task may go on with what needs no waiting before the others get their turn; in seconds.

Measured: of a shorter one much goes into changing tasks, a longer one is felt by whoever asks beside a busy connection.
"""

FLUSH_INTERVAL = 1e-3
"""How long a task that is busy may keep back what it has to send, so that it goes out together; in seconds.

A single step of it may take longer: an evaluation in this process.

Measured: to send takes as long as to answer a small request, and more if that wakes the peer up.
"""

Event = trio.Event | asyncio.Event
"""An event of the running loop."""


def event_class() -> type[trio.Event] | type[asyncio.Event]:
    """Return the running loop's own class of events: anyio's takes a detour with every call.

    To wait for one that is set is no checkpoint on asyncio.
    """
    return trio.Event if trio.lowlevel.in_trio_run() else asyncio.Event


class TimeSlice:
    """The time that one task may take at a stretch.

    Args:
        flush: sends what the task has put by.
    """

    def __init__(self, flush: Callable[[], None] = lambda: None) -> None:
        self._flush = flush
        self._end = 0.0
        self._batch_end = 0.0

    def start(self) -> None:
        """Say that the task has just come back from waiting, and has put nothing by."""
        now = time.perf_counter()
        self._end = now + TIME_SLICE
        self._batch_end = now + FLUSH_INTERVAL

    async def yield_if_due(self) -> None:
        """Let other tasks run, if the time is over. Then a checkpoint, and else none; call it between two steps.

        Raises what `flush` raises.
        """
        now = time.perf_counter()
        if now < self._end:
            return
        if now >= self._batch_end:
            self._flush()
            self._batch_end = now + FLUSH_INTERVAL
        await anyio.lowlevel.checkpoint()
        self._end = time.perf_counter() + TIME_SLICE


async def race(*functions: Callable[[], Awaitable[None]]) -> None:
    """Run the functions at once until one of them returns or raises, then cancel the others and do the same.

    A checkpoint. Raises a single exception, never a group: the first, unless one is no `RayforceWSError`, which is a
    bug and must not be hidden by the network errors it causes.
    """
    errors: list[Exception] = []

    @trio.lowlevel.enable_ki_protection  # Ctrl-C is for the caller's own task; here it would come back in a group
    async def run(function: Callable[[], Awaitable[None]]) -> None:
        try:
            await function()
        except Exception as error:  # noqa: BLE001 - raised below, outside the group
            errors.append(error)
        task_group.cancel_scope.cancel()

    with collapse_groups():
        async with anyio.create_task_group() as task_group:
            for function in functions:
                task_group.start_soon(run, function)
    if errors:
        try:
            raise next((error for error in errors if not isinstance(error, RayforceWSError)), errors[0])
        finally:
            errors.clear()  # or this frame, in the traceback, and the error hold each other, and all they refer to


@contextmanager
def collapse_groups(*minor: type[Exception]) -> Iterator[None]:
    """Around a nursery: raise the one exception it ended with, not a group of it.

    Of several exceptions the first is raised. A cancellation wins over errors of the network, and those of the classes
    `minor`; together with any other exception it stays a group, so that neither is lost.
    """
    try:
        yield
    except BaseExceptionGroup as group:
        cancelled, failed = group.split(anyio.get_cancelled_exc_class())
        if failed is None:
            raise
        error = _first(failed)
        if cancelled is None:
            raise error from error.__cause__
        if not _all_of(failed, (RayforceWSError, *minor)):
            raise
        raise cancelled from None


def _all_of(group: BaseExceptionGroup[BaseException], classes: tuple[type[Exception], ...]) -> bool:
    return all(
        _all_of(error, classes) if isinstance(error, BaseExceptionGroup) else isinstance(error, classes)
        for error in group.exceptions
    )


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error
