"""Columns of a payload as a pyarrow.Table."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RayforceConversionError, RayforceError
from ._decoding import nulls_of, timestamps_of, to_list, to_texts, values_of
from ._reader import FixedColumn, ListColumn, Positions, RawColumn, TextColumn, read_values
from ._types import DTYPES, EPOCH_DAYS, Type
from ._vectors import LENGTH_SIZE

_DAY = 86_400_000  # milliseconds
_INT32_LIMIT = 1 << 31
_FIRST_NON_ASCII = 128
_LATEST_DATE = np.iinfo(np.int32).max - EPOCH_DAYS


def pyarrow() -> Any:
    """Import pyarrow.

    Raises:
        RayforceError: it is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.compute  # as an attribute of the package
    except ImportError as error:
        raise RayforceError("Arrow data needs pyarrow; install it with: pip install 'rayforce-trio[arrow]'") from error
    return pa


def to_table(columns: Mapping[str, RawColumn]) -> Any:
    """Return columns as a pyarrow.Table.

    Raises:
        RayforceError: pyarrow is not installed.
        RayforceConversionError: Arrow cannot represent a value; the error names its column and row.
    """
    pa = pyarrow()
    arrays = [_array(pa, f"column {name!r}", column) for name, column in columns.items()]
    return pa.Table.from_arrays(arrays, names=list(columns))


def _array(pa: Any, where: str, column: RawColumn) -> Any:
    if isinstance(column, ListColumn):
        return _list(pa, where, column)
    if isinstance(column, TextColumn):
        return _symbols(pa, where, column) if column.type is Type.SYMBOL else _strings(pa, where, column)
    return _fixed(pa, where, column.type, values_of(column), nulls_of(column))


def _fixed(pa: Any, where: str, type_code: Type, values: NDArray[Any], nulls: NDArray[np.bool_] | None) -> Any:
    count = len(values)
    match type_code:
        case Type.B8:
            values = np.packbits(values, bitorder="little")
        case Type.DATE:
            check_values(
                where, values, nulls, values > _LATEST_DATE, "days after 2000-01-01 is later than Arrow's last date"
            )
            values = values + np.int32(EPOCH_DAYS)
        case Type.TIME:
            outside = (values < 0) | (values >= _DAY)
            check_values(
                where,
                values,
                nulls,
                outside,
                "milliseconds is not a time of day, which Arrow's time type needs; subtract "
                "timestamps instead, or cast the column to 'I64 in the query",
            )
        case Type.TIMESTAMP:
            values = timestamps_of(where, values)
    items = np.require(values, requirements=["A", "C"])  # Arrow needs aligned data; aligned data is not copied
    array = pa.Array.from_buffers(_type(pa, type_code), count, [_validity(pa, nulls), _buffer(pa, items)])
    return pa.ExtensionArray.from_storage(pa.uuid(), array) if type_code is Type.GUID else array


def _type(pa: Any, type_code: Type) -> Any:
    """Return Arrow's type for a column. For GUIDs, return the storage type."""
    types = {
        Type.B8: pa.bool_,
        Type.U8: pa.uint8,
        Type.I16: pa.int16,
        Type.I32: pa.int32,
        Type.I64: pa.int64,
        Type.F32: pa.float32,
        Type.F64: pa.float64,
        Type.DATE: pa.date32,
        Type.TIME: lambda: pa.time32("ms"),
        Type.TIMESTAMP: lambda: pa.timestamp("ns"),
        Type.TIMESPAN: lambda: pa.duration("ns"),
        Type.GUID: lambda: pa.binary(16),
        Type.SYMBOL: lambda: pa.dictionary(pa.int32(), pa.string()),
        Type.STRING: pa.string,
    }
    return types[type_code]()


def check_values(
    where: str,
    values: NDArray[Any],
    nulls: NDArray[np.bool_] | None,
    wrong: NDArray[np.bool_],
    problem: str,
    first_row: int = 0,
) -> None:
    """Raise `RayforceConversionError` for the first value that is wrong and not null. The problem follows the value."""
    if nulls is not None:
        wrong &= ~nulls
    if wrong.any():
        row = int(wrong.argmax())
        raise RayforceConversionError(f"{where}, row {first_row + row}: {values[row]} {problem}")


def _symbols(pa: Any, where: str, column: TextColumn) -> Any:
    """Return symbols as a dictionary array.

    The dictionary is built before the NULs are removed, so that only distinct symbols are copied.
    """
    encoded = _items(pa, column).dictionary_encode()
    symbols = encoded.dictionary
    _, ends, data = symbols.buffers()
    offsets: Positions = np.frombuffer(ends, column.starts.dtype)[: len(symbols) + 1]
    different = TextColumn(Type.SYMBOL, False, np.frombuffer(data or b"", np.uint8), offsets)
    texts = to_texts(different)
    bare = pa.Array.from_buffers(
        symbols.type,
        len(symbols),
        [None, _buffer(pa, texts.offsets.astype(offsets.dtype)), _buffer(pa, texts.data)],
    )
    return pa.DictionaryArray.from_arrays(encoded.indices, _utf8(pa, where, bare, column), safe=False)


def _strings(pa: Any, where: str, column: TextColumn) -> Any:
    """Return strings without the lengths between them."""
    import pyarrow.compute as pc

    return _utf8(pa, where, pc.binary_replace_slice(_items(pa, column), 0, LENGTH_SIZE, b""), column)


def _items(pa: Any, column: TextColumn) -> Any:
    """Return the items as they are in the payload, without copying them."""
    kind = pa.binary() if column.starts.dtype == np.int32 else pa.large_binary()
    buffers = [_validity(pa, nulls_of(column)), _buffer(pa, column.starts), _buffer(pa, column.data)]
    return pa.Array.from_buffers(kind, len(column), buffers)


def _utf8(pa: Any, where: str, array: Any, column: TextColumn) -> Any:
    """Return an array of bytes as text, after a check that it is UTF-8."""
    kind = pa.string() if array.type == pa.binary() else pa.large_string()
    data = array.buffers()[2]
    if data is None or np.frombuffer(data, np.uint8).max(initial=0) < _FIRST_NON_ASCII:
        return array.view(kind)
    try:
        return array.cast(kind)
    except pa.ArrowInvalid:  # to_list raises an error that names the row
        to_list(where, column)
        raise


def _list(pa: Any, where: str, column: ListColumn) -> Any:
    """Return a column of values. Vectors of one type, which grouping returns, become Arrow lists."""
    values = list(read_values(column))
    kinds = {(type_code, isinstance(value, bytes)) for type_code, value in values if value is not None}
    if not kinds:
        return pa.nulls(len(column), pa.list_(pa.null()))
    if len(kinds) > 1:
        names = ", ".join(sorted(type_code.name for type_code, _ in kinds))
        raise RayforceConversionError(
            f"{where} contains values of different types ({names}), which an Arrow column cannot hold; use rows()"
        )
    ((type_code, single),) = kinds
    nulls = np.array([value is None for _, value in values], np.bool_)
    if single and type_code in DTYPES:
        missing = bytes(DTYPES[type_code].itemsize)
        items = np.frombuffer(b"".join([value or missing for _, value in values]), DTYPES[type_code])
        return _fixed(pa, where, type_code, values_of(FixedColumn(type_code, False, items)), nulls)
    if single:
        return pa.array(to_list(where, column), _type(pa, type_code))
    parts = [value for _, value in values if value is not None]
    lengths = np.array([0 if value is None else len(value) for _, value in values], np.int64)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    large = offsets[-1] >= _INT32_LIMIT
    cls, dtype = (pa.LargeListArray, np.int64) if large else (pa.ListArray, np.int32)
    items = _joined(pa, f"{where} (the lists one after the other)", type_code, parts)
    mask = pa.array(nulls) if nulls.any() else None
    return cls.from_arrays(pa.array(offsets.astype(dtype)), items, mask=mask)


def _joined(pa: Any, where: str, type_code: Type, parts: list[RawColumn]) -> Any:
    """Return vectors of one type as one array."""
    if type_code is Type.LIST:
        lists = [part for part in parts if isinstance(part, ListColumn)]
        return _list(pa, where, ListColumn(lists[0].data, np.concatenate([part.starts for part in lists])))
    if type_code in (Type.SYMBOL, Type.STRING):
        return pa.array([text for part in parts for text in to_list(where, part)], _type(pa, type_code))
    fixed = [part for part in parts if isinstance(part, FixedColumn)]
    nulls = [nulls_of(part) for part in fixed]
    every = None
    if any(some is not None for some in nulls):
        every = np.concatenate(
            [np.zeros(len(part), np.bool_) if some is None else some for part, some in zip(fixed, nulls, strict=True)]
        )
    return _fixed(pa, where, type_code, np.concatenate([values_of(part) for part in fixed]), every)


def _validity(pa: Any, nulls: NDArray[np.bool_] | None) -> Any:
    return None if nulls is None else _buffer(pa, np.packbits(~nulls, bitorder="little"))


def _buffer(pa: Any, array: NDArray[Any]) -> Any:
    return pa.py_buffer(array.view(np.uint8))
