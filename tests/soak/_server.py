"""The server under load, in a process of its own: `python -m soak._server ENGINE`.

It prints its port, and then answers every line on its standard input with what it holds: see `Held`.
"""

import gc
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import trio
from support.children import Commander
from support.leaks import descriptors, tasks

from rayforce_trio import InProcessEngine, NativeProcess, WSServer

ENGINES = {"in-process": InProcessEngine, "child": NativeProcess}


@dataclass(frozen=True)
class Held:
    """What a server holds: memory in bytes, open file descriptors, and tasks."""

    memory: int
    descriptors: int
    tasks: int


def resident() -> int:
    """Return how much memory this process has, in bytes, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


async def serve(engine: str) -> None:
    commander = Commander()
    server = WSServer(
        port=0,
        host="127.0.0.1",
        engine=ENGINES[engine](),
        max_connections=None,
        max_connections_per_address=None,
        max_unauthenticated=None,
    )
    async with server:
        commander.tell({"port": server.port})
        while await trio.to_thread.run_sync(commander.next, abandon_on_cancel=True) is not None:
            gc.collect()
            commander.tell(asdict(Held(resident(), len(descriptors()), len(tasks()))))


if __name__ == "__main__":
    trio.run(serve, sys.argv[1])
