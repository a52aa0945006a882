import pytest
import trio
import trio.testing
from rayforce import I64
from support.engine_contract import check_engine, open_session, post, request, running, value

from rayforce_trio import InProcessEngine, errors
from rayforce_trio._codec import evaluate
from rayforce_trio._engines import Session
from rayforce_trio._protocol import Failure, Header, MessageType, Result


@pytest.mark.trio
async def test_it_keeps_the_contract_of_engines(name: str) -> None:
    await check_engine(InProcessEngine, name)


@pytest.mark.trio
async def test_it_evaluates_what_the_application_has_loaded(name: str) -> None:
    evaluate(request(f"(set {name} 41)"))
    async with running(InProcessEngine()) as engine, open_session(engine) as session:
        assert value(await session.request(request(f"(+ 1 {name})"))) == I64(42).to_python()


@pytest.mark.trio
async def test_errors_carry_the_engines_message() -> None:
    async with running(InProcessEngine()) as engine, open_session(engine) as session:
        expected = Failure("type", "cannot add i64 and str")
        assert await session.request(request('(+ 1 "a")')) == expected
        assert await session.post(post('(+ 1 "a")')) == expected


@pytest.mark.trio
async def test_a_damaged_frame_is_answered_with_an_error() -> None:
    payload = b"\x05\xff\xff\xff"
    damaged = Header(0, MessageType.SYNC, len(payload)).pack() + payload
    async with running(InProcessEngine()) as engine, open_session(engine) as session:
        assert isinstance(await session.request(damaged), Failure)
        assert value(await session.request(request("(+ 1 2)"))) == 3


@pytest.mark.trio
async def test_a_request_cancelled_before_it_runs_is_not_evaluated(name: str) -> None:
    async with running(InProcessEngine()) as engine, open_session(engine) as session:
        await session.request(request(f"(set {name} 1)"))
        with trio.CancelScope() as scope:
            scope.cancel()
            await session.request(request(f"(set {name} 2)"))
        assert scope.cancelled_caught
    assert value(evaluate(request(name))) == 1


@pytest.mark.trio
async def test_sessions_alternate(name: str) -> None:
    """No session is served twice before another that waits is served once."""
    order: list[int] = []

    async def ask(session: Session, who: int) -> None:
        for _ in range(50):
            assert isinstance(await session.request(request(name)), Result)
            order.append(who)

    evaluate(request(f"(set {name} 1)"))
    async with (
        running(InProcessEngine()) as engine,
        open_session(engine) as one,
        open_session(engine) as other,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ask, one, 1)
        nursery.start_soon(ask, other, 2)
    assert all(set(order[i : i + 2]) == {1, 2} for i in range(0, 100, 2))


@pytest.mark.trio
async def test_in_a_foreign_thread_it_refuses_to_run() -> None:
    """Rayforce belongs to the thread that imported it, and the error says so."""
    with pytest.raises(errors.RayforceThreadError, match="in the thread that imported it first"):
        await trio.to_thread.run_sync(lambda: trio.run(InProcessEngine().run))


def test_its_repr_is_how_it_is_made() -> None:
    assert repr(InProcessEngine()) == "InProcessEngine()"
