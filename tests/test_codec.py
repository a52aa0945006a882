"""Queries and values through frames and the real engine; the measure is what rayforce-py gives in process."""

import contextlib
import datetime as dt
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
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

from rayforce_trio._codec import check_thread, decode, encode, evaluate
from rayforce_trio._protocol import (
    HEADER_SIZE,
    Failure,
    Header,
    MessageType,
    Reply,
    Result,
    parse_frame,
    string_frame,
)
from rayforce_trio.errors import (
    RayforceConversionError,
    RayforceError,
    RayforceQueryCompilationError,
    RayforceThreadError,
    RayforceTypeError,
    RayforceUserError,
    RayforceWSError,
    UnsupportedQuery,
)

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # machines are busy

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
        (Table("trades"), r"rayforce\.\S+\.Table"),
        (PivotQuery(trades(), "id", "sym", "price"), r"rayforce\.\S+\.PivotQuery"),
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
    "query",
    ["\ud800", Expression(Operation.ADD, 1, object()), Expression(Operation.ADD, 1, 10**30)],
    ids=["lone surrogate", "object", "huge integer"],
)
def test_a_query_that_rayforce_cannot_represent(query: Any) -> None:
    with pytest.raises(RayforceError, match=r"^init: failed to create "):
        encode(query, MessageType.SYNC)


@pytest.mark.parametrize("message_type", MessageType)
def test_a_frame_has_the_message_type_it_was_encoded_with(message_type: MessageType) -> None:
    encoded = encode("(+ 1 2)", message_type)
    assert parse_frame(encoded).message_type is message_type
    assert isinstance(evaluate(encoded), Result)


def test_a_value_is_a_response_frame() -> None:
    reply = answer("(+ 1 2)")
    assert isinstance(reply, Result)
    assert parse_frame(reply.frame) == Header(0, MessageType.RESPONSE, 10)


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
        (b"\x7ftype\0\0\0", RayforceTypeError, "^type$"),
        (b"\x7fcancel\0", RayforceUserError, "^cancel$"),
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
    with pytest.raises(RayforceConversionError, match=r"^the reply is compressed, which no server "):
        decode(Result(frame(b"\xfb\0" + bytes(8), flags=1)))


# Any bytes


@unhurried
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
GOOD += [reply.frame for reply in map(evaluate, GOOD) if isinstance(reply, Result)]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A good frame, its payload changed here and there, perhaps cut."""
    good = draw(st.sampled_from(GOOD))
    payload = bytearray(good[HEADER_SIZE:])
    for offset, byte in draw(st.lists(st.tuples(st.integers(0, len(payload) - 1), st.integers(0, 255)), max_size=4)):
        payload[offset] = byte
    return frame(bytes(payload[: draw(st.integers(1, len(payload)) | st.just(len(payload)))]))


@unhurried
@given(damaged() | st.binary(min_size=1).map(frame))
def test_whatever_is_evaluated_comes_to_a_reply(data: bytes) -> None:
    reply = evaluate(data)
    if isinstance(reply, Result):
        assert parse_frame(reply.frame).message_type is MessageType.RESPONSE


@unhurried
@given(damaged() | st.binary(min_size=1).map(frame))
def test_whatever_is_decoded_raises_nothing_but_rayforce_errors(data: bytes) -> None:
    with contextlib.suppress(RayforceError):
        decode(Result(data))


# Threads

PREPARED = trades().select("id")
THREE = frame(b"\xfb\0\3\0\0\0\0\0\0\0")


def test_rayforce_can_be_used_in_the_thread_that_imported_it() -> None:
    check_thread()


@pytest.mark.parametrize(
    "use",
    [
        check_thread,
        lambda: encode("(+ 1 2)", MessageType.SYNC),
        lambda: encode(PREPARED, MessageType.SYNC),
        lambda: evaluate(THREE),
        lambda: decode(Result(THREE)),
    ],
    ids=["check_thread", "encode", "encode a prepared query", "evaluate", "decode"],
)
def test_in_any_other_thread_the_error_says_what_to_do(use: Callable[[], Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        error = pool.submit(use).exception()
    assert isinstance(error, RayforceThreadError)
    assert str(error).startswith("Rayforce can only be used in the thread that imported it first; ")
