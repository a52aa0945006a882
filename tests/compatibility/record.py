"""Record the conversations of the present version: `python -m compatibility.record [SCENARIO…]`.

The recordings of a released version are never made again: they prove that later versions understand it. So this program
does not overwrite files, unless `--again` is given, which is for the time before the release.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from importlib.metadata import version as version_of
from pathlib import Path

import anyio
import anyio.to_thread
from anyio.abc import SocketStream
from support.processes import TESTS, server_process
from support.proxy import between
from support.raw import raw_server
from support.wire import WireReader

from compatibility.hosts import perform_with_files
from compatibility.recording import DIRECTORY, Event, Recording, Side, file_name
from compatibility.scenarios import LOCAL, SCENARIOS, Driver, Scenario
from rayforce_trio import __version__

_PIECE = 64 * 1024
_TIME_LIMIT = 30.0  # seconds for one scenario
_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError)


class RecordingProxy(Driver):
    """A proxy that logs what the two sides send. It passes on the bytes of every event after it has logged the event.

    Attributes:
        host: does the steps of a server of this package; `None` if there is no such server.
        directory: where the engine leaves traces.
        ended: set when both sides have closed the connection.
    """

    def __init__(self, port: int) -> None:
        super().__init__(port)
        self.host: HostProcess | None = None
        self.directory = Path()
        self.ended = anyio.Event()
        self._passing = anyio.Event()
        self._passing.set()

    async def step(self, name: str) -> None:
        if name == "begun":  # by the recorder, since an engine may block the server's process
            await perform_with_files(name, self.directory)
        self.log.append(Event(None, name))  # before its consequences
        match name:
            case "hold replies":
                self._passing = anyio.Event()
            case "pass replies":
                self._passing.set()
            case "open gate":
                await perform_with_files(name, self.directory)
            case "stop server" | "kill engine":
                assert self.host is not None
                await anyio.to_thread.run_sync(self.host.perform, name, abandon_on_cancel=True)

    async def handle(self, client: SocketStream, target: int) -> None:
        """Serve the connection of a client."""
        async with client, await anyio.connect_tcp(LOCAL, target) as server, anyio.create_task_group() as tasks:
            tasks.start_soon(self._pump, "client", client, server)
            await self._pump("server", server, client)
        self.ended.set()

    async def _pump(self, side: Side, source: SocketStream, sink: SocketStream) -> None:
        reader = WireReader()
        with suppress(*_GONE):
            while True:
                data = await source.receive(_PIECE)
                for found in reader.feed(data):
                    self.log.append(Event(side, found))
                if side == "server":
                    await self._passing.wait()
                with suppress(*_GONE):  # the other side may have left; this one may still have something to say
                    await sink.send(data)
        if reader.rest:
            self.log.append(Event(side, bytes(reader.rest)))
        self.log.append(Event(side, None))
        with suppress(OSError, *_GONE):
            await sink.send_eof()


class HostProcess:
    """A server of this package in a process of its own. Attributes: `port`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.port = int(self._read())

    def perform(self, step: str) -> None:
        """Do a step; returns when it is done."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{step}\n")
        self._process.stdin.flush()
        answer = self._read()
        assert answer == "done", answer

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


@contextmanager
def host_process(scenario: Scenario, directory: Path) -> Iterator[HostProcess]:
    """Run the server of a scenario until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-m", "compatibility.hosts", scenario.name, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=directory,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])},
    ) as process:
        yield HostProcess(process)
        assert process.stdin is not None
        process.stdin.close()


@asynccontextmanager
async def served(scenario: Scenario, directory: Path) -> AsyncIterator[tuple[int, HostProcess | None]]:
    """Run the server of a scenario; yields its port, and the process that does the steps."""
    if scenario.serve is not None:
        async with raw_server(scenario.serve) as port:
            yield port, None
    elif scenario.engine == "rayforce-py":
        with server_process("theirs") as port:
            yield port, None
    else:
        with host_process(scenario, directory) as host:
            yield host.port, host


async def record(scenario: Scenario, client: str) -> Recording:
    """Play a scenario through the proxy. A checkpoint; if cancelled, nothing is left running."""
    with tempfile.TemporaryDirectory() as directory, anyio.fail_after(_TIME_LIMIT):
        async with served(scenario, Path(directory)) as (port, host), between(RecordingProxy, port) as proxy:
            proxy.host, proxy.directory = host, Path(directory)
            await scenario.play(proxy)
            await proxy.ended.wait()
            return Recording(__version__, scenario.name, client, _server(scenario), proxy.outcomes, proxy.log.events)


def _server(scenario: Scenario) -> str:
    if scenario.serve is not None:
        return "raw"
    return f"rayforce-py-{version_of('rayforce-py')}" if scenario.engine == "rayforce-py" else "rayforce_trio"


def _clients(scenario: Scenario) -> dict[str, str]:
    """Return the clients of a scenario, each with the event loop it runs on."""
    match scenario.client:
        case "ours":
            return {"trio": "trio", "asyncio": "asyncio"}
        case "rayforce-py":
            return {f"rayforce-py-{version_of('rayforce-py')}": "asyncio"}
    return {"raw": "trio"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m compatibility.record", description=__doc__)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="its name; default: all of them")
    parser.add_argument("--again", action="store_true", help="overwrite recordings of the present version")
    arguments = parser.parse_args()
    for name in arguments.scenarios or SCENARIOS:
        scenario = SCENARIOS[name]
        for client, loop in _clients(scenario).items():
            file = file_name(__version__, name, client)
            if (DIRECTORY / file).exists() and not arguments.again:
                parser.error(f"{file} exists already; recordings of a released version are kept")
            recording = anyio.run(partial(record, scenario, client), backend=loop)
            recording.save()
            print(file, len(recording.events))


if __name__ == "__main__":
    main()
