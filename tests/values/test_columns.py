"""`Columns`: payloads as numpy arrays, plain Python values and data frames."""

import struct
import sys
from datetime import date, datetime, time, timedelta
from typing import Any
from uuid import UUID

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from numpy.testing import assert_array_equal

from rayforce_trio._values import _payloads as payloads
from rayforce_trio._values import _reader
from rayforce_trio._values._columns import Columns, ColumnsReader, read_columns
from rayforce_trio._values._reader import NotColumns, UnknownType
from rayforce_trio._values._types import DTYPES, EPOCH_NANOSECONDS, HAS_NULLS, Type
from rayforce_trio.errors import RayforceConversionError, RayforceError, RayforceIndexError, RayforceTypeError

SMALLEST_32, SMALLEST_64 = -(2**31), -(2**63)
DAY = 86_400 * 10**9
MILLENNIUM = datetime(2000, 1, 1)  # noqa: DTZ001 - timestamps are documented as naive
ID = UUID("00112233-4455-6677-8899-aabbccddeeff")


def fixed(type_code: Type, items: list[Any], attributes: int = 0) -> bytes:
    return payloads.vector(type_code, len(items), [np.array(items, DTYPES[type_code]).tobytes()], attributes)


def strings(texts: list[bytes], attributes: int = 0) -> bytes:
    return payloads.vector(Type.STRING, len(texts), [struct.pack("<q", len(t)) + t for t in texts], attributes)


def atom(type_code: Type, value: Any, attributes: int = 0) -> bytes:
    return struct.pack("<bB", -type_code, attributes) + np.array([value], DTYPES[type_code]).tobytes()


def one(payload: bytes | bytearray) -> Columns:
    columns = read_columns(payload)
    assert columns.names == ("value",)
    return columns


def same_array(array: Any, expected: Any) -> None:
    assert array.dtype == expected.dtype
    assert_array_equal(array, expected)


def masked(values: list[int], mask: list[int], dtype: str) -> Any:
    return np.ma.array(np.array(values, dtype), mask=np.array(mask, np.bool_))


CASES = {
    "b8": (fixed(Type.B8, [True, False]), np.array([True, False]), [True, False], pa.bool_()),
    "u8": (fixed(Type.U8, [0, 255]), np.array([0, 255], "u1"), [0, 255], pa.uint8()),
    "i16": (fixed(Type.I16, [-1, 2]), np.array([-1, 2], "i2"), [-1, 2], pa.int16()),
    "i32": (fixed(Type.I32, [-1, 2]), np.array([-1, 2], "i4"), [-1, 2], pa.int32()),
    "i64": (fixed(Type.I64, [-1, 2]), np.array([-1, 2], "i8"), [-1, 2], pa.int64()),
    "i64 marked, without nulls": (fixed(Type.I64, [1], HAS_NULLS), np.array([1], "i8"), [1], pa.int64()),
    "i64 unmarked": (fixed(Type.I64, [SMALLEST_64]), np.array([SMALLEST_64]), [SMALLEST_64], pa.int64()),
    "i16 null": (fixed(Type.I16, [1, -32768], HAS_NULLS), masked([1, 0], [0, 1], "i2"), [1, None], pa.int16()),
    "i32 null": (fixed(Type.I32, [1, SMALLEST_32], HAS_NULLS), masked([1, 0], [0, 1], "i4"), [1, None], pa.int32()),
    "i64 null": (fixed(Type.I64, [1, SMALLEST_64], HAS_NULLS), masked([1, 0], [0, 1], "i8"), [1, None], pa.int64()),
    "f32": (fixed(Type.F32, [1.5, np.nan], HAS_NULLS), np.array([1.5, np.nan], "f4"), [1.5, None], pa.float32()),
    "f64": (fixed(Type.F64, [1.5, np.nan], HAS_NULLS), np.array([1.5, np.nan]), [1.5, None], pa.float64()),
    "date": (
        fixed(Type.DATE, [1, SMALLEST_32], HAS_NULLS),
        np.array(["2000-01-02", "NaT"], "M8[D]"),
        [date(2000, 1, 2), None],
        pa.date32(),
    ),
    "time": (
        fixed(Type.TIME, [3_600_001, SMALLEST_32], HAS_NULLS),
        np.array([3_600_001, "NaT"], "m8[ms]"),
        [time(1, 0, 0, 1000), None],
        pa.time32("ms"),
    ),
    "timestamp": (
        fixed(Type.TIMESTAMP, [1000, -DAY, SMALLEST_64], HAS_NULLS),
        np.array(["2000-01-01T00:00:00.000001", "1999-12-31", "NaT"], "M8[ns]"),
        [MILLENNIUM.replace(microsecond=1), MILLENNIUM - timedelta(1), None],
        pa.timestamp("ns"),
    ),
    "timespan": (
        fixed(Type.TIMESPAN, [1000, -DAY, SMALLEST_64], HAS_NULLS),
        np.array([1000, -DAY, "NaT"], "m8[ns]"),
        [timedelta(microseconds=1), timedelta(-1), None],
        pa.duration("ns"),
    ),
    "guid": (
        fixed(Type.GUID, [ID.bytes, bytes(16)], HAS_NULLS),
        np.array([ID, None], object),
        [ID, None],
        pa.uuid(),
    ),
    "symbols": (
        payloads.symbols(["a", "", "é", "a"]),
        np.array(["a", None, "é", "a"], object),
        ["a", None, "é", "a"],
        pa.dictionary(pa.int32(), pa.string()),
    ),
    "strings": (
        strings([b"ab", b"", "é".encode()], HAS_NULLS),
        np.array(["ab", None, "é"], object),
        ["ab", None, "é"],
        pa.string(),
    ),
    "strings unmarked": (strings([b"a\0b", b""]), np.array(["a\0b", ""], object), ["a\0b", ""], pa.string()),
}


@pytest.mark.parametrize(("payload", "array", "values", "kind"), CASES.values(), ids=CASES)
def test_a_vector(payload: bytes, array: Any, values: list[Any], kind: Any) -> None:
    columns = one(payload)
    same_array(columns["value"], array)
    assert isinstance(columns["value"], np.ma.MaskedArray) is isinstance(array, np.ma.MaskedArray)
    assert columns.to_dict() == {"value": values}
    assert list(columns.rows()) == [(value,) for value in values]
    table = columns.to_arrow()
    table.validate(full=True)
    assert table.schema.field("value").type == kind
    assert table["value"].to_pylist() == values
    assert len(columns) == len(values)


@pytest.mark.parametrize(("payload", "kind"), [(case[0], case[3]) for case in CASES.values()], ids=CASES)
def test_an_empty_vector_has_the_type_of_a_full_one(payload: bytes, kind: Any) -> None:
    columns = one(payload[:2] + bytes(8))
    assert columns.to_dict() == {"value": []}
    assert columns["value"].dtype == one(payload)["value"].dtype
    assert columns.to_arrow().schema.field("value").type == kind


@pytest.mark.parametrize("type_code", [Type.F32, Type.F64])
def test_nan_in_an_unmarked_vector_is_a_value(type_code: Type) -> None:
    columns = one(fixed(type_code, [np.nan]))
    assert columns.to_arrow()["value"].null_count == 0
    assert np.isnan(columns.to_dict()["value"][0])


def test_a_byte_other_than_0_is_true() -> None:
    assert one(payloads.vector(Type.B8, 3, [b"\0\1\2"])).to_dict() == {"value": [False, True, True]}
    assert one(payloads.vector(Type.B8, 3, [b"\0\1\2"]))["value"].tolist() == [False, True, True]


def test_numbers_are_views_that_cannot_be_written() -> None:
    payload = bytearray(fixed(Type.I64, [1, 2]))
    array = one(payload)["value"]
    payload[-8] = 3
    assert array.tolist() == [1, 3]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_equal_symbols_are_one_object() -> None:
    first, second = one(payloads.symbols(["word", "word"])).to_dict()["value"]
    assert first is second


@pytest.mark.parametrize("order", [[0, 1], [1, 0]])
def test_nanoseconds_are_kept_by_pandas(order: list[int]) -> None:
    values = [1_000_000_001, 1_000_001_000]
    stamps = one(fixed(Type.TIMESTAMP, [values[i] for i in order])).to_dict()["value"]
    assert [stamps[i] for i in order] == [
        pd.Timestamp("2000-01-01T00:00:01.000000001"),
        pd.Timestamp("2000-01-01T00:00:01.000001"),
    ]
    assert [type(stamps[i]) for i in order] == [pd.Timestamp, datetime]
    spans = one(fixed(Type.TIMESPAN, [values[i] for i in order])).to_dict()["value"]
    assert [type(spans[i]) for i in order] == [pd.Timedelta, timedelta]
    assert spans[order[0]].nanoseconds == 1


def test_nanoseconds_are_truncated_without_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert one(fixed(Type.TIMESTAMP, [1999])).to_dict()["value"] == [MILLENNIUM.replace(microsecond=1)]
    assert one(fixed(Type.TIMESPAN, [1999])).to_dict()["value"] == [timedelta(microseconds=1)]


def test_a_timestamp_after_2262() -> None:
    columns = one(fixed(Type.TIMESTAMP, [0, 2**63 - 1]))
    assert columns.to_dict()["value"][1] == MILLENNIUM + timedelta(microseconds=(2**63 - 1) // 1000)
    for convert in (columns.to_numpy, columns.to_arrow):
        with pytest.raises(
            RayforceConversionError,
            match=r"^column 'value', row 1: the timestamp 2292-04-10 23:47:16.854775 is after 2262-04-11 23:47:16, "
            r"the last one in nanoseconds since 1970; rows\(\) and to_dict\(\) can represent it$",
        ):
            convert()


def test_the_last_timestamp_of_arrow() -> None:
    last = 2**63 - 1 - EPOCH_NANOSECONDS
    assert one(fixed(Type.TIMESTAMP, [last])).to_arrow()["value"].cast("int64").to_pylist() == [2**63 - 1]


@pytest.mark.parametrize("days", [-730_120, 2_921_940, 2**31 - 1, SMALLEST_32])
def test_a_date_that_python_does_not_have(days: int) -> None:
    columns = one(fixed(Type.DATE, [0, days]))
    with pytest.raises(
        RayforceConversionError,
        match=f"^column 'value', row 1: the date {days} days after 2000-01-01 is outside the years",
    ):
        columns.to_dict()
    assert (columns["value"][1] - np.datetime64("2000-01-01")).astype(int) == days


def test_the_first_and_last_date_of_python() -> None:
    assert one(fixed(Type.DATE, [-730_119, 2_921_939])).to_dict() == {"value": [date.min, date.max]}


def test_a_date_that_arrow_does_not_have() -> None:
    with pytest.raises(RayforceConversionError, match="row 0: 2147483647 days after 2000-01-01 is later than Arrow"):
        one(fixed(Type.DATE, [2**31 - 1])).to_arrow()


@pytest.mark.parametrize("milliseconds", [-1, 86_400_000, 100_000_000])
def test_a_time_outside_of_the_day_is_a_timedelta(milliseconds: int) -> None:
    columns = one(fixed(Type.TIME, [0, milliseconds]))
    assert columns.to_dict() == {"value": [time(), timedelta(milliseconds=milliseconds)]}
    assert columns["value"][1] == np.timedelta64(milliseconds, "ms")
    with pytest.raises(
        RayforceConversionError, match=f"^column 'value', row 1: {milliseconds} milliseconds is not a time of"
    ):
        columns.to_arrow()


@pytest.mark.parametrize("payload", [payloads.vector(Type.SYMBOL, 2, [b"a\0\xff\0"]), strings([b"a", b"\xff"])])
def test_text_that_is_not_utf8(payload: bytes) -> None:
    columns = one(payload)
    for convert in (columns.to_dict, columns.to_numpy, columns.to_arrow):
        with pytest.raises(
            RayforceConversionError, match=r"^column 'value', row 1: the text b'\\xff' is not UTF-8; leave"
        ):
            convert()


@pytest.mark.parametrize("convert", [pd.DataFrame, np.asarray, np.array])
def test_columns_do_not_become_one_array(convert: Any) -> None:
    columns = read_columns(payloads.table_of(["px"], [fixed(Type.F64, [1.5, 2.5])]))
    with pytest.raises(RayforceTypeError, match=r"use to_pandas\(\) for a pandas.DataFrame, to_numpy\(\)"):
        convert(columns)


def test_a_table() -> None:
    columns = read_columns(
        payloads.table_of(["sym", "px"], [payloads.symbols(["a", "b"]), fixed(Type.F64, [1.5, 2.5])])
    )
    assert columns.names == ("sym", "px")
    assert list(columns) == ["sym", "px"]
    assert dict(columns.schema) == {"sym": "SYMBOL", "px": "F64"}
    assert repr(columns) == "<Columns sym: SYMBOL, px: F64; rows: 2>"
    assert "px" in columns
    assert "volume" not in columns
    assert list(columns.rows()) == [("a", 1.5), ("b", 2.5)]
    assert columns.to_numpy()["px"].tolist() == [1.5, 2.5]
    names: list[Any] = ["volume", 0, None, []]
    for name in names:
        with pytest.raises(RayforceIndexError, match=r"^no column has the name .*; the columns are: sym, px$"):
            columns[name]


def test_a_table_without_columns() -> None:
    columns = read_columns(payloads.table_of([], []))
    assert (columns.names, len(columns), columns.to_dict(), list(columns.rows())) == ((), 0, {}, [])
    assert columns.to_arrow().num_columns == 0


def test_rows_over_several_blocks() -> None:
    count = 25_000
    rows = read_columns(payloads.table_of(["i"], [fixed(Type.I64, list(range(count)))])).rows()
    assert [i for (i,) in rows] == list(range(count))


def test_a_dict_of_vectors_of_one_length() -> None:
    values = payloads.list_of([fixed(Type.I64, [1, 2]), payloads.symbols(["x", "y"])])
    assert read_columns(payloads.dict_of(payloads.symbols(["a", "b"]), values)).to_dict() == {
        "a": [1, 2],
        "b": ["x", "y"],
    }


NESTED: dict[str, tuple[list[bytes], Any]] = {
    "groups": ([fixed(Type.F64, [1.5, np.nan], HAS_NULLS), fixed(Type.F64, [np.nan])], pa.list_(pa.float64())),
    "groups of symbols": (
        [payloads.symbols(["a", ""]), payloads.symbols([])],
        pa.list_(pa.dictionary(pa.int32(), pa.string())),
    ),
    "groups of strings": ([strings([b"a"]), payloads.NULL], pa.list_(pa.string())),
    "groups of groups": (
        [payloads.list_of([fixed(Type.I64, [1]), fixed(Type.I64, [2, 3])]), payloads.list_of([])],
        pa.list_(pa.list_(pa.int64())),
    ),
    "strings": ([payloads.string("a"), payloads.NULL], pa.string()),
    "symbols": ([payloads.symbol("a"), payloads.symbol("")], pa.dictionary(pa.int32(), pa.string())),
    "numbers": ([payloads.i64(1), atom(Type.I64, SMALLEST_64, 1)], pa.int64()),
    "booleans": ([atom(Type.B8, True), atom(Type.B8, False)], pa.bool_()),
    "ids": ([atom(Type.GUID, ID.bytes), atom(Type.GUID, bytes(16), 1)], pa.uuid()),
    "dates": ([atom(Type.DATE, 0)], pa.date32()),
    "nothing": ([payloads.NULL, payloads.NULL], pa.list_(pa.null())),
    "no rows": ([], pa.list_(pa.null())),
}
NESTED_VALUES: dict[str, list[Any]] = {
    "groups": [[1.5, None], [np.nan]],
    "groups of symbols": [["a", None], []],
    "groups of strings": [["a"], None],
    "groups of groups": [[[1], [2, 3]], []],
    "strings": ["a", None],
    "symbols": ["a", None],
    "numbers": [1, None],
    "booleans": [True, False],
    "ids": [ID, None],
    "dates": [date(2000, 1, 1)],
    "nothing": [None, None],
    "no rows": [],
}


@pytest.mark.parametrize("name", NESTED)
def test_a_list_of_values(name: str) -> None:
    items, kind = NESTED[name]
    columns = read_columns(payloads.table_of(["x"], [payloads.list_of(items)]))
    assert dict(columns.schema) == {"x": "LIST"}
    assert repr(columns.to_dict()["x"]) == repr(NESTED_VALUES[name])
    table = columns.to_arrow()
    table.validate(full=True)
    assert table.schema.field("x").type == kind
    assert repr(table["x"].to_pylist()) == repr(NESTED_VALUES[name])
    assert columns["x"].dtype == object
    with pytest.raises(RayforceConversionError, match=r"^column 'x' is a list of values, not a vector of one type$"):
        columns.vectors()


def test_a_list_of_vectors_is_an_array_of_arrays() -> None:
    items = [fixed(Type.I64, [1, 2]), fixed(Type.I64, [3, 4])]
    array = read_columns(payloads.table_of(["x"], [payloads.list_of(items)]))["x"]
    assert array.shape == (2,)
    assert array[1].tolist() == [3, 4]


def test_a_list_of_different_values() -> None:
    columns = read_columns(payloads.table_of(["x"], [payloads.list_of([payloads.i64(1), payloads.string("a")])]))
    assert columns.to_dict() == {"x": [1, "a"]}
    assert columns["x"].tolist() == [1, "a"]
    with pytest.raises(
        RayforceConversionError,
        match=r"^column 'x' contains values of different types \(I64, STRING\), which an Arrow column cannot",
    ):
        columns.to_arrow()


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (payloads.NULL, "null"),
        (payloads.i64(1), "a single I64"),
        (payloads.symbol("a"), "a single SYMBOL"),
        (payloads.string("a"), "a single STRING"),
        (payloads.list_of([payloads.i64(1)]), "a list"),
        (b"d\0", "a function"),
        (b"f+\0", "a function"),
        (b"\x7ftype\0\0\0", "an error"),
        (
            payloads.dict_of(fixed(Type.I64, [1]), payloads.list_of([fixed(Type.I64, [1])])),
            "a dict whose keys are not all symbols",
        ),
        (payloads.dict_of(payloads.symbols(["a"]), fixed(Type.I64, [1])), "a dict of single values"),
        (
            payloads.dict_of(payloads.symbols(["a"]), payloads.list_of([payloads.i64(1)])),
            "a dict whose values are not all vectors",
        ),
        (
            payloads.dict_of(
                payloads.symbols(["a", "b"]), payloads.list_of([fixed(Type.I64, [1]), fixed(Type.I64, [])])
            ),
            "a dict whose values differ in length",
        ),
        (payloads.dict_of(payloads.symbols([]), payloads.list_of([])), "an empty dict"),
    ],
)
def test_values_without_columns(payload: bytes, kind: str) -> None:
    with pytest.raises(NotColumns) as caught:
        read_columns(payload)
    assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"\x0e\0" + bytes(8), 14),
        (b"\xf2\0" + bytes(8), -14),
        (payloads.table_of(["a"], [payloads.table_of([], [])]), Type.TABLE),
        (payloads.table_of(["a"], [payloads.list_of([b"\xf2\0"])]), -14),
        (payloads.table_of(["a"], [payloads.list_of([b"f+\0"])]), 102),
    ],
)
def test_types_that_are_not_known(payload: bytes, code: int) -> None:
    with pytest.raises(UnknownType, match=f"type code {code}") as caught:
        read_columns(payload)
    assert caught.value.code == code


def nested_lists(depth: int) -> bytes:
    return payloads.list_of([nested_lists(depth - 1)] if depth else [])


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (b"", "the reply is damaged: it ends at byte 0, before byte 1"),
        (fixed(Type.I64, [1])[:-1], "the reply is damaged: it announces 1 item of 8 bytes each, but 7 bytes are left"),
        (b"\x05\0" + struct.pack("<q", 1 << 62), "the reply is damaged: it announces 4611686018427387904 items"),
        (
            b"\x05\0" + struct.pack("<q", -1),
            "the reply is damaged: it announces -1 items of 8 bytes each, but 0 bytes are left",
        ),
        (fixed(Type.I64, [1]) + b"\0", "the reply is damaged: 1 byte after the end of the value"),
        (payloads.vector(Type.SYMBOL, 1, [b"abc"]), "the reply is damaged: it ends within a symbol"),
        (payloads.vector(Type.STRING, 1, [struct.pack("<q", -1)]), "the reply is damaged: a string has the length -1"),
        (payloads.vector(Type.STRING, 1, [struct.pack("<q", 1)]), "the reply is damaged: a string has the length 1"),
        (strings([b"a"] * 100)[:-1], "the reply is damaged: a string has the length 1"),
        (strings([b"a", b"bc"] * 50)[:-1], "the reply is damaged: it ends within a string"),
        (payloads.table_of(["a", "b"], [fixed(Type.I64, [])]), "the reply is damaged: it has 2 names for 1 column"),
        (payloads.table_of(["a"], [payloads.i64(1)]), "the reply is damaged: column 'a' is a single value"),
        (
            payloads.table_of(["a", "b"], [fixed(Type.I64, [1]), fixed(Type.I64, [])]),
            "the reply is damaged: its columns have different lengths: 0, 1",
        ),
        (
            b"b\0" + fixed(Type.I64, []) + payloads.list_of([]),
            "the reply is damaged: a table's column names are not symbols",
        ),
        (b"b\0" + payloads.symbols([]) + fixed(Type.I64, []), "the reply is damaged: a table's columns are not a list"),
        (
            payloads.table_of(["a", "a"], [fixed(Type.I64, []), fixed(Type.I64, [])]),
            "the result has two columns with the name 'a'; give them different names in the query",
        ),
        (
            b"b\0" + payloads.vector(Type.SYMBOL, 1, [b"\xff\0"]) + payloads.list_of([fixed(Type.I64, [])]),
            "the name of column 0 is not UTF-8: b'\\xff'",
        ),
        (payloads.table_of(["a"], [nested_lists(40)]), "the result contains lists that are nested more than 16 deep"),
        (payloads.table_of(["a"], [payloads.list_of([b"\xf4\0abc"])]), "the reply is damaged: it ends within a symbol"),
        (
            payloads.table_of(["a"], [payloads.list_of([b"\xf3\0" + struct.pack("<q", -5)])]),
            "the reply is damaged: it ends at byte",
        ),
    ],
)
def test_damaged_payloads(payload: bytes, message: str) -> None:
    with pytest.raises(RayforceConversionError) as caught:
        read_columns(payload)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("payload", [case[0] for case in CASES.values()], ids=CASES)
def test_a_payload_cut_anywhere_is_damaged(payload: bytes) -> None:
    for end in range(len(payload)):
        with pytest.raises(RayforceConversionError, match=r"^the reply is damaged: "):
            read_columns(payload[:end])


def of_length(lengths: list[int]) -> list[bytes]:
    return [bytes([97 + i % 26]) * length for i, length in enumerate(lengths)]


@pytest.mark.parametrize("chunk", [8, 100, 1 << 19])
@pytest.mark.parametrize(
    "texts",
    [
        pytest.param(of_length([5] * 300), id="one length"),
        pytest.param(of_length([5] * 150 + [6] * 150), id="runs"),
        pytest.param(of_length([i % 40 for i in range(300)]), id="mixed"),
        pytest.param(of_length([0] * 300), id="empty"),
        pytest.param(of_length([0, 7, 0, 0, 3] * 60), id="some empty"),
        pytest.param(of_length([250 + i % 12 for i in range(100)]), id="around 256"),
        pytest.param(of_length([3, 300, 0, 400, 500, 1] * 20), id="long ones between"),
        pytest.param(of_length([300, *[2] * 3] * 20 + [600] * 100), id="many long ones"),
        pytest.param([b"\0" * (i % 30) for i in range(300)], id="zeros"),
        pytest.param([struct.pack("<q", i % 5) * (i % 4) for i in range(300)], id="lengths in the texts"),
        pytest.param(of_length([5000] * 40), id="very long"),
    ],
)
def test_strings_are_found(texts: list[bytes], chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_reader, "_CHUNK", chunk)
    payload = payloads.table_of(["s", "i"], [strings(texts), fixed(Type.I64, list(range(len(texts))))])
    columns = read_columns(payload)
    assert columns.to_dict() == {"s": [text.decode() for text in texts], "i": list(range(len(texts)))}
    assert columns.to_arrow()["s"].to_pylist() == [text.decode() for text in texts]


def number_of_steps(payload: bytes) -> int:
    reader = ColumnsReader(payload)
    steps = 1
    while not reader.step():
        steps += 1
    return steps


@pytest.mark.parametrize("payload", [payloads.symbols(["abcdefg"] * 200_000), strings([b"abcdefg", b"abc"] * 100_000)])
def test_long_columns_are_read_in_steps(payload: bytes) -> None:
    assert number_of_steps(payload) >= len(payload) / _reader._CHUNK
    assert len(read_columns(payload)) == 200_000


@pytest.mark.parametrize(
    "column",
    [
        payloads.list_of([payloads.i64(1)] * 10_000),
        payloads.list_of([payloads.list_of([payloads.i64(1)] * 100)] * 100),
        payloads.list_of([payloads.symbols(["a", "b"])] * 10_000),
    ],
    ids=["atoms", "lists", "vectors"],
)
def test_a_list_is_read_in_steps(column: bytes) -> None:
    assert 10 <= number_of_steps(payloads.table_of(["x"], [column])) <= 50


def test_strings_that_look_like_lengths_are_read_in_steps() -> None:
    texts = [struct.pack("<q", 8) * (i % 5) for i in range(20_000)]
    assert number_of_steps(strings(texts)) >= 100


@pytest.fixture
def prices() -> Columns:
    columns = {
        "sym": payloads.symbols(["a", ""]),
        "px": fixed(Type.F64, [1.5, np.nan], HAS_NULLS),
        "n": fixed(Type.I64, [2**53 + 1, SMALLEST_64], HAS_NULLS),
        "at": fixed(Type.TIMESTAMP, [1, SMALLEST_64], HAS_NULLS),
        "day": fixed(Type.DATE, [0, SMALLEST_32], HAS_NULLS),
        "note": strings([b"x", b""], HAS_NULLS),
        "id": fixed(Type.GUID, [ID.bytes, bytes(16)], HAS_NULLS),
    }
    return read_columns(payloads.table_of(columns, list(columns.values())))


def test_pandas(prices: Columns) -> None:
    frame = prices.to_pandas()
    assert [str(kind) for kind in frame.dtypes[["sym", "px", "n", "at", "day"]]] == [
        "category",
        "float64",
        "Int64",
        "datetime64[ns]",
        "datetime64[ms]",
    ]
    assert frame["n"][0] == 2**53 + 1
    assert frame.isna().all(axis=1).tolist() == [False, True]
    assert frame["id"][0] == ID
    assert pd.DataFrame.from_arrow(prices)["sym"].tolist()[0] == "a"


def test_polars(prices: Columns) -> None:
    for frame in (prices.to_polars(), pl.DataFrame(prices)):
        assert [str(kind) for kind in frame.dtypes[:6]] == [
            "Categorical",
            "Float64",
            "Int64",
            "Datetime(time_unit='ns', time_zone=None)",
            "Date",
            "String",
        ]
        assert frame["n"].to_list() == [2**53 + 1, None]
        assert frame.null_count().row(0) == (1,) * 7


def test_pyarrow_and_duckdb(prices: Columns) -> None:
    assert pa.table(prices).equals(prices.to_arrow())
    relation = duckdb.sql("select sym, n, note, id from prices")
    assert relation is not None
    assert relation.fetchall() == [
        ("a", 2**53 + 1, "x", ID),
        (None, None, None, None),
    ]


@pytest.mark.parametrize("method", ["to_arrow", "to_pandas", "to_polars", "__arrow_c_stream__"])
def test_without_pyarrow(method: str, prices: Columns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(RayforceError, match=r"pyarrow; install it with: pip install 'rayforce-trio\[arrow\]'$"):
        getattr(prices, method)()


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_without_the_library_of_a_frame(library: str, prices: Columns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        RayforceError, match=f"^to_{library}\\(\\) needs {library}; install it with: pip install {library}$"
    ):
        getattr(prices, f"to_{library}")()
