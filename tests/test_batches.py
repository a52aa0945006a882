"""`stream`: results in batches, through a connection."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from support.connected import connected_to
from support.polling import until_equal
from support.processes import server_process
from support.sweep import cancellation_of, swept
from support.watched import Queries

from rayforce_trio import Columns, WSClientConnection, errors
from rayforce_trio._protocol import MAX_STREAMS

TEN = "(table [a b s] (list (til 10) (* 1.5 (til 10)) (take [x yy z] 10)))"


@pytest.fixture(scope="module")
def read_only_port() -> Iterator[int]:
    with server_process("read-only") as port:
        yield port


async def received(connection: WSClientConnection, query: str, **options: Any) -> list[Columns]:
    async with connection.stream(query, **options) as batches:
        return [columns async for columns in batches]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "sizes"),
    [
        (TEN, [4, 4, 2]),
        (f"(take {TEN} 8)", [4, 4]),
        (f"(take {TEN} 0)", [0]),
        ("(til 5)", [4, 1]),
        ("[a b c d e]", [4, 1]),
        ("(dict [a b] (list (til 6) (til 6)))", [4, 2]),
        ("(table [a v] (list (til 5) (list [1 2] [z] [3] [4 5 6] [1.5])))", [4, 1]),
    ],
)
async def test_a_result_in_batches(our_port: int, query: str, sizes: list[int]) -> None:
    async with connected_to(our_port) as connection:
        whole = await connection.fetch(query)
        async with connection.stream(query, batch_size=4) as batches:
            assert (batches.total_rows, batches.schema) == (len(whole), whole.schema)
            parts = [columns async for columns in batches]
        assert [len(part) for part in parts] == sizes
        assert [row for part in parts for row in part.rows()] == list(whole.rows())
        assert {str(part.schema) for part in parts} == {str(whole.schema)}


@pytest.mark.anyio
async def test_the_query_is_evaluated_once(our_port: int) -> None:
    async with connected_to(our_port) as connection:
        await connection.execute("(set batches_t (table [a] (list (til 6))))")
        async with connection.stream("batches_t", batch_size=4) as batches:
            await connection.execute("(insert 'batches_t (list 6))")
            assert [row async for columns in batches for row in columns["a"].tolist()] == list(range(6))
            assert await connection.execute("(count batches_t)") == 7


@pytest.mark.anyio
async def test_the_variables_of_streams_are_no_tables(our_port: int) -> None:
    async with connected_to(our_port) as connection, connection.stream("(table [a] (list (til 3)))"):
        assert not [name for name in await connection.tables() if "stream" in name]


@pytest.mark.anyio
async def test_parameters(our_port: int) -> None:
    async with connected_to(our_port) as connection:
        parts = await received(connection, "(+ n (til 3))", params={"n": 5}, batch_size=2)
        assert [part["value"].tolist() for part in parts] == [[5, 6], [7]]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "kind"),
    [("(+ 1 2)", "a single I64"), ("null", "null"), ("(list 1 'a)", "a list"), ("(fn [x] x)", "a function")],
)
async def test_a_result_without_columns_is_an_error(our_port: int, query: str, kind: str) -> None:
    async with connected_to(our_port) as connection:
        with pytest.raises(errors.NoColumns) as raised:
            async with connection.stream(query):
                pass
        assert str(raised.value) == f"the result is {kind}, which has no columns; use execute() instead of stream()"
        assert str(raised.value.value) == str(await connection.execute(query))
        assert await connection.execute("(+ 1 2)") == 3
        assert await streams_in(connection) == 0


@pytest.mark.anyio
async def test_an_error_of_the_evaluation_is_raised_as_by_execute(our_port: int) -> None:
    async with connected_to(our_port) as connection:
        with pytest.raises(errors.RayforceError, match="name"):
            async with connection.stream("(select {from: no_such_table})"):
                pass
        assert await streams_in(connection) == 0


async def streams_in(connection: WSClientConnection) -> int:
    """Return how many variables of streams the engine has."""
    names = await connection.fetch("(key (env 0))")
    return sum(name.startswith("#stream-") for name in names["value"])


@pytest.mark.anyio
async def test_the_end_of_the_block_releases_the_result(our_port: int) -> None:
    async with connected_to(our_port) as connection:
        async with connection.stream(TEN, batch_size=4) as batches:
            async for _ in batches:
                break
        assert await connection.execute("(+ 1 2)") == 3
        assert await streams_in(connection) == 0


@pytest.mark.anyio
async def test_the_printed_text_is_known_before_the_batches(our_port: int) -> None:
    async with connected_to(our_port) as connection:
        async with connection.stream('(do (println "one") (println "two") (til 3))') as batches:
            assert batches.output == "one\ntwo\n"
        async with connection.stream('(do (println "one") (dict [a] (list (til 3))))') as batches:
            assert (batches.output, batches.total_rows) == ("one\n", 3)
        with pytest.raises(errors.NoColumns) as raised:
            async with connection.stream('(do (println "one") 3)'):
                pass
        assert raised.value.output == "one\n"


@pytest.mark.anyio
@pytest.mark.parametrize("size", [0, -1, 1.0, True, None, 2**31, "1"])
async def test_the_batch_size_is_checked_early(our_port: int, size: Any) -> None:
    async with connected_to(our_port) as connection:
        with pytest.raises(errors.RayforceValueError, match="Invalid batch_size"):
            connection.stream("(til 3)", batch_size=size)


@pytest.mark.anyio
async def test_streams_beside_other_calls(our_port: int) -> None:
    results: list[int] = []

    async def stream(connection: WSClientConnection, count: int) -> None:
        async with connection.stream(f"(til {count})", batch_size=7) as batches:
            rows = [row async for columns in batches for row in columns["value"].tolist()]
        assert rows == list(range(count))
        results.append(count)

    async with connected_to(our_port) as connection, anyio.create_task_group() as tasks:
        for count in range(20, 30):
            tasks.start_soon(stream, connection, count)
        for number in range(50):
            assert await connection.execute(f"(+ 1 {number})") == number + 1
    assert sorted(results) == list(range(20, 30))


@pytest.mark.anyio
async def test_a_cancelled_wait_loses_no_batch(our_port: int) -> None:
    """Cancel the wait for a batch at each of its steps, and take all batches afterwards."""
    async with connected_to(our_port) as connection:

        async def run(step: int) -> bool:
            async with connection.stream("(til 10)", batch_size=2) as batches:
                cancelled = await cancellation_of(batches.__anext__(), step)
                rows = [row async for columns in batches for row in columns["value"].tolist()]
            assert rows == list(range(0 if cancelled else 2, 10))
            return cancelled is not None

        assert await swept(run) >= 1


@pytest.mark.anyio
async def test_a_stream_cancelled_at_any_step_leaves_the_connection_usable(our_port: int) -> None:
    async with connected_to(our_port) as connection:

        async def run(step: int) -> bool:
            cancelled = await cancellation_of(received(connection, "(til 10)", batch_size=4), step)
            assert await connection.execute(f"(+ 1 {step})") == step + 1
            assert await streams_in(connection) == 0
            return cancelled is not None

        assert await swept(run) >= 3


@pytest.mark.anyio
async def test_misuse_is_an_error_that_says_so(in_process_port: int) -> None:
    async with connected_to(in_process_port) as connection:
        batches = connection.stream("(til 10)", batch_size=4)
        with pytest.raises(errors.RayforceWSError, match=r"write 'async with connection\.stream"):
            await anext(batches)
        async with batches:
            with pytest.raises(errors.RayforceWSError, match="a stream can be used once"):
                await batches.__aenter__()
            assert len(await anext(batches)) == 4
            assert repr(batches) == "<Batches open; rows: 4 of 10>"
        with pytest.raises(errors.RayforceWSError, match="the 'async with' block of this stream has ended"):
            await anext(batches)


@pytest.mark.anyio
async def test_a_connection_that_ends_fails_the_stream(in_process_port: int) -> None:
    async with connected_to(in_process_port) as connection:
        async with connection.stream("(til 10)", batch_size=4) as batches:
            await anext(batches)
            connection.abort()
            with pytest.raises(errors.ConnectionClosed):
                async for _ in batches:
                    pass
        with pytest.raises(errors.ConnectionClosed):
            async with connection.stream("(til 10)"):
                pass


@pytest.mark.anyio
async def test_too_many_streams_are_refused(in_process_port: int) -> None:
    async with connected_to(in_process_port) as connection, AsyncExitStack() as stack:
        for _ in range(MAX_STREAMS):
            await stack.enter_async_context(connection.stream("(til 10)"))
        with pytest.raises(errors.RayforceError, match=f"the connection already has {MAX_STREAMS} open streams"):
            async with connection.stream("(til 10)"):
                pass
        await stack.aclose()
        assert len((await received(connection, "(til 10)"))[0]) == 10


@pytest.mark.anyio
async def test_a_client_that_disappears_leaves_no_variables(our_port: int) -> None:
    async with connected_to(our_port) as watcher:
        async with connected_to(our_port) as connection, connection.stream("(til 10)", batch_size=4) as batches:
            await anext(batches)
            assert await streams_in(watcher) == 1
            connection.abort()
        with anyio.fail_after(10):
            await until_equal(0, lambda: streams_in(watcher))


@pytest.mark.anyio
@pytest.mark.parametrize("size", [300, 100_000])
async def test_a_read_only_engine_returns_the_result_once(read_only_port: int, size: int) -> None:
    query = f"(table [a s] (list (til {size}) (take [x yy z] {size})))"
    async with connected_to(read_only_port) as connection:
        whole = await connection.fetch(query)
        async with connection.stream(query, batch_size=size // 3 + 1) as batches:
            assert (batches.total_rows, batches.schema) == (size, whole.schema)
            parts = [columns async for columns in batches]
        assert len(parts) == 3
        assert [row for part in parts for row in part.rows()] == list(whole.rows())
        async with connection.stream('(do (println "one") (til 3))') as batches:
            assert batches.output == "one\n"
        with pytest.raises(errors.NoColumns, match="the result is a single I64, which has no columns"):
            await received(connection, "(+ 1 2)")
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.anyio
async def test_a_server_without_the_feature_is_named_in_the_error() -> None:
    with server_process("theirs") as port:
        async with connected_to(port) as connection:
            with pytest.raises(errors.UnsupportedByServer, match="this server"):
                async with connection.stream("(til 3)"):
                    pass


@pytest.fixture(scope="module", params=["child", "native"])
def journal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Yield the port of a server whose engine has a journal, and the journal."""
    base = tmp_path_factory.mktemp("journal") / "base"
    with server_process("journal", request.param, str(base)) as port:
        yield port, base.with_suffix(".log")


@pytest.mark.anyio
async def test_no_part_of_a_stream_is_in_the_journal(journal: tuple[int, Path]) -> None:
    port, file = journal
    query = "(table [a s] (list (til 300000) (take [x yy z] 300000)))"
    async with connected_to(port) as connection:
        async with connection.stream("(til 3)"):
            pass  # the session finds out that there is a journal
        await connection.execute("(set seen 1)")
        before = file.read_bytes()
        assert b"seen" in before
        parts = await received(connection, query, batch_size=100_000)
        assert [len(part) for part in parts] == [100_000] * 3
        with pytest.raises(errors.RayforceError, match="does not report why"):
            await received(connection, "(foo 1)")
        assert file.read_bytes() == before
        assert b"#stream" not in before
        whole = await connection.fetch(query)
        assert [row for part in parts for row in part.rows()] == list(whole.rows())
        assert await streams_in(connection) == 0


@pytest.mark.anyio
async def test_a_query_is_stopped_although_there_is_a_journal(journal: tuple[int, Path], queries: Queries) -> None:
    port, _ = journal
    query = queries()
    async with connected_to(port) as connection:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(received, connection, query.text)
            await query.begun()
            tasks.cancel_scope.cancel()
        assert await connection.execute("(+ 1 2)") == 3
        assert not query.has_ended
        assert await streams_in(connection) == 0
