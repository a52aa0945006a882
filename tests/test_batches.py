"""`stream`: results in batches, through a connection."""

from typing import Any

import anyio
import pytest
from support.connected import connected_to

from rayforce_trio import Columns, WSClientConnection, errors

TEN = "(table [a b s] (list (til 10) (* 1.5 (til 10)) (take [x yy z] 10)))"


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
        with pytest.raises(errors.RayforceTypeError, match=f"the result is {kind}, which has no columns"):
            async with connection.stream(query):
                pass
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
