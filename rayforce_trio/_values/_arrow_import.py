"""Arrow data as vectors for the engine: data frames, tables, arrays and series, converted a block of rows at a time."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RayforceConversionError
from ._arrow import check_values, pyarrow
from ._types import DTYPES, EPOCH_DAYS, EPOCH_NANOSECONDS, Type
from ._vectors import FixedWidth, Texts, Vector

_Nulls = NDArray[np.bool_] | None
_Convert = Callable[[str, Any, int], Vector]

_NUMBERS = {
    "int8": (Type.I16, "int16"),
    "int16": (Type.I16, "int16"),
    "uint8": (Type.U8, "uint8"),
    "uint16": (Type.I32, "int32"),
    "int32": (Type.I32, "int32"),
    "uint32": (Type.I64, "int64"),
    "int64": (Type.I64, "int64"),
    "halffloat": (Type.F32, "float32"),
    "float": (Type.F32, "float32"),
    "double": (Type.F64, "float64"),
}
"""For each numeric Arrow type: the engine's type that can hold all of its values, and the Arrow type of that layout."""

_NANOSECONDS = {"s": 10**9, "ms": 10**6, "us": 1000, "ns": 1}
_NUL = "\0"
_PANDAS_INDEX = "__index_level_"
"""The prefix of the name that pandas gives to an unnamed index. This index only numbers the rows, so it is left out."""


class ArrowColumn:
    """A column of Arrow data, or an array.

    | Arrow | becomes |
    | --- | --- |
    | bool | B8 |
    | uint8 | U8 |
    | int8, int16 | I16 |
    | uint16, int32 | I32 |
    | uint32, int64 | I64 |
    | uint64 | I64; an error for a value of 2⁶³ or more |
    | float16, float32 | F32 |
    | float64 | F64 |
    | date32, date64 | DATE |
    | time32, time64 | TIME; an error for a value with a fraction of a millisecond |
    | timestamp | TIMESTAMP; with a time zone, the same moment in UTC |
    | duration | TIMESPAN |
    | utf8, large_utf8, utf8_view | STRING |
    | dictionary of texts | SYMBOL |
    | dictionary of other values | as the values |
    | arrow.uuid, fixed-size binary of 16 bytes | GUID |
    | other extension types | as their storage types |
    | null | I64, all null |

    Attributes:
        name: the name of the column; empty for an array.
        type: of the vectors that `read` returns.

    Raises:
        RayforceConversionError: the engine has no type for the data; the error says which type to cast to.
    """

    def __init__(self, name: str, where: str, data: Any) -> None:
        self.name = name
        self._where = where
        self.type, self._convert = _conversion(where, data.type)
        self._data = _with_terminated_texts(data) if self.type is Type.SYMBOL else data

    def __len__(self) -> int:
        return len(self._data)

    def read(self, start: int = 0, stop: int | None = None) -> Vector:
        """Return some rows.

        Raises:
            RayforceConversionError: a value cannot be represented; the error names its row.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        part = self._data.slice(start, max(stop - start, 0))
        pa = pyarrow()
        try:
            return self._convert(self._where, part, start)
        except pa.ArrowException as error:
            raise _unreadable(self._where, error) from None


def is_arrow(data: Any) -> bool:
    """Return whether an object offers Arrow data, a table or an array."""
    return hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__") or _is_old_series(data)


def _is_old_series(data: Any) -> bool:
    """Return whether an object is a Series of pandas before 3.0. Only its DataFrame offers Arrow data."""
    return hasattr(data, "to_frame") and not hasattr(data, "__arrow_c_stream__")


def import_arrow(data: Any, where: str) -> list[ArrowColumn] | ArrowColumn:
    """Return the columns of a table, or the only column of an array. Uses up a stream that can be read only once.

    Args:
        data: an object for which `is_arrow` returns True.
        where: the name of an array in errors. For a table, errors name the column.

    Raises:
        RayforceError: pyarrow is not installed.
        RayforceConversionError: the data cannot be read, a name contains NUL, or the engine has no type for it.
    """
    pa = pyarrow()
    series = _is_old_series(data)
    if series:
        data = data.to_frame("values")
    _check_names(data, where)
    try:
        chunks = pa.chunked_array(data if hasattr(data, "__arrow_c_stream__") else [pa.array(data)])
    except Exception as error:  # the data may be another library's, which raises errors of its own
        raise _unreadable(where, error) from error
    if not pa.types.is_struct(chunks.type):
        return ArrowColumn("", where, chunks)
    if chunks.null_count:
        raise RayforceConversionError(f"{where}: a whole row is null, which the engine cannot represent")
    if series:
        return ArrowColumn("", where, chunks.flatten()[0])
    fields = [field.name for field in chunks.type]
    columns = zip(fields, chunks.flatten(), strict=True)
    return [
        ArrowColumn(name, f"column {name!r}", column) for name, column in columns if not name.startswith(_PANDAS_INDEX)
    ]


def _check_names(data: Any, where: str) -> None:
    """Raise `RayforceConversionError` for a name with NUL, where Arrow's interface ends it; polars ends the process."""
    names = (getattr(data, attribute, None) for attribute in ("columns", "column_names", "name"))
    of_schema = getattr(getattr(data, "schema", getattr(data, "type", None)), "names", None)
    for given in (*names, of_schema):
        for name in [given] if isinstance(given, str) else given if isinstance(given, Iterable) else ():
            if isinstance(name, str) and _NUL in name:
                raise RayforceConversionError(f"{where}: the name {name!r} contains NUL; rename the column")


def _unreadable(where: str, error: Exception) -> RayforceConversionError:
    reason = "; ".join(map(str, error.args)) or type(error).__name__
    return RayforceConversionError(f"{where}: the Arrow data cannot be read: {reason}")


def _with_terminated_texts(chunks: Any) -> Any:
    """Return dictionaries of any kind of text as dictionaries of large_utf8 whose texts end with a NUL.

    Decoding them yields the items of a vector of symbols. pyarrow cannot decode the dictionaries of polars as they are.
    """
    pa = pyarrow()
    kind = pa.large_string()
    nul, separator = pa.scalar(_NUL, kind), pa.scalar("", kind)
    return pa.chunked_array(
        [
            pa.DictionaryArray.from_arrays(
                part.indices, pa.compute.binary_join_element_wise(part.dictionary.cast(kind), nul, separator)
            )
            for part in chunks.chunks
        ],
        pa.dictionary(chunks.type.index_type, kind),
    )


def _conversion(where: str, kind: Any) -> tuple[Type, _Convert]:
    """Return the engine's type for an Arrow type, and the function that converts its chunks."""
    pa = pyarrow()
    types = pa.types
    if str(kind) in _NUMBERS:
        number, target = _NUMBERS[str(kind)]
        return number, lambda _where, chunks, _row: _numbers(number, _joined(chunks, target))
    if types.is_boolean(kind):
        return Type.B8, _bools
    if types.is_uint64(kind):
        return Type.I64, _unsigned
    if types.is_date(kind):
        return Type.DATE, _dates
    if types.is_time(kind):
        return Type.TIME, _times
    if types.is_timestamp(kind):
        return Type.TIMESTAMP, _timestamps
    if types.is_duration(kind):
        return Type.TIMESPAN, _timespans
    if _is_text(types, kind):
        return Type.STRING, lambda _where, chunks, _row: _texts(Type.STRING, chunks)
    if types.is_null(kind):
        return Type.I64, _all_null
    if types.is_dictionary(kind):
        if _is_text(types, kind.value_type):
            return Type.SYMBOL, lambda _where, chunks, _row: _texts(Type.SYMBOL, chunks, terminated=True)
        type_code, convert = _conversion(where, kind.value_type)
        return type_code, lambda place, chunks, row: convert(place, chunks.cast(kind.value_type), row)
    if types.is_fixed_size_binary(kind) and kind.byte_width == DTYPES[Type.GUID].itemsize:
        return Type.GUID, _guids
    if isinstance(kind, pa.BaseExtensionType):
        type_code, convert = _conversion(where, kind.storage_type)
        return type_code, lambda place, chunks, row: convert(place, _storage(chunks, kind.storage_type), row)
    raise RayforceConversionError(f"{where}: {_advice(types, kind)}")


def _advice(types: Any, kind: Any) -> str:
    if types.is_decimal(kind):
        return f"the engine has no decimal numbers such as {kind}; cast them to float64, int64 or text"
    if types.is_run_end_encoded(kind):
        return f"{kind} cannot be read; decode it first"
    if types.is_nested(kind):
        return (
            f"the engine's columns cannot hold nested values such as {kind}; split them into columns of single values"
        )
    if (
        types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
        or types.is_fixed_size_binary(kind)
    ):
        return f"the engine has no columns of bytes such as {kind}; cast them to text, or to 16 bytes each for GUIDs"
    return f"the engine has no type for {kind}; cast it to a number, text, date or time"


def _is_text(types: Any, kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _storage(chunks: Any, kind: Any) -> Any:
    return pyarrow().chunked_array([chunk.storage for chunk in chunks.chunks], kind)


def _joined(chunks: Any, target: Any) -> Any:
    """Return chunks as one array of another type, which can hold all of their values."""
    cast = chunks if chunks.type == target else chunks.cast(target)
    if cast.num_chunks == 1:
        return cast.chunk(0)
    array = cast.combine_chunks()
    return array if hasattr(array, "buffers") else pyarrow().concat_arrays(array.chunks)


def _items(array: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the values of an array of fixed width, without its nulls."""
    buffer = array.buffers()[1]
    if buffer is None:
        return np.zeros(len(array), dtype)
    return np.frombuffer(buffer, dtype, len(array), array.offset * dtype.itemsize)


def _nulls(array: Any) -> _Nulls:
    return array.is_null().to_numpy(zero_copy_only=False) if array.null_count else None


def _numbers(type_code: Type, array: Any) -> FixedWidth:
    return FixedWidth(type_code, _items(array, DTYPES[type_code]), _nulls(array))


def _bools(_where: str, chunks: Any, _row: int) -> Vector:
    array = _joined(chunks, pyarrow().bool_())
    values = array.fill_null(False).to_numpy(zero_copy_only=False)
    return FixedWidth(Type.B8, values, _nulls(array))


def _unsigned(where: str, chunks: Any, row: int) -> Vector:
    array = _joined(chunks, pyarrow().uint64())
    values, nulls = _items(array, np.dtype("<u8")), _nulls(array)
    check_values(where, values, nulls, values > np.iinfo(np.int64).max, "is too large for the engine's type I64", row)
    return FixedWidth(Type.I64, values.view("<i8"), nulls)


def _dates(where: str, chunks: Any, row: int) -> Vector:
    array = _joined(chunks, pyarrow().date32())
    days, nulls = _items(array, np.dtype("<i4")), _nulls(array)
    wrong = days < np.iinfo(np.int32).min + EPOCH_DAYS
    check_values(where, days, nulls, wrong, "days after 1970-01-01 is too early for the engine's type DATE", row)
    return FixedWidth(Type.DATE, days - np.int32(EPOCH_DAYS), nulls)


def _times(where: str, chunks: Any, row: int) -> Vector:
    unit = chunks.type.unit
    array = _joined(chunks, chunks.type)
    values, nulls = _items(array, np.dtype("<i4" if unit in ("s", "ms") else "<i8")), _nulls(array)
    values = values.astype(np.int64)
    fraction = max(_NANOSECONDS["ms"] // _NANOSECONDS[unit], 1)
    milliseconds = values * 1000 if unit == "s" else values // fraction
    wrong = (values % fraction != 0) | (milliseconds != milliseconds.astype(np.int32))
    problem = f"{unit} is not a number of milliseconds that the engine's type TIME can hold"
    check_values(where, values, nulls, wrong, problem, row)
    return FixedWidth(Type.TIME, milliseconds.astype(np.int32), nulls)


def _timestamps(where: str, chunks: Any, row: int) -> Vector:
    unit = chunks.type.unit
    values, nulls = _nanoseconds(where, chunks, row, EPOCH_NANOSECONDS // _NANOSECONDS[unit], "TIMESTAMP")
    return FixedWidth(Type.TIMESTAMP, values, nulls)


def _timespans(where: str, chunks: Any, row: int) -> Vector:
    values, nulls = _nanoseconds(where, chunks, row, 0, "TIMESPAN")
    return FixedWidth(Type.TIMESPAN, values, nulls)


def _nanoseconds(where: str, chunks: Any, row: int, origin: int, type_name: str) -> tuple[NDArray[np.int64], _Nulls]:
    """Return moments or durations of any unit as nanoseconds since an origin, and their nulls."""
    unit = chunks.type.unit
    factor = _NANOSECONDS[unit]
    array = _joined(chunks, chunks.type)
    values, nulls = _items(array, np.dtype("<i8")), _nulls(array)
    limit = np.iinfo(np.int64).max // factor
    wrong = values < max(origin - limit, np.iinfo(np.int64).min)
    if origin + limit < np.iinfo(np.int64).max:
        wrong |= values > origin + limit
    quantity = f"{unit} after 1970-01-01" if origin else unit
    problem = f"{quantity} is outside the range of the engine's type {type_name}"
    check_values(where, values, nulls, wrong, problem, row)
    return (values - origin) * factor if factor > 1 or origin else values, nulls


def _guids(_where: str, chunks: Any, _row: int) -> Vector:
    return _numbers(Type.GUID, _joined(chunks, chunks.type))


def _all_null(_where: str, chunks: Any, _row: int) -> Vector:
    return FixedWidth(Type.I64, np.zeros(len(chunks), np.int64), np.ones(len(chunks), np.bool_))


def _texts(type_code: Type, chunks: Any, *, terminated: bool = False) -> Texts:
    array = _joined(chunks, pyarrow().large_string())
    if array.null_count:
        nulls = _nulls(array)
        array = array.fill_null(_NUL if terminated else "")  # a null item may still have bytes
    else:
        nulls = None
    _, ends, data = array.buffers()
    offsets = np.frombuffer(ends, np.int64, len(array) + 1, array.offset * 8) if ends else np.zeros(1, np.int64)
    return Texts(type_code, np.frombuffer(data or b"", np.uint8), offsets, nulls, terminated)
