"""Ctrl-C, and the elapsed time that a terminal shows meanwhile."""

import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from ._console import Interrupted, write_to_terminal

T = TypeVar("T")

PROGRESS_DELAY = 0.5
"""Seconds before the terminal shows the elapsed time of a call."""

_REFRESH_INTERVAL = 0.1  # seconds
_ERASE_LINE = "\r\x1b[K"


class Interruptible:
    """Runs calls that Ctrl-C cancels. While there is no call, Ctrl-C does nothing.

    Args:
        tasks: runs the tasks that show the elapsed time.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._scope: anyio.CancelScope | None = None

    async def watch(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Cancel the current call whenever a signal arrives. Runs until cancelled, which leaves nothing behind."""
        async for _ in signals:
            if self._scope is not None:
                self._scope.cancel()

    async def call(
        self,
        function: Callable[[], Awaitable[T]],
        *,
        show_progress: bool = True,
        status: Callable[[], str] | None = None,
    ) -> T:
        """Call an async function, and return its result.

        A checkpoint. If cancelled, the function is cancelled, and the elapsed time is erased.

        Args:
            function: takes no arguments.
            show_progress: show the elapsed time on standard error, if that is a terminal.
            status: returns a text to show before the elapsed time.

        Raises:
            Interrupted: Ctrl-C cancelled the function.
        """
        show_progress = show_progress and sys.stderr.isatty()
        try:
            with anyio.CancelScope() as self._scope, _progress(self._tasks, status, is_shown=show_progress):
                return await function()
        finally:
            self._scope = None
        if sys.stderr.isatty():
            write_to_terminal(_ERASE_LINE)  # the terminal has shown ^C
        raise Interrupted


@contextmanager
def _progress(tasks: TaskGroup, status: Callable[[], str] | None, *, is_shown: bool) -> Iterator[None]:
    """Show on the terminal how long the block has been running."""
    if not is_shown:
        yield
        return
    clock = _Clock(status)
    tasks.start_soon(clock.run)
    try:
        yield
    finally:
        clock.stop()


class _Clock:
    """Shows the elapsed time on the terminal, on one line that it keeps overwriting."""

    def __init__(self, status: Callable[[], str] | None) -> None:
        self._status = status
        self._scope = anyio.CancelScope()
        self._started_at = anyio.current_time()
        self._is_shown = False

    async def run(self) -> None:
        """Show the elapsed time until `stop`. If cancelled, the last text stays until `stop` erases it."""
        with self._scope:
            await anyio.sleep(PROGRESS_DELAY)
            while not self._scope.cancel_called:  # `stop` may be called between the wake-up and this line
                self._is_shown = True
                status = "" if self._status is None else f"{self._status()}, "
                elapsed = anyio.current_time() - self._started_at
                write_to_terminal(f"{_ERASE_LINE}{status}{elapsed:.1f} s, Ctrl-C cancels")
                await anyio.sleep(_REFRESH_INTERVAL)

    def stop(self) -> None:
        """Erase the line now, because the caller is about to write to it."""
        self._scope.cancel()
        if self._is_shown:
            write_to_terminal(_ERASE_LINE)


def run(function: Callable[[Interruptible, TaskGroup], Awaitable[T]], *, backend: str) -> T:
    """Run an event loop for an async function, and return its result. Ctrl-C reaches the function as `Interrupted`.

    Args:
        function: receives the object that makes calls interruptible, and a task group for connections.
        backend: the event loop, `trio` or `asyncio`.

    Raises:
        Exception: the exception of the function, never in a group.
        KeyboardInterrupt: Ctrl-C before or after the function.
    """

    async def main() -> T:
        """Call the function. A checkpoint; if cancelled, the function has been cancelled and has ended."""
        with anyio.open_signal_receiver(signal.SIGINT) as signals:  # raises a signal again that nobody received
            async with background_tasks() as tasks:
                interruptible = Interruptible(tasks)
                tasks.start_soon(interruptible.watch, signals)
                return await function(interruptible, tasks)

    return anyio.run(main, backend=backend)


@asynccontextmanager
async def background_tasks() -> AsyncIterator[TaskGroup]:
    """Yield a task group whose tasks are cancelled when the block ends.

    A checkpoint when the block ends. If cancelled, an exception that the block raises is dropped.

    Raises:
        Exception: the exception of the block, never in a group.
    """
    error: Exception | None = None
    async with anyio.create_task_group() as tasks:
        try:
            yield tasks
        except Exception as raised:  # noqa: BLE001 - raised below, outside the group
            error = raised
        tasks.cancel_scope.cancel()
    try:
        if error is not None:
            raise error
    finally:
        del error  # its traceback refers to this frame
