"""Queries over the wire: what can be sent, what comes back, what is refused."""

import datetime as dt
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from rayforce import (
    F64,
    I64,
    Column,
    Dict,
    Expression,
    Fn,
    List,
    Operation,
    String,
    Symbol,
    Table,
    TableColumnInterval,
    Time,
    Vector,
)
from rayforce.plugins.sql import SQLQuery

from rayforce_trio import WSClient, WSClientConnection, errors
from rayforce_trio._client._exchange import Exchange
from rayforce_trio._codec._errors import WORDS
from rayforce_trio._transports._memory import memory_pair

LOCAL = "127.0.0.1"
FIXED_GUID = '(as \'GUID "00000000-0000-0000-0000-000000000001")'


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[WSClientConnection]:
    with anyio.fail_after(100):
        async with WSClient(LOCAL, port).connect() as connection:
            yield connection


async def columns(connection: WSClientConnection, query: Any) -> dict[str, list[Any]]:
    """Execute a query whose result is a table, and return it as plain Python."""
    table = await connection.execute(query)
    assert isinstance(table, Table)
    return dict(table.to_dict())


def column(name: str) -> Any:
    """Return a column, whose operators and aggregations rayforce-py does not declare."""
    return Column(name)


async def make_table(connection: WSClientConnection, name: str) -> Table:
    """Have the server make a table of three people, and return a reference to it."""
    await connection.execute(f"(set {name} (table [id who v] (list [1 2 3] [ann bob cid] [1.5 2.5 3.5])))")
    return Table(name)


# Results

RESULTS: list[tuple[str, str, Any]] = [
    ("true", "B8", True),
    ("0x05", "U8", 5),
    ("(as 'I16 5)", "I16", 5),
    ("(as 'I32 5)", "I32", 5),
    ("(+ 1 2)", "I64", 3),
    ("0Nl", "I64", None),
    ("5.5", "F64", 5.5),
    ("'a", "Symbol", "a"),
    ('"abc"', "String", "abc"),
    ('""', "String", ""),
    ("2024.01.02", "Date", dt.date(2024, 1, 2)),
    ("10:20:30.123", "Time", dt.time(10, 20, 30, 123000)),
    ("(as 'TIMESTAMP 0)", "Timestamp", dt.datetime(2000, 1, 1, tzinfo=dt.UTC)),
    ("[true false]", "Vector", [True, False]),
    ("[1 2 3]", "Vector", [1, 2, 3]),
    ("(til 0)", "Vector", []),
    ("[1.5 2.5]", "Vector", [1.5, 2.5]),
    ("(as 'F32 [1.5])", "Vector", [1.5]),
    ("[a b]", "Vector", ["a", "b"]),
    ('(enlist "ab")', "Vector", ["ab"]),
    ('(list 1 "a")', "List", [1, "a"]),
    ("(list)", "List", []),
    ("(dict [a b] [1 2])", "Dict", {"a": 1, "b": 2}),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("query", "kind", "value"), RESULTS, ids=[query for query, *_ in RESULTS])
async def test_a_result_arrives_with_its_type_and_value(our_port: int, query: str, kind: str, value: Any) -> None:
    async with connected(our_port) as connection:
        result = await connection.execute(query)
        assert type(result).__name__ == kind
        assert result.to_python() == value


@pytest.mark.anyio
async def test_guids_functions_operations_and_tables_arrive(our_port: int) -> None:
    async with connected(our_port) as connection:
        guids = await connection.execute("(guid 2)")
        assert len({str(guid) for guid in guids.to_python()}) == 2
        assert isinstance(await connection.execute("(fn [x] x)"), Fn)
        assert await connection.execute("+") is Operation.ADD
        expected = {"a": [1, 2], "b": ["x", "y"]}
        assert await columns(connection, "(table [a b] (list [1 2] [x y]))") == expected


@pytest.mark.anyio
@pytest.mark.parametrize("query", ["null", '(println "said by the server")'])
async def test_null_is_none(our_port: int, query: str) -> None:
    async with connected(our_port) as connection:
        assert await connection.execute(query) is None


@pytest.mark.anyio
async def test_a_table_of_a_million_rows_arrives_whole(our_port: int) -> None:
    async with connected(our_port) as connection:
        table = await connection.execute("(table [n v] (list (til 1000000) (as 'F64 (til 1000000))))")
        assert table.shape() == (1_000_000, 2)
        for name in ("n", "v"):
            values = table.at_column(name)
            assert [values[i].to_python() for i in (0, 1, 499_999, 999_999)] == [0, 1, 499_999, 999_999]


@pytest.mark.slow
@pytest.mark.trio
async def test_a_message_of_300_mb_arrives_whole(our_port: int) -> None:
    """Less where memory is short: there are some eight copies of it on the way through both processes."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    count = min(300_000_000, free // 8) // 8
    async with connected(our_port) as connection:
        vector = await connection.execute(f"(til {count})")
        assert len(vector) == count
        assert vector[count - 1].to_python() == count - 1


# Queries


@pytest.mark.anyio
@pytest.mark.parametrize(
    "make",
    [
        lambda: "(+ 1 2)",
        lambda: String("(+ 1 2)"),
        lambda: List([Operation.ADD, 1, 2]),
        lambda: Expression(Operation.ADD, 1, 2),
    ],
    ids=["str", "String", "List", "Expression"],
)
async def test_strings_lists_and_expressions_are_evaluated(our_port: int, make: Callable[[], Any]) -> None:
    async with connected(our_port) as connection:
        assert (await connection.execute(make())).to_python() == 3


@pytest.mark.anyio
async def test_a_str_is_sent_as_utf_8(our_port: int) -> None:
    async with connected(our_port) as connection:
        assert (await connection.execute('"zażółć 🙂"')).to_python() == "zażółć 🙂"


@pytest.mark.anyio
async def test_select_queries(our_port: int, name: str) -> None:
    async with connected(our_port) as connection:
        table = await make_table(connection, name)
        assert await columns(connection, table.select("id", "who")) == {"id": [1, 2, 3], "who": ["ann", "bob", "cid"]}
        assert await columns(connection, table.select("id").where(column("v") > 2)) == {"id": [2, 3]}
        by = await columns(connection, table.select(total=column("v").sum()).by("who"))
        assert by == {"who": ["ann", "bob", "cid"], "total": [1.5, 2.5, 3.5]}


@pytest.mark.anyio
async def test_changes_are_there_for_the_next_query_and_for_other_connections(our_port: int, name: str) -> None:
    async with connected(our_port) as connection, connected(our_port) as other:
        table = await make_table(connection, name)
        await connection.execute(table.update(v=9.5).where(column("id") == 1))
        assert (await columns(other, name))["v"] == [9.5, 2.5, 3.5]
        await connection.execute(table.insert(id=4, who="dot", v=4.5))
        assert (await columns(other, name))["who"] == ["ann", "bob", "cid", "dot"]
        await connection.execute(table.upsert(id=2, who="eve", v=0.5, key_columns=1))
        expected = {"id": [1, 2, 3, 4], "who": ["ann", "eve", "cid", "dot"], "v": [9.5, 0.5, 3.5, 4.5]}
        assert await columns(other, name) == await columns(connection, name) == expected


def trades() -> Table:
    times = Vector([dt.time(10, 0, second) for second in (1, 2, 3)], ray_type=Time)
    return Table.from_dict(
        {
            "sym": Vector(["a", "b", "a"], ray_type=Symbol),
            "time": times,
            "price": Vector([1.0, 2.0, 3.0], ray_type=F64),
        }
    )


def quotes() -> Table:
    times = Vector([dt.time(10, 0, 0), dt.time(10, 0, 1), dt.time(10, 0, 2, 500_000)], ray_type=Time)
    return Table.from_dict(
        {"sym": Vector(["a", "b", "a"], ray_type=Symbol), "time": times, "bid": Vector([0.9, 1.9, 2.9], ray_type=F64)}
    )


def window() -> TableColumnInterval:
    return TableColumnInterval(lower=-1000, upper=1000, table=trades(), column="time")


def numbers(**named: list[int]) -> Table:
    return Table.from_dict({name: Vector(values, ray_type=I64) for name, values in named.items()})


JOINS: dict[str, tuple[Callable[[], Any], str, list[Any]]] = {
    "inner": (lambda: numbers(k=[1, 2], a=[5, 6]).inner_join(numbers(k=[2, 3], b=[7, 8]), "k"), "b", [7]),
    "left": (lambda: numbers(k=[1, 2], a=[5, 6]).left_join(numbers(k=[2, 3], b=[7, 8]), "k"), "b", [None, 7]),
    "asof": (lambda: trades().asof_join(quotes(), ["sym", "time"]), "bid", [0.9, 1.9, 2.9]),
    "window": (
        lambda: trades().window_join(["sym", "time"], [quotes()], window(), low=column("bid").min()),
        "low",
        [0.9, 1.9, 0.9],
    ),
    "window1": (
        lambda: trades().window_join1(["sym", "time"], [quotes()], window(), low=column("bid").min()),
        "low",
        [0.9, 1.9, 2.9],
    ),
}


@pytest.mark.anyio
@pytest.mark.parametrize("kind", JOINS)
async def test_joins(our_port: int, kind: str) -> None:
    make, name, expected = JOINS[kind]
    async with connected(our_port) as connection:
        assert (await columns(connection, make()))[name] == expected


@pytest.mark.anyio
async def test_sql(our_port: int, name: str) -> None:
    async with connected(our_port) as connection:
        table = await make_table(connection, name)
        assert await columns(connection, SQLQuery(table, "SELECT id FROM self WHERE v > 2")) == {"id": [2, 3]}


# Errors

ERRORS: list[tuple[str, type[Exception], str]] = [
    ('(+ 1 "a")', errors.RayforceTypeError, "type: cannot add i64 and str"),
    ("undefined_name", errors.RayforceUserError, "name: 'undefined_name' undefined"),
    ("(foo", errors.RayforceParseError, f"parse: {WORDS['parse']}, in the query (foo"),
    ("(til -1)", errors.RayforceDomainError, "domain: til: count must be non-negative, got -1"),
    ("((fn [x] x) 1 2)", errors.RayforceArityError, "arity: expected 1 args, got 2"),
    ("(+ [1 2] [1 2 3])", errors.RayforceLengthError, "length: ADD: operand lengths must match, got 2 and 3"),
]


@pytest.mark.anyio
async def test_engine_errors_raise_the_class_of_their_code_and_leave_the_connection_usable(
    our_port: int, engine: str
) -> None:
    async with connected(our_port) as connection:
        for query, cls, message in ERRORS:
            if engine != "in-process":  # a native server sends the code alone
                code = message.partition(":")[0]
                message = f"{code}: {WORDS[code]}, in the query {query}"
            with pytest.raises(errors.RayforceError) as caught:
                await connection.execute(query)
            assert (type(caught.value), str(caught.value)) == (cls, message)
            assert (await connection.execute("(+ 1 2)")).to_python() == 3


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("query", "named"),
    [
        (1, "int"),
        (None, "NoneType"),
        (b"(+ 1 2)", "bytes"),
        (["+", 1, 2], "list"),
        (I64(1), "rayforce.types.scalars.numeric.integer.I64"),
        (Symbol("a"), "rayforce.types.scalars.other.symbol.Symbol"),
        (Dict({"a": 1}), "rayforce.types.containers.dict.Dict"),
        (Column("c"), "rayforce.types.table.Column"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_no_query_is_refused_by_name_before_a_byte_is_sent(query: Any, named: str) -> None:
    ours, theirs = memory_pair("rayforce.v1")
    connection = WSClientConnection(Exchange(ours))
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(connection._exchange.run)
        for call in (connection.execute, connection.post):
            with pytest.raises(errors.UnsupportedQuery, match=rf"^cannot send {named} as a query; send a str, "):
                await call(query)
        await anyio.wait_all_tasks_blocked()
        assert ours.sent == []
        assert connection.closed is False
        await connection.close()
    theirs.abort()


def test_a_refused_query_is_a_type_error_too() -> None:
    assert issubclass(errors.UnsupportedQuery, TypeError)


@pytest.mark.anyio
async def test_a_query_that_cannot_be_compiled_is_refused_and_leaves_the_connection_usable(our_port: int) -> None:
    async with connected(our_port) as connection:
        with pytest.raises(errors.RayforceError):  # documented for `encode`, whatever rayforce-py raised
            await connection.execute(Expression(Operation.ADD, object(), 1))
        assert (await connection.execute("(+ 1 2)")).to_python() == 3
