"""Python values as payloads: the values that arrive at the engine, and the errors for others."""

import collections
import datetime as dt
import decimal
import enum
import fractions
import types
import uuid
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import rayforce
from hypothesis import given
from hypothesis import strategies as st
from support.ids import steady_repr
from support.payloads import evaluated, rayforce_payload, type_in, value_in

from rayforce_trio._values._columns import read_columns
from rayforce_trio._values._payloads import Buffer, call, i64, quoted
from rayforce_trio._values._python import MAX_DEPTH, encode_value
from rayforce_trio.errors import RayforceConversionError

ONE_UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
HIGHEST = 2**63 - 1


def encoded(value: Any) -> Buffer:
    return encode_value(value, 'params["x"]', rayforce_payload)


def refusal(value: Any) -> str:
    with pytest.raises(RayforceConversionError) as raised:
        encoded(value)
    place, _, problem = str(raised.value).partition('params["x"]')
    assert place == ""
    return problem


def utc(
    year: int, month: int, day: int, hour: int = 0, minute: int = 0, second: int = 0, microsecond: int = 0
) -> dt.datetime:
    """Return a time in UTC, without a time zone."""
    return dt.datetime.combine(dt.date(year, month, day), dt.time(hour, minute, second, microsecond))


class Level(enum.IntEnum):
    LOW = 3


class Color(enum.Enum):
    RED = 1


class Side(enum.StrEnum):
    BUY = "buy"


class OldSide(str, enum.Enum):  # noqa: UP042, the way before StrEnum, whose str() is not its text
    SELL = "sell"


Pair = collections.namedtuple("Pair", "low high")

HALF_PAST = dt.timezone(dt.timedelta(hours=5, minutes=30))

ATOMS: list[tuple[Any, str, Any]] = [
    (True, "b8", True),
    (5, "i64", 5),
    (HIGHEST, "i64", HIGHEST),
    (-HIGHEST, "i64", -HIGHEST),
    (1.5, "f64", 1.5),
    (-0.0, "f64", -0.0),
    (float("inf"), "f64", float("inf")),
    ("text", "sym", "text"),
    ("two words é 日", "sym", "two words é 日"),
    (dt.date(1, 1, 1), "date", dt.date(1, 1, 1)),
    (dt.date(9999, 12, 31), "date", dt.date(9999, 12, 31)),
    (dt.time(23, 59, 59, 999_000), "time", dt.time(23, 59, 59, 999_000)),
    (utc(2024, 2, 29, 1, 2, 3, 4), "timestamp", utc(2024, 2, 29, 1, 2, 3, 4)),
    (dt.datetime(2024, 2, 29, 1, 2, tzinfo=dt.UTC), "timestamp", utc(2024, 2, 29, 1, 2)),
    (dt.datetime(2024, 2, 29, 1, 2, tzinfo=HALF_PAST), "timestamp", utc(2024, 2, 28, 19, 32)),
    (dt.timedelta(days=-1, microseconds=5), "timespan", dt.timedelta(days=-1, microseconds=5)),
    (ONE_UUID, "guid", ONE_UUID),
    (Level.LOW, "i64", 3),
    (Side.BUY, "sym", "buy"),
    (OldSide.SELL, "sym", "sell"),
    (rayforce.String("a\0b"), "str", "a\0b"),
    (rayforce.I16(5), "i16", 5),
    (np.bool_(True), "b8", True),
    (np.int8(-5), "i16", -5),
    (np.uint8(200), "u8", 200),
    (np.int16(5), "i16", 5),
    (np.uint16(65_535), "i32", 65_535),
    (np.int32(5), "i32", 5),
    (np.uint32(2**32 - 1), "i64", 2**32 - 1),
    (np.int64(5), "i64", 5),
    (np.uint64(HIGHEST), "i64", HIGHEST),
    (np.float16(0.5), "f32", 0.5),
    (np.float32(0.5), "f32", 0.5),
    (np.float64(0.5), "f64", 0.5),
    (np.str_("text"), "sym", "text"),
    (np.bytes_(b"text"), "str", "text"),
    (np.datetime64("2024-02-29"), "date", dt.date(2024, 2, 29)),
    (np.datetime64("2024", "Y"), "date", dt.date(2024, 1, 1)),
    (np.datetime64("2024-02-29T01:02", "m"), "timestamp", utc(2024, 2, 29, 1, 2)),
    (np.datetime64(1000, "ps"), "timestamp", pd.Timestamp(1)),
    (np.timedelta64(90, "m"), "timespan", dt.timedelta(minutes=90)),
    (np.array(5), "i64", 5),
    (np.array("text", object), "sym", "text"),
    (pd.Timestamp("2024-02-29 01:02:03.123456789"), "timestamp", pd.Timestamp("2024-02-29 01:02:03.123456789")),
    (pd.Timestamp("2024-02-29 01:02", tz=HALF_PAST), "timestamp", utc(2024, 2, 28, 19, 32)),
    (pd.Timedelta(5, "us"), "timespan", dt.timedelta(microseconds=5)),
]


@pytest.mark.parametrize(("value", "type_name", "arrives"), ATOMS, ids=steady_repr)
def test_a_scalar_arrives_as_an_atom(value: Any, type_name: str, arrives: Any) -> None:
    payload = encoded(value)
    assert type_in(payload) == type_name
    assert value_in(evaluated(quoted(payload))) == arrives


@pytest.mark.parametrize(
    "value",
    [None, pd.NA, pd.NaT, np.datetime64("NaT", "s"), np.timedelta64("NaT", "s"), np.ma.masked, rayforce.Null],
    ids=steady_repr,
)
def test_null_arrives_as_null(value: Any) -> None:
    assert type_in(encoded(value)) == "null"


def test_nan_is_the_null_float() -> None:
    assert type_in(encoded(float("nan"))) == "f64"
    assert value_in(evaluated(call("nil?", quoted(encoded(float("nan")))))) is True


VECTORS: list[tuple[Any, str, list[Any]]] = [
    ([1, 2], "I64", [1, 2]),
    ((1, None), "I64", [1, None]),
    (Pair(1, 2), "I64", [1, 2]),
    ([1, Level.LOW], "I64", [1, 3]),
    ([True, False], "B8", [True, False]),
    ([1.5, None], "F64", [1.5, None]),
    ([1, 2.5], "F64", [1.0, 2.5]),
    (["a", None, "日"], "SYM", ["a", None, "日"]),
    ([dt.date(2024, 1, 1), None], "DATE", [dt.date(2024, 1, 1), None]),
    ([dt.time(1), None], "TIME", [dt.time(1), None]),
    ([dt.timedelta(1), None], "TIMESPAN", [dt.timedelta(1), None]),
    ([dt.timedelta(106_751)], "TIMESPAN", [dt.timedelta(106_751)]),
    ([ONE_UUID, None], "GUID", [ONE_UUID, None]),
    (
        [utc(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=HALF_PAST)],
        "TIMESTAMP",
        [utc(2024, 1, 1), utc(2023, 12, 31, 18, 30)],
    ),
    ([pd.Timestamp("2024-01-01"), pd.NaT], "TIMESTAMP", [utc(2024, 1, 1), None]),
    ([rayforce.String("a"), None], "STR", ["a", None]),
    ([rayforce.Symbol("a"), "b", None], "SYM", ["a", "b", None]),
    ([np.int64(1), 2], "I64", [1, 2]),
    ([np.int32(1), None], "I32", [1, None]),
    (np.array([1, 2], ">i4"), "I32", [1, 2]),
    (np.arange(6)[::2], "I64", [0, 2, 4]),
    (np.array([], "f4"), "F32", []),
    (np.array(["a", ""]), "SYM", ["a", None]),
    (np.array([b"a", b"bc"]), "STR", ["a", "bc"]),
    (np.array(["a", "日"], np.dtypes.StringDType()), "SYM", ["a", "日"]),
    (np.array(["2024-01-01", "NaT"], "M8[D]"), "DATE", [dt.date(2024, 1, 1), None]),
    (np.array(["2024-01-01", "NaT"], "M8[us]"), "TIMESTAMP", [utc(2024, 1, 1), None]),
    (np.array(["2280-01-01"], "M8[s]"), "TIMESTAMP", [utc(2280, 1, 1)]),
    (np.array(["NaT"], "M8[s]"), "TIMESTAMP", [None]),
    (np.array([1, "NaT"], "m8[W]"), "TIMESPAN", [dt.timedelta(7), None]),
    (np.array([1, None], object), "I64", [1, None]),
    (np.array([ONE_UUID.bytes], "V16"), "GUID", [ONE_UUID]),
    (np.ma.array([1, 2], mask=[False, True]), "I64", [1, None]),
    (np.ma.array(["a", "b"], mask=[True, False]), "SYM", [None, "b"]),
    (np.ma.array([b"a", b"b"], mask=[True, False]), "STR", [None, "b"]),
    (np.ma.array(["2024-01-01", "2024-01-02"], "M8[D]", mask=[True, False]), "DATE", [None, dt.date(2024, 1, 2)]),
    (b"\0\xff", "U8", [0, 255]),
    (bytearray(b""), "U8", []),
    (pa.array(["a", None]), "STR", ["a", None]),
    (pl.Series([1, None]), "I64", [1, None]),
    (pd.Series(["a", "b"], dtype="category"), "SYM", ["a", "b"]),
    (rayforce.Vector([1, 2], ray_type=rayforce.I32), "I32", [1, 2]),
]


@pytest.mark.parametrize(("value", "type_name", "arrives"), VECTORS, ids=steady_repr)
def test_values_of_one_type_arrive_as_a_vector(value: Any, type_name: str, arrives: list[Any]) -> None:
    payload = encoded(value)
    assert type_in(payload) == type_name
    assert value_in(evaluated(quoted(payload))) == arrives


@pytest.mark.parametrize(
    "value",
    [
        [],
        [None, None],
        [1, "a"],
        [True, 1],
        [True, None],
        [2**53 + 1, 0.5],
        [[1], ["x", None]],
        [None, [None]],
        [{}, 1],
    ],
    ids=steady_repr,
)
def test_other_values_arrive_as_a_list(value: list[Any]) -> None:
    payload = encoded(value)
    assert type_in(payload) == "LIST"
    assert evaluated(quoted(payload)) == payload
    if {} not in value:
        assert value_in(payload) == value


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ({}, ([], [])),
        ({"a": 1, "b": None}, (["a", "b"], [1, None])),
        ({1: [1, 2], 2: ["x", 1]}, ([1, 2], [[1, 2], ["x", 1]])),
        ({np.int64(1): 2, 3: 4}, ([1, 3], [2, 4])),
        (types.MappingProxyType({dt.date(2024, 1, 1): "x"}), ([dt.date(2024, 1, 1)], ["x"])),
    ],
    ids=steady_repr,
)
def test_a_mapping_arrives_as_a_dict(value: Any, arrives: Any) -> None:
    payload = encoded(value)
    assert type_in(payload) == "DICT"
    assert value_in(evaluated(quoted(payload))) == arrives


FRAME = {"id": [1, None], "text": ["a", None]}


@pytest.mark.parametrize(
    "value",
    [
        pl.DataFrame(FRAME),
        pa.table(FRAME),
        read_columns(encoded(pl.DataFrame(FRAME))),
        rayforce.Table(
            {
                "id": rayforce.Vector([1, None], ray_type=rayforce.I64),
                "text": rayforce.Vector(["a", None], ray_type=rayforce.Symbol),
            }
        ),
    ],
    ids=lambda value: type(value).__module__,
)
def test_a_table_arrives_as_a_table(value: Any) -> None:
    payload = encoded(value)
    assert type_in(payload) == "TABLE"
    assert read_columns(evaluated(quoted(payload))).to_dict() == FRAME


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (HIGHEST + 1, f": the int {HIGHEST + 1} is outside the 64-bit range of the engine; write a float or a str"),
        (-HIGHEST - 1, f": the engine treats the int {-HIGHEST - 1} as null; write None for null"),
        (10**5000, ": the int of 16610 bits is outside the 64-bit range of the engine; write a float or a str"),
        ([1, None, 2**64], f"[2]: the int {2**64} is outside the 64-bit range of the engine; write a float or a str"),
        ([1, -HIGHEST - 1], f"[1]: the engine treats the int {-HIGHEST - 1} as null; write None for null"),
        ("a\0b", r": a symbol cannot contain the character NUL: 'a\x00b'; write String(value) instead"),
        (["a", "\0"], r"[1]: a symbol cannot contain the character NUL: '\x00'; write String(value) instead"),
        ({"a\0": 1}, r".keys()[0]: a symbol cannot contain the character NUL: 'a\x00'; write String(value) instead"),
        ("\ud800", r": the str '\ud800' contains a lone surrogate, which UTF-8 cannot encode; write bytes"),
        (
            [None, "x" * 50 + "\ud800"],
            f"[1]: the str '{'x' * 40}'... contains a lone surrogate, which UTF-8 cannot encode; write bytes",
        ),
        (
            utc(9999, 12, 31),
            ": the timestamp 9999-12-31 00:00:00 is outside the engine's range, 1707-09-22 to 2292-04-10; "
            "write a date or a str",
        ),
        (
            [utc(2024, 1, 1), utc(1, 1, 1)],
            "[1]: the timestamp 0001-01-01 00:00:00 is outside the engine's range, 1707-09-22 to 2292-04-10; "
            "write a date or a str",
        ),
        (
            dt.timedelta.max,
            ": the timedelta 999999999 days, 23:59:59.999999 is outside the engine's range of 292 years; "
            "write a float or an int",
        ),
        (
            [dt.timedelta.min],
            "[0]: the timedelta -999999999 days, 0:00:00 is outside the engine's range of 292 years; "
            "write a float or an int",
        ),
        (dt.time(1, 2, 3, 4), ": the time 01:02:03.000004 is finer than the engine's milliseconds; round it"),
        (
            [dt.time(1, tzinfo=dt.UTC)],
            "[0]: the time 01:00:00+00:00 has a time zone, which needs a date; write a datetime, or remove it",
        ),
        (uuid.UUID(int=0), ": the engine treats the nil UUID as null; write None for null"),
        ([ONE_UUID, uuid.UUID(int=0)], "[1]: the engine treats the nil UUID as null; write None for null"),
        (decimal.Decimal("1.5"), ": the engine has no decimals; write float(value) or str(value)"),
        ({1, 2}, ": a set cannot be sent; write list(value)"),
        ((value for value in "ab"), ": a generator cannot be sent; write list(value)"),
        (range(3), ": a range cannot be sent; write list(value)"),
        (1j, ": the engine has no type for a complex; write a number, a str, a list or a dict"),
        (
            [1, {"k": (fractions.Fraction(1), 2)}],
            "[1]['k'][0]: the engine has no type for a fractions.Fraction; write a number, a str, a list or a dict",
        ),
        (Color.RED, f": a {__name__}.Color is an enum member; write its .value"),
        (
            {"a": {2**70: 1}},
            f"['a'].keys()[0]: the int {2**70} is outside the 64-bit range of the engine; write a float or a str",
        ),
        ({None: 1}, ": the keys of a dict must be of one type, and not null; write a list of pairs"),
        ({1: 1, "a": 1}, ": the keys of a dict must be of one type, and not null; write a list of pairs"),
        (np.zeros((2, 2)), ": an array of 2 dimensions is not a vector; write a list of its rows"),
        (np.zeros((2, 2), object), ": an array of 2 dimensions is not a vector; write a list of its rows"),
        (np.uint64(2**63), ": the uint64 9223372036854775808 is outside the 64-bit range of the engine; write a float"),
        (
            np.array([1, 2**63], "u8"),
            "[1]: the uint64 9223372036854775808 is outside the 64-bit range of the engine; write a float",
        ),
        (
            np.array([-HIGHEST - 1]),
            f"[0]: the engine treats the int64 {-HIGHEST - 1} as null; write None for null",
        ),
        (np.int16(-(2**15)), ": the engine treats the int16 -32768 as null; write None for null"),
        (np.zeros(1, "V16"), "[0]: the engine treats the nil UUID as null; write None for null"),
        (
            pa.array([1, -HIGHEST - 1]),
            f": the array, row 1: the engine treats {-HIGHEST - 1} as null in a vector of type I64; "
            "write None for null",
        ),
        (pa.table([[1], [2]], names=["a", "a"]), ": the data has the column 'a' more than once"),
        (object(), ": the engine has no type for an object; write a number, a str, a list or a dict"),
        (
            np.array([(1,)], [("field", "i4")]),
            ": the engine has no type for numpy's [('field', '<i4')]; convert the array with astype()",
        ),
        (np.longdouble(1), ": the engine has no type for numpy's float128; convert the array with astype()"),
        (np.complex64(1), ": the engine has no type for numpy's complex64; convert the array with astype()"),
        (
            np.array(["2024-01-01", "0001-01-01"], "M8[s]"),
            "[1]: the datetime64[s] 0001-01-01T00:00:00 is outside the engine's range or precision; "
            "convert it with astype()",
        ),
        (
            np.array([2**40], "M8[Y]"),
            "[0]: the datetime64[Y] 1099511629746 is outside the engine's range or precision; convert it with astype()",
        ),
        (
            np.array([1, 3 * 10**9], "M8[D]"),
            "[1]: the datetime64[D] 8215691-01-08 is outside the engine's range or precision; convert it with astype()",
        ),
        (
            np.datetime64(1001, "ps"),
            ": the datetime64[ps] 1970-01-01T00:00:00.000000001001 is outside the engine's range or precision; "
            "convert it with astype()",
        ),
        (
            np.array([1], "m8[Y]"),
            ": the engine has no type for numpy's timedelta64[Y]; convert the array with astype()",
        ),
        (
            np.ma.array([True, False], mask=[True, False]),
            ", row 0: null, but B8 has no null value",
        ),
        (
            np.array(["a", None], np.dtypes.StringDType(na_object=None)),
            "[1]: numpy's StringDType has a missing text here; write a list with None for null",
        ),
    ],
    ids=lambda value: None if isinstance(value, str) else type(value).__name__,
)
def test_an_unrepresentable_value_is_refused_and_located(value: Any, problem: str) -> None:
    assert refusal(value) == problem


def test_a_list_that_contains_itself_is_refused() -> None:
    endless: list[Any] = []
    endless.append(endless)
    steps = "[0]" * 6
    assert refusal(endless) == f"{steps}...{steps}: lists and dicts are nested more than {MAX_DEPTH} levels deep"


def test_the_deepest_dicts_arrive() -> None:
    deepest: Any = []
    for _ in range(MAX_DEPTH - 1):
        deepest = {"k": deepest}
    payload = encoded(deepest)
    assert evaluated(quoted(payload)) == payload
    assert "nested more than" in refusal([{"k": deepest}])


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-HIGHEST, HIGHEST)
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)
    | st.dates()
    | st.datetimes(utc(1707, 9, 23), utc(2292, 4, 9))
    | st.timedeltas(dt.timedelta(-100_000), dt.timedelta(100_000))
    | st.times().map(lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000))
    | st.uuids()
)
one_type = st.sampled_from([bool, int, float, str, dt.date, dt.datetime, dt.timedelta]).flatmap(
    lambda cls: st.lists(scalars.filter(lambda value: type(value) is cls), min_size=1, max_size=5)
)
values = st.recursive(scalars | one_type, lambda inner: st.lists(inner, max_size=5), max_leaves=10)


@given(values)
def test_every_value_arrives_unchanged(value: Any) -> None:
    payload = encoded(value)
    arrived = evaluated(quoted(payload))
    assert arrived == payload
    assert value_in(arrived) == value


@given(st.dictionaries(st.integers(-HIGHEST, HIGHEST), values, max_size=4))
def test_every_dict_arrives_unchanged(value: dict[int, Any]) -> None:
    payload = encoded(value)
    assert evaluated(quoted(payload)) == payload
    assert value_in(payload) == ([*value], [*value.values()])


@given(st.lists(st.none() | st.integers(-5, 5), min_size=1).filter(lambda values: values != [None] * len(values)))
def test_null_is_found_wherever_it_is(values: list[int | None]) -> None:
    arrived = evaluated(call("nil?", quoted(encoded(values))))
    assert value_in(arrived) == [value is None for value in values]
    assert value_in(evaluated(call("count", quoted(encoded(values))))) == value_in(i64(len(values)))
