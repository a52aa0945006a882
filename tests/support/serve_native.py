"""Serve a native engine in a process of its own: `python -m support.serve_native [PORT IN_FLIGHT]`.

The engine is a `NativeProcess`, or with the port of a native server a `NativeEngine`. Prints a line with
its own port and the engine process's id, once it listens. Ends as `WSServer.run` does, and with its standard input: it
cannot outlive the tests.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from rayforce_trio import NativeEngine, NativeProcess, WSServer


async def serve(engine: NativeEngine | NativeProcess) -> None:
    server = WSServer(port=0, host="127.0.0.1", engine=engine, drain_timeout=0.2)

    async def tell() -> None:
        while server.port == 0:  # noqa: ASYNC110 - `run` tells people alone
            await trio.sleep(0.01)
        print("serving", server.port, engine.pid if isinstance(engine, NativeProcess) else None, flush=True)

    async def end_with_input() -> None:
        await trio.to_thread.run_sync(os.read, sys.stdin.fileno(), 1, abandon_on_cancel=True)
        os.kill(os.getpid(), signal.SIGTERM)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        nursery.start_soon(end_with_input)
        await server.run()
        nursery.cancel_scope.cancel()


@dataclass(frozen=True)
class Served:
    """A server in a child process.

    Attributes:
        port: the server's.
        engine_pid: the engine process's id, if the server has one of its own.
        process: the server's process.
    """

    port: int
    engine_pid: int
    process: subprocess.Popen[str]


@contextmanager
def natively_served(native_port: int | None = None, *, in_flight: int = 1) -> Iterator[Served]:
    """Run this module in a child process until the block ends.

    Args:
        native_port: of a native server that is there already.
        in_flight: how many requests of a client that native server receives at a time.
    """
    arguments = [] if native_port is None else [str(native_port), str(in_flight)]
    process = subprocess.Popen(
        [sys.executable, "-m", "support.serve_native", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        words = next(line.split() for line in process.stdout if line.startswith("serving "))
        yield Served(int(words[1]), 0 if words[2] == "None" else int(words[2]), process)
    finally:
        process.stdin.close()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        trio.run(serve, NativeEngine("127.0.0.1", int(sys.argv[1]), in_flight=int(sys.argv[2])))
    else:
        trio.run(serve, NativeProcess())
