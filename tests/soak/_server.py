"""The server under load, in a process of its own: `python -m soak._server ENGINE`.

It prints its port, and then answers every line on its standard input with its resources: see `Usage`.
"""

import gc
import sys
from dataclasses import asdict, dataclass

import trio
from support.children import Commander
from support.usage import Held, held

from rayforce_trio import InProcessEngine, NativeProcess, WSServer
from rayforce_trio._codec import decode, encode, evaluate
from rayforce_trio._protocol import MessageType

ENGINES = {"in-process": InProcessEngine, "child": NativeProcess}

_HEAP = encode("(at (.sys.mem) 'anon-committed)", MessageType.SYNC)


@dataclass(frozen=True)
class Usage:
    """The resources of a server, and the bytes of its memory that belong to the heap of an in-process engine."""

    held: Held
    engine_heap: int


def usage(engine: str) -> Usage:
    gc.collect()
    return Usage(held(), decode(evaluate(_HEAP), "").value if engine == "in-process" else 0)


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
            commander.tell(asdict(usage(engine)))


if __name__ == "__main__":
    trio.run(serve, sys.argv[1])
