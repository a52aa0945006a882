"""Engines that a client has disabled: they are detected, and restarted or reported; a busy engine is neither."""

import os
import select
import signal
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from support.engine_contract import ENDLESS, ask, open_session, request, running
from support.engine_processes import LOCAL, Log, ask_on, connected, pid_of, serving
from support.native import native_server
from support.opening import health_status
from support.polling import until_equal
from support.watched import Queries

from rayforce_trio import NativeEngine, NativeProcess, RoundRobinEngine, WSClientConnection, WSServer, errors
from rayforce_trio._engines import _monitor, _native, _process
from rayforce_trio._engines._native_session import NativeSession
from rayforce_trio._engines._unread import unread_bytes
from rayforce_trio._engines._watchdog import WatchdogState
from rayforce_trio._protocol import CANCELLED, Failure

SOON = 0.2  # seconds
REFUSE_ALL = "(do (set .ipc.on.auth (fn [user password] false)) null)"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the times that are seconds otherwise."""
    monkeypatch.setattr(_native, "STOP_TIMEOUT", SOON)
    monkeypatch.setattr(_process, "STOP_TIMEOUT", SOON)
    monkeypatch.setattr(_monitor, "_FIRST_PROBE_DELAY", 0.01)
    monkeypatch.setattr(_monitor, "_MAX_PROBE_DELAY", 0.1)


def server_of(engine: NativeProcess) -> NativeEngine:
    assert engine._native is not None
    return engine._native


async def until_state(engine: NativeEngine, state: WatchdogState) -> None:
    group = engine._group
    with trio.fail_after(30):
        while group.watchdog.state is not state:
            await group.state_changed.wait()


async def until_health(server: WSServer, status: int) -> None:
    """Wait until `/healthz` has this status."""
    await until_equal(status, lambda: health_status(server.port))


ATTACKS = {
    "a program that does not end": lambda _: '(.sys.exec "sleep 1000")',
    "a call of itself": lambda engine: f'(.ipc.open "{LOCAL}:{server_of(engine).port}")',
    "SIGSTOP": lambda _: '(.sys.exec "kill -STOP $PPID")',
}
Attack = Callable[[NativeProcess], str]


@asynccontextmanager
async def stuck(connection: WSClientConnection, queries: Queries, work: str) -> AsyncIterator[None]:
    """Run the block while a client waits for a query that has begun; at its end, the client cancels the query."""

    query = queries(work)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.execute, query.text)
        await query.begun()
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.trio
@pytest.mark.parametrize("leaves", [False, True], ids=["the client cancels", "the client leaves"])
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
async def test_a_process_that_ignores_a_stop_is_restarted(
    attack: Attack, leaves: bool, log: Log, queries: Queries
) -> None:
    engine = NativeProcess(stop_timeout=SOON)
    async with serving(engine) as server, connected(server) as other:
        pid = pid_of(engine)
        async with connected(server) as connection:
            async with stuck(connection, queries, attack(engine)):
                pass
            if not leaves:
                await log.told(
                    "has not responded to a stop for 0.2 seconds, and no other query explains that; killing it"
                )
        await log.told(f"the engine process {pid} was killed by signal 9; restarting it now")
        with pytest.raises(errors.ConnectionClosed, match="1011"):
            await other.execute("1")
        async with connected(server) as connection:
            assert await ask_on(connection, "(+ 1 2)") == 3
        assert pid_of(engine) != pid


@pytest.mark.trio
async def test_requests_that_nobody_stops_do_not_hide_a_disabled_process(log: Log, queries: Queries) -> None:
    """They were sent before the stop, and the process has not read them."""
    engine = NativeProcess(stop_timeout=SOON)
    query, sleep = queries(), queries('(.sys.exec "sleep 1000")')

    async def lose(connection: WSClientConnection, text: str) -> None:
        with pytest.raises(errors.ConnectionClosed, match="1011"):
            await connection.execute(text)

    async with (
        serving(engine) as server,
        connected(server) as busy,
        connected(server) as attacker,
        connected(server) as waiting,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(busy.execute, query.text)
        await query.begun()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as attack:
                attack.start_soon(attacker.execute, sleep.text)
                await until_in_flight(engine, 2)
                nursery.start_soon(lose, waiting, "(+ 1 2)")
                await until_in_flight(engine, 3)
                query.release()
                await sleep.begun()
                scope.cancel()
        await log.told("; killing it")


async def until_in_flight(engine: NativeProcess, count: int) -> None:
    """Wait until `count` requests have been sent to the process and are unanswered."""
    group = server_of(engine)._group
    with trio.fail_after(30):
        while sum(session.awaiting_reply for session in group._sessions) < count:
            await trio.lowlevel.checkpoint()


@pytest.mark.trio
@pytest.mark.parametrize("unread_is_known", [True, False])
async def test_being_busy_never_counts(
    unread_is_known: bool, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither for the stop of a request that waits, nor for one whose session is closed."""
    if not unread_is_known:
        monkeypatch.setattr(_native, "unread_bytes", lambda _: {})
    engine, query = NativeProcess(stop_timeout=SOON), queries()
    async with running(engine):
        pid = pid_of(engine)
        async with open_session(engine) as busy, open_session(engine) as waiting, trio.open_nursery() as nursery:
            answers: list[Any] = []

            async def run() -> None:
                answers.append(await ask(busy, query.text))

            nursery.start_soon(run)
            await query.begun()
            async with trio.open_nursery() as calls:
                calls.start_soon(waiting.request, request("1"))
                await until_in_flight(engine, 2)
                waiting.cancel()
                await until_state(server_of(engine), WatchdogState.BUSY)
                async with open_session(engine) as leaving:
                    with trio.move_on_after(0):
                        await leaving.request(request("2"))
                    leaving.cancel()
                await until_state(server_of(engine), WatchdogState.BUSY)
                query.release()
            await until_state(server_of(engine), WatchdogState.OBEDIENT)
        assert answers == [query.value]
        assert pid_of(engine) == pid


@pytest.mark.trio
async def test_a_query_that_obeys_its_stop_is_no_reason_for_a_restart(queries: Queries) -> None:
    engine = NativeProcess(stop_timeout=SOON)
    async with running(engine), open_session(engine) as session:
        pid = pid_of(engine)
        for _ in range(20):
            replies: list[Any] = []
            assert session.start(request(ENDLESS), replies.append)
            session.cancel()
            await until_state(server_of(engine), WatchdogState.OBEDIENT)
        assert replies == [Failure(CANCELLED, "")]
        assert pid_of(engine) == pid


@pytest.mark.trio
async def test_a_process_that_refuses_the_servers_credentials_is_restarted(log: Log) -> None:
    engine = NativeProcess(stop_timeout=SOON)
    async with serving(engine) as server:
        pid = pid_of(engine)
        async with connected(server) as connection:
            assert await ask_on(connection, REFUSE_ALL) is None
        async with connected(server) as connection:  # it waits for the restart
            assert await ask_on(connection, "(+ 1 2)") == 3
        await log.told(f"the engine process {pid} rejects the user name or the password of this server; killing it")
        assert pid_of(engine) != pid


@pytest.mark.trio
async def test_a_process_that_is_not_to_be_killed_is_reported(log: Log, queries: Queries) -> None:
    """Once, and only as long as it is disabled."""
    engine = NativeProcess()
    async with serving(engine) as server:
        pid = pid_of(engine)
        assert await health_status(server.port) == 200
        stop = '(.sys.exec "kill -STOP $PPID")'
        async with connected(server) as connection, stuck(connection, queries, stop):
            pass
        await until_health(server, 503)
        for _ in range(5):
            assert await health_status(server.port) == 503
        os.kill(pid, signal.SIGCONT)
        await until_health(server, 200)
        await log.told("the engine process works again")
        assert len(log.saying("has not responded to a stop for 0.2 seconds")) == 1
        async with connected(server) as connection:
            assert await ask_on(connection, "(+ 1 2)") == 3
        assert pid_of(engine) == pid


@pytest.mark.trio
async def test_refused_credentials_are_reported_until_a_session_is_accepted(log: Log) -> None:
    engine = NativeProcess()
    async with serving(engine) as server, connected(server) as connection:
        assert await ask_on(connection, REFUSE_ALL) is None
        with pytest.raises(errors.ConnectionRejected, match="rejected the user name or the password"):
            async with connected(server):
                pass
        await until_health(server, 503)
        await log.told("the engine process rejects the user name or the password of this server")
        assert await ask_on(connection, "(do (set .ipc.on.auth (fn [user password] true)) null)") is None
        await until_health(server, 200)


@pytest.mark.trio
async def test_an_engine_elsewhere_that_ignores_a_stop_is_reported_while_replicas_are_well() -> None:
    with native_server() as native:
        engine = NativeEngine(LOCAL, native.port)
        async with serving(engine) as server:
            native.stop()
            try:
                async with connected(server) as connection:
                    with trio.move_on_after(0.05):
                        await connection.execute("1")
                await until_health(server, 503)
                assert RoundRobinEngine([engine]).is_down
                assert not RoundRobinEngine([engine, NativeEngine(LOCAL, 1)]).is_down
            finally:
                native.resume()
            await until_health(server, 200)


@pytest.mark.parametrize(
    ("arguments", "seconds"),
    [
        ({}, None),
        ({"read_only": True}, 30.0),
        ({"stop_timeout": "auto"}, None),
        ({"read_only": True, "stop_timeout": "auto"}, 30.0),
        ({"read_only": True, "stop_timeout": None}, None),
        ({"stop_timeout": 5}, 5),
        ({"stop_timeout": 0.5}, 0.5),
    ],
    ids=str,
)
def test_only_read_only_processes_are_restarted_by_default(
    arguments: Mapping[str, Any], seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    assert NativeProcess(**arguments)._stop_timeout == seconds


@pytest.mark.trio
async def test_the_unread_bytes_of_a_server_are_those_that_it_has_not_read(native_port: int) -> None:
    engine = NativeEngine(LOCAL, native_port)
    async with open_session(engine) as busy, open_session(engine) as waiting, trio.open_nursery() as nursery:
        assert isinstance(busy, NativeSession)
        assert isinstance(waiting, NativeSession)
        nursery.start_soon(busy.request, request(ENDLESS))
        with trio.fail_after(30):
            while not busy.awaiting_reply or unread_bytes(native_port)[busy._stream.local_port]:
                await trio.lowlevel.checkpoint()
        nursery.start_soon(waiting.request, request("1"))
        with trio.fail_after(30):
            while not unread_bytes(native_port)[waiting._stream.local_port]:
                await trio.lowlevel.checkpoint()
        unread = unread_bytes(native_port)
        assert unread[waiting._stream.local_port] == len(request("1"))
        assert busy.may_be_running(unread)
        assert not waiting.may_be_running(unread)
        assert waiting.may_be_running({})
        busy.cancel()


def test_without_the_table_of_connections_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._engines._unread._TABLE", Path("/proc/none"))
    assert unread_bytes(1) == {}


@pytest.mark.trio
async def test_an_engine_is_not_blamed_if_this_process_itself_stood_still(
    log: Log, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its reply has arrived, but nobody has read it yet when the deadline has passed."""
    engine = NativeProcess(stop_timeout=SOON)
    query = queries(ENDLESS)
    async with running(engine), open_session(engine) as session:
        pid, replies = pid_of(engine), list[Any]()
        assert isinstance(session, NativeSession)
        assert session.start(request(query.text), replies.append)
        await query.begun()
        session.cancel()
        arrived, _, _ = select.select([session._stream._socket], [], [], 30)
        assert arrived
        clock = type(trio.lowlevel.current_clock())
        now = clock.current_time
        monkeypatch.setattr(clock, "current_time", lambda self: now(self) + 2 * SOON)
        await until_state(server_of(engine), WatchdogState.OBEDIENT)
        assert replies == [Failure(CANCELLED, "")]
        assert pid_of(engine) == pid
    assert not log.saying("ignored")
