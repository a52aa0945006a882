"""The contract that every engine keeps with the server. `check_engine` checks one engine against all of it."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio
import trio.testing

from rayforce_trio._codec import decode, decode_verbose, encode
from rayforce_trio._engines import Engine, Session
from rayforce_trio._protocol import CANCELLED, Failure, MessageType, Reply, Result, parse_frame
from rayforce_trio._tasks import collapse_groups
from support.frames import whole_frame
from support.leaks import no_leaks

MakeEngine = Callable[[], Engine]
T = TypeVar("T")

ENDLESS = "(while true 1)"


def request(query: Any, *, verbose: bool = False) -> bytes:
    return encode(query, MessageType.SYNC, verbose=verbose)


def post(query: Any) -> bytes:
    return encode(query, MessageType.ASYNC)


def value(reply: Reply) -> Any:
    """Return the plain Python value of a reply that must be one."""
    assert isinstance(reply, Result), reply
    assert parse_frame(whole_frame(reply.frame)).message_type is MessageType.RESPONSE
    decoded = decode(reply)
    return None if decoded is None else decoded.to_python()


async def whole(session: Session, reply: Reply) -> Reply:
    """Return a reply with all of its pieces."""
    if isinstance(reply, Failure):
        assert session.unread == 0
        return reply
    pieces = [whole_frame(reply.frame)]
    while session.unread:
        unread = session.unread
        pieces.append(await session.receive_some())
        assert session.unread == unread - len(pieces[-1])
    return Result(b"".join(pieces))


async def ask(session: Session, query: Any) -> Any:
    """Return the plain Python value of a query that must have one."""
    return value(await whole(session, await session.request(request(query))))


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        yield engine
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_session(engine: Engine) -> AsyncIterator[Session]:
    """Open a session and run it beside the block. If the engine is lost, the block is cancelled, and this raises."""
    session = await engine.open_session()
    try:
        with collapse_groups():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.run)
                yield session
                nursery.cancel_scope.cancel()
    finally:
        await session.aclose()


async def check_engine(make_engine: MakeEngine, name: str, *, stops: bool = False) -> None:
    """Check that an engine keeps the contract of `Engine` and `Session`.

    Args:
        make_engine: returns a new engine, not yet running.
        name: a variable name that nothing else uses.
        stops: whether a cancel stops a running query.
    """
    engine = make_engine()
    with trio.fail_after(60):
        for _ in range(2):  # an engine can run again after it ended
            async with no_leaks(), running(engine):
                async with open_session(engine) as session:
                    await _answers_in_turn(session, name)
                    await _reports_errors_as_replies(session)
                    await _carries_out_posts(session, name)
                    await _gives_long_replies_whole(session)
                    await _tells_what_is_printed(session)
                    await _survives_a_cancel_of_nothing(session)
                    await _answers_what_is_cancelled_at_once(session)
                    await _passes_checkpoints(session)
                    await _begins_with_what_needs_no_waiting(session)
                if stops:
                    await _stops_what_runs(engine)
                    await _stops_what_runs_when_it_is_closed(engine)
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
    for n in range(20):
        await session.post(post(f"(set {name} {n})"))
        assert value(await session.request(request(f"(+ 1 {name})"))) == 1 + n
    await session.post(post("(til 300000)"))
    assert value(await session.request(request("(+ 3 3)"))) == 6


async def _gives_long_replies_whole(session: Session) -> None:
    for size in (4, 5, 1000, 1_000_000, 1):
        reply = await whole(session, await session.request(request(f"(til {size})")))
        assert isinstance(reply, Result)
        frame = whole_frame(reply.frame)
        assert parse_frame(frame).message_type is MessageType.RESPONSE
        assert frame.endswith(b"".join(n.to_bytes(8, "little") for n in range(size)))


async def _tells_what_is_printed(session: Session) -> None:
    reply = await whole(session, await session.request(request('(do (println "hello") (+ 1 2))', verbose=True)))
    output, inner = decode_verbose(reply)
    assert (output, value(inner)) == ("hello\n", 3)
    reply = await whole(session, await session.request(request('(do (println "hello") (+ 1 "a"))', verbose=True)))
    output, inner = decode_verbose(reply)
    assert output == "hello\n"
    assert isinstance(inner, Failure)
    assert inner.code == "type"
    assert value(await session.request(request("(+ 2 2)"))) == 4


async def _survives_a_cancel_of_nothing(session: Session) -> None:
    session.cancel()
    for n in range(5):
        assert value(await session.request(request(str(n)))) == n
        session.cancel()
    assert value(await session.request(request("7"))) == 7


async def _answers_what_is_cancelled_at_once(session: Session) -> None:
    """Check that a request cancelled at once is answered with its value or as cancelled, and the next one correctly."""
    for n in range(20):
        replies: list[Reply] = []

        async def ask_for(n: int, replies: list[Reply]) -> None:
            replies.append(await session.request(request(str(n))))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask_for, n, replies)
            for _ in range(n % 4):
                await trio.lowlevel.checkpoint()
            session.cancel()
        if isinstance(replies[0], Failure):
            assert replies[0].code == CANCELLED
        else:
            assert value(replies[0]) == n
        assert value(await session.request(request(str(-n)))) == -n


async def _stops_what_runs(engine: Engine) -> None:
    async with open_session(engine) as one, open_session(engine) as other:
        for _ in range(3):
            async with _under_way(lambda: one.request(request(ENDLESS))) as outcome:
                one.cancel()
                one.cancel()
            assert isinstance(outcome[0], Failure)
            assert outcome[0].code == CANCELLED
            assert value(await one.request(request("(+ 1 2)"))) == 3
            async with _under_way(lambda: one.post(post(ENDLESS))):
                one.cancel()
            assert value(await one.request(request("(+ 2 2)"))) == 4
            assert value(await other.request(request("(+ 3 3)"))) == 6


async def _stops_what_runs_when_it_is_closed(engine: Engine) -> None:
    for is_post in (False, True):
        async with open_session(engine) as one, trio.open_nursery() as nursery:
            if is_post:
                nursery.start_soon(one.post, post(ENDLESS))
            else:
                nursery.start_soon(one.request, request(ENDLESS))
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        async with open_session(engine) as other:
            assert value(await other.request(request("(+ 1 2)"))) == 3


@asynccontextmanager
async def _under_way(call: Callable[[], Awaitable[T]]) -> AsyncIterator[list[T]]:
    """Run the block while a call waits for the engine; yields the list that has its outcome after the block."""
    outcome: list[T] = []

    async def run() -> None:
        outcome.append(await call())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        yield outcome


async def _begins_with_what_needs_no_waiting(session: Session) -> None:
    """Check `start`: if the engine has it, a request starts at once, and each answer may start the next request."""
    if session.evaluate is not None:
        assert value(session.evaluate(request("(+ 1 2)"))) == 3
    queries = [f"(+ 1 {n})" for n in range(20)] + ['(+ 1 "a")']
    replies: list[Reply] = []
    answered = trio.Event()

    def take(reply: Reply) -> None:
        replies.append(reply)
        if len(replies) == len(queries):
            answered.set()
        else:
            assert session.start(request(queries[len(replies)]), take)

    with trio.testing.assert_no_checkpoints():
        begun = session.start(request(queries[0]), take)
    if begun:
        assert replies == []  # it is answered in the task of `run`
        await answered.wait()
        *results, failure = replies
        assert [value(reply) for reply in results] == [1 + n for n in range(20)]
        assert isinstance(failure, Failure)
        assert failure.code == "type"
    assert value(await session.request(request("(+ 2 3)"))) == 5


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
