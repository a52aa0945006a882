"""What one connection may take of a server: time in the engine, requests at once, and time to read its replies."""

import inspect
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
from support.engines import GateEngine
from support.leaks import no_leaks
from support.memory import resident_memory
from support.polling import until
from support.raw import BINARY, TEXT, connect_raw, frame, open_raw
from support.watched import Queries, ask_natively, is_asleep

from rayforce_trio import InProcessEngine, NativeEngine, NativeProcess, WSClient, WSClientConnection, WSServer, errors
from rayforce_trio._codec import decode, encode
from rayforce_trio._engines import Engine, Session
from rayforce_trio._protocol import Failure, Frame, MessageType, Reply, Result
from rayforce_trio._protocol._client import MAX_IN_FLIGHT
from rayforce_trio._server._connection import WSServerConnection
from rayforce_trio._server._log import ConnectionLog
from rayforce_trio._server._options import ConnectionOptions
from rayforce_trio._transports._memory import memory_pair

LOCAL = "127.0.0.1"
ENDLESS = "(while true 1)"
QUERY = encode("(+ 1 2)", MessageType.SYNC)
POST = encode("(+ 1 2)", MessageType.ASYNC)
BIG = 104_000_000  # bytes of the reply to BIG_QUERY
BIG_QUERY = encode("(til 13000000)", MessageType.SYNC)


@asynccontextmanager
async def serving(engine: Engine, *, within: float = 60, **options: Any) -> AsyncIterator[WSServer]:
    with trio.fail_after(within):
        async with no_leaks(within=10), WSServer(0, host=LOCAL, engine=engine, **options) as server:
            yield server


@asynccontextmanager
async def connected(engine: Engine, **options: Any) -> AsyncIterator[WSClientConnection]:
    async with serving(engine, **options) as server, WSClient(LOCAL, server.port).connect() as connection:
        yield connection


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the server's log warns of, without which connection it is."""
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    return [re.sub(r"^connection \d+ \(127\.0\.0\.1:\d+\): ", "", text) for text in found]


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("open_timeout", [0, -1, "5", True, None, float("nan")]),
        ("write_timeout", [0, -1, "5", True, None, float("nan")]),
        ("query_timeout", [0, -1, "5", True, float("nan"), "never"]),
        ("max_in_flight", [0, -1, "5", True, 1.5]),
        ("max_buffered_bytes", [0, -1, "5", True, 1.5]),
        ("max_spooled_bytes", [0, -1, "5", True, 1.5]),
        ("resume_window", [-1, "5", True, None, float("nan")]),
        ("max_topic_history", [-1, "5", True, None, 1.5]),
        ("max_subscription_buffer", [0, -1, "5", True, None, 1.5]),
        ("max_subscriptions", [0, -1, "5", True, 1.5]),
        ("max_topics", [0, -1, "5", True, 1.5]),
        ("max_reply_size", [0, -1, "5", True, 1.5, 1024 * 1024 - 1]),
    ],
)
def test_an_option_that_makes_no_sense_is_an_error_at_once(option: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(errors.RayforceValueError, match=f"Invalid {option}: {value!r}. Must be an? (int|number)"):
            WSServer(0, **{option: value})


# Time in the engine


def options(query_timeout: Any) -> ConnectionOptions:
    return ConnectionOptions(
        open_timeout=5.0, write_timeout=30.0, query_timeout=query_timeout, max_in_flight=None, drain_timeout=10.0
    )


@pytest.mark.parametrize(
    ("given", "addresses", "limit"),
    [
        ("auto", ["127.0.0.1"], None),
        ("auto", ["127.0.0.1", "::1"], None),
        ("auto", ["0.0.0.0"], 300.0),
        ("auto", ["127.0.0.1", "192.0.2.7"], 300.0),
        ("auto", ["::"], 300.0),
        (None, ["0.0.0.0"], None),
        (7, ["127.0.0.1"], 7),
    ],
)
def test_by_default_a_query_has_300_seconds_where_others_may_ask(
    given: Any, addresses: list[str], limit: float | None
) -> None:
    assert options(query_timeout=given).query_timeout_on(addresses) == limit


@pytest.mark.trio
async def test_a_query_that_takes_too_long_is_stopped_in_a_native_engine_and_answered(
    native_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    why = r"^timeout: the query ran for more than 0\.2 seconds and was stopped \(query_timeout\)$"
    async with connected(NativeEngine(LOCAL, native_port), query_timeout=0.2) as connection:
        with pytest.raises(errors.QueryTimeout, match=why):
            await connection.execute(ENDLESS)
        assert (await connection.execute("(+ 1 2)")).value == 3
        with trio.fail_after(5):
            assert (await ask_natively(native_port, "(+ 1 2)")).value == 3
    assert warnings(caplog) == ["a query has run for more than 0.2 seconds (query_timeout) and is being stopped"]


@pytest.mark.trio
async def test_what_waits_behind_it_is_answered_and_of_several_each_is_stopped(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = NativeProcess()
    answers: dict[int, Any] = {}
    async with serving(engine, query_timeout=0.3) as server:
        async with WSClient(LOCAL, server.port).connect() as connection, trio.open_nursery() as nursery:

            async def ask(number: int) -> None:
                try:
                    answers[number] = (await connection.execute(f"(+ {number} 0)" if number % 3 else ENDLESS)).value
                except errors.QueryTimeout:
                    answers[number] = "stopped"

            for number in range(7):
                nursery.start_soon(ask, number)
        assert answers == {0: "stopped", 1: 1, 2: 2, 3: "stopped", 4: 4, 5: 5, 6: "stopped"}
        assert engine.pid is not None
        engine_pid = engine.pid
        await until(lambda: is_asleep(engine_pid))
    assert warnings(caplog) == ["a query has run for more than 0.3 seconds (query_timeout) and is being stopped"] * 3


@pytest.mark.trio
async def test_a_post_that_takes_too_long_is_stopped_too(caplog: pytest.LogCaptureFixture) -> None:
    async with connected(NativeProcess(), query_timeout=0.3) as connection:
        await connection.post(ENDLESS)
        assert (await connection.execute("(+ 1 2)")).value == 3
    assert "a post has run for more than 0.3 seconds (query_timeout) and is being stopped" in warnings(caplog)


@pytest.mark.trio
async def test_waiting_for_the_queries_of_others_is_not_counted(caplog: pytest.LogCaptureFixture) -> None:
    """Six connections, and an engine that takes longer for all of them together than one may."""
    async with serving(NativeProcess(), query_timeout=2.0) as server, trio.open_nursery() as nursery:

        async def ask(number: int) -> None:
            async with WSClient(LOCAL, server.port).connect() as connection:
                assert (await connection.execute(f'(do (.sys.exec "sleep 0.5") {number})')).value == number

        for number in range(6):
            nursery.start_soon(ask, number)
    assert warnings(caplog) == []


@pytest.mark.trio
async def test_a_query_that_waits_for_an_endless_one_of_another_is_not_stopped_for_it(
    queries: Queries, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(NativeProcess(), query_timeout=3.0) as server:
        first, endless = queries(), queries()
        async with (
            WSClient(LOCAL, server.port).connect() as one,
            WSClient(LOCAL, server.port).connect() as two,
            WSClient(LOCAL, server.port).connect() as three,
            trio.open_nursery() as nursery,
        ):

            async def be_stopped() -> None:
                with pytest.raises(errors.QueryTimeout):
                    await two.execute(endless.text)

            nursery.start_soon(one.execute, first.text)
            await first.begun()
            nursery.start_soon(be_stopped)
            await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.start_soon(three.execute, "(+ 1 2)")
            await trio.testing.wait_all_tasks_blocked(0.05)
            first.release()  # now both others have waited equally long
    assert warnings(caplog) == ["a query has run for more than 3 seconds (query_timeout) and is being stopped"]


@pytest.mark.trio
async def test_waiting_in_the_queue_of_the_connection_is_not_counted(autojump_clock: trio.testing.MockClock) -> None:
    engine = GateEngine()
    ended: list[float] = []

    async def ask() -> None:
        with pytest.raises(errors.QueryTimeout):
            await connection.execute("1")
        ended.append(trio.current_time() - since)

    async with connected(engine, within=1e6, query_timeout=300, ping_interval=None) as connection:
        await trio.sleep(1000)
        since = trio.current_time()
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
    assert ended == pytest.approx([300, 600, 900], abs=0.5)


@pytest.mark.trio
async def test_an_engine_that_cannot_stop_it_is_asked_once(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """And a value that comes to be all the same is the answer."""
    engine = GateEngine(stoppable=False)

    async def ask() -> None:
        assert await connection.execute("1") == "released"

    async with connected(engine, within=1e6, query_timeout=10, ping_interval=None) as connection:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.sleep(100)
            assert engine.cancels == 1
            engine.release()
        await ask()
    assert len(warnings(caplog)) == 1


@pytest.mark.trio
async def test_a_client_that_reads_its_reply_slowly_takes_no_time_of_the_engine() -> None:
    async with serving(NativeProcess(), query_timeout=1.0) as server:
        with await open_raw(server.port, receive_buffer=65536) as peer:
            await peer.send_frame(BIG_QUERY)
            received = 0
            until = trio.current_time() + 2.0
            while not received or not peer.fin:
                opcode, part = await peer.receive_frame()
                received += len(part)
                assert opcode != TEXT
                if trio.current_time() < until:
                    await trio.sleep(0.05)  # the pace is the point
            assert received > BIG
            await peer.send_frame(QUERY)
            assert decode(Result((await peer.receive_frame())[1])) == 3


@pytest.mark.trio
async def test_an_in_process_engine_cannot_be_interrupted() -> None:
    async with connected(InProcessEngine(), query_timeout=0.001) as connection:
        assert (await connection.execute("(count (til 3000000))")).value == 3_000_000


# Requests at once


@pytest.mark.trio
async def test_requests_beyond_the_limit_are_refused_in_their_turn_and_the_log_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = GateEngine()
    busy = '{{"error": {{"request": {}, "code": "busy", "message": "{}"}}}}'
    why = "this connection has reached its limit of 3 unanswered requests (max_in_flight)"
    async with serving(engine, max_in_flight=3) as server:
        with await open_raw(server.port) as peer:
            await peer.send(frame(QUERY) * 5)
            await engine.until(begun=1)
            await trio.testing.wait_all_tasks_blocked()
            engine.release()
            for _ in range(3):
                opcode, payload = await peer.receive_frame()
                assert (opcode, b"released" in payload) == (BINARY, True)
            for number in 4, 5:
                assert await peer.receive_frame() == (TEXT, busy.format(number, why).encode())
            await peer.send(frame(QUERY) * 3)
            for _ in range(3):
                assert (await peer.receive_frame())[0] == BINARY
    assert len(engine.begun) == 6
    assert warnings(caplog) == ["the limit of 3 unanswered requests is reached (max_in_flight); more are refused"]


@pytest.mark.trio
async def test_posts_do_not_count_and_are_never_refused() -> None:
    engine = GateEngine()
    async with serving(engine, max_in_flight=1) as server:
        with await open_raw(server.port) as peer:
            await peer.send(frame(POST) * 10 + frame(QUERY) + frame(POST) * 10)
            await engine.until(begun=1)
            engine.release()
            assert (await peer.receive_frame())[0] == BINARY
            await engine.until(begun=21)


@pytest.mark.trio
async def test_our_client_raises_an_error_of_its_own_for_it() -> None:
    engine = GateEngine()
    answers: list[str] = []

    async def ask() -> None:
        try:
            answers.append((await connection.execute("1")).value)
        except errors.ServerBusy as error:
            answers.append(str(error))

    async with connected(engine, max_in_flight=1) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await engine.until(begun=1)
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        engine.release()
    assert sorted(answers, reverse=True) == [
        "released",
        "busy: this connection has reached its limit of 1 unanswered request (max_in_flight)",
    ]


@pytest.mark.trio
async def test_our_client_never_meets_the_default_however_much_it_asks(caplog: pytest.LogCaptureFixture) -> None:
    engine = GateEngine()
    assert inspect.signature(WSServer).parameters["max_in_flight"].default == 2 * MAX_IN_FLIGHT
    async with connected(engine) as connection, trio.open_nursery() as nursery:
        for _ in range(3000):
            nursery.start_soon(connection.execute, "1")
        await engine.until(begun=1)
        await trio.testing.wait_all_tasks_blocked()
        engine.release()
    assert warnings(caplog) == []


@pytest.mark.trio
async def test_a_client_that_goes_on_asking_is_refused_and_always_read() -> None:
    limit, total = 10, 3000
    engine = GateEngine()
    client, server = memory_pair("rayforce.v1")
    with trio.fail_after(30):
        session = await engine.open_session()
        async with trio.open_nursery() as nursery:
            log = ConnectionLog(1, server.peer)
            nursery.start_soon(WSServerConnection(log, server, session, max_in_flight=limit).run)
            for _ in range(total):
                await client.send(QUERY)
            await trio.testing.wait_all_tasks_blocked()
            assert server._incoming.statistics().current_buffer_used == 0
            engine.release()
            answers = [await client.receive() for _ in range(total)]
            assert len(engine.begun) == limit
            assert [isinstance(answer, bytes) for answer in answers] == [True] * limit + [False] * (total - limit)
            await client.aclose()


class OneReply(Session):
    """A session that starts requests ahead in principle, and replies when the test says so."""

    can_start_ahead = True

    def start(self, frame: Frame, answer: Callable[[Reply], None]) -> bool:
        self.reply = partial(answer, Result(frame))
        return True

    async def request(self, frame: Frame) -> Reply:
        raise NotImplementedError

    async def post(self, frame: Frame) -> Failure | None:
        raise NotImplementedError

    def cancel(self) -> None:
        pass

    async def aclose(self) -> None:
        pass


@pytest.mark.trio
async def test_many_refusals_do_not_keep_other_tasks_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[object] = []

    def send_nowait(answer: object) -> bool:
        answers.append(answer)
        return True

    session = OneReply()
    client, server = memory_pair("rayforce.v1")
    monkeypatch.setattr(server, "send_nowait", send_nowait)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(WSServerConnection(ConnectionLog(1, server.peer), server, session, max_in_flight=1).run)
        for _ in range(1000):
            await client.send(QUERY)
        await trio.testing.wait_all_tasks_blocked()
        session.reply()
        assert 1 <= len(answers) < 50
        with trio.fail_after(20):
            await trio.testing.wait_all_tasks_blocked()
        assert len(answers) == 1000
        await client.aclose()


# Time to read


@pytest.mark.trio
async def test_peers_that_do_not_read_are_dropped_while_the_engine_serves_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def dropped() -> list[str]:
        return [record.getMessage() for record in caplog.records if "read less than 16 KiB" in record.getMessage()]

    caplog.set_level("INFO", "rayforce_trio.server")
    async with serving(NativeProcess(), write_timeout=1.0) as server, AsyncExitStack() as stack:
        other = await stack.enter_async_context(WSClient(LOCAL, server.port).connect())
        before = resident_memory()
        peers = [stack.enter_context(await open_raw(server.port, receive_buffer=4096)) for _ in range(5)]
        for peer in peers:
            await peer.send_frame(BIG_QUERY)
        while len(dropped()) < 5:
            with trio.fail_after(10):
                assert (await other.execute("(+ 1 2)")).value == 3
            assert resident_memory() - before < BIG
        for peer in peers:
            with pytest.raises(EOFError):
                await peer.receive_close()  # the beginning of the reply, and then the end
        assert (await other.execute("(+ 1 2)")).value == 3
    assert len(dropped()) == 5
    assert all(
        line.endswith("): lost: the peer has read less than 16 KiB per second for 1 second") for line in dropped()
    )


# Time to open


@pytest.mark.trio
async def test_who_does_not_open_in_time_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    with trio.fail_after(1000):
        async with WSServer(0, host=LOCAL, open_timeout=77) as server:
            with connect_raw(server.port) as peer:
                since = trio.current_time()
                assert await peer.receive_rest() == b""
                assert trio.current_time() - since == pytest.approx(77, abs=0.5)
