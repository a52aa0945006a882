"""Stops that the engine does not heed, since they come in the very moment in which it begins with the request."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from support.engine_contract import ENDLESS, ask, open_session, request
from support.fake_engine import HELLO, HELLO_ANSWER, FakeEngine, FakeSession, error_frame, fake_engine
from support.leaks import no_leaks
from support.native import native_server
from support.sweep import cancelled_at, swept

from rayforce_trio import NativeEngine
from rayforce_trio._engines import Session, _native_session
from rayforce_trio._protocol import CANCELLED, Failure, Reply

LOCAL = "127.0.0.1"
STOP = b"!"


class WakeupConnection:
    """What was heard on the connection on which nothing is asked.

    Attributes:
        rings: how often it was rung.
        connections: how many of its connections have rung.
    """

    def __init__(self) -> None:
        self.rings = 0
        self.connections = 0
        self._rung = trio.Event()

    async def hear(self, connection: FakeSession) -> None:
        self.connections += 1
        while True:
            self.rings += 1
            self._rung.set()
            self._rung = trio.Event()
            assert await connection.take(1) == STOP

    async def until(self, rings: int) -> None:
        with trio.fail_after(20):
            while self.rings < rings:
                await self._rung.wait()


@asynccontextmanager
async def deaf_engine(wakeup: WakeupConnection, *, heeds_after: int) -> AsyncIterator[FakeEngine]:
    """An engine that heeds no stop before it was woken this many times."""

    async def serve(connection: FakeSession) -> None:
        connection.receive_stops_inline()
        first = await connection.take(1)
        if first == STOP:
            await wakeup.hear(connection)
        assert first + await connection.take(1) == HELLO
        await connection.send(HELLO_ANSWER)
        while True:
            await connection.receive_request()
            assert await connection.take(1) == STOP
            await wakeup.until(heeds_after)
            await connection.send(error_frame(CANCELLED))

    async with fake_engine(serve, hello=None) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _soon_reminded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_native_session, "_FIRST_REMINDER", 0.001)
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


@pytest.mark.trio
async def test_the_engine_is_reminded_until_it_heeds() -> None:
    wakeup = WakeupConnection()
    async with (
        no_leaks(),
        deaf_engine(wakeup, heeds_after=3) as fake,
        open_session(NativeEngine(LOCAL, fake.port)) as one,
    ):
        assert await stopped_reply(one) == Failure(CANCELLED, "")
        assert wakeup.rings >= 3
        assert await stopped_reply(one) == Failure(CANCELLED, "")


@pytest.mark.trio
async def test_sessions_share_the_bell_for_as_long_as_there_is_one_of_them() -> None:
    wakeup = WakeupConnection()
    async with no_leaks(), deaf_engine(wakeup, heeds_after=1) as fake:
        engine = NativeEngine(LOCAL, fake.port)
        async with open_session(engine) as one:
            async with open_session(engine) as other:
                assert await stopped_reply(other) == Failure(CANCELLED, "")
            wakeup.rings = 0
            assert await stopped_reply(one) == Failure(CANCELLED, "")
            assert wakeup.connections == 1
        wakeup.rings = 0
        async with open_session(engine) as third:
            assert await stopped_reply(third) == Failure(CANCELLED, "")
        assert wakeup.connections == 2


@pytest.mark.trio
@pytest.mark.parametrize("rings_before", [0, 1])
async def test_a_session_that_is_closed_reminds_the_engine_too(rings_before: int) -> None:
    wakeup = WakeupConnection()
    async with no_leaks(), deaf_engine(wakeup, heeds_after=rings_before + 3) as fake:
        session = await NativeEngine(LOCAL, fake.port).open_session()
        assert session.start(request(ENDLESS), lambda _: None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.run)
            if rings_before:
                session.cancel()
                await wakeup.until(rings_before)
            nursery.cancel_scope.cancel()
        await session.aclose()
        assert session._answered.is_set()
        assert wakeup.rings >= rings_before + 3


@pytest.mark.trio
async def test_a_bell_whose_server_is_gone_is_replaced() -> None:
    """One session is left of a server that was restarted, which nobody has noticed yet."""
    with native_server() as first:
        engine = NativeEngine(LOCAL, first.port)
        left = await engine.open_session()
    with native_server() as second:
        engine.port = second.port
        async with open_session(engine) as session:
            await heeds_every_stop(session, 10)
            await left.aclose()
            await heeds_every_stop(session, 10)


@pytest.mark.trio
async def test_no_stop_is_lost_at_the_very_beginning_of_a_request(native_port: int) -> None:
    async with open_session(NativeEngine(LOCAL, native_port)) as session:
        await heeds_every_stop(session, 3000)


async def heeds_every_stop(session: Session, count: int) -> None:
    for _ in range(count):
        assert await stopped_reply(session) == Failure(CANCELLED, "")
    assert await ask(session, "(+ 1 2)") == 3


@pytest.mark.trio
async def test_to_ring_stops_nothing(native_port: int) -> None:
    engine = NativeEngine(LOCAL, native_port)

    async def ring_all_the_time(ring: Callable[[], None]) -> None:
        while True:
            ring()
            await trio.lowlevel.checkpoint()

    async with open_session(engine) as one, open_session(engine) as other, trio.open_nursery() as nursery:
        nursery.start_soon(ring_all_the_time, engine._line.wakeup.wake)
        for number in range(300):
            assert await ask(one, f"(+ {number} (sum (til 10000)))") == number + sum(range(10000))
            assert await ask(other, f"{number}") == number
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_cancelled_at_any_point_opening_leaves_no_bell_and_takes_none_away(native_port: int) -> None:
    """Beside another session that is opened, and waits for the same wakeup connection."""

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
            assert engine._line.wakeup._stream is not None
            assert set(engine._line.sessions) == set(others)
            await others[0].aclose()
            assert engine._line.wakeup._stream is None
        return scope.cancelled_caught

    with trio.fail_after(110):
        assert await swept(run) > 10
