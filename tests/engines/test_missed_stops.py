"""Stops that the engine misses because they arrive at the moment when it begins the request."""

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from support.engine_contract import ENDLESS, ask, open_session, request
from support.fake_engine import HELLO, HELLO_ANSWER, STOP, FakeEngine, FakeSession, error_frame, fake_engine
from support.leaks import no_leaks
from support.native import native_server
from support.sweep import cancelled_at, swept

from rayforce_trio import NativeEngine
from rayforce_trio._engines import Session, _native, _native_session, _wakeup
from rayforce_trio._engines._native_session import NativeSession
from rayforce_trio._engines._wakeup import StopReminder, WakeupConnection
from rayforce_trio._protocol import CANCELLED, Failure, Reply, Result
from rayforce_trio._streams import TcpStream

LOCAL = "127.0.0.1"


class Wakeups:
    """The wake-ups that a fake engine has received.

    Attributes:
        count: how many there were.
        connections: how many connections they came on.
        reset_after: the connection that carries this wake-up is reset.
    """

    def __init__(self) -> None:
        self.count = 0
        self.connections = 0
        self.reset_after: int | None = None
        self._received = trio.Event()

    async def receive(self, connection: FakeSession) -> None:
        self.connections += 1
        while True:
            self.count += 1
            self._received.set()
            self._received = trio.Event()
            if self.count == self.reset_after:
                connection.reset()
                return
            assert await connection.take(1) == STOP

    async def until(self, count: int) -> None:
        with trio.fail_after(20):
            while self.count < count:
                await self._received.wait()


@asynccontextmanager
async def deaf_engine(wakeups: Wakeups, *, obeys_after: int) -> AsyncIterator[FakeEngine]:
    """Run an engine that misses every stop until it has been woken this many times."""

    async def serve(connection: FakeSession) -> None:
        connection.receive_stops_inline()
        first = await connection.take(1)
        if first == STOP:
            await wakeups.receive(connection)
            return
        assert first + await connection.take(1) == HELLO
        await connection.send(HELLO_ANSWER)
        while True:
            await connection.receive_request()
            assert await connection.take(1) == STOP
            await wakeups.until(obeys_after)
            await connection.send(error_frame(CANCELLED))

    async with fake_engine(serve, hello=None) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _soon_reminded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_wakeup, "_FIRST_REMINDER", 0.001)
    monkeypatch.setattr(_native_session, "STOP_TIMEOUT", 20.0)  # the machine may be busy


async def stopped_reply(session: Session) -> Reply:
    """Return what is answered to a request that is stopped as soon as it was sent."""
    replies: list[Reply] = []
    answered = trio.Event()

    def answer(reply: Reply) -> None:
        replies.append(reply)
        answered.set()

    with trio.fail_after(20):
        assert session.start(request(ENDLESS), answer)
        session.cancel()
        await answered.wait()
    return replies[0]


class CountingWakeup(WakeupConnection):
    """Attributes: `count`, how often it was to wake the engine."""

    def __init__(self) -> None:
        self.count = 0

    async def ensure_connected(self) -> None:
        await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        self.count += 1


@pytest.mark.trio
@pytest.mark.parametrize("run_before_reply", [False, True])
async def test_reminders_end_when_the_reply_begins(
    autojump_clock: trio.testing.MockClock, run_before_reply: bool
) -> None:
    """Also if the reply begins before the task of the reminders has noticed the stop."""
    wakeup = CountingWakeup()
    reminder = StopReminder(wakeup)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reminder.run)
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            reminder.stop_sent()
            if run_before_reply:
                await trio.sleep(10)
                assert wakeup.count > 10
            reminder.reply_begun()
            wakeup.count = 0
            await trio.sleep(10)
            assert wakeup.count == 0
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_reminders_continue_when_they_are_run_again(autojump_clock: trio.testing.MockClock) -> None:
    wakeup = CountingWakeup()
    reminder = StopReminder(wakeup)
    reminder.stop_sent()
    for _ in range(2):
        wakeup.count = 0
        with trio.move_on_after(10):
            await reminder.run()
        assert wakeup.count > 10


@pytest.mark.trio
async def test_the_engine_is_reminded_until_it_obeys() -> None:
    wakeups = Wakeups()
    async with (
        no_leaks(),
        deaf_engine(wakeups, obeys_after=3) as fake,
        open_session(NativeEngine(LOCAL, fake.port)) as one,
    ):
        assert await stopped_reply(one) == Failure(CANCELLED, "")
        assert wakeups.count >= 3
        assert await stopped_reply(one) == Failure(CANCELLED, "")


@pytest.mark.trio
async def test_sessions_share_one_wakeup_connection_while_there_is_a_session() -> None:
    wakeups = Wakeups()
    async with no_leaks(), deaf_engine(wakeups, obeys_after=1) as fake:
        engine = NativeEngine(LOCAL, fake.port)
        async with open_session(engine) as one:
            async with open_session(engine) as other:
                assert await stopped_reply(other) == Failure(CANCELLED, "")
            wakeups.count = 0
            assert await stopped_reply(one) == Failure(CANCELLED, "")
            assert wakeups.connections == 1
        wakeups.count = 0
        async with open_session(engine) as third:
            assert await stopped_reply(third) == Failure(CANCELLED, "")
        assert wakeups.connections == 2


@pytest.mark.trio
@pytest.mark.parametrize("wakeups_before", [0, 1])
async def test_a_session_that_is_closed_reminds_the_engine_too(wakeups_before: int) -> None:
    wakeups = Wakeups()
    async with no_leaks(), deaf_engine(wakeups, obeys_after=wakeups_before + 3) as fake:
        session = await NativeEngine(LOCAL, fake.port).open_session()
        assert isinstance(session, NativeSession)
        assert session.start(request(ENDLESS), lambda _: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            if wakeups_before:
                session.cancel()
                await wakeups.until(wakeups_before)
            nursery.cancel_scope.cancel()
        await session.aclose()
        assert not session.awaiting_reply
        assert wakeups.count >= wakeups_before + 3


@pytest.mark.trio
async def test_a_wakeup_connection_that_breaks_is_replaced_while_its_sessions_live_on() -> None:
    wakeups = Wakeups()
    wakeups.reset_after = 1
    async with (
        no_leaks(),
        deaf_engine(wakeups, obeys_after=3) as fake,
        open_session(NativeEngine(LOCAL, fake.port)) as session,
    ):
        assert await stopped_reply(session) == Failure(CANCELLED, "")
        assert wakeups.connections == 2


@pytest.mark.trio
async def test_a_wakeup_connection_that_cannot_be_replaced_costs_nothing_but_the_reminders(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempted = trio.Event()

    async def refuse(*_: object) -> TcpStream:
        attempted.set()
        raise OSError(errno.EMFILE, "too many open files")

    async def serve(connection: FakeSession) -> None:
        connection.receive_stops_inline()
        first = await connection.take(1)
        if first == STOP:
            connection.reset()
            return
        assert first + await connection.take(1) == HELLO
        await connection.send(HELLO_ANSWER)
        await connection.receive_request()
        assert await connection.take(1) == STOP
        await attempted.wait()
        await connection.answer("1")
        await connection.serve()

    async with (
        no_leaks(),
        fake_engine(serve, hello=None) as fake,
        open_session(NativeEngine(LOCAL, fake.port)) as session,
    ):
        monkeypatch.setattr(_native, "connect_tcp", refuse)
        assert isinstance(await stopped_reply(session), Result)
        assert await ask(session, "1") == "2"


@pytest.mark.trio
async def test_a_wakeup_connection_whose_server_is_gone_is_replaced() -> None:
    """A session with a server that has been restarted is still open."""
    with native_server() as first:
        engine = NativeEngine(LOCAL, first.port)
        left = await engine.open_session()
    with native_server() as second:
        engine.port = second.port
        async with open_session(engine) as session:
            await obeys_every_stop(session, 10)
            await left.aclose()
            await obeys_every_stop(session, 10)


@pytest.mark.trio
async def test_no_stop_is_lost_at_the_very_beginning_of_a_request(native_port: int) -> None:
    async with open_session(NativeEngine(LOCAL, native_port)) as session:
        await obeys_every_stop(session, 3000)


async def obeys_every_stop(session: Session, count: int) -> None:
    for _ in range(count):
        assert await stopped_reply(session) == Failure(CANCELLED, "")
    assert await ask(session, "(+ 1 2)") == 3


@pytest.mark.trio
async def test_a_wakeup_stops_no_query(native_port: int) -> None:
    engine = NativeEngine(LOCAL, native_port)

    async def wake_continuously(wake: Callable[[], None]) -> None:
        while True:
            wake()
            await trio.lowlevel.checkpoint()

    async with open_session(engine) as one, open_session(engine) as other, trio.open_nursery() as nursery:
        nursery.start_soon(wake_continuously, engine._group.wakeup.wake)
        for number in range(300):
            assert await ask(one, f"(+ {number} (sum (til 10000)))") == number + sum(range(10000))
            assert await ask(other, f"{number}") == number
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_opening_cancelled_at_any_point_leaves_no_wakeup_connection_and_closes_none_in_use(
    native_port: int,
) -> None:
    """Another session is being opened and waits for the same wakeup connection."""

    async def run(step: int) -> bool:
        engine = NativeEngine(LOCAL, native_port)
        others: list[Session] = []

        async def open_another() -> None:
            others.append(await engine.open_session())

        async with no_leaks():
            async with trio.open_nursery() as nursery:
                with cancelled_at(step, of_all_tasks=True) as (scope,):
                    nursery.start_soon(open_another)
                    await (await engine.open_session()).aclose()
            assert engine._group.wakeup._stream is not None
            assert set[object](engine._group._sessions) == set(others)
            await others[0].aclose()
            assert engine._group.wakeup._stream is None
        return scope.cancelled_caught

    with trio.fail_after(110):
        assert await swept(run) >= 5
