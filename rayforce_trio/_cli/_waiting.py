"""What stands between a terminal and a query: Ctrl-C, and how long it takes."""

import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from ._exits import Interrupted

T = TypeVar("T")

PATIENCE = 0.5
"""How long a query may take before something is said of it, in seconds."""

_REFRESH = 0.1
_ERASE = "\r\x1b[K"


class Calls:
    """Runs what Ctrl-C cancels. At other times Ctrl-C does nothing.

    Args:
        tasks: where the tasks live that watch and tell.
    """

    def __init__(self, tasks: TaskGroup) -> None:
        self._tasks = tasks
        self._scope: anyio.CancelScope | None = None

    async def heed(self, signals: AsyncIterator[signal.Signals]) -> None:
        """Wait for Ctrl-C, until cancelled."""
        async for _ in signals:
            if self._scope is not None:
                self._scope.cancel()

    async def call(
        self, function: Callable[[], Awaitable[T]], *, quietly: bool = False, status: Callable[[], str] | None = None
    ) -> T:
        """Return what a function returns. A checkpoint.

        Args:
            function: takes no arguments.
            quietly: do not say on the terminal how long it takes.
            status: returns a text that the terminal shows before the elapsed time.

        Raises:
            Interrupted: Ctrl-C cancelled it.
        """
        try:
            with anyio.CancelScope() as self._scope, _telling(self._tasks, status, quietly=quietly):
                return await function()
        finally:
            self._scope = None
        if sys.stderr.isatty():
            _show(_ERASE)  # the ^C that it has shown
        raise Interrupted


@contextmanager
def _telling(tasks: TaskGroup, status: Callable[[], str] | None, *, quietly: bool) -> Iterator[None]:
    """Show on standard error how long the block takes, if that is a terminal."""
    if quietly or not sys.stderr.isatty():
        yield
        return
    clock = _Clock(status)
    tasks.start_soon(clock.run)
    try:
        yield
    finally:
        clock.stop()


class _Clock:
    def __init__(self, status: Callable[[], str] | None) -> None:
        self._status = status
        self._scope = anyio.CancelScope()
        self._began = anyio.current_time()
        self._shown = False

    async def run(self) -> None:
        with self._scope:
            await anyio.sleep(PATIENCE)
            while True:
                if self._scope.cancel_called:  # as it woke
                    return
                self._shown = True
                status = "" if self._status is None else f"{self._status()}, "
                _show(f"{_ERASE}{status}{anyio.current_time() - self._began:.1f} s, Ctrl-C cancels")
                await anyio.sleep(_REFRESH)

    def stop(self) -> None:
        """Erase it at once, since what comes next is going to stand there."""
        self._scope.cancel()
        if self._shown:
            _show(_ERASE)


def _show(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()


def run(function: Callable[[Calls, TaskGroup], Awaitable[T]], *, backend: str) -> T:
    """Run an event loop for a function, to which Ctrl-C comes only as `Interrupted`.

    Raises what the function raises, and never a group; `KeyboardInterrupt`, if Ctrl-C comes before it or after it.
    """

    async def main() -> T:
        results: list[T] = []
        errors: list[Exception] = []
        with anyio.open_signal_receiver(signal.SIGINT) as signals:  # what it still holds in the end is raised by it
            async with anyio.create_task_group() as tasks:
                calls = Calls(tasks)
                tasks.start_soon(calls.heed, signals)
                try:
                    results.append(await function(calls, tasks))
                except Exception as error:  # noqa: BLE001 - raised below, outside the group
                    errors.append(error)
                tasks.cancel_scope.cancel()
        if errors:
            raise errors[0]
        return results[0]

    return anyio.run(main, backend=backend)
