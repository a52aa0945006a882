"""Streams on the server: what they leave in the engine, whatever happens to the client and its session."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
import trio
from rayforce import I64
from support.engines import GateEngine
from support.polling import until_equal
from support.steps import counted
from support.watched import Queries, WatchedQuery, ask_natively

from rayforce_trio import (
    InProcessEngine,
    NativeEngine,
    NativeProcess,
    WSClient,
    WSClientConnection,
    WSServer,
    errors,
)
from rayforce_trio._engines import Engine, Session
from rayforce_trio._protocol import (
    HEADER_SIZE,
    MAX_STREAMS,
    EndStream,
    Failure,
    NextBatch,
    OpenStream,
    Reply,
    Result,
    TakeRows,
    response_frame,
)
from rayforce_trio._server._result_streams import ResultStreams, _row_size
from rayforce_trio._server._stream_variables import StreamVariables
from rayforce_trio._values._columns import read_columns
from rayforce_trio._values._payloads import string, symbols, table_of, vector
from rayforce_trio._values._types import Type


def nothing(count: int) -> None:
    """Do nothing with a number of bytes."""


async def variables(port: int) -> int:
    """Return how many variables of streams the engine has."""
    names = await ask_natively(port, "(key (env 0))")
    return sum(str(name.to_python()).startswith("#stream-") for name in names)


@asynccontextmanager
async def lost_beside_a_busy_engine(server: WSServer, busy: WatchedQuery) -> AsyncIterator[None]:
    """Run the block when a client with a stream has disappeared, while the engine evaluates another one's query."""
    client = WSClient("127.0.0.1", server.port)
    async with client.connect() as other, trio.open_nursery() as nursery:
        connection = await client.connect(nursery)
        async with connection.stream("(til 10)", batch_size=4) as batches:
            await anext(batches)
            nursery.start_soon(other.execute, busy.text)
            await busy.begun()
            connection.abort()
        with trio.fail_after(20):
            yield
        busy.release()


@pytest.mark.trio
async def test_a_connection_counts_until_its_variables_are_deleted(
    queries: Queries, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rayforce_trio._server._connection.CLOSE_TIMEOUT", 0.1)
    caplog.set_level("INFO", "rayforce_trio.server")
    async with WSServer(port=0, host="127.0.0.1", engine=NativeProcess(), max_connections=2) as server:
        client, busy = WSClient("127.0.0.1", server.port), queries()
        async with lost_beside_a_busy_engine(server, busy):
            while "lost: " not in caplog.text:
                await trio.lowlevel.checkpoint()
            with pytest.raises(errors.ConnectionRejected):
                await client.connect().__aenter__()
            busy.release()
            async with client.connect(reconnect=True, wait_for_server=True) as connection:
                assert await connection.execute("(+ 1 2)") == I64(3)


@pytest.mark.trio
async def test_variables_that_may_be_left_in_the_engine_are_logged(
    queries: Queries, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for limit in ("_stream_variables._DELETE_TIMEOUT", "_connection.CLOSE_TIMEOUT"):
        monkeypatch.setattr(f"rayforce_trio._server.{limit}", 0.1)
    said = "results of this client's streams may remain in the engine's memory: the engine was busy for 0.1 seconds"
    async with (
        WSServer(port=0, host="127.0.0.1", engine=NativeProcess()) as server,
        lost_beside_a_busy_engine(server, queries()),
    ):
        while said not in caplog.text:
            await trio.lowlevel.checkpoint()


@pytest.mark.trio
async def test_a_server_that_is_cancelled_leaves_no_variables(native_port: int) -> None:
    engine = NativeEngine("127.0.0.1", native_port)
    with trio.CancelScope() as scope:
        async with (
            WSServer(port=0, host="127.0.0.1", engine=engine) as server,
            WSClient("127.0.0.1", server.port).connect() as connection,
            connection.stream("(til 10)", batch_size=4) as batches,
        ):
            await anext(batches)
            scope.cancel()
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert await variables(native_port) == 0


@pytest.mark.trio
@pytest.mark.parametrize("query", ["(list 1 (til 1000))", "(dict [a] (list (til 1000)))", '"text"', "7"])
async def test_what_the_engine_cannot_divide_is_not_kept_there(native_port: int, query: str) -> None:
    session = await NativeEngine("127.0.0.1", native_port).open_session()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        streams = ResultStreams(session, StreamVariables(session), nothing)
        for number in (1, 2):
            assert not isinstance(await streams.open(OpenStream(number, 10, string(query))), Failure)
        assert await variables(native_port) == 0
        nursery.cancel_scope.cancel()
    await session.aclose()


@pytest.mark.trio
async def test_a_description_may_be_long(native_port: int) -> None:
    """The engine sends it in several pieces."""
    engine = NativeEngine("127.0.0.1", native_port)
    query = '(do (map (fn [x] (println (take "x" 5000))) (til 400)) (til 10))'
    async with (
        WSServer(port=0, host="127.0.0.1", engine=engine) as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
        connection.stream(query, batch_size=4) as batches,
    ):
        assert [len(batch) async for batch in batches] == [4, 4, 2]


@pytest.mark.trio
async def test_a_busy_engine_deletes_the_variables_later(native_port: int, queries: Queries) -> None:
    engine = NativeEngine("127.0.0.1", native_port)
    async with WSServer(port=0, host="127.0.0.1", engine=engine) as server:
        busy = queries()
        async with lost_beside_a_busy_engine(server, busy):
            busy.release()
            await until_equal(0, lambda: variables(native_port))


@pytest.mark.trio
async def test_a_stopped_server_leaves_no_variables(native_port: int) -> None:
    engine = NativeEngine("127.0.0.1", native_port)
    server = WSServer(port=0, host="127.0.0.1", engine=engine, drain_timeout=0.2)
    async with server, WSClient("127.0.0.1", server.port).connect() as connection:
        batches = await connection.stream("(til 10)", batch_size=4).__aenter__()
        await anext(batches)
        assert await variables(native_port) == 1
        await server.stop()
    assert await variables(native_port) == 0


@pytest.mark.trio
async def test_batches_of_unknown_streams_are_errors(native_port: int) -> None:
    session = await NativeEngine("127.0.0.1", native_port).open_session()
    streams = ResultStreams(session, StreamVariables(session), nothing)
    assert await streams.next_batch(NextBatch(1)) == Failure("domain", "the connection has no stream 1")
    await session.aclose()


@pytest.mark.trio
async def test_what_the_server_keeps_of_a_result_counts_as_replies_that_wait() -> None:
    engine = NativeProcess(read_only=True)
    server = WSServer(port=0, host="127.0.0.1", engine=engine, max_reply_size=1024**2, max_spooled_bytes=1024**2)
    async with server, WSClient("127.0.0.1", server.port).connect() as connection:
        with pytest.raises(errors.ResultTooLarge):
            await enter_streams(connection, 1, rows=200_000)
        with pytest.raises(errors.ConnectionLost):
            await enter_streams(connection, MAX_STREAMS, rows=60_000)


ENGINES = pytest.mark.parametrize(
    "engine",
    [InProcessEngine, NativeProcess, lambda: NativeProcess(read_only=True)],
    ids=["in process", "native", "kept by the server"],
)


@ENGINES
@pytest.mark.trio
async def test_any_rows_can_be_taken_in_any_order(engine: Callable[[], Engine]) -> None:
    running = engine()
    async with trio.open_nursery() as nursery:
        await nursery.start(running.run)
        session = await running.open_session()
        nursery.start_soon(session.run)
        streams = ResultStreams(session, StreamVariables(session), nothing)
        queries = {1: "(table [a] (list (til 10)))", 2: "(til 1000)", 3: "(table [a] (list (take [1] 0)))", 4: "7"}
        for number, query in queries.items():
            assert not isinstance(await streams.open(OpenStream(number, 4, string(query))), Failure)
        assert await taken(session, await streams.take_rows(TakeRows(1, 7, 3))) == [7, 8, 9]
        assert await taken(session, await streams.take_rows(TakeRows(1, 2, 1))) == [2]
        assert await taken(session, await streams.next_batch(NextBatch(1))) == [0, 1, 2, 3]
        assert await taken(session, await streams.take_rows(TakeRows(2, 998, 2))) == [998, 999]
        assert await taken(session, await streams.take_rows(TakeRows(2, 0, 1))) == [0]
        for number in 3, 4:
            refusal = await streams.take_rows(TakeRows(number, 0, 1))
            assert isinstance(refusal, Failure)
            assert (refusal.code, refusal.message.partition(",")[0]) == ("domain", f"stream {number} has 0 rows")
        assert await streams.end(EndStream(1)) == await streams.end(EndStream(1)) == Result(response_frame(b"\x7e"))
        gone = await streams.take_rows(TakeRows(1, 0, 1))
        assert gone == Failure("domain", "the connection has no stream 1")
        for number in 2, 3, 4:  # the engine in this process keeps what is left in it
            await streams.end(EndStream(number))
        await session.aclose()
        nursery.cancel_scope.cancel()


@ENGINES
@pytest.mark.trio
async def test_a_query_is_not_started_if_the_call_is_cancelled_before_it(engine: Callable[[], Engine]) -> None:
    running = engine()
    async with trio.open_nursery() as nursery:
        await nursery.start(running.run)
        session = await running.open_session()
        nursery.start_soon(session.run)

        class CancelledAtFirst(StreamVariables):
            is_first = True

            def new(self) -> str:
                if self.is_first:
                    streams.cancel()  # as while the engine creates the variable
                self.is_first = False
                return super().new()

        variables = CancelledAtFirst(session)
        streams = ResultStreams(session, variables, nothing)
        never = OpenStream(1, 10, string("(while true 1)"))
        assert await streams.open(never) == Failure("cancel", "the client cancelled the request")
        assert not variables
        assert not isinstance(await streams.open(OpenStream(2, 10, string("(til 10)"))), Failure)
        assert await taken(session, await streams.next_batch(NextBatch(2))) == list(range(10))
        await streams.end(EndStream(2))
        await session.aclose()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("payload", "size"),
    [
        (table_of(["a", "b", "c"], [vector(Type.U8, 0, []), vector(Type.I64, 0, []), symbols([])]), 1 + 8 + 16),
        (vector(Type.GUID, 0, []), 16),
        (table_of(map(str, range(1000)), [vector(Type.U8, 0, [])] * 1000), 1000),
        (vector(Type.U8, 3, [b"12"]), 16),
    ],
    ids=["table", "vector", "many columns", "damaged"],
)
def test_the_size_of_a_row_is_found_in_steps(payload: bytes, size: int) -> None:
    steps, found = counted(_row_size(payload))
    assert found == size
    assert steps >= (1000 if size == 1000 else 1)


@pytest.mark.trio
@pytest.mark.parametrize("end", ["the client cancels", "the client leaves", "query_timeout", "the server stops"])
async def test_a_query_is_not_started_if_the_stop_comes_while_its_variable_is_made(
    end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A stop that comes in the last moment of a request changes nothing in the engine."""
    engine = GateEngine(stoppable=False)
    limit = 0.1 if end == "query_timeout" else None
    with trio.fail_after(30):
        async with (
            trio.open_nursery() as nursery,
            WSServer(0, host="127.0.0.1", engine=engine, query_timeout=limit) as server,
        ):
            connection = await WSClient("127.0.0.1", server.port).connect(nursery)
            scope, ended = trio.CancelScope(), trio.Event()

            async def stream() -> None:
                with scope, suppress(errors.RayforceError):
                    async with connection.stream("(a long query)"):
                        raise AssertionError("it has no result")
                ended.set()

            nursery.start_soon(stream)
            await engine.until(begun=1)
            if end == "the client cancels":
                scope.cancel()
            elif end == "the client leaves":
                connection.abort()
            elif end == "the server stops":
                nursery.start_soon(server.stop, 0)
            await engine.until(cancels=1)
            engine.release()
            await ended.wait()
            connection.abort()
            await engine.until(sessions=0)
    assert [frame for frame in engine.begun if b"a long query" in frame] == []
    assert "posts were not carried out" not in caplog.text


async def taken(session: Session, reply: Reply) -> object:
    """Return the rows of a vector, or of the column of a table."""
    assert isinstance(reply, Result)
    (column,) = read_columns((await session.receive_whole(reply))[HEADER_SIZE:]).to_dict().values()
    return column


async def enter_streams(connection: WSClientConnection, count: int, *, rows: int) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(count):
            await stack.enter_async_context(connection.stream(f"(til {rows})"))
