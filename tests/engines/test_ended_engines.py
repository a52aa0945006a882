"""Clients that end the engine process: they are identified, and others are served nevertheless."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from support.engine_contract import ENDLESS, ask, check_engine, open_session, post, request, running, value
from support.engine_processes import LOCAL, Log
from support.leaks import no_leaks
from support.sweep import cancelled_at, swept
from support.watched import Queries

from rayforce_trio import NativeProcess, RoundRobinEngine, WSClient, WSServer, errors
from rayforce_trio._engines import Client, ClientMustWait, Session, _native_session, _process
from rayforce_trio._engines._suspects import SUSPICIONS_UNTIL_ALONE, Suspects
from rayforce_trio._protocol import CANCELLED, Failure

EXIT = "(.sys.exit 0)"
EVE, ANN, BOB = (Client(LOCAL, name) for name in ("eve", "ann", "bob"))


class SuspectProcess(NativeProcess):
    """A process whose sessions belong alternately to a client that must be alone, and to one that need not."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for _ in range(SUSPICIONS_UNTIL_ALONE):
            self._suspects.process_ended([EVE], trio.current_time())
        self._opened = 0

    async def open_session(self) -> Session:
        self._opened += 1
        return await self.open_session_for(EVE if self._opened % 2 else ANN)


@asynccontextmanager
async def session_of(engine: NativeProcess, client: Client) -> AsyncIterator[Session]:
    class Opened(NativeProcess):
        async def open_session(self) -> Session:
            return await engine.open_session_for(client)

    async with open_session(Opened()) as session:
        yield session


@pytest.mark.trio
async def test_others_are_served_beside_a_client_that_ends_the_process_whenever_it_can(log: Log) -> None:
    engine = NativeProcess(read_only=True)
    codes: list[int] = []
    refusals: list[errors.ConnectionRejected] = []
    failures: list[Exception] = []
    answers = 0

    def client(name: str) -> WSClient:
        return WSClient(LOCAL, server.port, user=name, password="-")

    async def end_processes() -> None:
        while True:
            try:
                async with client("eve").connect() as connection:
                    await connection.execute(EXIT)
            except errors.ConnectionClosed as error:
                codes.append(error.code)
            except errors.ConnectionRejected as error:
                refusals.append(error)
                await refused.wait()

    refused = trio.Event()
    server = WSServer(0, host=LOCAL, engine=engine, authenticate=lambda asked: asked.username)
    with trio.fail_after(60):
        async with no_leaks(within=10), server, trio.open_nursery() as nursery:
            nursery.start_soon(end_processes)
            await log.told("ended during a request of eve at 127.0.0.1, and so did an earlier process")
            for _ in range(20):
                try:
                    async with client("ann").connect() as connection:
                        answers += (await connection.execute("(+ 1 2)")).to_python() == 3
                except errors.RayforceWSError as error:
                    failures.append(error)
            nursery.cancel_scope.cancel()
    assert answers == 20, failures
    assert codes == [1011] * SUSPICIONS_UNTIL_ALONE + [1008]
    assert len(log.saying("restarting it now")) == SUSPICIONS_UNTIL_ALONE + 1
    assert [refusal.status for refusal in refusals] == [503]
    assert (
        "This server does not accept you at the moment: your queries have ended the engine process; wait 5 seconds"
        in refusals[0].body
    )


@pytest.mark.trio
async def test_clients_that_were_connected_when_the_process_ended_can_connect_again_at_once() -> None:
    engine = NativeProcess(read_only=True)
    lost = 0

    async def ask_often(name: str) -> None:
        nonlocal lost
        answers = 0
        while answers < 20:
            try:
                async with WSClient(LOCAL, server.port, user=name, password="-").connect() as connection:
                    while answers < 20:
                        assert (await connection.execute("(+ 1 2)")).to_python() == 3
                        answers += 1
            except errors.ConnectionClosed:  # and nothing else
                lost += 1

    server = WSServer(0, host=LOCAL, engine=engine, authenticate=lambda asked: asked.username)
    with trio.fail_after(60):
        async with no_leaks(within=10), server, trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(ask_often, f"ann {number}")
            with pytest.raises(errors.ConnectionClosed):
                async with WSClient(LOCAL, server.port, user="eve", password="-").connect() as connection:
                    await connection.execute(EXIT)
    assert lost <= 5


@pytest.mark.trio
async def test_sessions_that_must_be_alone_keep_the_contract(name: str) -> None:
    await check_engine(SuspectProcess, name, stops=True)


@pytest.mark.trio
async def test_a_request_that_must_be_alone_waits_for_those_in_flight_and_others_wait_for_it() -> None:
    engine = SuspectProcess()
    async with running(engine), session_of(engine, ANN) as ann:
        assert engine._native is not None
        group = engine._native._group
        assert not group.has_turns
        replies: list[Any] = []
        assert ann.start(request(ENDLESS), replies.append)
        async with session_of(engine, EVE) as eve, session_of(engine, ANN) as other:
            assert group.has_turns
            assert not other.start(request("1"), replies.append)
            async with trio.open_nursery() as nursery:

                async def ask_and_note(session: Session, query: str) -> None:
                    replies.append(value(await session.request(request(query))))

                nursery.start_soon(ask_and_note, eve, "(+ 1 2)")
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(ask_and_note, other, "(+ 2 2)")
                await trio.testing.wait_all_tasks_blocked()
                assert sum(session.awaiting_reply for session in group._sessions) == 1
                ann.cancel()
        assert replies == [Failure(CANCELLED, ""), 3, 4]
        assert not group.has_turns
        assert ann.start(request("(+ 1 2)"), replies.append)


@pytest.mark.trio
@pytest.mark.parametrize("waiting", [EVE, ANN], ids=["alone", "others"])
@pytest.mark.parametrize("kind", ["request", "post"])
async def test_a_request_can_be_stopped_while_it_waits_for_its_turn(waiting: Client, kind: str) -> None:
    engine = SuspectProcess()
    async with running(engine), session_of(engine, EVE) as busy, session_of(engine, waiting) as session:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy.request, request(ENDLESS))
            await trio.testing.wait_all_tasks_blocked()
            replies: list[Any] = []

            async def wait_for_turn() -> None:
                call = session.request(request("1")) if kind == "request" else session.post(post("1"))
                replies.append(await call)

            async with trio.open_nursery() as calls:
                calls.start_soon(wait_for_turn)
                await trio.testing.wait_all_tasks_blocked()
                session.cancel()
            assert replies == [Failure(CANCELLED, "the request was cancelled before it was started")]
            busy.cancel()
        assert await ask(session, "(+ 1 2)") == 3
        assert await ask(busy, "(+ 2 2)") == 4


@pytest.mark.trio
async def test_wherever_a_request_is_cancelled_others_have_their_turns() -> None:
    engine = SuspectProcess()

    async def run(step: int) -> bool:
        with cancelled_at(step, of_all_tasks=False) as (scope,):
            async with session_of(engine, EVE) as session:
                assert await ask(session, "(+ 1 2)") == 3
                await session.post(post("1"))
        async with session_of(engine, ANN) as other, session_of(engine, EVE) as session:
            with trio.fail_after(20):
                assert await ask(session, "(+ 1 2)") == 3
                assert await ask(other, "(+ 2 2)") == 4
        return scope.cancelled_caught

    async with running(engine):
        with trio.fail_after(110):
            assert await swept(run) >= 5


@pytest.mark.trio
async def test_a_client_that_is_no_suspect_any_more_need_not_be_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_process, "_SUSPICION_CHECK_INTERVAL", 0.01)
    engine = SuspectProcess()
    async with running(engine), session_of(engine, EVE) as session:
        assert engine._native is not None
        group = engine._native._group
        assert group.has_turns
        engine._suspects = Suspects()
        with trio.fail_after(30):
            while group.has_turns:
                await trio.lowlevel.checkpoint()
        assert await ask(session, "(+ 1 2)") == 3


@pytest.mark.trio
async def test_a_client_that_leaves_before_its_request_ends_the_process_is_a_suspect_too(
    log: Log, queries: Queries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_native_session, "STOP_TIMEOUT", 0.05)
    gate = tmp_path / "gate"
    query = queries(f'(.sys.exec "while ! test -e {gate}; do sleep 0.01; done; kill -9 $PPID")')
    engine = NativeProcess()
    async with running(engine):
        session = await engine.open_session_for(EVE)
        assert session.start(request(query.text), lambda _: None)
        await query.begun()
        await session.aclose()
        gate.touch()
        await log.told("was killed by signal 9; restarting it now")
        engine._suspects.process_ended([EVE], trio.current_time())
        assert engine._must_be_alone(EVE)


@pytest.mark.trio
async def test_a_client_that_must_wait_waits_with_every_replica() -> None:
    one, other = NativeProcess(), NativeProcess()
    replicas = RoundRobinEngine([one, other])
    one._suspects.process_ended_by(EVE, trio.current_time())
    async with running(replicas):
        with pytest.raises(ClientMustWait, match="wait 5 seconds") as caught:
            await replicas.open_session_for(EVE)
        assert 0 < caught.value.retry_after <= 5
        assert not replicas._down
        await (await replicas.open_session_for(ANN)).aclose()
        await (await replicas.open_session()).aclose()


@pytest.mark.trio
@pytest.mark.parametrize("client", [EVE, BOB], ids=["alone", "with others"])
async def test_a_client_is_not_blamed_for_a_request_whose_client_has_left(
    client: Client, log: Log, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own request, which must be alone, waits unread behind one that disables the process."""
    monkeypatch.setattr(_native_session, "STOP_TIMEOUT", 0.05)
    query = queries('(.sys.exec "sleep 1000")')
    engine = NativeProcess(stop_timeout=0.5)
    for suspect in {ANN, client} - {BOB}:
        for _ in range(SUSPICIONS_UNTIL_ALONE):
            engine._suspects.process_ended([suspect], trio.current_time())

    async def ask_behind_it() -> None:
        async with session_of(engine, ANN) as ann:
            session = await engine.open_session_for(client)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.request, request(query.text))
                await query.begun()
                nursery.cancel_scope.cancel()
            await session.aclose()
            await ann.request(request("(+ 1 2)"))

    async with running(engine):
        with pytest.raises(errors.EngineError) as caught:
            await ask_behind_it()
        assert type(caught.value) is errors.EngineError
        await log.told("was killed by signal 9; restarting it now")
        async with session_of(engine, ANN) as ann:
            assert await ask(ann, "(+ 1 2)") == 3
        assert bool(engine._suspects.wait_of(client, trio.current_time())) == (client == EVE)


@pytest.mark.trio
async def test_a_request_that_waits_for_the_handshake_is_not_in_flight_with_one_that_must_be_alone(
    queries: Queries,
) -> None:
    engine, query = SuspectProcess(), queries()
    async with running(engine), session_of(engine, BOB) as busy, trio.open_nursery() as nursery:
        assert engine._native is not None
        group = engine._native._group
        nursery.start_soon(busy.request, request(query.text))
        await query.begun()
        async with session_of(engine, ANN) as early, trio.open_nursery() as early_calls:
            assert not early.ready
            early_calls.start_soon(early.request, request("1"))
            await trio.testing.wait_all_tasks_blocked()
            async with session_of(engine, EVE) as eve, trio.open_nursery() as calls:
                calls.start_soon(eve.request, request("1"))
                await trio.testing.wait_all_tasks_blocked()
                assert len(group._turns._in_flight) == 2
                query.release()


@pytest.mark.trio
async def test_a_suspect_that_sends_nothing_does_not_slow_others_down() -> None:
    """Their requests are started without changing tasks, unless one that must be alone is in flight or waits."""
    engine = SuspectProcess()
    async with (
        running(engine),
        session_of(engine, ANN) as ann,
        session_of(engine, ANN) as other,
        session_of(engine, EVE) as eve,
    ):
        replies: list[Any] = []
        assert ann.start(request(ENDLESS), replies.append)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(eve.request, request(ENDLESS))
            await trio.testing.wait_all_tasks_blocked()
            assert not other.start(request("1"), replies.append)
            ann.cancel()
            while not replies:
                await trio.lowlevel.checkpoint()
            assert not other.start(request("1"), replies.append)
            eve.cancel()
        assert replies == [Failure(CANCELLED, "")]
        assert other.start(request("1"), replies.append)
