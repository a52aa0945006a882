"""The numbers of a server, held against what is known to have happened."""

import dataclasses
import json
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from support.engines import GateEngine
from support.opening import LOCAL, answer_to
from support.raw import CLOSE, PING, RawPeer, connect_raw, open_raw, upgrade
from trio.testing import wait_all_tasks_blocked

from rayforce_trio import NativeProcess, WSClient, WSServer, auth, errors
from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType
from rayforce_trio._server._counters import LATENCY_BOUNDS, MAX_ERROR_CODES, MAX_LATENCIES, Counters
from rayforce_trio.statistics import Statistics, Streams

ENDLESS = "(while true 1)"


def request(query: str) -> bytes:
    return encode(query, MessageType.SYNC)


def post(query: str) -> bytes:
    return encode(query, MessageType.ASYNC)


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[WSServer]:
    with trio.fail_after(30):
        async with WSServer(0, host=LOCAL, **options) as server:
            yield server


async def until(server: WSServer, holds: Callable[[Statistics], bool]) -> Statistics:
    """Wait until something holds of a server's numbers, and return them."""
    while not holds(now := server.statistics()):
        await trio.lowlevel.checkpoint()
    return now


def check(now: Statistics) -> None:
    """Check that what belongs together adds up."""
    requests, connections = now.requests, now.connections
    assert requests.total == requests.in_flight + requests.abandoned + now.latencies.count
    assert connections.open <= connections.total
    assert min(requests.in_flight, connections.open, connections.opening, now.queued) >= 0


# What happens


@pytest.mark.trio
@pytest.mark.usefixtures("each_engine")
async def test_requests_posts_errors_and_bytes_are_counted_on_every_engine(engine: str) -> None:
    sent = [request("(+ 1 2)"), request('(+ 1 "a")'), post("(+ 1 2)"), post('(+ 1 "a")'), request("(til 200000)")]
    replies = received = 0
    async with served() as server:
        with await open_raw(server.port) as peer:
            await peer.send_frame(b"", PING)
            for frame in sent:
                await peer.send_frame(frame)
            while replies < 3:
                opcode, payload = await peer.receive_frame()
                if opcode <= 2:
                    received += len(payload)
                    replies += peer.fin
            now = await until(server, lambda now: now.latencies.count == 3)
            check(now)
            assert (now.connections.open, now.connections.total) == (1, 1)
            await peer.send_close(1000)
            await peer.receive_close()
        now = await until(server, lambda now: not now.connections.open)
    check(now)
    assert (now.connections.total, now.connections.opening, now.connections.failed) == (1, 0, 0)
    assert dataclasses.astuple(now.requests) == (3, 0, 0, 0, {"type": 1})
    assert (now.posts.total, now.posts.failed) == (2, 1 if engine == "in-process" else 0)
    assert now.bytes_in == sum(map(len, sent))
    assert now.bytes_out == received
    assert now.queued == 0
    assert 0 < now.latencies.sum < 30


@pytest.mark.trio
async def test_streams_and_batches_are_counted_if_the_engine_returns_them() -> None:
    async with served() as server, WSClient(LOCAL, server.port).connect() as connection:
        async with connection.stream("(til 10)", batch_size=4) as batches:
            assert server.statistics().streams.total == 1
            assert len([columns async for columns in batches]) == 3
        with pytest.raises(errors.RayforceError):
            async with connection.stream("no_such_name"):
                pass
        assert server.statistics().streams == Streams(total=1, batches=3)


@pytest.mark.trio
async def test_requests_wait_in_the_queue_and_one_is_under_way() -> None:
    engine = GateEngine()
    async with served(engine=engine) as server:
        with await open_raw(server.port) as peer:
            for _ in range(5):
                await peer.send_frame(request("(wait)"))
            await peer.send_frame(post("(wait)"))
            now = await until(server, lambda now: now.queued == 5)
            assert (now.requests.in_flight, now.posts.total, now.latencies.count) == (5, 1, 0)
            engine.release()
            now = await until(server, lambda now: not now.queued)
            now = await until(server, lambda now: not now.requests.in_flight)
            assert now.latencies.count == 5
            check(now)


@pytest.mark.trio
async def test_what_a_client_cancels_is_counted_once_and_so_is_its_error() -> None:
    engine = GateEngine()
    async with served(engine=engine) as server, WSClient(LOCAL, server.port).connect() as connection:
        for begun in (1, 2):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.execute, "(wait)")
                await engine.until(begun=begun)
                nursery.cancel_scope.cancel()
        now = await until(server, lambda now: not now.requests.in_flight and now.requests.total == 2)
        check(now)
        assert (now.requests.cancelled, now.requests.errors, now.requests.abandoned) == (2, {"cancel": 2}, 0)


@pytest.mark.trio
async def test_what_is_stopped_in_an_engine_process_is_counted() -> None:
    async with served(engine=NativeProcess()) as server:
        async with WSClient(LOCAL, server.port).connect() as connection:
            with trio.move_on_after(0.1):
                await connection.execute(ENDLESS)
            assert await connection.execute("(+ 1 2)") == 3
        with await open_raw(server.port) as killed:
            await killed.send_frame(request(ENDLESS))
            await killed.send_frame(request(ENDLESS))
            await until(server, lambda now: now.requests.in_flight == 2)
            killed.reset()
        now = await until(server, lambda now: not now.connections.open)
        check(now)
        assert dataclasses.astuple(now.requests) == (4, 0, 1, 2, {"cancel": 1})
        assert now.connections.total == 2


@pytest.mark.trio
@pytest.mark.parametrize("end", [RawPeer.reset, RawPeer.close, RawPeer.half_close])
async def test_requests_of_a_client_that_is_gone_are_abandoned(end: Callable[[RawPeer], None]) -> None:
    engine = GateEngine()
    async with served(engine=engine) as server:
        with await open_raw(server.port) as peer:
            for _ in range(3):
                await peer.send_frame(request("(wait)"))
            await until(server, lambda now: now.requests.in_flight == 3)
            end(peer)
            now = await until(server, lambda now: not now.connections.open)
        check(now)
        assert (now.requests.abandoned, now.requests.in_flight, now.latencies.count) == (3, 0, 0)


@pytest.mark.trio
async def test_a_reply_nobody_takes_is_not_answered() -> None:
    async with served() as server:
        with await open_raw(server.port, receive_buffer=4096) as peer:
            await peer.send_frame(request("(til 3000000)"))
            await until(server, lambda now: now.requests.total == 1)
            peer.reset()
            now = await until(server, lambda now: not now.connections.open)
        check(now)
        assert (now.requests.abandoned, now.latencies.count) == (1, 0)


@pytest.mark.trio
async def test_openings_are_counted_by_what_they_come_to(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*expected: int) -> None:
        await until(server, lambda now: now.connections.refused == dict.fromkeys(expected, 1))

    async def authenticate(request: auth.Request) -> str | None:
        if request.token == "slow":
            await release.wait()
            return None
        return request.token

    release = trio.Event()
    monkeypatch.setattr("rayforce_trio._server._openings.QUEUE_TIMEOUT", 0.1)
    async with served(authenticate=authenticate, max_unauthenticated=1) as server:
        assert server.statistics().connections.refused == {}
        assert (await answer_to(server.port, {"Origin": "http://foreign.example"})).status == 403
        await refused(403)
        assert (await answer_to(server.port, {"Host": "foreign.example"})).status == 421
        await refused(403, 421)
        assert (await answer_to(server.port)).status == 401
        await refused(403, 421, 401)
        assert (await answer_to(server.port, {"Sec-WebSocket-Key": "x"})).status == 400
        await refused(403, 421, 401, 400)
        assert (await answer_to(server.port, {"X": "x" * 20_000})).status == 431
        await refused(403, 421, 401, 400, 431)
        with connect_raw(server.port) as peer:
            await peer.send(upgrade({"Authorization": "Bearer slow"}))
            await until(server, lambda now: now.connections.opening == 1)
            await wait_all_tasks_blocked()
            assert (await answer_to(server.port)).status == 503
            await refused(403, 421, 401, 400, 431, 503)
            release.set()
            assert (await peer.receive_head()).startswith(b"HTTP/1.1 401 ")
            assert server.statistics().connections.refused[401] == 2
        connect_raw(server.port).close()
        now = await until(server, lambda now: now.connections.failed == 1)
        assert (now.connections.opening, now.connections.total, now.connections.probes) == (0, 0, 0)
        async with WSClient(LOCAL, server.port, token="bob").connect():
            pass
        now = await until(server, lambda now: now.connections.total == 1 and not now.connections.open)
        check(now)


@pytest.mark.trio
async def test_a_greeting_that_is_none_fails() -> None:
    async with served() as server:
        with await open_raw(server.port, hello=False) as peer:
            await peer.send_frame(b"what is this?")
            assert await peer.receive_close() == 1002
            await peer.send_close(1002)
        now = await until(server, lambda now: now.connections.failed == 1)
        assert (now.connections.total, now.connections.opening) == (0, 0)


@pytest.mark.trio
async def test_what_was_counted_stays_counted_when_the_server_serves_again() -> None:
    server = WSServer(0, host=LOCAL)
    assert server.statistics().since is None
    for round_ in (1, 2):
        begun = time.time()
        async with server, WSClient(LOCAL, server.port).connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3
            since = server.statistics().since
            assert since is not None
            assert begun <= since <= time.time()
        now = server.statistics()
        check(now)
        assert (now.since, now.connections.total, now.latencies.count) == (None, round_, round_)


@pytest.mark.trio
async def test_numbers_stay_as_they_are_and_can_be_written_as_json() -> None:
    async with served() as server:
        with await open_raw(server.port) as peer:
            before = server.statistics()
            document = json.dumps(dataclasses.asdict(before))
            await peer.send_frame(request('(+ 1 "a")'))
            await peer.receive_frame()
            await until(server, lambda now: now.requests.errors == {"type": 1})
            assert json.dumps(dataclasses.asdict(before)) == document
            await peer.send_frame(b"", CLOSE)


@pytest.mark.trio
async def test_numbers_can_be_taken_from_another_thread_and_never_fall() -> None:
    async def ask(connection: Any) -> None:
        for _ in range(1000):
            await connection.execute("(+ 1 2)")

    def watch() -> int:
        taken, last = 0, server.statistics()
        while last.latencies.count < 5000:
            now = server.statistics()
            assert now.latencies.count >= last.latencies.count
            assert now.requests.total >= last.requests.total
            assert now.requests.in_flight >= 0
            taken, last = taken + 1, now
            time.sleep(0.0001)  # or this thread would have the interpreter to itself
        return taken

    async with served() as server, WSClient(LOCAL, server.port).connect() as connection, trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(ask, connection)
        assert await trio.to_thread.run_sync(watch, abandon_on_cancel=True) > 0


# How it is counted


@given(st.lists(st.sampled_from(LATENCY_BOUNDS) | st.floats(0, 1000), max_size=50))
def test_latencies_fall_below_the_first_bound_that_they_do_not_exceed(values: list[float]) -> None:
    counters, expected = Counters(), [0] * (len(LATENCY_BOUNDS) + 1)
    for value in values:
        counters.latencies.append(value)
        expected[bisect_left(LATENCY_BOUNDS, value)] += 1
    for _ in range(2):  # put by, and sorted
        now = counters.take(since=None, queued=0).latencies
        assert (now.counts, now.count, now.bounds) == (tuple(expected), len(values), LATENCY_BOUNDS)
        assert now.sum == pytest.approx(sum(values))
        counters._sort_latencies()
        assert counters.latencies == []


@pytest.mark.trio
async def test_latencies_take_no_more_memory_the_more_there_are() -> None:
    async with served() as server, WSClient(LOCAL, server.port).connect() as connection, trio.open_nursery() as nursery:
        for _ in range(MAX_LATENCIES + 10):
            nursery.start_soon(connection.execute, "1")
        now = await until(server, lambda now: now.latencies.count == MAX_LATENCIES + 10)
        check(now)
        assert len(server._counters.latencies) == 10


def test_a_client_that_makes_up_codes_fills_no_memory() -> None:
    counters = Counters()
    for _ in range(2):
        for number in range(1000):
            counters.error(f"c{number}")
    errors = counters.take(since=None, queued=0).requests.errors
    assert len(errors) == MAX_ERROR_CODES
    assert errors["c0"] == 2
    assert sum(errors.values()) == 2000
