"""A task that no scope holds, for the one documented call that cannot have a scope: a bare `await client.connect()`."""

import asyncio
from collections.abc import Awaitable, Callable

import sniffio
import trio

_asyncio_tasks: set[asyncio.Task[None]] = set()  # the loop keeps only weak references to its tasks


def start_detached(function: Callable[[], Awaitable[None]], abandoned: Callable[[], None]) -> None:
    """Start `function` in a task that ends with the run, if it does not end earlier. No checkpoint.

    Args:
        function: must not raise; nobody would be there to catch it.
        abandoned: called when the task has ended, even if it was cancelled before it began.
    """
    if sniffio.current_async_library() == "trio":
        trio.lowlevel.spawn_system_task(function)  # always begins, and then its own `finally` runs
        return

    async def run() -> None:
        await function()

    task = asyncio.get_running_loop().create_task(run())
    _asyncio_tasks.add(task)

    def done(task: asyncio.Task[None]) -> None:
        _asyncio_tasks.discard(task)
        abandoned()

    task.add_done_callback(done)
