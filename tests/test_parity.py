"""Query objects have the same effect on both engines as their own `execute` in process, with any value in them.

Each query is run three times: by its own `execute`, by the in-process engine and by a native server. The replies and
the tables afterwards must be the same bytes, or this package refuses the query. It may do more than `execute` where
that fails in Python, or would evaluate a list or damage a table.
"""

import datetime as dt
import decimal
import itertools
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from rayforce import (
    B8,
    F64,
    I16,
    I32,
    I64,
    Dict,
    List,
    Operation,
    String,
    Symbol,
    Table,
    Vector,
)
from rayforce.types.null import Null
from support.native import native_server
from support.native_client import NativeClient, native_client
from support.query_objects import column, payload_of

from rayforce_trio._codec import decode, decode_verbose, encode, evaluate
from rayforce_trio._codec._objects import payload_of_pointer
from rayforce_trio._protocol import MessageType, Reply
from rayforce_trio.errors import RayforceConversionError, RayforceError

Make = Callable[[Table, Table, Any], Any]

CRAFTED = "a\0\xf4\0println\0"
"""A symbol whose text behind the NUL is the beginning of another value."""

VALUES: dict[str, Any] = {
    "None": None,
    "Null": Null,
    "True": True,
    "0": 0,
    "-1": -1,
    "largest int": 2**63 - 1,
    "smallest int": -(2**63),
    "too large int": 2**63,
    "1.5": 1.5,
    "-0.0": -0.0,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "empty str": "",
    "str": "b",
    "long str": "x" * 300,
    "unicode": "é😀",
    "name of a function": "println",
    "code": '(println "x")',
    "NUL": "b\0c",
    "crafted": CRAFTED,
    "lone surrogate": "\ud800",
    "bytes": b"ab",
    "String": String("b"),
    "String with NUL": String("b\0c"),
    "Symbol": Symbol("b"),
    "Symbol with NUL": Symbol(CRAFTED),
    "I16": I16(4),
    "I32": I32(4),
    "B8": B8(True),
    "date": dt.date(2024, 1, 2),
    "first date": dt.date(1, 1, 1),
    "time": dt.time(1, 2, 3),
    "naive datetime": dt.datetime(2024, 1, 2, 3, 4, 5, 6),  # noqa: DTZ001 -- naive is the case
    "aware datetime": dt.datetime(2024, 1, 2, tzinfo=dt.timezone(dt.timedelta(hours=5))),
    "UUID": uuid.UUID(int=5),
    "Decimal": decimal.Decimal("1.5"),
    "empty list": [],
    "ints": [1, 2],
    "None in a list": [None],
    "list that is code": ["println", "x"],
    "list that is code, mixed": ["til", 3],
    "tuple that is code": ("println", "x"),
    "nested lists": [[1], [2, 3]],
    "empty dict": {},
    "dict": {"a": 1},
    "dict with NUL": {CRAFTED: 1},
    "dict with code": {"from": ["til", 3]},
    "dict of ints": {1: 2},
    "set": {1},
    "numpy int": np.int64(3),
    "numpy float": np.float64(2.5),
    "numpy array": np.array([1, 2]),
    "Vector": Vector([1, 2], ray_type=I64),
    "Vector with NUL": Vector([CRAFTED, "b"], ray_type=Symbol),
    "List": List([1, 2]),
    "List that is code": List(["println", "x"]),
    "List with a function": List([Operation.PRINTLN, "x"]),
    "Dict": Dict({"a": 1}),
    "Table": Table({"k": Vector([1], ray_type=I64)}),
    "object": object(),
}

COLUMNS: dict[str, Any] = {
    "I64": Vector([10, 20], ray_type=I64),
    "F64": Vector([1.5, 2.5], ray_type=F64),
    "SYMBOL": Vector(["a", "b"], ray_type=Symbol),
    "STRING": Vector(["a", "bc"], ray_type=String),
    "B8": Vector([True, False], ray_type=B8),
    "LIST": List([[1, 2], ["z"]]),
}
"""The types of the column `v` of the tables that the queries read and change."""


# Each gets two tables, of the columns `id` and `v`, and `v` and `id`.
CHANGES: dict[str, Make] = {
    "insert a row": lambda t, _, value: t.insert(3, value),
    "insert a row, value first": lambda _, t, value: t.insert(value, 3),
    "insert a named row": lambda t, _, value: t.insert(id=3, v=value),
    "insert a named row, value first": lambda t, _, value: t.insert(v=value, id=3),
    "insert columns": lambda t, _, value: t.insert([3, 4], [value, value]),
    "insert columns, None first": lambda t, _, value: t.insert([3, 4], [None, value]),
    "insert columns, None last": lambda t, _, value: t.insert([3, 4], [value, None]),
    "insert a value for a column": lambda t, _, value: t.insert([3, 4], value),
    "insert columns of two lengths": lambda t, _, value: t.insert([3, 4, 5], [value, value]),
    "insert named columns": lambda t, _, value: t.insert(id=[3, 4], v=[value, value]),
    "insert some columns": lambda t, _, value: t.insert(v=[value]),
    "upsert a row": lambda t, _, value: t.upsert(1, value, key_columns=1),
    "upsert a named row": lambda t, _, value: t.upsert(v=value, id=1, key_columns=1),
    "upsert columns": lambda t, _, value: t.upsert([1, 4], [value, value], key_columns=1),
}

CLAUSES: dict[str, Make] = {
    "update": lambda t, _, value: t.update(v=value),
    "update some rows": lambda t, _, value: t.update(v=value).where(column("id") == 2),
    "update a new column": lambda t, _, value: t.update(w=value),
    "select a value": lambda t, _, value: t.select("id", x=value),
    "select all and a value": lambda t, _, value: t.select("*", x=value),
    "where equal": lambda t, _, value: t.select("id").where(column("v") == value),
    "where unequal and": lambda t, _, value: t.select("id").where(column("v") != value).where(column("id") > 0),
    "where": lambda t, _, value: t.select("id").where(value),
    "isin": lambda t, _, value: t.select("id").where(column("v").isin([value])),
    "isin of two types": lambda t, _, value: t.select("id").where(column("v").isin([value, None])),
    "by": lambda t, _, value: t.select(n=column("id").count()).by(g=value),
}

STRICTER = (
    "as null; write None",  # `execute` stores the smallest int as null
    "contain the character NUL",  # the wire cannot carry it
    "contains NUL",
    "None among bools",  # `execute` stores False
    "give a list for each column",  # `execute` takes the characters of a str for a column, and the bytes of bytes
    "got LIST",  # `execute` appends a list in a row as several values, which damages the table unless it has one value
    "got SYM",
    "got I64",
    "row table has 1 columns",  # `execute` damages a table with a column of lists
    "column must be list/vector-like",
)
"""Parts of the errors with which this package refuses queries that `execute` accepts."""

IN_PYTHON = (TypeError, RuntimeError, KeyError, IndexError, RayforceConversionError)
"""Errors of `execute` that do not come from the engine."""

EVALUATED = (list, tuple, List)
"""Values that `execute` evaluates in a clause, where they are data for this package."""

MARKED_AS_NULL = "NaN"
"""A value that the engine treats as null. `execute` omits the mark of nulls in some places; `encode` never does."""

GARBAGE = {(make, "Vector") for text, make in CHANGES.items() if text.startswith("upsert")}
"""Queries for which `execute` stores other values than it was given, because it takes vectors for atoms."""


@dataclass
class Outcome:
    """The outcome of a query: the payloads of its result and of the tables afterwards, or an error."""

    payloads: tuple[bytes, bytes] | None
    error: Exception | None = None


NAMES = ("t_v", "t_id")
TABLES = encode("(list t_v t_id)", MessageType.SYNC)
SETUP = "(do (set t_v (table [id v] (list [1 2] column))) (set t_id (table [v id] (list column [1 2]))) null)"


@pytest.fixture(scope="module")
def native() -> Iterator[NativeClient]:
    with native_server() as server, native_client(server.port) as client:
        yield client


def tables() -> tuple[Table, Table]:
    first, second = NAMES
    return Table(first), Table(second)


def by_itself(setup: bytes, make: Make, value: Any) -> Outcome:
    """Run a query with its own `execute`."""
    evaluate(setup)
    try:
        result = make(*tables(), value).execute()
        assert isinstance(result, Table)
        # A change of a table by its name returns the name.
        returned = b"" if result.is_reference else bytes(payload_of_pointer(result.ptr))
        return Outcome((returned, payload_of(evaluate(TABLES))))
    except Exception as error:  # noqa: BLE001 -- rayforce-py raises whatever its steps raise
        return Outcome(None, error)


def outcome(printed_reply: Reply, tables_reply: Reply) -> Outcome:
    """Return the outcome of a query that an engine ran. The tables must be intact afterwards, and nothing printed."""
    printed, reply = decode_verbose(printed_reply)
    assert printed == "", f"the query printed {printed!r}"
    after = payload_of(tables_reply)
    try:
        return Outcome((b"" if decode(reply) in NAMES else payload_of(reply), after))
    except RayforceError as error:
        return Outcome(None, error)


def expected(setup: bytes, make: Make, name: str, *, clause: bool) -> Outcome | None:
    """Return the outcome of `execute` for a query; `None` if `execute` is not a valid reference for it."""
    value = VALUES[name]
    if (clause and isinstance(value, EVALUATED)) or (make, name) in GARBAGE or name == MARKED_AS_NULL:
        return None
    return by_itself(setup, make, value)


def disagreement(ours: Outcome, expected: Outcome | None) -> str | None:
    """Return how an engine's outcome of a query contradicts that of `execute`; `None` if it does not."""
    if expected is None:
        return None
    if ours.payloads is None:
        if expected.payloads is None or any(text in str(ours.error) for text in STRICTER):
            return None
        return f"refused: {ours.error}"
    if expected.payloads is None:
        allowed = isinstance(expected.error, IN_PYTHON) or "head of list is not callable" in str(expected.error)
        return None if allowed else f"accepted, though execute fails: {expected.error!r}"
    return None if ours.payloads == expected.payloads else f"{ours.payloads} is not {expected.payloads}"


def check(native: NativeClient, column_type: str, make: Make, *, clause: bool) -> None:
    setup = encode(SETUP, MessageType.SYNC, params={"column": COLUMNS[column_type]})
    found: dict[str, str] = {}
    frames: dict[str, bytes] = {}
    for name, value in VALUES.items():
        try:
            query = make(*tables(), value)
        except Exception:  # noqa: BLE001 -- rayforce-py fails before there is a query
            continue
        try:
            frames[name] = encode(query, MessageType.SYNC, verbose=True)
        except RayforceError as error:
            if said := disagreement(Outcome(None, error), expected(setup, make, name, clause=clause)):
                found[name] = said
    requests = [(setup, frame, TABLES) for frame in frames.values()]
    replies = iter(native.request(*itertools.chain.from_iterable(requests)))
    for name, request in zip(frames, requests, strict=True):
        _, reply, after = (evaluate(frame) for frame in request)
        in_process = outcome(reply, after)
        _, reply, after = itertools.islice(replies, 3)
        by_native = outcome(reply, after)
        assert type(in_process.error) is type(by_native.error), name
        assert in_process.payloads == by_native.payloads, name
        if said := disagreement(in_process, expected(setup, make, name, clause=clause)):
            found[name] = said
    assert found == {}


@pytest.mark.parametrize("column_type", COLUMNS)
@pytest.mark.parametrize("operation", CHANGES)
def test_a_change_has_the_effect_of_its_own_execute(native: NativeClient, operation: str, column_type: str) -> None:
    check(native, column_type, CHANGES[operation], clause=False)


@pytest.mark.parametrize("column_type", ["I64", "SYMBOL", "LIST"])
@pytest.mark.parametrize("operation", CLAUSES)
def test_a_clause_has_the_effect_of_its_own_execute(native: NativeClient, operation: str, column_type: str) -> None:
    check(native, column_type, CLAUSES[operation], clause=True)
