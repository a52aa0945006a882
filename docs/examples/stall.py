"""Measure how long one slow query holds up a server: its event loop, and its answers to pings."""

from collections.abc import Awaitable, Callable
from functools import partial

import trio
from trio_websocket import open_websocket

from rayforce_trio import InProcessEngine, NativeProcess, WSClient, WSServer

SLOW = "(sum (map (fn [x] (sum (til x))) (til 100000)))"


async def longest(
    run: Callable[[], Awaitable[None]],
    times: list[float],
    done: trio.Event,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run something again and again until `done`; keep the longest time that it took, in seconds."""
    await run()
    task_status.started()
    while not done.is_set():
        began = trio.current_time()
        await run()
        times[:] = [max([*times, trio.current_time() - began])]


async def measure(engine: InProcessEngine | NativeProcess) -> tuple[float, float, float]:
    """Return how long the slow query took, and meanwhile the longest turn of the loop and answer to a ping."""
    turns: list[float] = []
    pings: list[float] = []
    done = trio.Event()
    async with (
        WSServer(port=0, host="127.0.0.1", engine=engine) as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
        open_websocket("127.0.0.1", server.port, "/", use_ssl=False) as other_client,
    ):
        await other_client.send_message(b"\x01\x00")  # the greeting, without which it would be dropped
        await other_client.get_message()
        async with trio.open_nursery() as nursery:
            await nursery.start(longest, partial(trio.sleep, 0.001), turns, done)
            await nursery.start(longest, other_client.ping, pings, done)
            began = trio.current_time()
            await connection.execute(SLOW)
            took = trio.current_time() - began
            done.set()
    return took, turns[0], pings[0]


async def main() -> None:
    print("engine             query   loop stood still   ping answered after")
    for engine in (InProcessEngine(), NativeProcess()):
        took, turn, ping = await measure(engine)
        print(f"{engine!r:17}{took:5.2f} s{turn * 1000:14.1f} ms{ping * 1000:19.1f} ms")


if __name__ == "__main__":
    trio.run(main)
