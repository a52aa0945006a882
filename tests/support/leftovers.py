"""What a test may not leave behind: tasks and file descriptors."""

import asyncio
import gc
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked


def descriptors() -> set[str]:
    """Return what each open file descriptor of this process refers to."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:  # the one this very listing used
            continue
    return found


def _trio_tasks(task: trio.lowlevel.Task | None = None) -> set[trio.lowlevel.Task]:
    task = task or trio.lowlevel.current_root_task()
    assert task is not None
    found = {task}
    for nursery in task.child_nurseries:
        for child in nursery.child_tasks:
            found |= _trio_tasks(child)
    return found


@asynccontextmanager
async def nothing_left(within: float = 3.0) -> AsyncIterator[None]:
    """On trio: the body's tasks and descriptors are gone when it is over, at the latest `within` seconds after."""
    await wait_all_tasks_blocked()
    tasks, files = _trio_tasks(), descriptors()
    yield
    with trio.move_on_after(within):
        while (_trio_tasks() - tasks) or (descriptors() - files):
            await trio.sleep(0.001)
    _complain_of({task.name for task in _trio_tasks() - tasks} | (descriptors() - files))


@asynccontextmanager
async def nothing_left_on_asyncio(within: float = 3.0) -> AsyncIterator[None]:
    """The same on asyncio."""
    gc.collect()
    tasks, files = asyncio.all_tasks(), descriptors()
    yield
    deadline = asyncio.get_running_loop().time() + within
    while (asyncio.all_tasks() - tasks) or (descriptors() - files):
        if asyncio.get_running_loop().time() > deadline:
            break
        await asyncio.sleep(0.001)
    _complain_of({repr(task) for task in asyncio.all_tasks() - tasks} | (descriptors() - files))


def _complain_of(leftovers: set[str]) -> None:
    assert not leftovers, f"left behind: {sorted(leftovers)}"
