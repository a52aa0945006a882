"""No value in a query is executed: the server prints nothing and sets nothing."""

import contextlib
import datetime as dt
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rayforce import I64, Dict, Expression, List, Operation, QuotedSymbol, String, Symbol, Table, Vector
from support.native import native_server
from support.native_client import NativeClient, native_client
from support.query_objects import column

from rayforce_trio._codec import Call, decode, decode_verbose, encode, evaluate
from rayforce_trio._protocol import MessageType, Reply
from rayforce_trio._values._payloads import call, list_of, name, string, symbol
from rayforce_trio.errors import RayforceError

PRINTS = call("println", string("executed"))
SETS = call("set", symbol("canary"), name("null"))

# A symbol's text whose bytes go on, behind the NUL, as the values and expressions that follow it in a list or table.
CRAFTED = [
    "a\0" + expression.decode("latin-1")
    for expression in (PRINTS, SETS, list_of([PRINTS, SETS]))
    if expression.isascii()
] + ["a\0\0\0\2\0\0\0\0\0\0\0println\0x\0", "a\0'(println 1)", "a\0(set canary 1)"]

# Lists that would do something if they were evaluated.
CODE = [
    ["println", "executed"],
    ["set", "canary", 1],
    ("println", "executed"),
    [["println", "executed"]],
    ["do", ["println", "executed"], ["set", "canary", 1]],
    ["eval", ["parse", String('(println "executed")')]],
    [Operation.PRINTLN, "executed"],
    List(["println", "executed"]),
    List([Operation.PRINTLN, "executed"]),
    List([Symbol("set"), QuotedSymbol("canary"), 1]),
    {"from": ["println", "executed"], "where": ["set", "canary", 1]},
    Dict({"a": ["println", "executed"]}),
    {"a": {"by": ["println", "executed"]}},
]

texts = st.sampled_from([*CRAFTED, "println", '(println "x")', "'", "(", "canary", "from", ""]) | st.text(max_size=5)
atoms = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | texts
    | st.binary(max_size=5)
    | st.datetimes(timezones=st.none() | st.just(dt.UTC))
    | st.dates()
    | st.times()
    | st.timedeltas()
    | st.builds(uuid.uuid4)
    | texts.filter(lambda text: text.isprintable()).map(String)
)
values = st.recursive(
    atoms | st.sampled_from(CODE),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(texts, inner, max_size=3)
        | st.builds(
            lambda head, rest: [head, *rest],
            st.sampled_from(["println", "set", "do", "quote", "eval"]),
            st.lists(inner),
        )
    ),
    max_leaves=6,
)


here = Table({"id": Vector([1, 2], ray_type=I64), "v": Vector(["a", "b"], ray_type=Symbol)})

Make = Callable[[Any, str], Any]

# Every place of a query that takes a value or a name.
QUERIES: dict[str, Make] = {
    "insert a row": lambda value, _: Table("t").insert(3, value),
    "insert the first of a row": lambda value, _: Table("t").insert(value, 3),
    "insert a named row": lambda value, text: Table("t").insert(**{"v": value, text: value}),
    "insert columns": lambda value, _: Table("t").insert([3, 4], [value, value]),
    "insert a column": lambda value, _: Table("t").insert(value, value),
    "insert named columns": lambda value, text: Table("t").insert(**{text: [value], "v": [value]}),
    "insert into a table here": lambda value, _: here.insert(3, value),
    "insert columns into a table here": lambda value, _: here.insert([3], [value]),
    "insert into a list column": lambda value, _: Table("lists").insert(value, value),
    "insert columns into a list column": lambda value, _: Table("lists").insert([value, value], [1, 2]),
    "upsert a row": lambda value, _: Table("t").upsert(value, value, key_columns=1),
    "upsert named columns": lambda value, text: Table("t").upsert(**{"id": [value], text: [value]}, key_columns=1),
    "upsert into a table here": lambda value, _: here.upsert(1, value, key_columns=1),
    "update": lambda value, text: Table("t").update(**{"v": value, text: value}),
    "update some rows": lambda value, _: Table("t").update(v=value).where(column("v") == value),
    "update a table here": lambda value, _: here.update(v=value),
    "where": lambda value, _: Table("t").select("id").where(column("v") == value),
    "where itself": lambda value, _: Table("t").select("id").where(value),
    "isin": lambda value, _: Table("t").select("id").where(column("v").isin([value, value])),
    "isin of two types": lambda value, _: Table("t").select("id").where(column("id").isin([value, None, 1])),
    "select": lambda value, text: Table("t").select(text, **{text: value}),
    "select all": lambda value, text: Table("t").select("*", **{text: value}),
    "by": lambda value, text: Table("t").select(n=column("id").count()).by(text, **{text: value}),
    "order by": lambda _, text: Table("t").order_by(text),
    "distinct": lambda _, text: Table("t").select(**{text: column(text).distinct()}),
    "expression": lambda value, _: Expression(Operation.ADD, value, 1),
    "table": lambda _, text: Table(text).select("*"),
    "table changed": lambda value, text: Table(text).insert(value),
    "join": lambda _, text: Table("t").left_join(Table(text), on=[text]),
    "saved": lambda value, _: Table("t").select("id").where(column("v") == value).ipcsave("saved"),
    "argument": lambda value, _: Call("(fn [x y] (list x y))", [value, value]),
    "function": lambda value, text: Call(f"no {text}", [value]),
}


class Watched:
    """An in-process and a native engine, each with two tables and a variable that must not change."""

    def __init__(self, native: NativeClient) -> None:
        self.engines: tuple[Callable[[bytes], Reply], ...] = (evaluate, lambda frame: native.request(frame)[0])
        self._setup = encode(
            "(do (set t (table [id v] (list [1 2] ['a 'b]))) (set canary 42)"
            " (set lists (table [l id] (list (list (list 1 2) (list 3 4)) [1 2]))) null)",
            MessageType.SYNC,
        )
        self._check = encode("(list canary (count (key (env 0))))", MessageType.SYNC)
        for ask in self.engines:
            ask(self._setup)
            ask(encode("(set saved null)", MessageType.SYNC))
        self._before = [decode(ask(self._check)).to_python() for ask in self.engines]

    def run(self, query: Any, params: Any = None) -> None:
        try:
            frame = encode(query, MessageType.SYNC, params=params, verbose=True)
        except RayforceError:
            return
        for ask, before in zip(self.engines, self._before, strict=True):
            ask(self._setup)
            printed, reply = decode_verbose(ask(frame))
            assert printed == ""
            with contextlib.suppress(RayforceError):
                decode(reply)
            assert decode(ask(self._check)).to_python() == before


@pytest.fixture(scope="module")
def watched() -> Iterator[Watched]:
    with native_server() as server, native_client(server.port) as client:
        yield Watched(client)


def made(make: Make, value: Any, text: str) -> Any:
    """Return a query with a value and a name in it; `None` if rayforce-py makes no query of them."""
    try:
        return make(value, text)
    except (TypeError, RuntimeError, LookupError, ValueError, RayforceError):
        return None


@pytest.mark.parametrize("query", ['(println "x")', "(set canary 1)"])
def test_an_execution_would_be_noticed(query: str) -> None:
    with native_server() as server, native_client(server.port) as client, pytest.raises(AssertionError):
        Watched(client).run(query)


@pytest.mark.parametrize("make", QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("value", [*CRAFTED, *CODE], ids=repr)
def test_a_crafted_value_is_not_executed(watched: Watched, make: Make, value: Any) -> None:
    if (query := made(make, value, value if isinstance(value, str) else "v")) is not None:
        watched.run(query)


@pytest.mark.parametrize("value", [*CRAFTED, *CODE], ids=repr)
def test_a_crafted_parameter_is_not_executed(watched: Watched, value: Any) -> None:
    watched.run("(list low low)", {"low": value})
    watched.run(Table("t").select("id").where(column("v") == column("low")), {"low": value})


@given(data=st.data(), value=values, text=texts)
def test_no_value_is_executed(watched: Watched, data: st.DataObject, value: Any, text: str) -> None:
    if (query := made(data.draw(st.sampled_from([*QUERIES.values()])), value, text)) is not None:
        watched.run(query)
    watched.run("(list low low)", {"low": value})
    watched.run("low", {text: value})
