"""`RoundRobinEngine`: who gets the sessions, with real servers, and with engines and a clock of the test's own."""

import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from support.engine_contract import check_engine, open_session, request, running, value
from support.engine_processes import LOCAL, Family, lives, pid_of, serving
from support.leaks import no_leaks
from support.native import NativeServer, native_server
from support.sweep import cancelled_at, swept
from support.watched import Queries, parent_of

from rayforce_trio import NativeEngine, NativeProcess, RoundRobinEngine, WSClient, WSServer, errors
from rayforce_trio._engines import Engine, Session
from rayforce_trio._protocol import Failure, Frame, Reply, Result, string_frame

# Engines of the test's own


class FakeEngine(Engine):
    """Answers every request with its name, while it is up.

    Attributes:
        up: whether sessions can be opened.
        busy: whether it does not answer yet in those that are.
        tried: the times at which that was tried.
        sessions: how many sessions are open.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.up = True
        self.busy = False
        self.tried: list[float] = []
        self.sessions = 0

    def __repr__(self) -> str:
        return f"FakeEngine({self.name!r})"

    async def open_session(self) -> Session:
        self.tried.append(trio.current_time())
        await trio.sleep(0.001)
        if not self.up:
            raise errors.EngineError(f"{self.name} is down")
        self.sessions += 1
        return _FakeSession(self)


class _FakeSession(Session):
    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.ready = not engine.busy

    async def request(self, frame: Frame) -> Reply:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        return Result(string_frame(self._engine.name))

    async def post(self, frame: Frame) -> Failure | None:  # noqa: ARG002
        await trio.lowlevel.checkpoint()
        return None

    def cancel(self) -> None:
        pass

    async def aclose(self) -> None:
        self._engine.sessions -= 1
        await trio.lowlevel.checkpoint()


def fakes(names: str) -> list[FakeEngine]:
    return [FakeEngine(name) for name in names]


async def who(engine: Engine) -> str:
    """Return the name of the engine that a new session goes to."""
    async with open_session(engine) as session:
        return str(value(await session.request(request("1"))))


async def sequence(engine: Engine, length: int) -> str:
    return "".join([await who(engine) for _ in range(length)])


@pytest.mark.trio
async def test_sessions_go_to_one_engine_after_the_other(autojump_clock: trio.testing.MockClock) -> None:
    async with no_leaks(), running(RoundRobinEngine(fakes("abc"))) as engine:
        assert await sequence(engine, 7) == "abcabca"


@pytest.mark.trio
async def test_sessions_opened_at_once_are_spread_too(autojump_clock: trio.testing.MockClock) -> None:
    engines = fakes("abc")
    async with running(RoundRobinEngine(engines)) as engine:
        sessions: list[Session] = []

        async def open_one() -> None:
            sessions.append(await engine.open_session())

        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(open_one)
        assert [one.sessions for one in engines] == [3, 3, 3]
        for session in sessions:
            await session.aclose()


@pytest.mark.trio
async def test_one_that_is_down_is_passed_over_at_once(autojump_clock: trio.testing.MockClock) -> None:
    engines = fakes("abc")
    b = engines[1]
    b.up = False
    async with running(RoundRobinEngine(engines)) as engine:
        assert await sequence(engine, 6) == "acacac"
        assert len(b.tried) == 1
        assert trio.current_time() - b.tried[0] < 0.1


@pytest.mark.trio
async def test_one_that_is_down_is_tried_again_with_growing_pauses(autojump_clock: trio.testing.MockClock) -> None:
    a, b = engines = fakes("ab")
    b.up = False
    async with running(RoundRobinEngine(engines)) as engine:
        await sequence(engine, 2)
        await trio.sleep(60)
        pauses = [later - earlier for earlier, later in zip(b.tried, b.tried[1:], strict=False)]
        assert pauses == pytest.approx([0.5, 1, 2, 4, 8, 10, 10, 10, 10], abs=0.01)
        assert len(a.tried) == 2


@pytest.mark.trio
async def test_one_that_is_back_takes_its_turn_again(autojump_clock: trio.testing.MockClock) -> None:
    a, b = engines = fakes("ab")
    b.up = False
    async with running(RoundRobinEngine(engines)) as engine:
        assert await sequence(engine, 4) == "aaaa"
        b.up = True
        assert await sequence(engine, 2) == "aa"  # nobody knows yet
        await trio.sleep(0.6)
        assert Counter(await sequence(engine, 6)) == {"a": 3, "b": 3}
        assert (a.sessions, b.sessions) == (0, 0)
        tried = len(b.tried)
        await trio.sleep(60)
        assert len(b.tried) == tried  # it is not looked after any more


@pytest.mark.trio
async def test_pauses_are_short_again_for_one_that_was_back(autojump_clock: trio.testing.MockClock) -> None:
    _, b = engines = fakes("ab")
    async with running(RoundRobinEngine(engines)) as engine:
        for _ in range(2):
            b.up = False
            await sequence(engine, 2)
            await trio.sleep(5)
            b.up = True
            await trio.sleep(5)
            b.tried.clear()
            assert "b" in await sequence(engine, 2)
        b.up = False
        await sequence(engine, 2)
        down_since = b.tried[-1]
        await trio.sleep(0.6)
        assert b.tried[-1] - down_since == pytest.approx(0.5, abs=0.01)


@pytest.mark.trio
async def test_while_all_are_down_each_is_tried_for_every_session(autojump_clock: trio.testing.MockClock) -> None:
    engines = fakes("abc")
    for one in engines:
        one.up = False
    async with running(RoundRobinEngine(engines)) as engine:
        for number in range(1, 4):
            with pytest.raises(errors.EngineError) as caught:
                await engine.open_session()
            assert sorted(str(caught.value).split("; ")) == ["a is down", "b is down", "c is down"]
            assert [len(one.tried) for one in engines] == [number] * 3
        engines[1].up = True
        assert await sequence(engine, 3) == "bbb"


@pytest.mark.trio
async def test_many_failures_at_once_start_one_retry(autojump_clock: trio.testing.MockClock) -> None:
    _, b = engines = fakes("ab")
    b.up = False
    async with running(RoundRobinEngine(engines)) as engine:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(who, engine)
        b.tried.clear()
        await trio.sleep(2)
        assert len(b.tried) == 2


@pytest.mark.trio
async def test_ended_it_retries_nothing_and_knows_nothing_when_it_runs_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    _, b = engines = fakes("ab")
    engine = RoundRobinEngine(engines)
    b.up = False
    async with no_leaks():
        async with running(engine):
            assert await sequence(engine, 3) == "aaa"
        b.tried.clear()
        await trio.sleep(60)
        assert not b.tried
        b.up = True
        async with running(engine):
            assert set(await sequence(engine, 2)) == {"a", "b"}


@pytest.mark.trio
async def test_cancelled_while_it_retries_it_leaves_no_session_open(autojump_clock: trio.testing.MockClock) -> None:
    a, b = engines = fakes("ab")
    b.up = False
    async with no_leaks(), running(RoundRobinEngine(engines)) as engine:
        await sequence(engine, 2)
        b.up = True
        await trio.sleep_until(b.tried[0] + 0.5015)  # in the middle of a try
        assert len(b.tried) == 2
    assert (a.sessions, b.sessions) == (0, 0)


@pytest.mark.trio
async def test_one_that_is_busy_is_passed_over_until_it_is_not(autojump_clock: trio.testing.MockClock) -> None:
    a, b = engines = fakes("ab")
    async with no_leaks(), running(RoundRobinEngine(engines)) as engine:
        b.busy = True
        assert await sequence(engine, 5) == "aaaaa"
        assert (a.sessions, b.sessions) == (0, 0)
        b.busy = False
        assert Counter(await sequence(engine, 6)) == {"a": 3, "b": 3}


@pytest.mark.trio
async def test_when_all_that_are_up_are_busy_one_of_them_is_waited_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    a, b, c = engines = fakes("abc")
    a.up, b.busy, c.busy = False, True, True
    async with no_leaks(), running(RoundRobinEngine(engines)) as engine:
        for _ in range(4):
            async with open_session(engine) as session:
                assert value(await session.request(request("1"))) in {"b", "c"}
                assert b.sessions + c.sessions == 1
        assert (b.sessions, c.sessions) == (0, 0)


@pytest.mark.trio
async def test_cancelled_at_any_point_opening_leaves_no_session_open(autojump_clock: trio.testing.MockClock) -> None:
    a, b, c = engines = fakes("abc")

    async def run(step: int) -> bool:
        a.busy, b.up, c.busy = True, False, True
        async with running(RoundRobinEngine(engines)) as engine:
            with cancelled_at(step, of_all_tasks=False) as (scope,):
                await (await engine.open_session()).aclose()
        assert [one.sessions for one in engines] == [0, 0, 0]
        return scope.cancelled_caught

    assert await swept(run) >= 4


class Failing(FakeEngine):
    """Fails to start, or once it is told to."""

    def __init__(self, fails: trio.Event | None = None) -> None:
        super().__init__("failing")
        self.fails = fails

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        if self.fails is not None:
            task_status.started()
            await self.fails.wait()
        raise errors.EngineError("it failed")


@pytest.mark.trio
async def test_one_that_cannot_start_is_an_error_for_all() -> None:
    async with no_leaks():
        with pytest.raises(errors.EngineError, match=r"^it failed$"):
            await WSServer(0, host=LOCAL, engine=RoundRobinEngine([FakeEngine("a"), Failing()])).serve()


@pytest.mark.trio
async def test_one_that_ends_ends_the_server() -> None:
    fails = trio.Event()

    async def serve() -> None:
        async with WSServer(0, host=LOCAL, engine=RoundRobinEngine([FakeEngine("a"), Failing(fails)])):
            fails.set()
            await trio.sleep_forever()

    async with no_leaks():
        with pytest.raises(errors.EngineError, match=r"^it failed$"):
            await serve()


@pytest.mark.parametrize(
    "engines", [[], (), [1], [FakeEngine("a"), None], [NativeEngine], "ab", 5, None, FakeEngine("a")], ids=str
)
def test_what_is_no_engine_is_refused(engines: Any) -> None:
    with pytest.raises(errors.RayforceValueError, match=r"Invalid engines: .*Must be a list of one or more engines"):
        RoundRobinEngine(engines)


def test_any_iterable_of_engines_will_do() -> None:
    assert repr(RoundRobinEngine(iter(fakes("ab")))) == "RoundRobinEngine([FakeEngine('a'), FakeEngine('b')])"


# Real ones


@contextmanager
def servers(count: int) -> Iterator[list[NativeServer]]:
    """Native servers, each of which has its number as `who`."""
    with ExitStack() as stack:
        yield [stack.enter_context(native_server(script=f"(set who {number})")) for number in range(count)]


def over(servers: list[NativeServer]) -> RoundRobinEngine:
    return RoundRobinEngine([NativeEngine(LOCAL, server.port) for server in servers])


async def connect(server: WSServer, nursery: trio.Nursery) -> tuple[Any, int]:
    """Return a new connection, and the number of the native server behind it."""
    connection = await WSClient(LOCAL, server.port).connect(nursery)
    return connection, (await connection.execute("who")).to_python()


async def whose(server: WSServer) -> int:
    """Return the number of the native server that a new connection gets."""
    async with WSClient(LOCAL, server.port).connect() as connection:
        return int((await connection.execute("who")).to_python())


@asynccontextmanager
async def nursery_for_connections() -> AsyncIterator[trio.Nursery]:
    async with trio.open_nursery() as nursery:
        yield nursery
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_it_keeps_the_contract_of_engines(name: str) -> None:
    with native_server() as native:
        await check_engine(lambda: RoundRobinEngine([NativeEngine(LOCAL, native.port)]), name, stops=True)


@pytest.mark.trio
async def test_connections_are_spread_evenly_and_stay_where_they_are() -> None:
    with servers(3) as natives:
        async with serving(over(natives)) as server, nursery_for_connections() as nursery:
            connections = [await connect(server, nursery) for _ in range(9)]
            assert Counter(number for _, number in connections) == {0: 3, 1: 3, 2: 3}
            for _ in range(3):
                for connection, number in connections:
                    assert (await connection.execute("who")).to_python() == number


@pytest.mark.trio
async def test_a_dead_one_takes_its_connections_with_it_and_gets_no_others() -> None:
    with servers(3) as natives:
        async with serving(over(natives)) as server, nursery_for_connections() as nursery:
            connections = [await connect(server, nursery) for _ in range(3)]
            natives[1].kill()
            for connection, number in connections:
                if number == 1:
                    with pytest.raises(errors.ConnectionClosed, match=f"code 1011: .*:{natives[1].port} disconnected"):
                        await connection.execute("who")
                else:
                    assert (await connection.execute("who")).to_python() == number
            assert Counter([await whose(server) for _ in range(6)]) == {0: 3, 2: 3}


@pytest.mark.trio
async def test_when_all_are_dead_clients_are_told_why_of_each() -> None:
    with servers(3) as natives:
        async with serving(over(natives)) as server:
            for native in natives:
                native.kill()
            for _ in range(2):
                with pytest.raises(errors.ConnectionRejected) as caught:
                    await whose(server)
                assert caught.value.status == 503
                for native in natives:
                    assert re.search(
                        rf"the engine at {LOCAL}:{native.port} cannot be reached: .*refused", caught.value.body
                    )


@pytest.mark.trio
async def test_a_hanging_one_is_passed_over_and_back_when_it_goes_on() -> None:
    with servers(2) as natives:
        async with serving(over(natives)) as server:
            assert {await whose(server) for _ in range(2)} == {0, 1}
            natives[1].stop()
            assert [await whose(server) for _ in range(3)] == [0, 0, 0]
            natives[1].resume()
            while await whose(server) != 1:
                await trio.lowlevel.checkpoint()


@pytest.mark.trio
async def test_a_busy_one_is_passed_over_and_back_when_it_has_done(queries: Queries) -> None:
    query = queries()
    with servers(2) as natives:
        async with serving(over(natives)) as server, nursery_for_connections() as nursery:
            connections = {number: connection for connection, number in [await connect(server, nursery) for _ in "ab"]}
            nursery.start_soon(connections[1].execute, query.text)
            await query.begun()
            assert [await whose(server) for _ in range(3)] == [0, 0, 0]
            query.release()
            while await whose(server) != 1:
                await trio.lowlevel.checkpoint()


@pytest.mark.trio
async def test_processes_of_its_own_are_gone_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = Family()
    monkeypatch.setenv(*family.variable)
    processes = []
    for number in range(2):
        script = tmp_path / f"{number}.rfl"
        script.write_text(f"(set who {number})")
        processes.append(NativeProcess(script))
    async with serving(RoundRobinEngine(processes)) as server:
        assert Counter([await whose(server) for _ in range(4)]) == {0: 2, 1: 2}
        pids = {pid_of(process) for process in processes}
        assert family.pids() == pids | {parent_of(pid) for pid in pids}
    assert not any(lives(pid) for pid in pids)
    assert not family.pids()
