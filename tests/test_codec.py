"""Queries and values through frames and the real engine; the measure is what rayforce-py gives in process."""

import contextlib
import datetime as dt
import errno
import os
import re
import socket
import subprocess
import sys
import tempfile
import tracemalloc
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rayforce import (
    B8,
    F32,
    F64,
    GUID,
    I16,
    I32,
    I64,
    U8,
    Column,
    Date,
    Dict,
    Expression,
    Fn,
    List,
    Operation,
    QuotedSymbol,
    String,
    Symbol,
    Table,
    TableColumnInterval,
    Time,
    Timestamp,
    Vector,
    eval_str,
)
from rayforce.ffi import FFI
from rayforce.plugins.sql import SQLQuery
from rayforce.types.table import PivotQuery
from support.frames import whole_frame
from support.leaks import descriptors
from support.native import native_server

from rayforce_trio._codec import (
    _decoding,
    check_thread,
    decode,
    decode_verbose,
    encode,
    encode_call,
    engine_error,
    evaluate,
    payload_of_object,
)
from rayforce_trio._codec._ffi import WIDTHS
from rayforce_trio._protocol import (
    HEADER_SIZE,
    VERBOSE_FLAG,
    Failure,
    Header,
    MessageType,
    Reply,
    Result,
    join_verbose,
    parse_frame,
    parse_header,
    string_frame,
)
from rayforce_trio._values import _payloads as payloads
from rayforce_trio._values._types import Type
from rayforce_trio.errors import (
    RayforceConversionError,
    RayforceDomainError,
    RayforceError,
    RayforceLimitError,
    RayforceQueryCompilationError,
    RayforceThreadError,
    RayforceTypeError,
    RayforceUserError,
    RayforceWSError,
    UnsupportedQuery,
)

TYPE_WORDS = "the function does not accept a value of this type"


Make = Callable[[], Any]


def answer(query: Any) -> Reply:
    return evaluate(encode(query, MessageType.SYNC))


def ask(query: Any) -> Any:
    """Send a query all the way: to a frame, through the engine, and its reply back from a frame."""
    reply = answer(query)
    assert isinstance(reply, Result), reply
    return decode(reply)


def shown(value: Any) -> str:
    """Return all there is to know of a value, types included; rayforce-py's `==` does not tell I32 from I64."""
    if isinstance(value, Table):
        return repr({str(column): repr(value[str(column)]) for column in value.columns()})
    return repr(value)


def frame(payload: bytes, *, flags: int = 0) -> bytes:
    return Header(flags, MessageType.SYNC, len(payload)).pack() + payload


def listed(value: Any) -> List:
    return List([Operation.LIST, value])


def col(name: str) -> Any:
    """Return a column; rayforce-py adds its operators at run time, where mypy does not see them."""
    return Column(name)


def trades() -> Table:
    return Table(
        {
            "id": Vector([1, 2, 3], ray_type=I64),
            "sym": Vector(["a", "b", "a"], ray_type=Symbol),
            "time": Vector([100, 200, 300], ray_type=I64),
            "price": Vector([1.5, 2.5, 3.5], ray_type=F64),
        }
    )


def quotes() -> Table:
    return Table(
        {
            "sym": Vector(["a", "a", "b", "b"], ray_type=Symbol),
            "time": Vector([90, 280, 190, 210], ray_type=I64),
            "bid": Vector([1.0, 2.0, 3.0, 4.0], ray_type=F64),
        }
    )


def windowed(join: str) -> Any:
    by_time, at = trades(), quotes()
    interval = TableColumnInterval(-15, 15, by_time, "time")
    bid = col("bid")
    return getattr(by_time, join)(on=["sym", "time"], join_with=[at], interval=interval, low=bid.min(), high=bid.max())


# Values


@pytest.mark.parametrize(
    "value",
    [
        B8(True),
        B8(False),
        U8(255),
        I16(-5),
        I32(2**31 - 1),
        I64(-(2**62)),
        F64(1.5),
        F64(float("inf")),
        F64(-0.0),
        String(""),
        String("héllo \N{GRINNING FACE}\0"),
        Date(dt.date(1999, 12, 31)),
        Time(dt.time(12, 30, 0, 123000)),
        Timestamp(dt.datetime(2024, 3, 1, 12, 30, tzinfo=dt.UTC)),
        GUID(uuid.UUID(int=5)),
    ],
    ids=repr,
)
def test_a_scalar_comes_back_as_it_went(value: Any) -> None:
    assert shown(ask(List([Operation.FIRST, listed(value)]))) == shown(value)


def test_a_symbol_comes_back_as_it_went() -> None:
    assert shown(ask(List([Operation.FIRST, listed(QuotedSymbol("abc"))]))) == shown(Symbol("abc"))


def test_an_f32_is_of_its_own_type() -> None:
    """Sent, it is a vector of one element, since rayforce-py has no other form."""
    assert shown(ask(List([Operation.FIRST, listed(F32(1.5))]))) == shown(Vector([1.5], ray_type=F32))
    assert isinstance(ask("(as 'F32 1.5)"), F32)


VECTORS: list[tuple[Any, list[Any]]] = [
    (B8, [True, False]),
    (U8, [0, 255]),
    (I16, [1, -2]),
    (I32, [1, -2]),
    (I64, [1, -2]),
    (F32, [1.5, -2.5]),
    (F64, [1.5, -2.5]),
    (Symbol, ["a", "b"]),
    (String, ["ab", ""]),
    (Date, [dt.date(2024, 3, 1), dt.date(1999, 12, 31)]),
    (Time, [dt.time(12), dt.time(0)]),
    (Timestamp, [dt.datetime(2024, 3, 1, tzinfo=dt.UTC), dt.datetime(1999, 12, 31, tzinfo=dt.UTC)]),
    (GUID, [uuid.UUID(int=5), uuid.UUID(int=6)]),
]


@pytest.mark.parametrize(("ray_type", "items"), VECTORS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_vector_comes_back_as_it_went(ray_type: Any, items: list[Any]) -> None:
    vector = Vector(items, ray_type=ray_type)
    returned = ask(List([Operation.FIRST, listed(vector)]))
    assert returned.ptr is not vector.ptr
    assert FFI.get_obj_type(returned.ptr) == abs(ray_type.type_code)
    assert shown(returned) == shown(vector)


@pytest.mark.parametrize(("ray_type", "items"), VECTORS[2:], ids=lambda value: getattr(value, "__name__", ""))
def test_nulls_in_a_vector_stay_null(ray_type: Any, items: list[Any]) -> None:
    vector = Vector(items, ray_type=ray_type)
    FFI.vec_set_null(vector.ptr, 1, is_null=True)
    returned = ask(List([Operation.FIRST, listed(vector)]))
    assert shown(returned) == shown(vector)
    assert "Null" in shown(returned)


ATOM_EXAMPLES: dict[Any, str] = {
    GUID: '(as \'guid "550e8400-e29b-41d4-a716-446655440000")',
    Symbol: "'symbol",
    String: '"text"',
}
ATOM_TYPES: tuple[Any, ...] = (B8, U8, I16, I32, I64, F32, F64, Date, Time, Timestamp, *ATOM_EXAMPLES)


@pytest.mark.parametrize("wrapper", ATOM_TYPES, ids=lambda wrapper: wrapper.__name__)
@given(data=st.data())
def test_an_atom_becomes_the_same_object_as_in_rayforce_py(wrapper: Any, data: st.DataObject) -> None:
    """They are equal bit for bit, and an attribute of the atom, such as that of a null, is kept."""
    width = WIDTHS.get(-wrapper.type_code)
    if width is None:
        value = FFI.ser_obj(eval_str(ATOM_EXAMPLES[wrapper], raw=True))
        payload = bytes(FFI.read_u8_vector(value))[HEADER_SIZE:]
    else:
        attributes = data.draw(st.sampled_from([0, 0, 0, 1]))
        payload = bytes([wrapper.type_code & 0xFF, attributes]) + data.draw(st.binary(min_size=width, max_size=width))
    message_type = data.draw(st.sampled_from(MessageType))
    frame = Header(0, message_type, len(payload)).pack() + payload
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_decoding, "_ATOMS", {})
        expected = outcome_of(lambda: decode(Result(frame)))
    found = outcome_of(lambda: decode(Result(frame)))
    assert type(found) is type(expected)
    if isinstance(found, Exception):
        assert str(found) == str(expected)
        return
    assert vars(found).keys() == vars(expected).keys() == {"ptr"}
    assert serialized(found) == serialized(expected)
    assert repr(outcome_of(lambda: found.value)) == repr(outcome_of(lambda: expected.value))


def outcome_of(function: Callable[[], Any]) -> Any:
    """Return the result of a function, or its exception."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - it is the outcome
        return error


def serialized(value: Any) -> bytes:
    return bytes(FFI.read_u8_vector(FFI.ser_obj(value.ptr)))


def test_null_is_none() -> None:
    assert ask("null") is None


@pytest.mark.parametrize(
    "source",
    [
        "0Nh",
        "0Ni",
        "0Nl",
        "0Nf",
        "0Ng",
        "2024.03.01D12:30:00.000000001",
        "[]",
        "[1 0Nl 3]",
        "['a 'b]",
        '["ab" "cd"]',
        "(til 0)",
        "(list)",
        "(list null)",
        '(list 1 \'a "x" 1.5 (list) [1 2])',
        "{a: 1 b: [1 2] c: {d: 'e}}",
        "(dict ['a 'b] [1 2])",
        "(table ['a 'b] (list [1 0Nl] ['x 'y]))",
        "(table ['a] (list (til 0)))",
        "'(+ 1 2)",
        "+",
        "neg",
        "sum",
        "map",
        "(list + sum)",
    ],
)
def test_a_value_is_what_it_is_in_process(source: str) -> None:
    assert shown(ask(source)) == shown(eval_str(source))


def test_a_dict_comes_back_as_it_went() -> None:
    value = Dict({"a": 1, "b": [1.5, "c"]})
    assert shown(ask(List([Operation.FIRST, listed(value)]))) == shown(value)


def test_a_lambda_works_on_both_sides() -> None:
    assert shown(ask(List([Fn("(fn [x] (+ x 1))"), 4]))) == "I64(5)"
    assert shown(ask("(fn [x] (+ x 1))")(4)) == "I64(5)"


def test_a_table_of_a_million_rows() -> None:
    numbers = np.arange(1_000_000)
    table = Table(
        {
            "i": Vector.from_numpy(numbers),
            "f": Vector.from_numpy(numbers / 7),
            "b": Vector.from_numpy(numbers % 3 == 0),
        }
    )
    returned = ask(table.select("*"))
    assert len(returned) == 1_000_000
    for column in ("i", "f", "b"):
        assert np.array_equal(returned[column].to_numpy(), table[column].to_numpy())


# Queries


@pytest.mark.parametrize(
    "query",
    [
        "(+ 1 2)",
        String("(+ 1 2)"),
        List([Operation.ADD, 1, 2]),
        Expression(Operation.ADD, 1, 2),
        List([eval_str("+"), 1, 2]),
    ],
    ids=lambda query: type(query).__name__,
)
def test_a_query_of_each_kind(query: Any) -> None:
    assert shown(ask(query)) == "I64(3)"


QUERIES: dict[str, Make] = {
    "select all": lambda: trades().select("*"),
    "select": lambda: trades().select("id", "price"),
    "where": lambda: trades().select("id").where(col("price") > 2.0).where(col("sym") == "a"),
    "by": lambda: trades().select(total=col("price").sum()).by("sym"),
    "computed": lambda: trades().select("id", double=col("price") * 2),
    "aggregated": lambda: trades().select(n=col("id").count(), mean=col("price").mean()),
    "order by": lambda: trades().select("id", "price").order_by("price", desc=True),
    "update": lambda: trades().update(price=9.0).where(col("id") == 2),
    "update computed": lambda: trades().update(price=col("price") + 1),
    "insert a row": lambda: trades().insert(id=4, sym="d", time=400, price=4.5),
    "insert rows": lambda: trades().insert(id=[4, 5], sym=["d", "e"], time=[4, 5], price=[4.5, 5.5]),
    "upsert": lambda: trades().upsert(id=[2, 9], sym=["q", "w"], time=[4, 5], price=[7.5, 8.5], key_columns=1),
    "left join": lambda: trades().left_join(quotes(), on=["sym"]),
    "inner join": lambda: trades().inner_join(quotes(), on="sym"),
    "asof join": lambda: trades().asof_join(quotes(), on=["sym", "time"]),
    "window join": lambda: windowed("window_join"),
    "window join 1": lambda: windowed("window_join1"),
}


@pytest.mark.parametrize("make", QUERIES.values(), ids=QUERIES)
def test_a_query_object_gives_what_it_gives_in_process(make: Make) -> None:
    assert shown(ask(make())) == shown(make().execute())


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM self",
        "SELECT id, price FROM self WHERE price > 2 AND sym = 'b'",
        "SELECT sym, SUM(price) AS total FROM self GROUP BY sym",
        "SELECT COUNT(id) AS n FROM self",
        "SELECT id FROM self ORDER BY id DESC",
        "UPDATE self SET price = 9.0 WHERE id = 2",
        "INSERT INTO self (id, sym, time, price) VALUES (4, 'd', 400, 4.5)",
        "INSERT INTO self (id, sym, time, price) VALUES (2, 'd', 400, 4.5) ON CONFLICT (id) DO UPDATE",
    ],
)
def test_an_sql_query_gives_what_it_gives_in_process(sql: str) -> None:
    assert shown(ask(SQLQuery(trades(), sql))) == shown(trades().sql(sql))


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.update(price=0.0).where(col("id") == 1),
        lambda table: table.insert(4, "d", 400, 4.5),
        lambda table: table.insert([4, 5], ["d", "e"], [400, 500], [4.5, 5.5]),
        lambda table: table.insert(id=[4], sym=["d"], time=[400], price=[4.5]),
        lambda table: table.upsert(1, "z", 100, 9.5, key_columns=1),
        lambda table: table.upsert(id=[1, 7], sym=["z", "y"], time=[1, 7], price=[9.5, 7.5], key_columns=1),
    ],
    ids=["update", "insert", "insert rows", "insert by name", "upsert", "upsert by name"],
)
def test_a_named_table_changes_as_it_does_in_process(change: Callable[[Table], Any], name: str) -> None:
    there, here = f"{name}_there", f"{name}_here"
    trades().save(there)
    trades().save(here)
    assert shown(ask(change(Table(there)))) == shown(Symbol(there))
    change(Table(here)).execute()
    assert shown(ask(Table(there).select("*"))) == shown(Table(here).select("*").execute())
    assert shown(eval_str(there)) != shown(trades())


def test_a_named_table_is_joined_as_it_is_in_process(name: str) -> None:
    trades().save(name)
    join = Table(name).left_join(quotes(), on=["sym"])
    assert shown(ask(join)) == shown(join.execute())


class Foreign:
    pass


@pytest.mark.parametrize(
    ("query", "named"),
    [
        (1, "int"),
        (1.5, "float"),
        (True, "bool"),
        (None, "NoneType"),
        (b"(+ 1 2)", "bytes"),
        (bytearray(), "bytearray"),
        (["+", 1, 2], "list"),
        (("+", 1, 2), "tuple"),
        ({}, "dict"),
        (str, "type"),
        (Foreign(), r"test_codec\.Foreign"),
        (I64(1), r"rayforce\.\S+\.I64"),
        (Symbol("a"), r"rayforce\.\S+\.Symbol"),
        (Vector([1], ray_type=I64), r"rayforce\.\S+\.Vector"),
        (Dict({"a": 1}), r"rayforce\.\S+\.Dict"),
        (Fn("(fn [x] x)"), r"rayforce\.\S+\.Fn"),
        (Column("a"), r"rayforce\.\S+\.Column"),
        (trades(), r"rayforce\.\S+\.Table"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_query_is_refused_with_its_type(query: Any, named: str) -> None:
    with pytest.raises(UnsupportedQuery, match=rf"^cannot send (\S+\.)?{named} as a query; send a str, ") as caught:
        encode(query, MessageType.SYNC)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value, RayforceWSError)
    assert caught.value.__cause__ is None


def test_a_query_that_rayforce_cannot_compile() -> None:
    with pytest.raises(RayforceQueryCompilationError, match=r"^No data to insert$"):
        encode(Table("trades").insert(), MessageType.SYNC)


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("\ud800", "^the query cannot be sent, because it contains a lone surrogate, which UTF-8 cannot encode$"),
        (Expression(Operation.ADD, 1, object()), r"^the query, operand 2 of \+"),
        (Expression(Operation.ADD, 1, 10**30), r"^the query, operand 2 of \+"),
    ],
    ids=["lone surrogate", "object", "huge integer"],
)
def test_a_query_that_cannot_be_sent_is_refused_with_the_place_of_the_value(query: Any, place: str) -> None:
    with pytest.raises(RayforceConversionError, match=place):
        encode(query, MessageType.SYNC)


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (
            Table("trades"),
            r"a table is not a query; send 'trades', or Table('trades').select('*'), to get all of its rows",
        ),
        (
            PivotQuery(trades(), "id", "sym", "price"),
            "cannot send rayforce.types.table.PivotQuery as a query: a pivot takes several queries; fetch the rows, "
            "and pivot them in the client",
        ),
    ],
    ids=["table", "pivot"],
)
def test_what_is_nearly_a_query_is_refused_with_what_to_send_instead(query: Any, text: str) -> None:
    with pytest.raises(UnsupportedQuery, match=f"^{re.escape(text)}$"):
        encode(query, MessageType.SYNC)


@pytest.mark.parametrize("message_type", MessageType)
def test_a_frame_has_the_message_type_it_was_encoded_with(message_type: MessageType) -> None:
    encoded = encode("(+ 1 2)", message_type)
    assert parse_frame(encoded).message_type is message_type
    assert isinstance(evaluate(encoded), Result)


def test_a_value_is_a_response_frame() -> None:
    reply = answer("(+ 1 2)")
    assert isinstance(reply, Result)
    assert parse_frame(whole_frame(reply.frame)) == Header(0, MessageType.RESPONSE, 10)


# Errors


@pytest.mark.parametrize(
    ("query", "failure"),
    [
        ("(+ 1 'a)", Failure("type", "cannot add i64 and sym")),
        (Expression(Operation.ADD, 1, QuotedSymbol("a")), Failure("type", "cannot add i64 and sym")),
        ("(undefined_name 1)", Failure("name", "'undefined_name' undefined")),
        ("((fn [x] x))", Failure("arity", "expected 1 args, got 0")),
        ("(", Failure("parse", "")),
        ("", Failure("parse", "")),
        ("(" * 2000, Failure("parse", "nesting too deep, limit 1024")),
        ("(+ 1 " * 1000 + "1" + ")" * 1000, Failure("limit", "eval depth exceeded")),
        (List([1]), Failure("type", "eval: head of list is not callable, got i64")),
    ],
    ids=lambda value: str(value)[:20],
)
def test_an_engine_error_has_its_code_and_message(query: Any, failure: Failure) -> None:
    assert answer(query) == failure


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x7ftype\0\0\0", "domain"),  # an error object
        (b"\x7e", "domain"),  # the null object
        (b"\x55", "domain"),  # no type code
        (b"\xfb\0", "domain"),  # an I64 cut short
        (b"\xf3\0" + (2**62).to_bytes(8, "little"), "domain"),  # a string longer than the frame
        (b"\0\0" + (1).to_bytes(8, "little") * 100_000, "domain"),  # lists in lists
        (b"\xf3\0\3\0\0\0\0\0\0\0\xff\xfe\xfd", "parse"),  # a query that is no UTF-8
    ],
    ids=lambda value: repr(value[:9]),
)
def test_what_is_nothing_to_evaluate_is_a_failure(payload: bytes, code: str) -> None:
    reply = evaluate(frame(payload))
    assert isinstance(reply, Failure)
    assert reply.code == code


def test_an_error_message_that_is_no_utf_8_is_a_failure_all_the_same() -> None:
    reply = evaluate(encode(List([Symbol("undefined_name"), 1]), MessageType.SYNC).replace(b"fined", b"\xff\xfened"))
    assert isinstance(reply, Failure)
    assert reply.code == "name"


@pytest.mark.parametrize(
    ("payload", "error", "text"),
    [
        (b"\x7ftype\0\0\0", RayforceTypeError, f"^type: {TYPE_WORDS}$"),
        (b"\x7fcancel\0", RayforceUserError, "^cancel: the query was stopped$"),
        (b"\x7f", RayforceUserError, "^$"),
        (b"\x55", RayforceConversionError, "^the reply cannot be read: "),
        (b"\xfb\0\1", RayforceConversionError, "^the reply cannot be read: "),
    ],
)
def test_a_reply_without_a_value_raises(payload: bytes, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text) as caught:
        decode(Result(frame(payload)))
    assert type(caught.value) is error


def test_a_compressed_reply_is_refused() -> None:
    with pytest.raises(RayforceConversionError, match=r"^the reply cannot be read: it is compressed, "):
        decode(Result(frame(b"\xfb\0" + bytes(8), flags=1)))


# Any bytes


@given(st.text())
def test_a_string_frame_is_what_the_engine_writes(text: str) -> None:
    assert string_frame(text) == encode(text, MessageType.RESPONSE)
    assert shown(decode(Result(string_frame(text)))) == shown(String(text))


GOOD = [
    encode(query, MessageType.SYNC)
    for query in (
        '(list 1 \'a "x" 2024.01.01 [1 2 0Nl])',
        Expression(Operation.ADD, 1, 2),
        List([Operation.LIST, trades(), Vector(["ab", "c"], ray_type=String), Fn("(fn [x] (+ x 1))")]),
        *(make() for make in QUERIES.values()),
    )
]
GOOD += [whole_frame(reply.frame) for reply in map(evaluate, GOOD) if isinstance(reply, Result)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good frame, its payload changed here and there, perhaps cut."""
    good = draw(st.sampled_from(GOOD))
    payload = bytearray(good[HEADER_SIZE:])
    for offset, byte in draw(st.lists(st.tuples(st.integers(0, len(payload) - 1), st.integers(0, 255)), max_size=4)):
        payload[offset] = byte
    return frame(bytes(payload[: draw(st.integers(1, len(payload)) | st.just(len(payload)))]))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xf4\x20\xe9\0",
        payloads.vector(Type.SYMBOL, 2, [b"a\0\xe9\0"]),
        payloads.quoted(payloads.list_of([b"\xf4\x20\xe9\0"])),
        b"\x62\0" + payloads.vector(Type.SYMBOL, 1, [b"\xe9\0"]) + payloads.list_of([payloads.symbols(["a"])]),
    ],
    ids=["symbol", "vector", "list", "table"],
)
def test_a_symbol_need_not_be_utf8(payload: bytes) -> None:
    reply = evaluate(frame(payload))
    assert isinstance(reply, Result)
    assert b"\xe9\0" in bytes(whole_frame(reply.frame))


@given(damaged() | st.binary(min_size=1).map(frame))
def test_whatever_is_evaluated_comes_to_a_reply(data: bytes) -> None:
    reply = evaluate(data)
    if isinstance(reply, Result):
        assert parse_frame(whole_frame(reply.frame)).message_type is MessageType.RESPONSE


@given(damaged() | st.binary(min_size=1).map(frame))
def test_whatever_is_decoded_raises_nothing_but_rayforce_errors(data: bytes) -> None:
    with contextlib.suppress(RayforceError):
        decode(Result(data))


# Errors that quote the query


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("(+ 1 'a)", f"type: {TYPE_WORDS}, in the query (+ 1 'a)"),
        (String("(+ 1 'a)"), f"type: {TYPE_WORDS}, in the query (+ 1 'a)"),
        ("(+ 1\n\t  'a)\n", f"type: {TYPE_WORDS}, in the query (+ 1 'a)"),
        ("", f"type: {TYPE_WORDS}"),
        ("x" * 80, f"type: {TYPE_WORDS}, in the query {'x' * 80}"),
        ("x" * 81, f"type: {TYPE_WORDS}, in the query {'x' * 80}..."),
        (String("(+ é " * 100), f"type: {TYPE_WORDS}, in the query {'(+ é ' * 16}..."),
        (List([Operation.ADD, 1]), f"type: {TYPE_WORDS}, in the query (+ 1)"),
        (
            trades().select("id"),
            f"type: {TYPE_WORDS}, in the query "
            "(select {id: id from: (table [id sym time price] ([1 2 3] [a b a] [100 200 300] ...",
        ),
        (None, f"type: {TYPE_WORDS}"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_an_error_without_a_message_quotes_the_beginning_of_the_query(query: Any, text: str) -> None:
    failure = Failure("type", "")
    assert str(engine_error(failure, query)) == text
    for reply in (failure, Result(frame(b"\x7ftype\0\0\0\0"))):
        with pytest.raises(RayforceTypeError) as caught:
            decode(reply, query)
        assert str(caught.value) == text


def test_an_error_with_a_message_quotes_nothing() -> None:
    with pytest.raises(RayforceTypeError, match=r"^type: cannot add i64 and sym$"):
        decode(answer("(+ 1 'a)"), "(+ 1 'a)")


def test_a_value_needs_no_query_to_be_quoted() -> None:
    assert shown(decode(answer("(+ 1 2)"), "(+ 1 2)")) == "I64(3)"


@pytest.mark.parametrize(
    ("code", "error"),
    [
        ("type", RayforceTypeError),
        ("domain", RayforceDomainError),
        ("limit", RayforceLimitError),
        ("cancel", RayforceUserError),
        ("unheard", RayforceUserError),
        ("", RayforceUserError),
    ],
)
def test_an_engine_error_is_of_the_class_of_its_code(code: str, error: type[Exception]) -> None:
    assert type(engine_error(Failure(code, "what"))) is error
    assert str(engine_error(Failure(code, "what"))) == f"{code}: what"


def test_of_a_long_query_only_the_beginning_is_looked_at() -> None:
    query = "x " * 1_000_000
    tracemalloc.start()
    try:
        engine_error(Failure("type", ""), query)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < len(query)


# What is printed


def ask_verbose(query: Any) -> tuple[str, Reply]:
    return decode_verbose(evaluate(encode(query, MessageType.SYNC, verbose=True)))


PRINTING: list[tuple[str, str, Any]] = [
    ("(+ 1 2)", "", "I64(3)"),
    ('(println "one")', "one\n", "None"),
    ('(do (println "one") (print "two") (println "% and %" 3 \'four) 5)', "one\ntwo3 and four\n", "I64(5)"),
    ("(show [1 2])", "[1 2]\n", "None"),
    ('(do (println "né€😀") "ü")', "né€😀\n", "String('ü')"),
    ('(do (map (fn [x] (println "%" x)) (til 20000)) null)', "".join(f"{n}\n" for n in range(20_000)), "None"),
    ('(do (println "one") (.sys.exec "echo two") (println "three"))', "one\ntwo\nthree\n", "None"),
]

FAILING: list[tuple[str, str, Failure]] = [
    ("(+ 1 'a)", "", Failure("type", "cannot add i64 and sym")),
    ('(do (println "one") (+ 1 \'a))', "one\n", Failure("type", "cannot add i64 and sym")),
    ("undefined_name", "", Failure("name", "'undefined_name' undefined")),
    ("(foo", "", Failure("parse", "")),
]


@pytest.mark.parametrize("message_type", [MessageType.SYNC, MessageType.ASYNC])
def test_a_verbose_frame_has_the_flag_and_nothing_else_of_its_own(message_type: MessageType) -> None:
    plain, verbose = (encode("(+ 1 2)", message_type, verbose=verbose) for verbose in (False, True))
    assert parse_frame(verbose) == Header(VERBOSE_FLAG, message_type, parse_frame(plain).size)
    assert parse_frame(verbose).verbose
    assert not parse_frame(plain).verbose
    assert verbose[HEADER_SIZE:] == plain[HEADER_SIZE:]


@pytest.mark.parametrize(("query", "output", "value"), PRINTING, ids=[query[:40] for query, *_ in PRINTING])
def test_what_is_printed_comes_with_the_value(query: str, output: str, value: str) -> None:
    printed, reply = ask_verbose(query)
    assert (printed, shown(decode(reply))) == (output, value)


@pytest.mark.parametrize(("query", "output", "failure"), FAILING, ids=[query for query, *_ in FAILING])
def test_what_is_printed_comes_with_the_error(query: str, output: str, failure: Failure) -> None:
    assert ask_verbose(query) == (output, failure)


@pytest.mark.parametrize("make", QUERIES.values(), ids=QUERIES)
def test_a_verbose_query_object_gives_what_it_gives_otherwise(make: Make) -> None:
    output, reply = ask_verbose(make())
    assert output == ""
    assert shown(decode(reply)) == shown(ask(make()))


def test_a_native_server_answers_the_same() -> None:
    """All but the messages of errors, which it does not send."""
    with (
        native_server() as server,
        socket.create_connection(("127.0.0.1", server.port), 10) as sock,
        sock.makefile("rb") as received,
    ):
        sock.sendall(b"\3\0")
        assert received.read(2) == b"\3\0"
        for query, *_ in [*PRINTING, *FAILING]:
            request = encode(query, MessageType.SYNC, verbose=True)
            sock.sendall(request)
            header = received.read(HEADER_SIZE)
            theirs = Result(header + received.read(parse_header(header).size))
            output, reply = decode_verbose(evaluate(request))
            if isinstance(reply, Failure):
                assert decode_verbose(theirs) == (output, Failure(reply.code, ""))
            else:
                assert evaluate(request) == theirs


def test_output_that_is_no_utf_8_comes_with_replacements(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"a\xffb\0c")
    assert ask_verbose(f'(do (.sys.exec "cat {tmp_path}/bytes") 1)')[0] == "a\ufffdb\0c"


@pytest.mark.parametrize("payload", [b"\x7e", b"\x55", b"\x7ftype\0\0\0", b"\xfb\0"], ids=bytes.hex)
def test_a_verbose_request_for_nothing_is_answered_as_one(payload: bytes) -> None:
    output, reply = decode_verbose(evaluate(frame(payload, flags=VERBOSE_FLAG)))
    assert output == ""
    assert isinstance(reply, Failure)
    assert reply.code == "domain"


def test_a_failure_to_evaluate_printed_nothing() -> None:
    assert decode_verbose(Failure("cancel", "why")) == ("", Failure("cancel", "why"))


@pytest.mark.parametrize("reply", [frame(b"\x7e"), string_frame("a"), frame(b"\0\0" + bytes(8))], ids=bytes.hex)
def test_a_reply_to_no_verbose_request_is_refused(reply: bytes) -> None:
    with pytest.raises(RayforceConversionError, match=r"^the reply cannot be read: the reply to a verbose request "):
        decode_verbose(Result(reply))


@given(damaged() | st.binary(min_size=1).map(frame))
def test_whatever_is_read_as_verbose_raises_nothing_but_rayforce_errors(data: bytes) -> None:
    with contextlib.suppress(RayforceError):
        decode(decode_verbose(Result(data))[1])


@given(st.binary(max_size=10), damaged(), st.integers(0, 10))
def test_whatever_is_in_a_verbose_reply_raises_nothing_but_rayforce_errors(
    output: bytes, data: bytes, cut: int
) -> None:
    joined = whole_frame(join_verbose(output, Result(data)).frame)
    with contextlib.suppress(RayforceError):
        decode(decode_verbose(Result(frame(joined[HEADER_SIZE : len(joined) - cut])))[1])


@pytest.mark.parametrize("query", ["(+ 1 2)", '(do (println "printed") 3)', "(+ 1 'a)", "(foo"])
def test_standard_output_is_afterwards_what_it_was(query: str) -> None:
    before = descriptors()
    ask_verbose(query)
    assert descriptors() == before


def test_standard_output_is_what_it_was_after_a_refusal_to_evaluate() -> None:
    before = os.fstat(1)
    request = encode('(println "x")', MessageType.SYNC, verbose=True)
    with ThreadPoolExecutor(1) as pool:
        assert isinstance(pool.submit(lambda: evaluate(request)).exception(), RayforceThreadError)
    assert (os.fstat(1).st_dev, os.fstat(1).st_ino) == (before.st_dev, before.st_ino)


def test_output_is_captured_where_no_directory_is_writable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    output, reply = ask_verbose('(do (println "captured") (+ 1 2))')
    assert (output, decode(reply)) == ("captured\n", 3)


def test_output_is_captured_where_the_system_has_no_files_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)
    output, reply = ask_verbose('(do (println "captured") (+ 1 2))')
    assert (output, decode(reply)) == ("captured\n", 3)


def test_output_that_cannot_be_captured_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    reply = evaluate(encode('(println "x")', MessageType.SYNC, verbose=True))
    assert reply == Failure("io", "the output of the query cannot be captured: Too many open files")


PROLOGUE = """
import os, sys
from rayforce_trio._codec import decode, decode_verbose, encode, evaluate
from rayforce_trio._protocol import MessageType

def ask(query, *, verbose=True):
    return evaluate(encode(query, MessageType.SYNC, verbose=verbose))

def check():
    output, reply = decode_verbose(ask('(do (println "captured") (+ 1 2))'))
    assert decode(reply) == 3, reply
    return output
"""


def run_in_child(script: str, *, stdout: int | None = None) -> bytes:
    """Run a script in a process of its own, after the prologue; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    child = subprocess.run(
        [sys.executable, "-c", PROLOGUE + script],
        stdout=subprocess.PIPE if stdout is None else stdout,
        stderr=subprocess.PIPE,
        env=environment,
        timeout=60,
        check=False,
    )
    assert child.returncode == 0, child.stderr.decode()
    return child.stdout or b""


def test_what_else_is_printed_goes_where_it_always_goes() -> None:
    printed = run_in_child("""
print("one")
sys.stdout.write("two\\n")
os.write(1, b"three\\n")
ask('(println "four")', verbose=False)
assert check() == "captured\\n"
print("five")
ask('(println "six")', verbose=False)
assert check() == "captured\\n"
ask('(println "seven")', verbose=False)
print("eight")
""")
    assert sorted(printed.split()) == sorted(b"one two three four five six seven eight".split())


@pytest.mark.parametrize("closed", ["sys.stdout.close()", "sys.stdout = None"])
def test_python_need_not_have_a_standard_output(closed: str) -> None:
    assert (
        run_in_child(f"""
{closed}
for _ in range(3):
    assert check() == "captured\\n"
os.write(1, b"still there")
""")
        == b"still there"
    )


@pytest.mark.parametrize("closed", [[1], [0, 1], [0, 1, 2]], ids=str)
def test_the_process_need_not_have_a_standard_output(closed: list[int]) -> None:
    """Whether anything is captured then is left open, but not the value, nor that all is given back."""
    run_in_child(f"""
for number in {closed}:
    os.close(number)
before = sorted(os.listdir("/dev/fd"))
for _ in range(3):
    assert check() in ("captured\\n", "")
    assert sorted(os.listdir("/dev/fd")) == before
""")


def test_what_the_process_has_not_been_able_to_print_is_not_the_querys() -> None:
    """It waits in Python's buffer, since nobody reads; a client must not get it."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(4096))
        run_in_child(
            """
print("not for clients")
assert check() == "captured\\n"
os._exit(0)  # or Python would complain that it cannot print
""",
            stdout=writing,
        )
    finally:
        os.close(reading)
        os.close(writing)


# Threads

PREPARED = trades().select("id")
THREE = frame(b"\xfb\0\3\0\0\0\0\0\0\0")
VERBOSE = frame(THREE[HEADER_SIZE:], flags=VERBOSE_FLAG)


def test_rayforce_can_be_used_in_the_thread_that_imported_it() -> None:
    check_thread()


@pytest.mark.parametrize(
    "use",
    [
        check_thread,
        lambda: encode("(+ 1 2)", MessageType.SYNC),
        lambda: encode(PREPARED, MessageType.SYNC),
        lambda: evaluate(THREE),
        lambda: evaluate(VERBOSE),
        lambda: decode(Result(THREE)),
        lambda: encode_call("til", [PREPARED]),
        lambda: payload_of_object(PREPARED),
    ],
    ids=[
        "check_thread",
        "encode",
        "encode a prepared query",
        "evaluate",
        "evaluate verbosely",
        "decode",
        "encode_call",
        "payload_of_object",
    ],
)
def test_in_any_other_thread_the_error_says_what_to_do(use: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(use).exception()
    assert isinstance(error, RayforceThreadError)
    assert str(error).startswith("Rayforce can only be used in the thread that imported it first; ")
