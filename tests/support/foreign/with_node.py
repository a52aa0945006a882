"""npm's `ws`, client and server, in a process of `node`. Where `node` finds it, `NODE_PATH` says."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import PIPE
from typing import Any

import anyio
from anyio.abc import Process

from rayforce_trio._tasks import collapse_groups
from support.foreign.connection import ForeignServer, FrameConnection
from support.foreign.remote import Event, RemoteConnection
from support.raw import SUBPROTOCOL

_PROGRAM = Path(__file__).with_name("ws.js")


@asynccontextmanager
async def _node(role: str, **settings: Any) -> AsyncIterator[Process]:
    command = ["node", str(_PROGRAM), role, json.dumps(settings)]
    async with await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=None) as process:
        yield process


class _Events:
    """The lines of the process's output."""

    def __init__(self, process: Process) -> None:
        assert process.stdout is not None
        self._output = process.stdout
        self._lines: list[bytes] = []
        self._begun: list[bytes] = []  # pieces: a line can be of many MB

    async def receive(self) -> Event:
        """Return the next event. Raises `anyio.EndOfStream`."""
        while not self._lines:
            *ends, rest = (await self._output.receive()).split(b"\n")
            for end in ends:
                self._lines.append(b"".join([*self._begun, end]))
                self._begun = []
            self._begun.append(rest)
        event: Event = json.loads(self._lines.pop(0))
        return event


@asynccontextmanager
async def _connection(process: Process, events: _Events) -> AsyncIterator[RemoteConnection]:
    async def send(command: Event) -> None:
        assert process.stdin is not None
        await process.stdin.send(json.dumps(command).encode() + b"\n")

    connection = RemoteConnection(send)

    async def take_all() -> None:
        with suppress(anyio.EndOfStream):
            while True:
                connection.take(await events.receive())
        connection.end()

    try:
        with collapse_groups():
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(take_all)
                yield connection
                tasks.cancel_scope.cancel()
    finally:
        connection.abandon()


@asynccontextmanager
async def dial_ws(
    port: int, *, subprotocol: str | None = SUBPROTOCOL, origin: str | None = None, max_size: int | None = None
) -> AsyncIterator[FrameConnection]:
    """Connect with the client of `ws`: a `FrameDial`."""
    async with (
        _node("client", port=port, subprotocol=subprotocol, origin=origin, max_size=max_size) as process,
        _connection(process, _Events(process)) as connection,
    ):
        await connection.opened()
        yield connection


class _Server(ForeignServer):
    def __init__(self, port: int, connection: RemoteConnection) -> None:
        self.port = port
        self._connection = connection

    async def accept(self) -> FrameConnection:
        await self._connection.opened()
        return self._connection


@asynccontextmanager
async def listen_ws(
    *, subprotocol: str | None = SUBPROTOCOL, max_size: int | None = None
) -> AsyncIterator[ForeignServer]:
    """Listen with the server of `ws`, for one client: a `Listen`."""
    async with _node("server", subprotocol=subprotocol, max_size=max_size) as process:
        events = _Events(process)
        port = (await events.receive())["port"]
        async with _connection(process, events) as connection:
            yield _Server(port, connection)
