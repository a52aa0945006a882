"""The servers of the scenarios, and the events outside a conversation that drive it.

A scenario names those events, its *steps*:

- `begun`: the engine has begun with `scenarios.GATED` or `scenarios.ENDLESS`;
- `open gate`: `scenarios.GATED` may end;
- `stop server`: `WSServer.stop` is called;
- `kill engine`: the native server is killed;
- `hold replies`, `pass replies`: the proxy keeps the server's bytes, and passes them on. These two are not for a host.

`python -m compatibility.hosts SCENARIO DIRECTORY` serves in a process of its own for the recorder: it prints its port,
then reads the name of a step from each line of its standard input, and answers with a line when the step is done. It
ends with its standard input.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import anyio
import anyio.lowlevel
import trio
from support.native import HOST, NativeServer, free_port, native_server
from support.polling import until

from compatibility.scenarios import SCENARIOS, Scenario
from rayforce_trio import Engine, InProcessEngine, NativeEngine, WSServer


async def perform_with_files(step: str, directory: Path) -> None:
    """Do one of the steps for which the engine uses files in `directory`, on either event loop. A checkpoint."""
    if step == "begun":
        await until((directory / "begun").exists)
        (directory / "begun").unlink()
    else:
        assert step == "open gate"
        (directory / "gate" / "open").touch()
    await anyio.lowlevel.checkpoint()


class Host:
    """A running server of this package.

    Args:
        directory: where the engine leaves traces; a native engine's working directory.

    Attributes:
        port: the server's port.
    """

    def __init__(self, server: WSServer, native: NativeServer | None, directory: Path, nursery: trio.Nursery) -> None:
        self.port = server.port
        self._server = server
        self._native = native
        self._directory = directory
        self._nursery = nursery

    async def perform(self, step: str) -> None:
        """Do what a step says, or wait until it has happened. A checkpoint; if cancelled, the step may be undone."""
        match step:
            case "begun" | "open gate":
                await perform_with_files(step, self._directory)
            case "stop server":
                await self._nursery.start(self._stop_server)
            case "kill engine":
                assert self._native is not None
                self._native.kill()
            case _:
                raise ValueError(f"unknown step: {step}")
        await trio.lowlevel.checkpoint()

    async def _stop_server(self, *, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await self._server.stop()


@asynccontextmanager
async def running_host(scenario: Scenario, directory: Path) -> AsyncIterator[Host]:
    """Run the server of a scenario until the block ends, however the scenario has left it."""
    (directory / "gate").mkdir()
    with ExitStack() as stack:
        engine: Engine
        native = None
        match scenario.engine:
            case "native":
                native = stack.enter_context(native_server(directory=directory))
                engine = NativeEngine(HOST, native.port)
            case "unreachable":
                engine = NativeEngine(HOST, free_port())
            case _:
                engine = InProcessEngine()
        async with trio.open_nursery() as nursery:
            server = WSServer(0, host=HOST, engine=engine, **scenario.server_options)
            await server.start(nursery)
            yield Host(server, native, directory, nursery)
            nursery.cancel_scope.cancel()


async def serve(scenario: Scenario, directory: Path) -> None:
    async with running_host(scenario, directory) as host:
        print(host.port, flush=True)
        while step := (await trio.to_thread.run_sync(sys.stdin.readline)).strip():
            await host.perform(step)
            print("done", flush=True)


if __name__ == "__main__":
    trio.run(partial(serve, SCENARIOS[sys.argv[1]], Path(sys.argv[2])))
