"""While a native engine is busy with a query, the server does everything else, and nothing holds up its event loop."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from support import raw
from support.watched import Queries, WatchedQuery
from trio.testing import wait_all_tasks_blocked

from rayforce_trio import NativeProcess, WSClient, WSClientConnection, WSServer
from rayforce_trio._codec import encode
from rayforce_trio._protocol import MessageType

pytestmark = pytest.mark.timing

TEN_SECONDS = "(sum (map (fn [x] (sum (til x))) (til 260000)))"


@asynccontextmanager
async def served() -> AsyncIterator[int]:
    """Serve a native engine for the block, which is bounded; yields the port."""
    with trio.fail_after(60):
        server = WSServer(port=0, host="127.0.0.1", engine=NativeProcess(), max_connections_per_address=None)
        async with server:
            yield server.port


@asynccontextmanager
async def running(query: WatchedQuery, port: int) -> AsyncIterator[None]:
    """Run a query beside the block. The block must be over first, and nothing may have held up the event loop."""
    longest_gap = 0.0

    async def measure_gaps() -> None:
        nonlocal longest_gap
        last = trio.current_time()
        while True:
            await trio.sleep(0.001)
            now = trio.current_time()
            longest_gap, last = max(longest_gap, now - last), now

    async with WSClient("127.0.0.1", port).connect() as connection, trio.open_nursery() as nursery:
        nursery.start_soon(connection.execute, query.text)
        await query.begun()
        nursery.start_soon(measure_gaps)
        yield
        assert not query.has_ended
        nursery.cancel_scope.cancel()
    assert longest_gap < 2


async def exchange_pings(peer: raw.RawPeer, count: int) -> None:
    for number in range(count):
        payload = str(number).encode()
        await peer.send_frame(payload, raw.PING)
        assert await peer.receive_frame() == (raw.PONG, payload)


async def open_and_close(port: int) -> None:
    async with WSClient("127.0.0.1", port).connect() as connection:
        assert not connection.closed


async def be_refused(port: int, status: int, request: bytes) -> None:
    with raw.connect_raw(port) as peer:
        await peer.send(request)
        assert (await peer.receive_head()).startswith(b"HTTP/1.1 %d " % status)


FOREIGN = raw.upgrade({"Origin": "http://elsewhere.example"})
GARBAGE = b"\x16\x03\x01\x02\x00 what is this\r\n\r\n"


@pytest.mark.trio
async def test_pings_are_answered(queries: Queries) -> None:
    query = queries(TEN_SECONDS)
    async with served() as port:
        with await raw.open_raw(port) as peer:
            async with running(query, port):
                await exchange_pings(peer, 500)


@pytest.mark.trio
async def test_pings_are_answered_on_the_very_connection_of_the_query(queries: Queries) -> None:
    query, its_own = queries(TEN_SECONDS), queries()
    async with served() as port:
        with await raw.open_raw(port) as peer:
            await peer.send_frame(encode(its_own.text, MessageType.SYNC))
            await its_own.begun()
            await exchange_pings(peer, 500)
            assert not its_own.has_ended
            its_own.release()
            assert (await peer.receive_frame())[0] == raw.BINARY
            async with running(query, port):
                await peer.send_frame(encode("1", MessageType.SYNC))
                await exchange_pings(peer, 500)


@pytest.mark.trio
async def test_connections_are_accepted_and_closed(queries: Queries) -> None:
    query = queries(TEN_SECONDS)
    async with served() as port, running(query, port):
        for _ in range(50):
            await open_and_close(port)
        async with trio.open_nursery() as nursery:
            for _ in range(50):
                nursery.start_soon(open_and_close, port)


@pytest.mark.trio
async def test_what_must_be_refused_is_refused(queries: Queries) -> None:
    query = queries(TEN_SECONDS)
    async with served() as port, running(query, port):
        for _ in range(50):
            await be_refused(port, 403, FOREIGN)
            await be_refused(port, 400, GARBAGE)


@pytest.mark.trio
async def test_connections_that_wait_for_the_engine_can_be_closed(queries: Queries) -> None:
    query = queries(TEN_SECONDS)
    async with served() as port, running(query, port):
        for _ in range(20):
            with trio.CancelScope() as scope:
                async with WSClient("127.0.0.1", port).connect() as connection, trio.open_nursery() as nursery:
                    for _ in range(20):
                        nursery.start_soon(connection.execute, "1")
                    await wait_all_tasks_blocked()
                    scope.cancel()


@pytest.mark.trio
async def test_all_of_it_at_once(queries: Queries) -> None:
    query = queries(TEN_SECONDS)

    async def be_refused_often(status: int, request: bytes) -> None:
        for _ in range(30):
            await be_refused(port, status, request)

    async with served() as port:
        with await raw.open_raw(port) as one, await raw.open_raw(port) as other:
            async with running(query, port), trio.open_nursery() as nursery:
                nursery.start_soon(exchange_pings, one, 300)
                nursery.start_soon(exchange_pings, other, 300)
                nursery.start_soon(be_refused_often, 403, FOREIGN)
                nursery.start_soon(be_refused_often, 400, GARBAGE)
                for _ in range(30):
                    nursery.start_soon(open_and_close, port)


@pytest.mark.trio
async def test_queries_of_other_connections_wait_for_the_engine_alone(queries: Queries) -> None:
    """Those that were open before, and those opened meanwhile."""
    query = queries()
    values: list[int] = []
    opened: set[WSClientConnection] = set()
    all_opened = trio.Event()

    async def ask(text: str, connection: WSClientConnection) -> None:
        values.append((await connection.execute(text)).value)

    async def open_and_ask(number: int) -> None:
        async with WSClient("127.0.0.1", port).connect() as connection:
            opened.add(connection)
            if len(opened) == 20:
                all_opened.set()
            await ask(f"(+ {number} 1)", connection)

    async with (
        served() as port,
        WSClient("127.0.0.1", port).connect() as first,
        WSClient("127.0.0.1", port).connect() as second,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(ask, query.text, first)
        await query.begun()
        nursery.start_soon(ask, "0", second)
        for number in range(20):
            nursery.start_soon(open_and_ask, number)
        await all_opened.wait()
        assert values == []
        query.release()
    assert sorted(values) == [*range(21), query.value]
