"""The processes that `NativeProcess` starts, watched from outside, and the log lines about them."""

import itertools
import logging
import os
import select
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from rayforce_trio import NativeProcess, WSClient, WSClientConnection, WSServer
from rayforce_trio._engines import Engine
from rayforce_trio._engines._process import RESERVED_SESSIONS
from support.leaks import no_leaks
from support.polling import until

LOCAL = "127.0.0.1"

_MARK = "RAYFORCE_TRIO_TEST"
_numbers = itertools.count()


class Family:
    """The processes that have an environment variable, which children inherit: those started since it was set.

    Attributes:
        variable: its name and its value, which no other family has.
    """

    def __init__(self) -> None:
        self.variable = (_MARK, f"{os.getpid()}-{next(_numbers)}")
        self._entry = "=".join(self.variable).encode()

    def pids(self) -> set[int]:
        """Return the ids of the living processes. A zombie does not live."""
        return {int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit() and self._has(entry)}

    async def gone(self) -> None:
        """Wait until none of them lives."""
        await until(lambda: not self.pids())

    async def grown_to(self, size: int) -> set[int]:
        """Wait until there are at least that many of them; return their ids."""
        await until(lambda: len(self.pids()) >= size)
        return self.pids()

    def _has(self, process: Path) -> bool:
        try:
            return self._entry in (process / "environ").read_bytes().split(b"\0")
        except OSError:
            return False


def command_line(pid: int) -> list[str]:
    """Return the command line of a process, which every user of the machine can read."""
    return Path(f"/proc/{pid}/cmdline").read_text().rstrip("\0").split("\0")


def environment(pid: int) -> dict[str, str]:
    """Return the environment of a process, which only its own user can read."""
    entries = Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
    return dict(entry.split("=", 1) for entry in entries)


def lives(pid: int) -> bool:
    """Return whether there is such a process, even if it is a zombie."""
    return Path(f"/proc/{pid}").exists()


async def ended(pid: int) -> None:
    """Wait until a process has ended, even if it is no child of this process."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(20):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


def has_ended(pid: int, *, within: float) -> bool:
    """Like `ended`, but without an event loop; return whether the process has ended."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return bool(poll.poll(within * 1000))
        finally:
            os.close(descriptor)
    return True


class Log(logging.Handler):
    """The records of a logger, which tests can wait for.

    Attributes:
        records: all of it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._told = trio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self._told.set()

    def saying(self, text: str) -> list[logging.LogRecord]:
        """Return the records whose text contains this one."""
        return [record for record in self.records if text in record.getMessage()]

    async def told(self, text: str, times: int = 1) -> logging.LogRecord:
        """Wait until this was logged that many times; return the last such record."""
        with trio.fail_after(30):
            while len(records := self.saying(text)) < times:
                self._told = trio.Event()
                await self._told.wait()
        return records[times - 1]


@contextmanager
def logged(name: str) -> Iterator[Log]:
    """Yield the records that are logged during the block, from INFO on."""
    logger, log = logging.getLogger(name), Log()
    level = logger.level
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    try:
        yield log
    finally:
        logger.setLevel(level)
        logger.removeHandler(log)


@asynccontextmanager
async def serving(engine: Engine) -> AsyncIterator[WSServer]:
    """Serve an engine for the block, which is bounded; nothing may be left behind."""
    with trio.fail_after(60):
        async with no_leaks(), WSServer(0, host=LOCAL, engine=engine) as server:
            yield server


def pid_of(engine: NativeProcess) -> int:
    """Return the id of an engine's process, which must be ready."""
    assert engine.pid is not None
    return engine.pid


@asynccontextmanager
async def connected(server: WSServer) -> AsyncIterator[WSClientConnection]:
    async with WSClient(LOCAL, server.port).connect() as connection:
        yield connection


async def ask_on(connection: WSClientConnection, query: str) -> Any:
    """Return the plain value of a query."""
    value = await connection.execute(query)
    return None if value is None else value.to_python()


def write(path: Path, text: str) -> Path:
    """Write a file, such as a script; return its path."""
    path.write_text(text, encoding="utf-8")
    return path


async def fill_reserves(server: WSServer) -> None:
    """Wait until engine processes hold all the sessions that they keep in reserve, whose sockets count as idle."""

    def are_full() -> bool:
        natives = [engine._native for engine in server._authorizer.engines if isinstance(engine, NativeProcess)]
        return all(native is not None and len(native._reserve) >= RESERVED_SESSIONS for native in natives)

    await until(are_full)
