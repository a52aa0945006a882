"""A server that stops: what has arrived is finished, what comes later is refused, and all of it is bounded."""

import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Protocol

import anyio
import pytest
import trio
import trio.testing
from support.engines import GateEngine
from support.leaks import no_leaks
from support.raw import BINARY, RawPeer, connect_raw, frame, open_raw, response
from support.watched import Queries, ask_natively

from rayforce_trio import InProcessEngine, NativeEngine, NativeProcess, WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._codec import encode
from rayforce_trio._engines import Engine
from rayforce_trio._protocol import MessageType

LOCAL = "127.0.0.1"
GOING_AWAY = "the peer closed the connection with code 1001: the server is shutting down"
REQUEST = encode("1", MessageType.SYNC)
POST = encode("1", MessageType.ASYNC)
TOO_LATE = "closing: the server is shutting down, and did not start the query"


class Starts(Protocol):
    """A nursery of trio's, or a task group of anyio's."""

    def start_soon(self, function: Callable[..., Any], *arguments: Any) -> object: ...


class Asked:
    """Calls of one connection, each in a task of its own.

    Attributes:
        answers: what each query came to: a value, or the error's text.
    """

    def __init__(self, connection: WSClientConnection, nursery: Starts) -> None:
        self.answers: dict[str, Any] = {}
        self._connection = connection
        self._nursery = nursery

    def ask(self, *queries: str) -> None:
        for query in queries:
            self._nursery.start_soon(self._ask, query)

    async def _ask(self, query: str) -> None:
        try:
            self.answers[query] = (await self._connection.execute(query)).to_python()
        except errors.RayforceError as error:
            self.answers[query] = str(error)


@asynccontextmanager
async def serving(engine: Engine, **options: Any) -> AsyncIterator[WSServer]:
    """Serve in a nursery, so that the server can be stopped; the block is bounded, and leaves nothing behind."""
    with trio.fail_after(60):
        async with no_leaks(within=10), trio.open_nursery() as nursery:
            yield await nursery.start(WSServer(0, host=LOCAL, engine=engine, **options).serve)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def asking(server: WSServer) -> AsyncIterator[Asked]:
    async with WSClient(LOCAL, server.port).connect() as connection, trio.open_nursery() as nursery:
        yield Asked(connection, nursery)


async def closed(peer: RawPeer) -> int:
    """Take what comes up to the close, answer that, and return its code."""
    code = await peer.receive_close()
    await peer.send_close(code)
    return code


# What has arrived


@pytest.mark.trio
async def test_what_runs_and_what_waits_is_finished_in_a_native_engine_and_answered(queries: Queries) -> None:
    query = queries()
    async with serving(NativeProcess()) as server:
        async with asking(server) as calls, trio.open_nursery() as stopping:
            calls.ask(query.text)
            await query.begun()
            calls.ask("(+ 1 2)", "(+ 2 2)")
            await trio.testing.wait_all_tasks_blocked(0.05)
            port = server.port
            stopping.start_soon(server.stop)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(errors.ConnectError):
                await WSClient(LOCAL, port).connect()
            assert calls.answers == {}
            query.release()
        assert calls.answers == {query.text: query.value, "(+ 1 2)": 3, "(+ 2 2)": 4}
        assert query.has_ended


@pytest.mark.trio
async def test_the_end_of_the_block_waits_for_what_runs() -> None:
    engine = GateEngine()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            async with WSServer(0, host=LOCAL, engine=engine) as server:
                calls = Asked(await WSClient(LOCAL, server.port).connect(nursery), nursery)
                calls.ask("running", "waiting")
                await engine.until(begun=1)
                nursery.start_soon(release_when_stopping, server, engine)
            assert calls.answers == {"running": "released", "waiting": "released"}
            nursery.cancel_scope.cancel()


async def release_when_stopping(server: WSServer, engine: GateEngine) -> None:
    """Let the engine go on once nobody listens any more."""
    while True:
        try:
            async with WSClient(LOCAL, server.port).connect():
                pass
        except (errors.ConnectError, errors.RayforceValueError):
            break
    engine.release()


@pytest.mark.trio
async def test_posts_that_have_arrived_are_carried_out() -> None:
    engine = GateEngine()
    async with serving(engine) as server, trio.open_nursery() as nursery:
        with await open_raw(server.port) as peer:
            await peer.send(frame(POST) * 3)
            await engine.until(begun=1)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(server.stop)
            await trio.testing.wait_all_tasks_blocked()
            engine.release()
            assert await closed(peer) == 1001
        assert len(engine.begun) == 3


@pytest.mark.trio
@pytest.mark.parametrize("is_post", [False, True])
async def test_what_has_arrived_and_waits_for_room_is_carried_out(
    is_post: bool, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rayforce_trio._protocol._pipeline.MAX_WAITING_BYTES", 1000)
    last = encode(f"(set {name} 7)" + " " * 800, MessageType.ASYNC if is_post else MessageType.SYNC)
    messages = [encode("(til 3000000)", MessageType.SYNC), encode("1" + " " * 800, MessageType.SYNC), last]
    with trio.fail_after(30):
        async with WSServer(0, host=LOCAL) as server, trio.open_nursery() as nursery:
            with await open_raw(server.port, receive_buffer=4096) as peer:
                await peer.send(b"".join(map(frame, messages)))
                while server.statistics().requests.total + server.statistics().posts.total < 3:
                    await trio.lowlevel.checkpoint()
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(server.stop)
                await trio.testing.wait_all_tasks_blocked()
                assert await peer.receive_close() == 1001
                assert server.statistics().requests.abandoned == 0
        async with WSServer(0, host=LOCAL) as server, WSClient(LOCAL, server.port).connect() as connection:
            assert await connection.execute(name) == 7


@pytest.mark.trio
async def test_a_long_reply_is_sent_to_its_end_although_its_reader_is_slow() -> None:
    async with serving(InProcessEngine()) as server, trio.open_nursery() as nursery:
        with await open_raw(server.port, receive_buffer=4096) as peer:
            await peer.send_frame(encode("(til 2000000)", MessageType.SYNC))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(server.stop)
            await trio.testing.wait_all_tasks_blocked()
            received = 0
            while not received or not peer.fin:
                opcode, part = await peer.receive_frame()
                assert opcode in (BINARY, 0)
                received += len(part)
            assert received > 16_000_000
            assert await closed(peer) == 1001


@pytest.mark.trio
async def test_who_has_nothing_under_way_is_let_go_at_once() -> None:
    engine = GateEngine()
    async with serving(engine) as server, trio.open_nursery() as nursery:
        with await open_raw(server.port) as idle, await open_raw(server.port) as busy:
            await busy.send_frame(REQUEST)
            await engine.until(begun=1)
            nursery.start_soon(server.stop)
            assert await closed(idle) == 1001
            await engine.until(sessions=1)
            engine.release()
            assert (await busy.receive_frame())[0] == BINARY
            assert await closed(busy) == 1001


# What comes later


@pytest.mark.trio
async def test_a_request_that_comes_later_is_refused_in_its_turn() -> None:
    engine = GateEngine()
    async with serving(engine) as server:
        async with asking(server) as calls, trio.open_nursery() as stopping:
            calls.ask("running")
            await engine.until(begun=1)
            stopping.start_soon(server.stop)
            await trio.testing.wait_all_tasks_blocked()
            calls.ask("late", "later")
            await trio.testing.wait_all_tasks_blocked()
            assert calls.answers == {}
            engine.release()
        assert calls.answers == {"running": "released", "late": TOO_LATE, "later": TOO_LATE}
        assert len(engine.begun) == 1


@pytest.mark.trio
async def test_to_a_baseline_client_the_refusal_is_a_string() -> None:
    engine = GateEngine()
    async with serving(engine) as server, trio.open_nursery() as nursery:
        with await open_raw(server.port, subprotocol=None) as peer:
            await peer.send_frame(REQUEST)
            await engine.until(begun=1)
            nursery.start_soon(server.stop)
            await trio.testing.wait_all_tasks_blocked()
            await peer.send_frame(REQUEST)
            await trio.testing.wait_all_tasks_blocked()
            engine.release()
            assert b"released" in (await peer.receive_frame())[1]
            assert TOO_LATE.encode() in (await peer.receive_frame())[1]
            assert await closed(peer) == 1001


@pytest.mark.trio
async def test_who_goes_on_asking_does_not_hold_up_the_end(autojump_clock: trio.testing.MockClock) -> None:
    """Its first request that came too late shows that everything before was answered."""
    engine = GateEngine()
    async with serving(engine) as server, trio.open_nursery() as nursery:
        with await open_raw(server.port) as peer:

            async def flood() -> None:
                while await peer.send(frame(REQUEST) * 100):
                    pass

            await peer.send(frame(REQUEST) * 100)
            await engine.until(begun=1)
            since = trio.current_time()
            nursery.start_soon(server.stop)
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as flooding:
                flooding.start_soon(flood)
                engine.release()
                assert await peer.receive_close() == 1001
                flooding.cancel_scope.cancel()
            await peer.send_close(1001)
            peer.close()
    assert trio.current_time() - since < 10


@pytest.mark.trio
async def test_posts_that_come_later_are_not_carried_out_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    engine = GateEngine()
    async with serving(engine) as server, trio.open_nursery() as nursery:
        with await open_raw(server.port) as peer:
            await peer.send_frame(REQUEST)
            await engine.until(begun=1)
            nursery.start_soon(server.stop)
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(frame(POST) * 3)
            await trio.testing.wait_all_tasks_blocked()
            engine.release()
            assert await closed(peer) == 1001
    assert len(engine.begun) == 1
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(lines) == 1
    assert lines[0].endswith("3 posts arrived during the shutdown and will not be carried out")


# The end of the grace


@pytest.mark.trio
async def test_what_has_not_finished_then_is_stopped_in_the_engine(
    queries: Queries, native_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    query = queries()
    async with serving(NativeEngine(LOCAL, native_port)) as server:
        async with asking(server) as calls:
            calls.ask(query.text)
            await query.begun()
            calls.ask("(+ 1 2)")
            await trio.testing.wait_all_tasks_blocked(0.05)
            with trio.fail_after(5.2):
                await server.stop(grace=0.2)
        assert calls.answers == {query.text: GOING_AWAY, "(+ 1 2)": GOING_AWAY}
        with trio.fail_after(5):
            assert (await ask_natively(native_port, "(+ 1 2)")).value == 3
    assert not query.has_ended
    assert re.search(r"connection 1 \(.*\): the server stops with 2 unfinished requests and posts\n", caplog.text)


@pytest.mark.trio
@pytest.mark.parametrize("options", [{}, {"drain_timeout": 3.0}, {"drain_timeout": 0}], ids=str)
async def test_it_comes_when_it_should(autojump_clock: trio.testing.MockClock, options: dict[str, float]) -> None:
    engine = GateEngine()
    async with serving(engine, **options) as server, asking(server) as calls:
        calls.ask("running")
        await engine.until(begun=1)
        since = trio.current_time()
        await server.stop()
        assert trio.current_time() - since == pytest.approx(options.get("drain_timeout", 10.0), abs=0.5)
    assert engine.cancels
    assert calls.answers == {"running": GOING_AWAY}


@pytest.mark.trio
async def test_nobody_makes_it_last_longer_than_the_grace_and_five_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Not an engine that cannot be stopped, and not a peer that does not answer."""
    engine = GateEngine(stoppable=False)
    async with serving(engine) as server:
        with await open_raw(server.port) as silent, await open_raw(server.port) as gone:
            for peer in silent, gone:
                await peer.send(frame(REQUEST) + frame(POST))
            await engine.until(begun=2)
            since = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.stop)
                await trio.sleep(9)
                gone.close()
            assert 10 <= trio.current_time() - since <= 15
            assert await silent.receive_close() == 1001
        assert engine.sessions == 0


@pytest.mark.trio
async def test_a_peer_that_does_not_read_its_reply_does_not_make_it_last_longer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with serving(InProcessEngine()) as server:
        with await open_raw(server.port, receive_buffer=4096) as peer:
            await peer.send_frame(encode("(til 2000000)", MessageType.SYNC))
            assert (await peer._take(1)) == b"\x02"  # the first fragment of a binary message
            since = trio.current_time()
            await server.stop()
            assert 10 <= trio.current_time() - since <= 15


@pytest.mark.trio
async def test_without_a_grace_a_connection_with_nothing_to_do_is_closed_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(GateEngine()) as server, trio.open_nursery() as nursery:
        with await open_raw(server.port) as peer:
            nursery.start_soon(server.stop, 0)
            assert await closed(peer) == 1001
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.trio
async def test_a_second_stop_can_shorten_it(autojump_clock: trio.testing.MockClock) -> None:
    engine = GateEngine()
    async with serving(engine, drain_timeout=1000) as server, asking(server) as calls, trio.open_nursery() as nursery:
        calls.ask("running")
        await engine.until(begun=1)
        since = trio.current_time()
        nursery.start_soon(server.stop)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(server.stop, 2000)  # which it cannot make longer
        await server.stop(grace=1)
        assert trio.current_time() - since <= 6
    assert calls.answers == {"running": GOING_AWAY}


@pytest.mark.trio
async def test_cancelling_ends_it_within_two_seconds(autojump_clock: trio.testing.MockClock) -> None:
    engine = GateEngine()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server: WSServer = await nursery.start(WSServer(0, host=LOCAL, engine=engine).serve)
            peer = await open_raw(server.port)
            await peer.send_frame(REQUEST)
            await engine.until(begun=1)
            since = trio.current_time()
            nursery.start_soon(server.stop)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - since <= 3.5
    with peer:
        assert await peer.receive_close() == 1001
    assert engine.cancels
    assert engine.sessions == 0


@pytest.mark.trio
async def test_an_engine_that_is_lost_meanwhile_is_told_as_ever(queries: Queries) -> None:
    query, engine = queries(), NativeProcess()
    async with serving(engine) as server:
        async with asking(server) as calls, trio.open_nursery() as stopping:
            calls.ask(query.text)
            await query.begun()
            stopping.start_soon(server.stop)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert engine.pid is not None
            os.kill(engine.pid, signal.SIGKILL)
        assert calls.answers == {
            query.text: "the peer closed the connection with code 1011: the engine process disconnected"
        }


@pytest.mark.parametrize("seconds", [-1, float("nan"), "10", True, None])
def test_a_grace_that_is_none_is_an_error_at_once(seconds: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match=r"Invalid drain_timeout: .*Must be a number of seconds, at"):
        WSServer(0, drain_timeout=seconds)


@pytest.mark.trio
async def test_so_is_one_that_is_given_to_stop() -> None:
    async with WSServer(0, host=LOCAL) as server:
        with pytest.raises(errors.RayforceValueError, match=r"Invalid grace: -1\. Must be a number of seconds, at"):
            await server.stop(grace=-1)
        async with WSClient(LOCAL, server.port).connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3


# A program of its own

PROGRAM = f"""
import trio
from rayforce_trio import NativeProcess, WSServer
trio.run(WSServer(0, host={LOCAL!r}, engine=NativeProcess(), drain_timeout=60).run)
"""

PROGRAM_THAT_NEVER_SERVES = f"""
import trio
from rayforce_trio import InProcessEngine, WSServer

class NeverStarts(InProcessEngine):
    async def run(self, *, task_status):
        print("starting", flush=True)
        await trio.sleep_forever()

trio.run(WSServer(0, host={LOCAL!r}, engine=NeverStarts(), drain_timeout=60).run)
"""


@contextmanager
def started(source: str) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """Run a program; yields it and the first line that it prints."""
    child = subprocess.Popen(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert child.stdout is not None
        yield child, child.stdout.readline()
    finally:
        child.kill()
        child.communicate()


@contextmanager
def program() -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run a server as a program of its own; yields it and its port."""
    with started(PROGRAM) as (child, line):
        yield child, int(line.rpartition(":")[2])


both_signals = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


async def until_nobody_listens(port: int) -> None:
    with suppress(errors.ConnectError):
        while True:
            async with WSClient(LOCAL, port).connect():
                pass


@both_signals
@pytest.mark.anyio
async def test_a_signal_lets_a_query_finish(number: signal.Signals, queries: Queries) -> None:
    query = queries()
    with anyio.fail_after(60), program() as (child, port):
        async with WSClient(LOCAL, port).connect() as connection:
            async with anyio.create_task_group() as tasks:
                calls = Asked(connection, tasks)
                calls.ask(query.text)
                await query.begun()
                child.send_signal(number)
                await until_nobody_listens(port)
                calls.ask("(+ 1 2)")
                await anyio.wait_all_tasks_blocked()
                query.release()
            assert calls.answers.pop(query.text) == query.value
            assert calls.answers.pop("(+ 1 2)") in (TOO_LATE, GOING_AWAY)
            with pytest.raises(errors.ConnectionClosed, match=GOING_AWAY) as caught:
                await connection.execute("1")
            assert caught.value.going_away
        assert await anyio.to_thread.run_sync(child.wait, 30) == 0


@both_signals
@pytest.mark.trio
async def test_a_second_signal_ends_it_at_once(number: signal.Signals, queries: Queries) -> None:
    query = queries()
    with trio.fail_after(30), program() as (child, port):  # half of the grace
        async with WSClient(LOCAL, port).connect() as connection, trio.open_nursery() as nursery:
            calls = Asked(connection, nursery)
            calls.ask(query.text)
            await query.begun()
            child.send_signal(number)
            await until_nobody_listens(port)
            child.send_signal(number)
        assert calls.answers == {query.text: "the peer closed the connection with code 1001"}
        out, err = await trio.to_thread.run_sync(child.communicate)
        assert (child.returncode, out, err) == (0, "\nRayforce WebSocket Server stopped.\n", "")
    assert not query.has_ended


@both_signals
def test_while_the_engine_starts_the_first_signal_ends_it(number: signal.Signals) -> None:
    with started(PROGRAM_THAT_NEVER_SERVES) as (child, line):
        assert line == "starting\n"
        child.send_signal(number)
        out, err = child.communicate(timeout=30)
        assert (child.returncode, out, err) == (0, "\nRayforce WebSocket Server stopped.\n", "")


@pytest.mark.anyio
async def test_a_crash_is_no_going_away() -> None:
    with anyio.fail_after(30), program() as (child, port):
        async with WSClient(LOCAL, port).connect() as connection:
            await connection.execute("1")
            child.kill()
            with pytest.raises(errors.ConnectionLost):  # noqa: PT012 - some may be answered before
                while True:
                    await connection.execute("1")


# The delay before draining


async def is_well(port: int) -> int:
    """Return the status of the server's health."""
    with connect_raw(port) as peer:
        await peer.send(response("GET /healthz HTTP/1.1", {"Host": LOCAL}))
        return int((await peer.receive_head()).split()[1])


PROGRAM_WITH_A_DELAY = PROGRAM.replace("drain_timeout=60", "drain_delay=1000")


@both_signals
@pytest.mark.trio
async def test_a_signal_begins_the_delay_and_a_second_one_ends_it(number: signal.Signals) -> None:
    with trio.fail_after(60), started(PROGRAM_WITH_A_DELAY) as (child, line):
        port = int(line.rpartition(":")[2])
        assert await is_well(port) == 200
        child.send_signal(number)
        while await is_well(port) != 503:
            pass
        async with WSClient(LOCAL, port).connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3
        child.send_signal(number)
        out, err = await trio.to_thread.run_sync(child.communicate)
        assert (child.returncode, out, err) == (0, "\nRayforce WebSocket Server stopped.\n", "")


@pytest.mark.trio
async def test_during_the_delay_it_serves_and_accepts_and_is_not_healthy(
    mock_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "rayforce_trio.server")
    async with (
        serving(InProcessEngine(), drain_delay=30, drain_timeout=5) as server,
        WSClient(LOCAL, server.port).connect() as earlier,
        trio.open_nursery() as nursery,
    ):
        assert await is_well(server.port) == 200
        nursery.start_soon(server.stop)
        await trio.testing.wait_all_tasks_blocked()
        for jump in 0, 29:
            mock_clock.jump(jump)
            await trio.testing.wait_all_tasks_blocked()
            assert await is_well(server.port) == 503
            async with WSClient(LOCAL, server.port).connect() as later:
                assert await later.execute("(+ 1 2)") == 3
            assert await earlier.execute("(+ 1 2)") == 3
        assert "stopping: connections are drained in 30 seconds (drain_delay)" in caplog.text
        port = server.port
        mock_clock.autojump_threshold = 0
        await server.stop()
        with pytest.raises(errors.ConnectError):
            await WSClient(LOCAL, port).connect()
        with pytest.raises(errors.ConnectionClosed, match=GOING_AWAY):
            await earlier.execute("(+ 1 2)")


@pytest.mark.trio
@pytest.mark.parametrize("grace", [None, 0, 3])
async def test_the_grace_begins_after_the_delay(autojump_clock: trio.testing.MockClock, grace: float | None) -> None:
    engine = GateEngine()
    async with serving(engine, drain_delay=30, drain_timeout=5) as server, asking(server) as calls:
        calls.ask("running")
        await engine.until(begun=1)
        since = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.stop, grace)
            await trio.sleep(10)
            nursery.start_soon(server.stop, 100)  # which makes neither of them longer
        expected = 30 + (5 if grace is None else grace)
        assert trio.current_time() - since == pytest.approx(expected, abs=0.5)
    assert calls.answers == {"running": GOING_AWAY}


@pytest.mark.trio
async def test_cancelling_does_not_wait_for_the_delay(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server: WSServer = await nursery.start(WSServer(0, host=LOCAL, drain_delay=1000).serve)
            since = trio.current_time()
            nursery.start_soon(server.stop)
            await trio.sleep(1)
            nursery.cancel_scope.cancel()
        assert trio.current_time() - since <= 3.5


@pytest.mark.trio
async def test_a_server_that_has_stopped_after_a_delay_can_serve_again(autojump_clock: trio.testing.MockClock) -> None:
    server = WSServer(0, host=LOCAL, drain_delay=7)
    for _ in range(2):
        since = trio.current_time()
        async with server:
            assert await is_well(server.port) == 200
        assert trio.current_time() - since == pytest.approx(7, abs=0.5)


@pytest.mark.parametrize("seconds", [-1, float("nan"), "10", True, None])
def test_an_invalid_delay_is_an_error_at_once(seconds: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match=r"Invalid drain_delay: .*Must be a number of seconds, at"):
        WSServer(0, drain_delay=seconds)
