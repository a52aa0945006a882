"""Arrow data as vectors: their types, and values that the engine cannot hold."""

import sys
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._values._arrow_import import ArrowColumn, import_arrow, is_arrow
from rayforce_trio._values._columns import read_columns
from rayforce_trio._values._vectors import vector_payload
from rayforce_trio.errors import RayforceConversionError, RayforceError

ID = UUID("00112233-4455-6677-8899-aabbccddeeff")
NOON = datetime(2024, 1, 1, 12)  # noqa: DTZ001 - as Arrow's timestamps without a zone


def array_of(data: Any) -> ArrowColumn:
    column = import_arrow(data, "params['x']")
    assert isinstance(column, ArrowColumn)
    return column


def columns_of(data: Any) -> list[ArrowColumn]:
    columns = import_arrow(data, "the data")
    assert isinstance(columns, list)
    return columns


def sent(column: ArrowColumn, start: int = 0, stop: int | None = None) -> list[Any]:
    """Return the values that arrive."""
    return read_columns(vector_payload(column.read(start, stop), "x")).to_dict()["value"]


def of_ids(values: list[bytes | None]) -> Any:
    return pa.ExtensionArray.from_storage(pa.uuid(), pa.array(values, pa.binary(16)))


CASES = {
    "bool": (pa.array([True, False]), "B8", [True, False]),
    "uint8": (pa.array([0, 255], pa.uint8()), "U8", [0, 255]),
    "int8": (pa.array([-128, None], pa.int8()), "I16", [-128, None]),
    "int16": (pa.array([-32767, None], pa.int16()), "I16", [-32767, None]),
    "uint16": (pa.array([65535, None], pa.uint16()), "I32", [65535, None]),
    "int32": (pa.array([1, None], pa.int32()), "I32", [1, None]),
    "uint32": (pa.array([2**32 - 1, None], pa.uint32()), "I64", [2**32 - 1, None]),
    "int64": (pa.array([2**63 - 1, None]), "I64", [2**63 - 1, None]),
    "uint64": (pa.array([2**63 - 1, None], pa.uint64()), "I64", [2**63 - 1, None]),
    "float16": (pa.array([np.float16(1.5), None], pa.float16()), "F32", [1.5, None]),
    "float32": (pa.array([1.5, None], pa.float32()), "F32", [1.5, None]),
    "float64": (pa.array([1.5, float("nan"), None]), "F64", [1.5, None, None]),
    "date32": (pa.array([date(1999, 12, 31), None]), "DATE", [date(1999, 12, 31), None]),
    "date64": (pa.array([date(2024, 1, 1), None], pa.date64()), "DATE", [date(2024, 1, 1), None]),
    "time32[s]": (pa.array([time(1, 2, 3), None], pa.time32("s")), "TIME", [time(1, 2, 3), None]),
    "time32[ms]": (pa.array([time(1, 2, 3, 4000)], pa.time32("ms")), "TIME", [time(1, 2, 3, 4000)]),
    "time64[us]": (pa.array([time(1, 2, 3, 4000), None]), "TIME", [time(1, 2, 3, 4000), None]),
    "time64[ns]": (pa.array([time(23)], pa.time64("ns")), "TIME", [time(23)]),
    "timestamp[s]": (pa.array([NOON, None], pa.timestamp("s")), "TIMESTAMP", [NOON, None]),
    "timestamp[ms]": (pa.array([NOON], pa.timestamp("ms")), "TIMESTAMP", [NOON]),
    "timestamp[us]": (pa.array([NOON], pa.timestamp("us")), "TIMESTAMP", [NOON]),
    "timestamp[ns]": (pa.array([NOON], pa.timestamp("ns")), "TIMESTAMP", [NOON]),
    "timestamp, with a zone": (
        pa.array([NOON.replace(tzinfo=UTC), None], pa.timestamp("us", "Europe/Berlin")),
        "TIMESTAMP",
        [NOON, None],
    ),
    "timestamp after 2262": (
        pa.array([NOON.replace(year=2290)], pa.timestamp("us")),
        "TIMESTAMP",
        [NOON.replace(year=2290)],
    ),
    "duration": (pa.array([timedelta(-1, 0, 1), None]), "TIMESPAN", [timedelta(-1, 0, 1), None]),
    "duration[s]": (pa.array([timedelta(1)], pa.duration("s")), "TIMESPAN", [timedelta(1)]),
    "utf8": (pa.array(["a", "é", "", None, "a\0b"]), "STRING", ["a", "é", None, None, "a\0b"]),
    "large_utf8": (pa.array(["a", None], pa.large_string()), "STRING", ["a", None]),
    "utf8_view": (
        pa.array(["a", "longer than twelve", None], pa.string_view()),
        "STRING",
        ["a", "longer than twelve", None],
    ),
    "dictionary": (pa.array(["a", None, "a", ""]).dictionary_encode(), "SYMBOL", ["a", None, "a", None]),
    "dictionary with a null": (
        pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), pa.array([None, "a"])),
        "SYMBOL",
        [None, "a", None],
    ),
    "dictionary of numbers": (pa.array([5, None, 5]).dictionary_encode(), "I64", [5, None, 5]),
    "uuid": (of_ids([ID.bytes, None]), "GUID", [ID, None]),
    "binary(16)": (pa.array([ID.bytes], pa.binary(16)), "GUID", [ID]),
    "null": (pa.nulls(2), "I64", [None, None]),
    "extension type": (pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{}"])), "STRING", ["{}"]),
    "chunks": (pa.chunked_array([[1], [2, None], []], pa.int64()), "I64", [1, 2, None]),
    "chunks with their own dictionaries": (
        pa.chunked_array([pa.array(["a", "b"]).dictionary_encode(), pa.array(["c", None, "a"]).dictionary_encode()]),
        "SYMBOL",
        ["a", "b", "c", None, "a"],
    ),
    "no chunks": (pa.chunked_array([], pa.string()), "STRING", []),
    "a polars Series": (pl.Series([1, None]), "I64", [1, None]),
    "polars categories": (pl.Series(["a", None], dtype=pl.Categorical), "SYMBOL", ["a", None]),
    "a polars Enum": (pl.Series(["a"], dtype=pl.Enum(["b", "a"])), "SYMBOL", ["a"]),
    "a pandas Series": (pd.Series(["a", None]), "STRING", ["a", None]),
    "pandas categories": (pd.Series(["a", "b"], dtype="category"), "SYMBOL", ["a", "b"]),
    "pandas nullable integers": (pd.Series([2**53 + 1, None], dtype="Int64"), "I64", [2**53 + 1, None]),
}


@pytest.mark.parametrize(("data", "type_name", "values"), CASES.values(), ids=CASES)
def test_an_array(data: Any, type_name: str, values: list[Any]) -> None:
    assert is_arrow(data)
    column = array_of(data)
    assert (column.type.name, len(column)) == (type_name, len(values))
    assert sent(column) == values
    assert sent(column, 1, 100) == values[1:]
    assert sent(column, 0, 0) == []


@pytest.mark.parametrize(("data", "type_name", "values"), CASES.values(), ids=CASES)
def test_a_part_of_a_larger_array(data: Any, type_name: str, values: list[Any]) -> None:
    if isinstance(data, pa.Array | pa.ChunkedArray):
        assert sent(array_of(data.slice(1))) == values[1:]


def test_a_null_with_bytes_in_it_is_empty() -> None:
    whole = pa.array(["ab", "cd", "e"])
    _, offsets, data = whole.buffers()
    column = array_of(pa.Array.from_buffers(pa.string(), 3, [pa.py_buffer(b"\x05"), offsets, data]))
    assert sent(column) == ["ab", None, "e"]


REFUSED = {
    "null in bool": (pa.array([True, None]), "x, row 1: null, but B8 has no null value"),
    "null in uint8": (pa.array([None, 1], pa.uint8()), "x, row 0: null, but U8 has no null value"),
    "uint64": (
        pa.array([1, None, 2**63], pa.uint64()),
        "params['x'], row 2: 9223372036854775808 is too large for the engine's type I64",
    ),
    "the smallest int64": (
        pa.array([0, -(2**63)]),
        "x, row 1: the engine treats -9223372036854775808 as null in a vector of type I64; write None for null",
    ),
    "the smallest int16": (
        pa.array([None, -(2**15)], pa.int16()),
        "x, row 1: the engine treats -32768 as null in a vector of type I16",
    ),
    "nil": (
        pa.array([bytes(16)], pa.binary(16)),
        "x, row 0: the engine treats the nil UUID as null in a vector of type GUID",
    ),
    "early timestamp": (
        pa.array([None, NOON.replace(year=1707)], pa.timestamp("us")),
        "params['x'], row 1: -8299454400000000 us after 1970-01-01 is outside the range of the engine's type TIMESTAMP",
    ),
    "late timestamp": (
        pa.array([NOON.replace(year=2293)], pa.timestamp("s")),
        "params['x'], row 0: 10192996800 s after 1970-01-01 is outside the range of the engine's type TIMESTAMP",
    ),
    "early nanosecond": (
        pa.array([-(2**63) + 5]).cast(pa.timestamp("ns")),
        "params['x'], row 0: -9223372036854775803 ns after 1970-01-01 is outside the range of",
    ),
    "long duration": (
        pa.array([2**60]).cast(pa.duration("s")),
        "params['x'], row 0: 1152921504606846976 s is outside the range of the engine's type TIMESPAN",
    ),
    "the smallest duration": (
        pa.array([-(2**63)]).cast(pa.duration("ns")),
        "params['x'], row 0: -9223372036854775808 ns is outside the range of the engine's type TIMESPAN",
    ),
    "early date": (
        pa.array([-(2**31) + 5], pa.int32()).cast(pa.date32()),
        "params['x'], row 0: -2147483643 days after 1970-01-01 is too early",
    ),
    "microseconds": (
        pa.array([time(1), time(0, 0, 0, 1)]),
        "params['x'], row 1: 1 us is not a number of milliseconds that the engine's type TIME can hold",
    ),
    "a NUL in a symbol": (
        pa.array(["ab", "a\0b"]).dictionary_encode(),
        "x, row 1: a symbol cannot contain the character NUL; a String can",
    ),
    "decimal": (
        pa.array([Decimal("1.5")]),
        "params['x']: the engine has no decimal numbers such as decimal128(2, 1); cast them to float64, int64 or text",
    ),
    "list": (
        pa.array([[1]]),
        "params['x']: the engine's columns cannot hold nested values such as list<item: int64>; split them",
    ),
    "binary": (
        pa.array([b"a"]),
        "params['x']: the engine has no columns of bytes such as binary; cast them to text, or to 16 bytes",
    ),
    "binary(15)": (
        pa.array([bytes(15)], pa.binary(15)),
        "params['x']: the engine has no columns of bytes such as fixed_size_binary[15]",
    ),
    "months": (
        pa.array([(1, 2, 3)], pa.month_day_nano_interval()),
        "params['x']: the engine has no type for month_day_nano_interval; cast it to",
    ),
    "128 bits": (pl.Series([1], dtype=pl.Int128), "params['x']: the Arrow data cannot be read: "),
}


@pytest.mark.parametrize(("data", "message"), REFUSED.values(), ids=REFUSED)
def test_values_that_the_engine_cannot_hold(data: Any, message: str) -> None:
    with pytest.raises(RayforceConversionError) as caught:
        sent(array_of(data))
    assert str(caught.value).startswith(message)


def test_an_error_names_the_row_in_the_whole_column() -> None:
    column = array_of(pa.array([0] * 5 + [2**63], pa.uint64()))
    assert sent(column, 2, 5) == [0, 0, 0]
    with pytest.raises(RayforceConversionError, match=r"^params\['x'\], row 5: "):
        column.read(3, 6)


FRAME = {"sym": ["a", "b"], "px": [1.5, 2.5]}


@pytest.mark.parametrize(
    "data",
    [
        pl.DataFrame(FRAME),
        pd.DataFrame(FRAME),
        pd.DataFrame({**FRAME, "i": [1, 2]})[lambda frame: frame["i"] > 0].drop(columns="i"),
        pa.table(FRAME),
        pa.record_batch(FRAME),
        pa.table(FRAME).to_reader(),
        duckdb.sql("select 'a' as sym, 1.5::double as px union all select 'b', 2.5 order by px"),
    ],
    ids=["polars", "pandas", "pandas, filtered", "Table", "RecordBatch", "RecordBatchReader", "DuckDB"],
)
def test_a_table(data: Any) -> None:
    columns = columns_of(data)
    assert {column.name: sent(column) for column in columns} == FRAME
    assert [column.type.name for column in columns] == ["STRING", "F64"]


def test_an_index_that_pandas_exports_is_left_out() -> None:
    table = pa.Table.from_pandas(pd.DataFrame({"a": [1, 2, 3]})[lambda frame: frame["a"] != 2], preserve_index=True)
    assert table.column_names == ["a", "__index_level_0__"]
    assert [column.name for column in columns_of(table)] == ["a"]


def test_a_table_without_rows() -> None:
    schema = pa.schema([("a", pa.int64()), ("s", pa.string())])
    assert [(c.name, c.type.name, len(c)) for c in columns_of(schema.empty_table())] == [
        ("a", "I64", 0),
        ("s", "STRING", 0),
    ]


def test_an_error_names_the_column() -> None:
    with pytest.raises(RayforceConversionError, match=r"^column 'price': the engine has no decimal numbers"):
        columns_of(pa.table({"price": [Decimal(1)]}))


def test_a_whole_row_that_is_null() -> None:
    structs = pa.StructArray.from_arrays([pa.array([1])], ["a"], mask=pa.array([True]))
    with pytest.raises(RayforceConversionError, match=r"^the data: a whole row is null"):
        columns_of(structs)


@pytest.mark.parametrize(
    "data",
    [
        pl.DataFrame({"b\0": [1]}),
        pl.Series("b\0", [1]),
        pd.DataFrame({"b\0": [1]}),
        pa.table([[1]], names=["b\0"]),
        pa.record_batch([[1]], names=["b\0"]),
        pa.table([[1]], names=["b\0"]).to_reader(),
        pa.StructArray.from_arrays([pa.array([1])], ["b\0"]),
    ],
    ids=["polars", "Series", "pandas", "Table", "RecordBatch", "RecordBatchReader", "StructArray"],
)
def test_a_name_with_nul_is_refused_which_arrow_would_cut(data: Any) -> None:
    with pytest.raises(RayforceConversionError, match=r"^the data: the name 'b\\x00' contains NUL; rename the column$"):
        import_arrow(data, "the data")


class Broken:
    """Claims to be Arrow data."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        if isinstance(self._stream, Exception):
            raise self._stream
        return self._stream


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (Broken(OSError("the disk is gone")), "the disk is gone"),
        (Broken(NotImplementedError()), "NotImplementedError"),
        (Broken(5), ".*PyCapsule.*"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ".*Duplicate column names.*"),
        (pd.DataFrame({"a": pd.arrays.SparseArray([1, 0])}), ".*Sparse.*"),
        (pd.DataFrame({"a": [1, "x"]}), "Could not convert 'x' .*; Conversion failed for column a .*"),
        (duckdb.sql("SELECT cast('x' AS INT) AS a"), ".*Could not convert string 'x'(.|\n)*"),
    ],
    ids=["broken", "without a text", "no capsule", "names", "sparse", "mixed", "DuckDB"],
)
def test_an_error_of_another_library_is_ours(data: Any, reason: str) -> None:
    with pytest.raises(RayforceConversionError, match=f"^the data: the Arrow data cannot be read: {reason}$"):
        import_arrow(data, "the data")


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RayforceError, match=r"pip install 'rayforce-trio\[arrow\]'$"):
        import_arrow(pl.DataFrame(FRAME), "x")


@pytest.mark.parametrize("data", [1, "a", [1], np.array([1]), None])
def test_other_data_is_not_arrow(data: Any) -> None:
    assert not is_arrow(data)


ROUND_TRIPS = {
    pa.int16(): st.integers(-(2**15) + 1, 2**15 - 1),
    pa.int64(): st.integers(-(2**63) + 1, 2**63 - 1),
    pa.float64(): st.floats(allow_nan=False),
    pa.date32(): st.dates(),
    pa.timestamp("ns"): st.integers(-(2**62), 2**63 - 1),
    pa.duration("ns"): st.integers(-(2**63) + 1, 2**63 - 1),
    pa.string(): st.text(st.characters(codec="utf-8"), min_size=1),
    pa.dictionary(pa.int32(), pa.string()): st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
    pa.uuid(): st.uuids(allow_nil=False).map(lambda value: value.bytes),
}


@pytest.mark.parametrize("kind", ROUND_TRIPS, ids=str)
@given(data=st.data())
def test_sent_values_come_back(kind: Any, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | ROUND_TRIPS[kind], max_size=30))
    start = data.draw(st.integers(0, len(values)))
    array = pa.array(values, kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind)
    array = pa.ExtensionArray.from_storage(kind, array) if isinstance(kind, pa.BaseExtensionType) else array
    table = read_columns(vector_payload(array_of(array[start:]).read(), "x")).to_arrow()
    table.validate(full=True)
    assert table.schema.field("value").type == kind
    assert table["value"].combine_chunks().cast(kind).to_pylist() == array[start:].to_pylist()
