"""Sessions in reserve, and an engine process that accepts no connections."""

import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest
import trio
from support.engine_processes import LOCAL, ask_on, connected, pid_of, serving
from support.polling import until
from support.watched import stopped
from trio.testing import MockClock, wait_all_tasks_blocked

from rayforce_trio import NativeProcess, WSClient, errors
from rayforce_trio._engines import _process
from rayforce_trio._engines._descriptors import reached_descriptor_limit
from rayforce_trio._engines._native_session import NativeSession
from rayforce_trio._engines._process import RESERVED_SESSIONS
from rayforce_trio._engines._session_reserve import SessionReserve


class FakeSession:
    def __init__(self) -> None:
        self.is_connected = True
        self.is_open = True

    def abort(self) -> None:
        self.is_open = False


class FakeEngine:
    """Opens sessions that do nothing.

    Attributes:
        opened: all that were opened.
        accepts: set while the engine accepts sessions.
        error: raised instead of opening a session.
    """

    def __init__(self) -> None:
        self.opened: list[FakeSession] = []
        self.accepts = trio.Event()
        self.accepts.set()
        self.error: Exception | None = None

    async def open_session(self) -> NativeSession:
        await self.accepts.wait()
        if self.error is not None:
            raise self.error
        self.opened.append(FakeSession())
        return cast(NativeSession, self.opened[-1])


@asynccontextmanager
async def reserve_of(engine: FakeEngine, size: int = 3) -> AsyncIterator[SessionReserve]:
    """Keep a reserve for the block."""
    reserve = SessionReserve(size, engine.open_session)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reserve.run)
        await wait_all_tasks_blocked()
        yield reserve
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_sessions_that_are_taken_are_replaced() -> None:
    engine = FakeEngine()
    async with reserve_of(engine) as reserve:
        assert len(reserve) == len(engine.opened) == 3
        taken: list[object] = [reserve.take() for _ in range(4)]
        assert taken == [*engine.opened, None]
        await wait_all_tasks_blocked()
        assert (len(reserve), len(engine.opened)) == (3, 6)
    assert [session.is_open for session in engine.opened] == [True] * 3 + [False] * 3
    assert len(reserve) == 0


@pytest.mark.trio
async def test_no_more_than_one_session_waits_for_the_engine() -> None:
    engine = FakeEngine()
    async with reserve_of(engine) as reserve:
        engine.accepts = trio.Event()
        assert all(reserve.take() for _ in range(3))
        await wait_all_tasks_blocked()
        assert reserve.take() is None
        engine.accepts.set()
        await wait_all_tasks_blocked()
        assert len(reserve) == 3


@pytest.mark.trio
async def test_sessions_that_have_ended_are_not_given_away() -> None:
    engine = FakeEngine()
    async with reserve_of(engine) as reserve:
        engine.opened[0].is_connected = engine.opened[1].is_connected = False
        taken: object = reserve.take()
        assert taken is engine.opened[2]
        assert [session.is_open for session in engine.opened] == [False, False, True]
        await wait_all_tasks_blocked()
        assert len(reserve) == 3


@pytest.mark.trio
async def test_it_tries_again_later_if_the_engine_refuses_sessions(autojump_clock: MockClock) -> None:
    engine = FakeEngine()
    engine.error = errors.EngineError("refused")
    async with reserve_of(engine) as reserve:
        assert len(reserve) == 0
        await trio.sleep(3600)
        engine.error = None
        await trio.sleep(11)
        assert len(reserve) == 3


# An engine process


@contextmanager
def limited(pid: int, *, more: int) -> Iterator[int]:
    """Allow a process this many more descriptors for the block; yields the limit."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = len(list(Path(f"/proc/{pid}/fd").iterdir())) + more
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield limit
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def port_of(engine: NativeProcess) -> int:
    assert engine._native is not None
    return engine._native.port


async def until_reserved(engine: NativeProcess, size: int = RESERVED_SESSIONS) -> None:
    """Wait until this many sessions are in reserve."""
    await until(lambda: engine._native is not None and len(engine._native._reserve) >= size)


async def until_full(pid: int) -> None:
    """Wait until a process has reached its limit on descriptors."""
    await until(lambda: reached_descriptor_limit(pid) is not None)


@pytest.mark.trio
async def test_new_clients_get_in_while_another_program_holds_all_descriptors() -> None:
    engine = NativeProcess(read_only=True)
    async with serving(engine) as server, connected(server) as early:
        assert await ask_on(early, "(+ 1 2)") == 3
        await until_reserved(engine)
        with ExitStack() as sockets, limited(pid_of(engine), more=10) as limit:
            for _ in range(20):
                sockets.enter_context(socket.create_connection((LOCAL, port_of(engine))))
            await until_full(pid_of(engine))
            async with trio.open_nursery() as nursery:
                for _ in range(RESERVED_SESSIONS):
                    connection = await WSClient(LOCAL, server.port).connect(nursery)
                    assert await ask_on(connection, "(+ 1 2)") == 3
                reason = f"the engine process has used up its {limit} file descriptors"
                with pytest.raises(errors.ConnectionRejected, match=reason):
                    await WSClient(LOCAL, server.port).connect(nursery)
                assert await ask_on(early, "(+ 1 2)") == 3
                nursery.cancel_scope.cancel()
        async with connected(server) as late:
            assert await ask_on(late, "(+ 1 2)") == 3
        await until_reserved(engine)


def fill_queue(port: int, sockets: ExitStack) -> None:
    """Connect until the system accepts no more connections for a process that does not."""
    with suppress(TimeoutError):
        while True:
            sockets.enter_context(socket.create_connection((LOCAL, port), timeout=0.2))


@pytest.mark.trio
@pytest.mark.parametrize("reserved", [0, 1])
async def test_the_reserve_is_used_when_the_queue_of_new_connections_is_full(
    reserved: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_process, "RESERVED_SESSIONS", reserved)
    monkeypatch.setattr(_process, "_ACCEPT_TIMEOUT", 0.2)
    engine = NativeProcess(read_only=True)
    async with serving(engine) as server:
        await until_reserved(engine, reserved)
        with ExitStack() as sockets:
            async with stopped(pid_of(engine)):
                fill_queue(port_of(engine), sockets)
                if reserved:
                    async with connected(server):
                        pass
                else:
                    with pytest.raises(errors.ConnectionRejected, match="did not accept a connection in time"):
                        async with connected(server):
                            pass


def test_the_limit_of_a_process_is_reported_only_when_it_is_reached() -> None:
    command = [sys.executable, "-c", "print('ready', flush=True); input()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            assert reached_descriptor_limit(process.pid) is None
            with limited(process.pid, more=0) as limit:
                assert reached_descriptor_limit(process.pid) == limit
            assert reached_descriptor_limit(process.pid) is None
        finally:
            process.kill()


def test_the_limit_of_a_process_that_has_ended_is_unknown() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
        assert reached_descriptor_limit(process.pid) is None
