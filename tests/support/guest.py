"""trio as a guest of asyncio's event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import trio


async def run_as_guest(main: Callable[[], Awaitable[None]]) -> None:
    """Run a function in trio, as a guest of the running asyncio loop."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    trio.lowlevel.start_guest_run(
        main,
        run_sync_soon_threadsafe=loop.call_soon_threadsafe,
        done_callback=done.set_result,
        host_uses_signal_set_wakeup_fd=True,
    )
    (await done).unwrap()
