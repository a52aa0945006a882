"""Tabular data of any kind as payloads of tables: its columns, casts to a table's types, and splitting."""

import datetime as dt
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import rayforce
from hypothesis import given
from hypothesis import strategies as st
from support.ids import steady_repr
from support.payloads import evaluated, rayforce_payload

from rayforce_trio._values._columns import Columns, read_columns
from rayforce_trio._values._payloads import quoted
from rayforce_trio._values._table_data import ROWS_AT_ONCE, TableData, table_data
from rayforce_trio._values._types import Type
from rayforce_trio.errors import RayforceConversionError, RayforceError, RayforceValueError

ONE_UUID = uuid.UUID("12345678-1234-5678-1234-567812345678")
MIDNIGHT = dt.datetime.combine(dt.date(2024, 2, 29), dt.time())
LONG_AGO = dt.date(1, 1, 1)
HIGHEST = 2**63 - 1

AMPLE = 1 << 30


def taken(data: Any) -> TableData:
    return table_data(data, rayforce_payload)


def messages(data: TableData, max_bytes: int = AMPLE) -> Iterator[tuple[bytes, int]]:
    return (item for item in data.payloads(max_bytes) if item is not None)


def arrived(data: TableData) -> Columns:
    """Return the engine's table of data that fits into one message."""
    ((payload, rows),) = messages(data)
    columns = read_columns(evaluated(quoted(payload)))
    assert len(columns) == rows == len(data)
    return columns


def refusal(attempt: Callable[[], object], kind: type[RayforceError] = RayforceConversionError) -> str:
    with pytest.raises(kind) as raised:
        attempt()
    return str(raised.value)


ROWS = {"id": [1, None], "text": ["a", None]}


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (ROWS, Type.SYMBOL),
        (pl.DataFrame(ROWS), Type.STRING),
        (pl.DataFrame(ROWS, schema={"id": pl.Int64, "text": pl.Categorical}), Type.SYMBOL),
        (pl.DataFrame(ROWS).lazy().collect(), Type.STRING),
        (pd.DataFrame({"id": pd.array([1, None], "Int64"), "text": ["a", None]}), Type.STRING),
        (pd.DataFrame({"id": pd.array([1, None], "Int64"), "text": pd.Categorical(["a", None])}), Type.SYMBOL),
        (pa.table(ROWS), Type.STRING),
        (pa.table(ROWS).to_batches()[0], Type.STRING),
        (pa.table(ROWS).to_reader(), Type.STRING),
        (duckdb.from_arrow(pa.table(ROWS)), Type.STRING),
        (
            rayforce.Table(
                {
                    "id": rayforce.Vector([1, None], ray_type=rayforce.I64),
                    "text": rayforce.Vector(["a", None], ray_type=rayforce.Symbol),
                }
            ),
            Type.SYMBOL,
        ),
    ],
    ids=lambda value: f"{type(value).__module__}.{type(value).__name__}",
)
def test_any_kind_of_table_is_accepted(data: Any, text: Type) -> None:
    table = taken(data)
    assert table.names == ("id", "text")
    assert table.types == {"id": Type.I64, "text": text}
    assert arrived(table).to_dict() == ROWS


class OldSeries(pd.Series):
    """A Series as pandas had them before 3.0."""

    @property
    def __arrow_c_stream__(self) -> Any:
        raise AttributeError


def test_a_series_without_an_arrow_interface_is_accepted() -> None:
    table = taken({"a": OldSeries([1, 2], index=[5, 6]), "b": OldSeries(["x", None], dtype="category")})
    assert table.types == {"a": Type.I64, "b": Type.SYMBOL}
    assert arrived(table).to_dict() == {"a": [1, 2], "b": ["x", None]}
    told = refusal(lambda: taken({"a": OldSeries([{}, {}])}))
    assert told.startswith("column 'a': ")


def test_numbers_of_numpy_are_not_converted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("rayforce_trio._values._table_data.atom")
    assert len(taken({"a": [np.int64(1)] * 3, "b": [np.float32(1), None, np.float32(2)]})) == 3


def test_an_error_of_an_object_says_where_it_is() -> None:
    def refuse(value: Any) -> None:
        raise RayforceConversionError("no")

    assert refusal(lambda: table_data({"a": object()}, refuse)) == "column 'a': no"
    assert refusal(lambda: table_data({"a": [object()]}, refuse)) == "column 'a': no"


def test_columns_are_accepted() -> None:
    columns = arrived(taken(pl.DataFrame(ROWS)))
    assert arrived(taken(columns)).to_dict() == ROWS


COLUMNS: list[tuple[Any, Type, list[Any]]] = [
    ([1, None, 3], Type.I64, [1, None, 3]),
    ((1, 2.5), Type.F64, [1.0, 2.5]),
    ([], Type.I64, []),
    ([None, None], Type.I64, [None, None]),
    ([True, False], Type.B8, [True, False]),
    ([dt.date(2024, 1, 1), None], Type.DATE, [dt.date(2024, 1, 1), None]),
    ([MIDNIGHT, None], Type.TIMESTAMP, [MIDNIGHT, None]),
    ([dt.timedelta(1)], Type.TIMESPAN, [dt.timedelta(1)]),
    ([ONE_UUID, None], Type.GUID, [ONE_UUID, None]),
    ([rayforce.String("a"), None], Type.STRING, ["a", None]),
    ([np.int16(1), np.int16(2)], Type.I16, [1, 2]),
    ([None, np.int64(2), pd.NA], Type.I64, [None, 2, None]),
    ([np.float32(1.5), None], Type.F32, [1.5, None]),
    ([np.timedelta64(1, "D"), np.timedelta64(1, "s")], Type.TIMESPAN, [dt.timedelta(1), dt.timedelta(seconds=1)]),
    (np.array([1, 2], "i4"), Type.I32, [1, 2]),
    (np.array([1, None], object), Type.I64, [1, None]),
    (pa.array(["a", None]), Type.STRING, ["a", None]),
    (pl.Series([1.5, None]), Type.F64, [1.5, None]),
    (pd.Series([1, 2]), Type.I64, [1, 2]),
    (rayforce.Vector([1, 2], ray_type=rayforce.I16), Type.I16, [1, 2]),
]


@pytest.mark.parametrize(("column", "kind", "values"), COLUMNS, ids=steady_repr)
def test_any_kind_of_column_is_accepted(column: Any, kind: Type, values: list[Any]) -> None:
    table = taken({"column": column})
    assert table.types == {"column": kind}
    assert arrived(table).to_dict() == {"column": values}


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({}, "the data has no columns; at least one is needed"),
        ({"": [1]}, "the name of a column is empty"),
        ({5: [1]}, "the name of a column must be a str, not an int"),
        ({"a\0": [1]}, r"the column name 'a\x00' has a character that the engine cannot represent"),
        ({"\ud800": [1]}, r"the column name '\ud800' has a character that the engine cannot represent"),
        ({"a": [1], "b": [1, 2]}, "the columns differ in length: 'b' has 2 rows, 'a' has 1"),
        (pa.table([[1], [2]], names=["a", "a"]), "the data has the column 'a' more than once"),
    ],
)
def test_names_and_lengths_are_checked(data: Any, problem: str) -> None:
    assert refusal(lambda: taken(data), RayforceValueError) == problem


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (
            [{"a": 1}],
            "a list is not tabular data; write a mapping of columns, a DataFrame, an Arrow table, Columns or a Table",
        ),
        (
            rayforce.I64(1),
            "a rayforce.types.scalars.numeric.integer.I64 is not tabular data; "
            "write a mapping of columns, a DataFrame, an Arrow table, Columns or a Table",
        ),
        (pl.Series([1]), "the data is one array without a name; write a mapping: {name: array}"),
        ({"a": 5}, "column 'a' is an int; write a list or an array of one dimension"),
        ({"a": "text"}, "column 'a' is a str; write a list or an array of one dimension"),
        ({"a": {"b": 1}}, "column 'a' is a dict; write a list or an array of one dimension"),
        (
            {"a": pl.DataFrame({"b": [1]})},
            "column 'a' is a polars.dataframe.frame.DataFrame; write a list or an array of one dimension",
        ),
        ({"a": np.zeros((2, 2))}, "column 'a': an array of 2 dimensions is not a vector; write a list of its rows"),
        (
            {"a": np.zeros((2, 2), object)},
            "column 'a' is a numpy.ndarray; write a list or an array of one dimension",
        ),
        (
            {"a": np.array([1, 2**63], "u8")},
            f"column 'a', row 1: the uint64 {2**63} is outside the 64-bit range of the engine; write a float",
        ),
        (
            {"a": [None, 1, "x"]},
            "column 'a', row 2: a str in a column that began with an int; write values of one type",
        ),
        (
            {"a": [None, rayforce.Vector([1], ray_type=rayforce.I64)]},
            "column 'a', row 1: a rayforce.types.containers.vector.Vector cannot be a value of a column",
        ),
        ({"a": [[1], [2]]}, "column 'a', row 0: a list cannot be a value of a column"),
        (
            {"a": [1, object()]},
            "column 'a', row 1: the engine has no type for an object; write a number, a str, a list or a dict",
        ),
        (
            {"a": [np.int64(1), np.int64(-HIGHEST - 1)]},
            f"column 'a', row 1: the engine treats the int64 {-HIGHEST - 1} as null; write None for null",
        ),
    ],
)
def test_other_data_is_refused(data: Any, problem: str) -> None:
    assert refusal(lambda: taken(data)) == problem


LATER: list[tuple[list[Any], str]] = [
    ([True, None], "null, but B8 has no null value"),
    ([np.bool_(True), None], "null, but B8 has no null value"),
    ([1, 2**64], f"the int {2**64} is outside the 64-bit range of the engine; write a float or a str"),
    ([1, -HIGHEST - 1], f"the engine treats the int {-HIGHEST - 1} as null; write None for null"),
    (["a", "b\0"], "a symbol cannot contain the character NUL; a String can"),
    (["a", "\ud800"], r"the str '\ud800' contains a lone surrogate, which UTF-8 cannot encode; write bytes"),
    ([dt.time(1), dt.time(1, 1, 1, 1)], "the time 01:01:01.000001 is finer than the engine's milliseconds; round it"),
]


@pytest.mark.parametrize(("values", "problem"), LATER, ids=steady_repr)
def test_an_error_names_the_row_in_the_whole_column(values: list[Any], problem: str) -> None:
    start = ROWS_AT_ONCE - 1
    table = taken({"fine": [1] * (start + 2), "a": [values[0]] * start + values})
    expected = f"column 'a', row {start + 1}: {problem}"
    assert refusal(lambda: list(table.payloads(AMPLE))) == expected


CASTS: list[tuple[Any, Type, list[Any]]] = [
    ([1, 255], Type.U8, [1, 255]),
    ([1, None, -(2**15) + 1], Type.I16, [1, None, -(2**15) + 1]),
    ([2**31 - 1, None], Type.I32, [2**31 - 1, None]),
    (np.array([1, 2], "u1"), Type.I64, [1, 2]),
    ([1, None, 2**53], Type.F64, [1.0, None, 2.0**53]),
    ([2**60], Type.F64, [2.0**60]),
    ([2**24], Type.F32, [2.0**24]),
    ([1.0, None, float("nan"), -(2.0**62)], Type.I64, [1, None, None, -(2**62)]),
    ([1.5, None, float("inf")], Type.F32, [1.5, None, float("inf")]),
    (np.array([0.1], "f4"), Type.F64, [float(np.float32(0.1))]),
    (["a", None, ""], Type.STRING, ["a", None, None]),
    (["a\0b"], Type.STRING, ["a\0b"]),
    (pa.array(["a", None]), Type.SYMBOL, ["a", None]),
    ([MIDNIGHT.date(), None], Type.TIMESTAMP, [MIDNIGHT, None]),
    ([MIDNIGHT, None], Type.DATE, [MIDNIGHT.date(), None]),
    ([dt.time(1, 2, 3), None], Type.TIMESPAN, [dt.timedelta(hours=1, minutes=2, seconds=3), None]),
    ([dt.timedelta(milliseconds=5), None], Type.TIME, [dt.time(0, 0, 0, 5000), None]),
    ([], Type.B8, []),
    *(([None, None], kind, [None, None]) for kind in (*range(Type.I16, Type.STRING + 1), Type.TIMESPAN)),
    (np.array([np.nan]), Type.SYMBOL, [None]),
    (pa.nulls(2), Type.GUID, [None, None]),
]


@pytest.mark.parametrize(("column", "target", "values"), CASTS, ids=steady_repr)
def test_a_cast_that_changes_no_value_is_made(column: Any, target: int, values: list[Any]) -> None:
    table = taken({"a": column}).cast({"a": Type(target)}, table="prices")
    assert table.types == {"a": target}
    columns = arrived(table)
    assert columns.schema == {"a": Type(target).name}
    assert columns.to_dict() == {"a": values}


@pytest.mark.parametrize(
    ("column", "target", "problem"),
    [
        ([1, None, 2**31], Type.I32, "row 2: the I64 2147483648 cannot be stored as I32 without a change"),
        ([-(2**31)], Type.I32, "row 0: the I64 -2147483648 cannot be stored as I32 without a change"),
        ([-1], Type.U8, "row 0: the I64 -1 cannot be stored as U8 without a change"),
        ([1, None], Type.U8, "row 1: null, but U8 has no null value"),
        ([None], Type.B8, "row 0: null, but B8 has no null value"),
        ([None, 1], Type.B8, "row 0: null, but B8 has no null value"),
        ([1], Type.B8, "row 0: the I64 1 cannot be stored as B8 without a change"),
        ([True], Type.I64, "row 0: the B8 True cannot be stored as I64 without a change"),
        ([2**53 + 1], Type.F64, f"row 0: the I64 {2**53 + 1} cannot be stored as F64 without a change"),
        ([HIGHEST], Type.F64, f"row 0: the I64 {HIGHEST} cannot be stored as F64 without a change"),
        ([None, 1.5], Type.I64, "row 1: the F64 1.5 cannot be stored as I64 without a change"),
        ([2.0**63], Type.I64, "row 0: the F64 9.223372036854776e+18 cannot be stored as I64 without a change"),
        ([float("-inf")], Type.I64, "row 0: the F64 -inf cannot be stored as I64 without a change"),
        ([0.5, 0.1], Type.F32, "row 1: the F64 0.1 cannot be stored as F32 without a change"),
        ([1e300], Type.F32, "row 0: the F64 1e+300 cannot be stored as F32 without a change"),
        ([None, "1"], Type.I64, "row 1: the SYMBOL '1' cannot be stored as I64 without a change"),
        (["x" * 50], Type.F64, f"row 0: the SYMBOL '{'x' * 40}'... cannot be stored as F64 without a change"),
        ([1], Type.SYMBOL, "row 0: the I64 1 cannot be stored as SYMBOL without a change"),
        ([1], Type.TIMESTAMP, "row 0: the I64 1 cannot be stored as TIMESTAMP without a change"),
        (pa.array(["a", "b\0"]), Type.SYMBOL, "row 1: a symbol cannot contain the character NUL; a String can"),
        ([LONG_AGO], Type.TIMESTAMP, "row 0: the DATE 0001-01-01 cannot be stored as TIMESTAMP without a change"),
        (
            [MIDNIGHT, MIDNIGHT.replace(hour=1)],
            Type.DATE,
            "row 1: the TIMESTAMP 2024-02-29 01:00:00 cannot be stored as DATE without a change",
        ),
        (
            [dt.timedelta(microseconds=1)],
            Type.TIME,
            "row 0: the TIMESPAN 0:00:00.000001 cannot be stored as TIME without a change",
        ),
        (
            [dt.timedelta(50)],
            Type.TIME,
            "row 0: the TIMESPAN 50 days, 0:00:00 cannot be stored as TIME without a change",
        ),
        ([ONE_UUID], Type.SYMBOL, f"row 0: the GUID {ONE_UUID} cannot be stored as SYMBOL without a change"),
    ],
)
def test_a_cast_that_would_change_a_value_is_refused(column: Any, target: Type, problem: str) -> None:
    table = taken({"a": column}).cast({"a": target}, table="prices")
    expected = f"column 'a', {problem}"
    assert refusal(lambda: list(table.payloads(AMPLE))) == expected


def test_columns_come_in_the_order_of_the_table() -> None:
    table = taken({"b": [1], "a": ["x"]}).cast({"a": Type.STRING, "b": Type.F64}, table="prices")
    assert table.names == ("a", "b")
    assert arrived(table).to_dict() == {"a": ["x"], "b": [1.0]}


MANY = {f"c{number}": Type.I64 for number in range(25)}


@pytest.mark.parametrize(
    ("names", "schema", "problem"),
    [
        (["a", "x", "y"], {"a": Type.I64}, "the table 'prices' has no columns 'x' and 'y' (it has the column 'a')"),
        (
            ["price"],
            {"prices": Type.F64, "id": Type.I64},
            "the table 'prices' has no column 'price', did you mean 'prices'? (it has the columns 'prices' and 'id')",
        ),
        (["a"], {"a": Type.I64, "b": Type.I64}, "the data lacks the column 'b' of the table 'prices'"),
        (["a"], {"a": Type.I64, **MANY}, "the data lacks the columns " + ", ".join(map(repr, [*MANY][:20]))),
        (
            ["a"],
            {"a": Type.LIST},
            "the column 'a' of the table 'prices' has the type LIST, which bulk inserts do not support; "
            "insert its rows with a query",
        ),
    ],
)
def test_columns_are_matched_by_name(names: list[str], schema: Mapping[str, Type], problem: str) -> None:
    table = taken({name: [1] for name in names})
    told = refusal(lambda: table.cast(schema, table="prices"), RayforceValueError)
    assert told.startswith(problem) if len(schema) > 20 else told == problem


def test_many_missing_columns_are_abbreviated() -> None:
    told = refusal(lambda: taken({"a": [1]}).cast({"a": Type.I64, **MANY}, table="prices"), RayforceValueError)
    assert told.endswith("'c19' and 5 more of the table 'prices'")


def test_no_rows_are_one_empty_table() -> None:
    ((payload, rows),) = messages(taken({"a": [], "b": []}).cast({"a": Type.STRING, "b": Type.B8}, table="prices"))
    assert rows == 0
    assert read_columns(evaluated(quoted(payload))).schema == {"a": "STRING", "b": "B8"}


@given(
    texts=st.lists(st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=9)),
    max_bytes=st.integers(140, 400),
    kind=st.sampled_from([Type.SYMBOL, Type.STRING]),
)
def test_messages_are_as_full_as_they_may_be(texts: list[str | None], max_bytes: int, kind: Type) -> None:
    table = taken({"n": range_of(texts), "s": texts}).cast({"n": Type.I64, "s": kind}, table="prices")
    sent = list(messages(table, max_bytes))
    together: list[Any] = []
    for payload, rows in sent:
        assert len(payload) <= max_bytes
        columns = read_columns(payload)
        assert len(columns) == rows
        together += columns.rows()
    assert together == [(number, text or None) for number, text in enumerate(texts)]
    longest_row = 8 + 36 + 8  # bytes of an int, and of nine characters and a length
    assert all(len(payload) > max_bytes - longest_row for payload, _ in sent[:-1])


def range_of(values: list[Any]) -> list[int]:
    return [*range(len(values))]


def test_a_message_may_have_more_rows_than_one_step() -> None:
    numbers = np.arange(3 * ROWS_AT_ONCE)
    table = taken({"n": numbers, "d": np.where(numbers % 2, np.nan, 0.5)})
    sizes = [rows for _, rows in messages(table, 2 * ROWS_AT_ONCE * 16)]
    assert sizes[0] > ROWS_AT_ONCE
    assert sum(sizes) == 3 * ROWS_AT_ONCE
    columns = arrived(table)
    assert (columns["n"] == numbers).all()
    assert np.isnan(columns["d"][1::2]).all()


def test_other_work_can_be_done_between_short_steps() -> None:
    table = taken({"n": np.arange(3 * ROWS_AT_ONCE), "s": ["x"] * (3 * ROWS_AT_ONCE)})
    steps = 2 * 2 * 3  # two columns are read and laid out, three times each
    assert list(table.payloads(AMPLE)).count(None) >= steps


def test_a_row_too_long_for_a_message_is_named() -> None:
    table = taken({"a": ["x"] * 5 + ["y" * 100]})
    told = refusal(lambda: list(table.payloads(120)))
    assert told == "row 5 does not fit into a message of 120 bytes"


def test_a_list_that_becomes_shorter_meanwhile() -> None:
    values = [1, 2, 3]
    data = taken({"a": values, "b": [1, 2, 3]})
    del values[0]
    assert refusal(lambda: [*messages(data)]) == "column 'a' became shorter while it was sent; pass a copy"


def test_a_column_is_read_again_for_each_pass() -> None:
    table = taken(pa.table(ROWS).to_reader())
    assert list(messages(table)) == list(messages(table))
