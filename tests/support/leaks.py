"""Checks that a test leaves nothing behind: no tasks and no file descriptors, which include sockets."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import sniffio
import trio


def descriptors() -> set[str]:
    """Return the open file descriptors of this process, with their targets if the system reports them."""
    found = set()
    for number in os.listdir("/dev/fd"):  # noqa: PTH208 - the names alone; pathlib would stat each
        try:
            found.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")  # noqa: PTH115
        except OSError:
            try:
                os.fstat(int(number))
            except OSError:
                continue  # the one that this very listing used
            found.add(number)
    return found


def tasks() -> set[object]:
    """Return the tasks of the running event loop."""
    if sniffio.current_async_library() == "asyncio":
        return set(asyncio.all_tasks())
    root = trio.lowlevel.current_root_task()
    assert root is not None
    return set(_with_descendants(root))


def _with_descendants(task: trio.lowlevel.Task) -> list[trio.lowlevel.Task]:
    children = (child for nursery in task.child_nurseries for child in nursery.child_tasks)
    return [task] + [one for child in children for one in _with_descendants(child)]


async def _settle_loop() -> None:
    """Have uvloop open what it keeps: a descriptor in reserve, from its first stream on."""
    if sniffio.current_async_library() == "asyncio" and "uvloop" in type(asyncio.get_running_loop()).__module__:
        one, other = socket.socketpair()
        with other:
            _, writer = await asyncio.open_connection(sock=one)
            writer.close()
            await writer.wait_closed()


@asynccontextmanager
async def no_leaks(*, within: float = 0.0) -> AsyncIterator[None]:
    """Fail if the block, however it ends, leaves a task or a file descriptor behind.

    Args:
        within: how many seconds after its end they may take to go: where the other end of a connection is in this
            process, too. On asyncio, which closes sockets in later rounds of the loop, at least five.
    """
    await _settle_loop()
    tasks_before, descriptors_before = tasks(), descriptors()
    try:
        yield
    finally:
        if sniffio.current_async_library() == "asyncio":
            within = max(within, 5.0)
        with anyio.move_on_after(within):
            while (tasks() - tasks_before) or (descriptors() - descriptors_before):  # noqa: ASYNC110 - nobody tells
                await anyio.sleep(0.001)
        left = sorted(map(repr, tasks() - tasks_before)) + sorted(descriptors() - descriptors_before)
        assert not left, f"left behind: {left}"
