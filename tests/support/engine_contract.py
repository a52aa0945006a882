"""What every engine promises the server; `check_engine` runs one through all of it."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing

from rayforce_trio._codec import decode, encode
from rayforce_trio._engines import Engine, Session
from rayforce_trio._protocol import Failure, MessageType, Reply, Result, parse_frame
from support.leaks import no_leaks

MakeEngine = Callable[[], Engine]


def request(query: Any) -> bytes:
    return encode(query, MessageType.SYNC)


def post(query: Any) -> bytes:
    return encode(query, MessageType.ASYNC)


def value(reply: Reply) -> Any:
    """Return the plain Python value of a reply that must be one."""
    assert isinstance(reply, Result), reply
    assert parse_frame(reply.frame).message_type is MessageType.RESPONSE
    decoded = decode(reply)
    return None if decoded is None else decoded.to_python()


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        yield engine
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_session(engine: Engine) -> AsyncIterator[Session]:
    session = await engine.open_session()
    try:
        yield session
    finally:
        await session.aclose()


async def check_engine(make_engine: MakeEngine, name: str) -> None:
    """Check that an engine keeps the contract of `Engine` and `Session`.

    Args:
        make_engine: returns a new engine, not yet running.
        name: a variable name that nobody else uses.
    """
    engine = make_engine()
    with trio.fail_after(60):
        for _ in range(2):  # an engine can run again after it ended
            async with no_leaks(), running(engine):
                async with open_session(engine) as session:
                    await _answers_in_turn(session, name)
                    await _reports_errors_as_replies(session)
                    await _carries_out_posts(session, name)
                    await _survives_a_cancel_of_nothing(session)
                    await _passes_checkpoints(session)
                await _shares_its_state_between_sessions(engine, name)
                await _lets_sessions_take_turns(engine)
                await _closes_a_cancelled_session(engine)


async def _answers_in_turn(session: Session, name: str) -> None:
    assert value(await session.request(request(f"(set {name} 1)"))) == 1
    for n in range(20):
        assert value(await session.request(request(f"(+ {name} {n})"))) == 1 + n
    assert value(await session.request(request("null"))) is None


async def _reports_errors_as_replies(session: Session) -> None:
    for query, code in (('(+ 1 "a")', "type"), ("(foo", "parse"), ("(+ [1 2] [1 2 3])", "length")):
        failure = await session.request(request(query))
        assert isinstance(failure, Failure)
        assert failure.code == code
    assert value(await session.request(request("(+ 1 2)"))) == 3


async def _carries_out_posts(session: Session, name: str) -> None:
    for n in range(5):
        assert await session.post(post(f"(set {name} {n})")) is None
    assert value(await session.request(request(name))) == 4
    failure = await session.post(post('(+ 1 "a")'))
    assert failure is None or failure.code == "type"
    assert value(await session.request(request("(+ 2 2)"))) == 4


async def _survives_a_cancel_of_nothing(session: Session) -> None:
    session.cancel()
    for n in range(5):
        assert value(await session.request(request(str(n)))) == n
        session.cancel()
    assert value(await session.request(request("7"))) == 7


async def _passes_checkpoints(session: Session) -> None:
    with trio.testing.assert_checkpoints():
        await session.request(request("1"))
    with trio.testing.assert_checkpoints():
        await session.post(post("1"))


async def _shares_its_state_between_sessions(engine: Engine, name: str) -> None:
    async with open_session(engine) as one, open_session(engine) as other:
        await one.request(request(f"(set {name} 11)"))
        assert value(await other.request(request(name))) == 11


async def _lets_sessions_take_turns(engine: Engine) -> None:
    """A session with much to do does not hold up one with little."""
    busy_answers = 0

    async def keep_busy(session: Session) -> None:
        nonlocal busy_answers
        for _ in range(1000):
            await session.request(request("1"))
            busy_answers += 1

    async with open_session(engine) as busy, open_session(engine) as quiet, trio.open_nursery() as nursery:
        nursery.start_soon(keep_busy, busy)
        for _ in range(10):
            await quiet.request(request("1"))
        assert busy_answers < 500
        nursery.cancel_scope.cancel()


async def _closes_a_cancelled_session(engine: Engine) -> None:
    with trio.CancelScope() as scope:
        async with open_session(engine) as session:
            scope.cancel()
            await session.request(request("1"))
    assert scope.cancelled_caught
    async with open_session(engine) as session:
        assert value(await session.request(request("(+ 1 1)"))) == 2
