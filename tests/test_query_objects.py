"""Query objects on the server's tables: the same results as in process, or an error that locates the problem."""

import datetime as dt
import decimal
import functools
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rayforce import (
    I64,
    Column,
    Expression,
    Fn,
    Operation,
    Symbol,
    Table,
    TableColumnInterval,
    Vector,
    eval_str,
)
from rayforce.types.table import SelectQuery
from support.native import native_server
from support.native_client import NativeClient, native_client
from support.query_objects import column, payload_of

from rayforce_trio._codec import decode, encode, evaluate
from rayforce_trio._codec._objects import payload_of_pointer
from rayforce_trio._protocol import MessageType
from rayforce_trio.errors import RayforceError, RayforceQueryCompilationError

TRADES = """(set trades (table [id sym time price] (list [1 2 3 4] [a b a c] [100 200 300 400] [1.5 2.5 0Nf 3.5])))"""
QUOTES = "(set quotes (table [sym time bid] (list [a a b b] [90 280 190 210] [1.0 2.0 3.0 4.0])))"
STAMPS = "(set stamps (table [at n] (list (as 'TIMESTAMP [1 2]) [1 2])))"
READ = (TRADES, QUOTES, STAMPS, "(set none (take trades 0))")

UTC_PLUS_5 = dt.timezone(dt.timedelta(hours=5))


def windowed(trades: Table, join: str) -> Any:
    interval = TableColumnInterval(-15, 15, trades, "time")
    bid = column("bid")
    return getattr(trades, join)(
        on=["sym", "time"], join_with=[Table("quotes")], interval=interval, low=bid.min(), high=bid.max()
    )


QUERIES: dict[str, Callable[[], Any]] = {
    "all": lambda: Table("trades").select("*"),
    "nothing said": lambda: Table("trades").where(column("id") > 1),
    "columns": lambda: Table("trades").select("price", "id"),
    "select as an expression": lambda: Expression(Operation.SELECT, Table("trades").select("id")),
    "function as an operand": lambda: Expression(Operation.MAP, Operation.NEGATE, Vector([1, 2], ray_type=I64)),
    "function by its name": lambda: Expression(Symbol("neg").ptr, 5),
    "two conditions": lambda: Table("trades").select("id").where(column("price") > 2.0).where(column("sym") == "b"),
    "any of two conditions": lambda: Table("trades").select("id").where((column("id") == 1) | (column("sym") == "c")),
    "by": lambda: Table("trades").select(total=column("price").sum(), n=column("id").count()).by("sym"),
    "by computed": lambda: Table("trades").select(n=column("id").count()).by(odd=column("id") % 2),
    "collapse_groups": lambda: Table("trades").select(best=column("price").top(2)).by("sym").ungroup(),
    "ordered": lambda: Table("trades").select("id", "price").order_by("price", "id"),
    "ordered, descending": lambda: Table("trades").order_by(column("sym"), desc=True),
    "distinct": lambda: Table("trades").select(s=column("sym").distinct()),
    "distinct, ordered": lambda: Table("trades").select(s=column("sym").distinct()).order_by("s", desc=True),
    "distinct of nothing": lambda: Table("none").select(s=column("sym").distinct()),
    "aggregated": lambda: Table("trades").select(n=column("id").count(), mean=column("price").mean()),
    "aggregated, nothing": lambda: Table("none").select(n=column("id").count(), last=column("price").last()),
    "filtered sum": lambda: Table("trades").select(s=column("price").where(column("id") > 1).sum()),
    "renamed": lambda: Table("trades").select(ID=column("id"), twice=column("price") * 2),
    "text": lambda: Table("trades").select("id", x=Expression(Operation.LIKE, Column("sym"), "[ab]")),
    "shifted": lambda: Table("stamps").select("n", at=column("at").shift_tz(UTC_PLUS_5)),
    "shifted number": lambda: Table("trades").select("id", p=column("price").shift_tz(UTC_PLUS_5)),
    "inner join": lambda: Table("trades").inner_join(Table("quotes"), on="sym"),
    "left join": lambda: Table("trades").left_join(Table("quotes"), on=["sym"]),
    "asof join": lambda: Table("trades").asof_join(Table("quotes"), on=["sym", "time"]),
    "joined with a value": lambda: Table("trades").left_join(
        Table({"sym": Vector(["a"], ray_type=Symbol), "x": Vector([7], ray_type=I64)}), on="sym"
    ),
    "many conditions": lambda: functools.reduce(
        lambda query, number: query.where(column("id") != number), range(10, 60), Table("trades").select("id")
    ),
}

CONSTANTS = {"one": 1, "text": "x", "when": dt.date(2024, 1, 2)}

# `execute` needs a table in this process for these; the server's table must give the same.
OF_A_TABLE_HERE: dict[str, Callable[[Table], Any]] = {
    "window join": lambda t: windowed(t, "window_join"),
    "window join 1": lambda t: windowed(t, "window_join1"),
    "new": lambda t: t.select("*", twice=column("price") * 2, s=column("sym")),
    "replacing": lambda t: t.select("*", price=column("id"), new=column("id") + 1, sym=column("time")),
    "aggregated": lambda t: t.select("*", mean=column("price").mean(), id=column("id").sum()),
    "constants": lambda t: t.select("*", **CONSTANTS),
    "condition": lambda t: t.select("*", share=column("id") / column("id").sum()).where(column("id") > 1),
    "ordered": lambda t: t.select("*", price=column("price") + 1).order_by("id", desc=True),
    "no rows": lambda t: t.select("*", twice=column("price") * 2).where(column("id") > 10),
}


@pytest.fixture(scope="module")
def filled() -> Iterator[NativeClient]:
    """A native server with the tables that are also in this process."""
    with native_server() as server, native_client(server.port) as client:
        for source in READ:
            frame = encode(source, MessageType.SYNC)
            assert payload_of(evaluate(frame)) == payload_of(client.request(frame)[0])
        yield client


@pytest.mark.parametrize("make", QUERIES.values(), ids=QUERIES)
def test_a_query_gives_the_result_of_its_own_execute(filled: NativeClient, make: Callable[[], Any]) -> None:
    frame = encode(make(), MessageType.SYNC)
    by_itself = bytes(payload_of_pointer(make().execute().ptr))
    assert payload_of(evaluate(frame)) == by_itself
    assert payload_of(filled.request(frame)[0]) == by_itself


@pytest.mark.parametrize("make", OF_A_TABLE_HERE.values(), ids=OF_A_TABLE_HERE)
def test_a_query_of_the_servers_table_gives_the_result_for_a_local_table(
    filled: NativeClient, make: Callable[[Table], Any]
) -> None:
    frame = encode(make(Table("trades")), MessageType.SYNC)
    by_itself = bytes(payload_of_pointer(make(eval_str("trades")).execute().ptr))
    assert payload_of(evaluate(frame)) == by_itself
    assert payload_of(filled.request(frame)[0]) == by_itself


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda t: t.select("*", x=column("id")).by("sym"),
            "select(): '*' with computed columns cannot be grouped on the server's table; name the columns",
        ),
        (
            lambda t: t.select("*", x=[1, 2]).where(column("id") > 1),
            "select(): '*' with a value as a column cannot have a condition on the server's table; name the columns",
        ),
        (
            lambda t: t.select("*", price=column("id"), twice=column("price") * 2),
            "select(), twice=: with '*' on the server's table, it cannot use 'price', which is computed, too",
        ),
        (lambda t: t.select("take"), "select(): a column cannot be named 'take' here, because it is a clause"),
        (lambda t: t.update(where=1), "update(): a column cannot be named 'where' here, because it is a clause"),
        (lambda t: t.update(v=Operation.ADD), "update(), v=: a function cannot be the value; apply it"),
        (lambda t: t.select("a\0b"), "select(): the name 'a\\x00b' contains NUL"),
        (lambda t: t.update(**{"a\0b": 1}), "update(): the name 'a\\x00b' contains NUL"),
        (lambda t: t.order_by("\ud800"), "order_by(): UTF-8 cannot encode the name '\\ud800'"),
        (lambda t: t.inner_join(t, on=[1]), "join: on: a name is a str, not int"),
        (lambda _: Table("a\0b").select("*"), "select(), the table: the name 'a\\x00b' contains NUL"),
        (lambda _: Table("a\0b").insert(1), "insert(), the table: the name 'a\\x00b' contains NUL"),
        (lambda t: t.insert([], []), "insert(): the columns are empty; give at least one row"),
        (
            lambda t: t.insert([1, 2], [3]),
            "insert(): the columns must be of one length, but column 1 has 2",
        ),
        (
            lambda t: t.insert([1, 2], [3, "x"]),
            "insert(): column 2, row 1: str among values of type int; a column has one",
        ),
        (
            lambda t: t.insert([1], 2),
            "insert(): column 2 is int, but the first is a column; give a list for each column",
        ),
        (lambda t: t.insert(x for x in [1]), "insert(): column 1 is generator, which is not a column; give a list"),
        (lambda t: t.insert({1}), "insert(): column 1 is set, which is not a column; give a list"),
        (lambda t: t.insert({"a": 1}), "insert(): column 1 is dict, which is not a column; give a list"),
        (lambda t: t.insert(v=[1], w=[decimal.Decimal(1)]), "insert(): w=[0]: the engine has no decimals"),
        (lambda t: t.insert(1, ["a\0b"]), "insert(): value 2[0]: a symbol cannot contain"),
        (lambda t: t.upsert(1, 2, key_columns=True), "upsert(): key_columns is a number of columns, not True"),
        (
            lambda t: t.select("a").where(column("b") > object()),
            "where(), operand 2 of >: the engine has no type for an object",
        ),
        (
            lambda t: t.select("a").where(column("b") == Symbol("a\0b")),
            "where(), operand 2 of ==: the symbol 'a\\x00b' contains",
        ),
        (lambda _: Expression(Operation.ADD, *range(65)), "the query: 65 operands; the engine accepts at most 64"),
    ],
)
def test_an_error_says_where_the_value_is(make: Callable[[Table], Any], text: str) -> None:
    with pytest.raises(RayforceError, match=f"^{re.escape(text)}"):
        encode(make(Table("trades")), MessageType.SYNC)


def test_more_values_than_a_call_takes_are_found_among(filled: NativeClient) -> None:
    query = Table("trades").select("id").where(column("id").isin([*range(2, 80), "a"]))
    for ask in (evaluate, lambda frame: filled.request(frame)[0]):
        assert decode(ask(encode(query, MessageType.SYNC))).to_dict() == {"id": [2, 3, 4]}


def test_a_query_that_is_nested_too_deeply_is_refused() -> None:
    query = functools.reduce(lambda inner, _: Expression(Operation.ADD, inner, 1), range(5000), column("id"))
    with pytest.raises(RayforceQueryCompilationError, match=r"^the query is nested too deeply$"):
        encode(query, MessageType.SYNC)


def test_a_table_of_a_hundred_columns_takes_rows_and_columns(filled: NativeClient) -> None:
    names = [f"c{number}" for number in range(100)]
    create = encode(f"(do (set wide (table [{' '.join(names)}] (map (fn [x] [0]) (til 100)))) null)", MessageType.SYNC)
    wide = Table("wide")
    for query in (
        wide.insert(*range(100)),
        wide.insert(*[[number] for number in range(100)]),
        wide.insert(**dict.fromkeys(names, 7)),
        wide.insert(**{name: [7, 8] for name in names}),
        wide.upsert(**dict.fromkeys(names, 9), key_columns=1),
    ):
        for ask in (evaluate, lambda frame: filled.request(frame)[0]):
            ask(create)
            assert decode(ask(encode(query, MessageType.SYNC))) == "wide"
            assert len(decode(ask(encode("wide", MessageType.SYNC)))) > 1


def test_a_function_of_this_process_goes_along(filled: NativeClient) -> None:
    twice = Fn("(fn [x] (* x 2))")
    query = Table("trades").select("id", twice=twice.apply(Column("price")))
    by_itself = bytes(payload_of_pointer(query.execute().ptr))
    assert payload_of(filled.request(encode(query, MessageType.SYNC))[0]) == by_itself


@pytest.mark.parametrize(
    "make",
    [
        lambda: Table("trades").select("id").where(column("id") > 2).ipcsave("saved"),
        lambda: Table({"id": Vector([3, 4], ray_type=I64)}).ipcsave("saved"),
    ],
    ids=["query", "table"],
)
def test_tables_saved_on_the_server(filled: NativeClient, make: Callable[[], Any]) -> None:
    filled.request(encode(make(), MessageType.SYNC))
    saved = decode(filled.request(encode("saved", MessageType.SYNC))[0])
    assert saved.to_dict() == {"id": [3, 4]}


def test_rows_come_from_a_table_or_from_an_expression_that_makes_one(filled: NativeClient) -> None:
    first: Any = Expression(Operation.TAKE, Table("trades"), 2)
    query = SelectQuery(first).select("id")
    assert decode(filled.request(encode(query, MessageType.SYNC))[0]).to_dict() == {"id": [1, 2]}
    no_table: Any = "trades"
    with pytest.raises(RayforceQueryCompilationError, match=r"^select\(\): str is not a table"):
        encode(SelectQuery(no_table).select("id"), MessageType.SYNC)
