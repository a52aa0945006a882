"""The server under load, in a process of its own: `python -m soak._server ENGINE`.

It prints its port, and then answers every line on its standard input with what it holds: see `support.usage.Held`.
"""

import gc
import sys
from dataclasses import asdict

import trio
from support.children import Commander
from support.usage import held

from rayforce_trio import InProcessEngine, NativeProcess, WSServer

ENGINES = {"in-process": InProcessEngine, "child": NativeProcess}


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
            commander.tell(asdict(held()))


if __name__ == "__main__":
    trio.run(serve, sys.argv[1])
