"""`/healthz?deep`: whether the engines answer a query, and which clients may ask."""

import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from support.engines import GateEngine
from support.fake_engine import FakeSession, fake_engine
from support.leaks import no_leaks
from support.opening import LOCAL, HttpResponse, parse_answer
from support.raw import connect_raw, response

from rayforce_trio import InProcessEngine, NativeEngine, NativeProcess, WSClient, WSServer, auth
from rayforce_trio._engines import Session
from rayforce_trio.errors import EngineError

KEY = "a-token-that-nobody-can-guess"
BEARER = {"Authorization": f"Bearer {KEY}"}
NO_ANSWER = "did not answer a query within 2 seconds; it may be busy with another query\n"


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[WSServer]:
    with trio.fail_after(60):
        async with no_leaks(within=5.0), WSServer(0, host=LOCAL, **options) as server:
            yield server


async def deep(port: int, headers: Mapping[str, str] | None = None, path: str = "/healthz?deep") -> HttpResponse:
    with trio.fail_after(30), connect_raw(port) as peer:
        await peer.send(response(f"GET {path} HTTP/1.1", {"Host": LOCAL, **(headers or {})}))
        return parse_answer(await peer.receive_head(), await peer.receive_rest())


async def ask(port: int, *, status: int, body: str, headers: Mapping[str, str] | None = None) -> None:
    answer = await deep(port, headers)
    assert (answer.status, answer.body) == (status, body)


@pytest.mark.trio
async def test_every_engine_that_answers_is_healthy(native_port: int) -> None:
    for engine in (InProcessEngine(), NativeEngine(LOCAL, native_port), NativeProcess(read_only=True)):
        async with served(engine=engine) as server:
            for path in ("/healthz?deep", "/healthz?deep=1", "/healthz?from=balancer&deep"):
                assert (await deep(server.port, path=path)).status == 200
            assert server.statistics().connections.probes == 3


@pytest.mark.trio
async def test_without_deep_no_engine_is_asked() -> None:
    engine = GateEngine()
    async with served(engine=engine) as server:
        for path in ("/healthz", "/healthz?from=deep", "/healthz?deeper"):
            assert (await deep(server.port, path=path)).status == 200
    assert engine.begun == []


@pytest.mark.trio
async def test_an_engine_that_is_gone_is_named() -> None:
    class Gone(InProcessEngine):
        async def open_session(self) -> Session:
            await trio.lowlevel.checkpoint()
            raise EngineError("nobody listens there")

    class Lost(InProcessEngine):
        async def open_session(self) -> Session:
            session = await super().open_session()

            async def request(_: Any) -> Any:
                await trio.sleep_forever()

            async def run() -> None:
                await trio.lowlevel.checkpoint()
                raise EngineError("the engine closed the connection")

            session.request, session.run = request, run  # type: ignore[method-assign, assignment]  # a session that is lost
            return session

    engines = {"gone": Gone(), "well": InProcessEngine(), "lost": Lost()}
    async with served(engine=InProcessEngine(), engines=engines, authenticate=auth.token(KEY)) as server:
        body = (
            "the engine 'gone' cannot be reached: nobody listens there\n"
            "the engine 'lost' has failed: the engine closed the connection\n"
        )
        await ask(server.port, status=503, body=body, headers=BEARER)


@pytest.mark.trio
async def test_an_engine_that_is_in_use_twice_is_asked_once() -> None:
    engine = GateEngine()
    engine.release()
    async with served(engine=engine, engines={"same": engine}, authenticate=auth.token(KEY)) as server:
        await ask(server.port, status=200, body="ok\n", headers=BEARER)
    assert len(engine.begun) == 1


@pytest.mark.trio
@pytest.mark.parametrize("options", [{}, {"open_timeout": 0.1}], ids=str)
async def test_an_engine_that_does_not_answer_is_named_in_time(
    autojump_clock: trio.testing.MockClock, options: dict[str, float]
) -> None:
    engine = GateEngine()
    async with served(engine=engine, **options) as server:
        since = trio.current_time()
        await ask(server.port, status=503, body=f"the engine {NO_ANSWER}")
        assert trio.current_time() - since == pytest.approx(2.0, abs=0.5)
        assert engine.sessions == 0
        engine.release()
        await ask(server.port, status=200, body="ok\n")


@pytest.mark.trio
async def test_simultaneous_requests_share_one_query(autojump_clock: trio.testing.MockClock) -> None:
    engine = GateEngine()
    async with served(engine=engine) as server:
        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(lambda: ask(server.port, status=503, body=f"the engine {NO_ANSWER}"))
        assert len(engine.begun) == 1
        await ask(server.port, status=503, body=f"the engine {NO_ANSWER}")
        assert len(engine.begun) == 2


@pytest.mark.trio
async def test_a_query_whose_request_is_cancelled_is_sent_again_for_the_others(
    mock_clock: trio.testing.MockClock,
) -> None:
    engine = GateEngine()
    async with served(engine=engine) as server:
        probes = server._handler._endpoints._probes
        found: list[list[str]] = []

        async def probe() -> None:
            found.append(await probes.failures())

        async with trio.open_nursery() as others:
            async with trio.open_nursery() as first:
                first.start_soon(probe)
                await engine.until(begun=1)
                for _ in range(3):
                    others.start_soon(probe)
                await trio.testing.wait_all_tasks_blocked()
                first.cancel_scope.cancel()
            await engine.until(begun=2)
            assert engine.sessions == 1
            engine.release()
        assert found == [[], [], []]
        assert len(engine.begun) == 2


@pytest.mark.trio
async def test_an_engine_that_answers_with_an_error_has_answered(native_port: int) -> None:
    async def refuse(session: FakeSession) -> None:
        await session.receive_request()
        await session.answer("anything")
        await session.until_hung_up()

    async with fake_engine(refuse) as fake, served(engine=NativeEngine(LOCAL, fake.port)) as server:
        await ask(server.port, status=200, body="ok\n")


@pytest.mark.trio
async def test_an_engine_process_that_is_halted_does_not_answer_and_then_it_does() -> None:
    engine = NativeProcess()
    async with served(engine=engine) as server:
        await ask(server.port, status=200, body="ok\n")
        assert engine.pid is not None
        os.kill(engine.pid, signal.SIGSTOP)
        try:
            answer = await deep(server.port)
            assert (answer.status, answer.body.startswith("the engine ")) == (503, True)
        finally:
            os.kill(engine.pid, signal.SIGCONT)
        async with WSClient(LOCAL, server.port).connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3
        await ask(server.port, status=200, body="ok\n")


@pytest.mark.trio
async def test_only_clients_that_are_authenticated_or_on_this_machine_may_ask() -> None:
    engine = GateEngine()
    engine.release()
    async with served(engine=engine, authenticate=auth.token(KEY)) as server:
        for headers, status in (
            ({}, 401),
            ({"Authorization": "Bearer guess"}, 401),
            ({**BEARER, "Host": "foreign.example"}, 421),
            ({**BEARER, "Origin": "http://foreign.example"}, 403),
        ):
            assert (await deep(server.port, headers)).status == status
        assert engine.begun == []
        assert (await deep(server.port, BEARER)).status == 200
    for options in ({}, {"allow_unauthenticated": True}):
        async with served(engine=engine, **options) as server:
            answer = await deep(server.port, {"X-Forwarded-For": "127.0.0.1"})
            assert (answer.status, "proxy" in answer.body) == (403, True)
            assert (await deep(server.port)).status == 200
        async with served(engine=engine, trusted_proxies=["127.0.0.1"], **options) as server:
            assert (await deep(server.port)).status == 403
    assert len(engine.begun) == 3


@pytest.mark.trio
async def test_a_server_that_drains_is_not_healthy(autojump_clock: trio.testing.MockClock) -> None:
    engine = GateEngine()
    engine.release()
    async with served(engine=engine, drain_delay=20) as server, trio.open_nursery() as nursery:
        nursery.start_soon(server.stop)
        await trio.testing.wait_all_tasks_blocked()
        await ask(server.port, status=503, body="unavailable\n")


@pytest.mark.trio
async def test_an_engine_that_is_known_to_be_down_is_named_too() -> None:
    class Down(InProcessEngine):
        is_down = True

        async def open_session(self) -> Session:
            await trio.lowlevel.checkpoint()
            raise EngineError("it is being restarted")

    async with served(engine=Down()) as server:
        await ask(server.port, status=503, body="the engine cannot be reached: it is being restarted\n")
