"""Columns of a payload as numpy arrays, as plain Python values, and as vectors that can be sent back."""

from collections.abc import Callable
from datetime import date, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from ..errors import RayforceConversionError
from . import _pandas
from ._reader import FixedColumn, ListColumn, RawColumn, TextColumn, read_values
from ._types import DTYPES, EPOCH_DAYS, EPOCH_NANOSECONDS, Type
from ._vectors import LENGTH_SIZE, FixedWidth, Texts, Vector, find_nulls, text_mask

_DAY = 86_400_000  # milliseconds
_LAST_NANOSECOND = np.iinfo(np.int64).max - EPOCH_NANOSECONDS
_FIRST_DATE = (date.min - date(2000, 1, 1)).days
_LAST_DATE = (date.max - date(2000, 1, 1)).days
_ROWS_PER_BLOCK = 1 << 16  # texts are moved in blocks that stay in the processor's cache
_SHOWN = 40  # bytes of a text, in an error


def nulls_of(column: RawColumn) -> NDArray[np.bool_] | None:
    """Return a mask of the nulls of a column of fixed width or text; `None` without nulls, and for a list."""
    if isinstance(column, ListColumn):
        return None
    if isinstance(column, TextColumn):
        if not column.marked and column.type is Type.STRING:
            return None
        nulls = np.diff(column.starts) == (1 if column.type is Type.SYMBOL else LENGTH_SIZE)
    elif column.marked and column.type not in (Type.B8, Type.U8):
        nulls = find_nulls(column.type, column.values)
    else:
        return None
    return nulls if nulls.any() else None


def values_of(column: FixedColumn) -> NDArray[Any]:
    """Return the items of a column. Any byte of a B8 but 0 is true, while numpy expects 1."""
    return column.values.view(np.uint8) != 0 if column.type is Type.B8 else column.values


def to_vector(where: str, column: RawColumn) -> Vector:
    """Return a column as a vector that can be sent.

    Raises:
        RayforceConversionError: the column is a list of values.
    """
    if isinstance(column, ListColumn):
        raise RayforceConversionError(f"{where} is a list of values, not a vector of one type")
    if isinstance(column, TextColumn):
        return to_texts(column)
    return FixedWidth(column.type, values_of(column), nulls_of(column))


def to_texts(column: TextColumn) -> Texts:
    """Return the texts of a column without the lengths or NULs that are between them in the payload."""
    starts = column.starts
    extra = 1 if column.type is Type.SYMBOL else LENGTH_SIZE
    offsets = starts.astype(np.int64)
    offsets -= offsets[0] + extra * np.arange(len(starts))
    data = np.empty(int(offsets[-1]), np.uint8)
    for row in range(0, len(column), _ROWS_PER_BLOCK):
        stop = min(row + _ROWS_PER_BLOCK, len(column))
        begin = int(starts[row])
        items = column.data[begin : starts[stop]]
        mask = items != 0 if column.type is Type.SYMBOL else text_mask(items, starts[row:stop] - begin)
        data[offsets[row] : offsets[stop]] = items[mask]
    return Texts(column.type, data, offsets, nulls_of(column))


def timestamps_of(where: str, values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return timestamps as nanoseconds since 1970. Those of nulls are arbitrary.

    Raises:
        RayforceConversionError: a timestamp is after 2262-04-11, the last day of 64-bit nanoseconds since 1970.
    """
    if values.max(initial=0) > _LAST_NANOSECOND:
        row = int((values > _LAST_NANOSECOND).argmax())
        raise RayforceConversionError(
            f"{where}, row {row}: the timestamp {_datetimes(values[row : row + 1])[0]} is after "
            "2262-04-11 23:47:16, the last one in nanoseconds since 1970; rows() and to_dict() can represent it"
        )
    return values + EPOCH_NANOSECONDS


def to_numpy(where: str, column: RawColumn) -> NDArray[Any]:
    """Return a column as an array, as `Columns` documents it.

    Raises:
        RayforceConversionError: a value cannot be represented; the error names its row.
    """
    if isinstance(column, ListColumn):
        return _objects(_elements(where, column, 0, to_numpy))
    if isinstance(column, TextColumn):
        return _objects(to_list(where, column))
    nulls = nulls_of(column)
    match column.type:
        case Type.DATE:
            array = (column.values.astype(np.int64) + EPOCH_DAYS).view("M8[D]")
        case Type.TIME:
            array = column.values.astype(np.int64).view("m8[ms]")
        case Type.TIMESTAMP:
            array = timestamps_of(where, column.values).view("M8[ns]")
        case Type.TIMESPAN:
            return column.values.view("m8[ns]")
        case Type.GUID:
            return _objects(to_list(where, column))
        case _:
            array = values_of(column)
            return array if nulls is None or array.dtype.kind == "f" else np.ma.array(array, mask=nulls)
    if nulls is not None:
        array[nulls] = "NaT"
    return array


def to_list(where: str, column: RawColumn, start: int = 0, stop: int | None = None) -> list[Any]:
    """Return some rows of a column as plain Python values, `None` for null.

    Raises:
        RayforceConversionError: a value cannot be represented; the error names its row.
    """
    stop = len(column) if stop is None else min(stop, len(column))
    if isinstance(column, ListColumn):
        return _elements(where, ListColumn(column.data, column.starts[start:stop]), start, to_list)
    if isinstance(column, TextColumn):
        texts = TextColumn(column.type, column.marked, column.data, column.starts[start : stop + 1])
        return _symbols(where, texts, start) if column.type is Type.SYMBOL else _strings(where, texts, start)
    part = FixedColumn(column.type, column.marked, column.values[start:stop])
    nulls = nulls_of(part)
    items = values_of(part)
    if nulls is not None:
        items = items.copy()
        items[nulls] = np.zeros((), items.dtype)  # a value that every conversion accepts
    if column.type is Type.DATE:
        _check_dates(where, items, start)
    values = _CONVERSIONS.get(column.type, _numbers)(items)
    for row in () if nulls is None else np.flatnonzero(nulls).tolist():
        values[row] = None
    return values


def _objects(values: list[Any]) -> NDArray[Any]:
    return np.fromiter(values, object, len(values))  # np.array would unpack values that are arrays


def _elements(where: str, column: ListColumn, first_row: int, convert: Callable[[str, RawColumn], Any]) -> list[Any]:
    """Return the values of a list; `convert` converts the vectors among them."""
    values: list[Any] = []
    for row, (type_code, value) in enumerate(read_values(column), first_row):
        if value is None:
            values.append(None)
        elif isinstance(value, bytes):
            values.append(atom_value(f"{where}, row {row}", type_code, value))
        else:
            values.append(convert(f"{where}, row {row}", value))
    return values


def atom_value(where: str, type_code: Type, value: bytes) -> Any:
    """Return an atom as a plain Python value."""
    if type_code in (Type.SYMBOL, Type.STRING):
        return _decoded(where, value)
    return to_list(where, FixedColumn(type_code, False, np.frombuffer(value, DTYPES[type_code])))[0]


def _decoded(where: str, text: bytes) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError:
        shown = text if len(text) <= _SHOWN else text[:_SHOWN] + b"..."
        raise RayforceConversionError(
            f"{where}: the text {shown!r} is not UTF-8; leave the column out of the query"
        ) from None


def _symbols(where: str, column: TextColumn, first_row: int) -> list[str | None]:
    data = column.data[column.starts[0] : column.starts[-1]].tobytes()
    try:
        texts = data.decode().split("\0")
    except UnicodeDecodeError:
        texts = [_decoded(f"{where}, row {first_row + row}", text) for row, text in enumerate(data.split(b"\0"))]
    del texts[-1:]  # after the last NUL
    same: dict[str, str | None] = {"": None}  # symbols repeat, so equal ones share one object
    return [same.setdefault(text, text) for text in texts]


def _strings(where: str, column: TextColumn, first_row: int) -> list[str | None]:
    texts = to_texts(column)
    data, ends = texts.data.tobytes(), texts.offsets.tolist()
    if data.isascii():
        text = data.decode()
        values: list[str | None] = [text[start:end] for start, end in pairwise(ends)]
    else:
        values = [
            _decoded(f"{where}, row {first_row + row}", data[start:end])
            for row, (start, end) in enumerate(pairwise(ends))
        ]
    return [text or None for text in values] if column.marked else values


def _check_dates(where: str, days: NDArray[np.int32], first_row: int) -> None:
    wrong = (days < _FIRST_DATE) | (days > _LAST_DATE)
    if wrong.any():
        row = int(wrong.argmax())
        raise RayforceConversionError(
            f"{where}, row {first_row + row}: the date {days[row]} days after 2000-01-01 is outside the years 1 to "
            "9999, which Python's dates have; numpy and Arrow can represent it"
        )


def _numbers(values: NDArray[Any]) -> list[Any]:
    numbers: list[Any] = values.tolist()
    return numbers


def _dates(days: NDArray[np.int32]) -> list[Any]:
    dates: list[Any] = (days.astype(np.int64) + EPOCH_DAYS).view("M8[D]").tolist()
    return dates


def _times(milliseconds: NDArray[np.int32]) -> list[Any]:
    """Return times of day. Times outside a day, which sums and differences yield, become timedelta."""
    times: list[Any] = [moment.time() for moment in milliseconds.astype(np.int64).view("M8[ms]").tolist()]
    for row in np.flatnonzero((milliseconds < 0) | (milliseconds >= _DAY)).tolist():
        times[row] = timedelta(milliseconds=int(milliseconds[row]))
    return times


def _timestamps(nanoseconds: NDArray[np.int64]) -> list[Any]:
    timestamps = _datetimes(nanoseconds)
    finer = (nanoseconds % 1000 != 0) & (nanoseconds <= _LAST_NANOSECOND)
    _replace(timestamps, finer, (nanoseconds[finer] + EPOCH_NANOSECONDS).view("M8[ns]"))
    return timestamps


def _datetimes(nanoseconds: NDArray[np.int64]) -> list[Any]:
    """Return timestamps in the engine's epoch as datetime, truncated to microseconds."""
    datetimes: list[Any] = (nanoseconds // 1000 + EPOCH_NANOSECONDS // 1000).view("M8[us]").tolist()
    return datetimes


def _timespans(nanoseconds: NDArray[np.int64]) -> list[Any]:
    timespans: list[Any] = (nanoseconds // 1000).view("m8[us]").tolist()
    finer = nanoseconds % 1000 != 0
    _replace(timespans, finer, nanoseconds[finer].view("m8[ns]"))
    return timespans


def _replace(values: list[Any], where: NDArray[np.bool_], nanoseconds: NDArray[Any]) -> None:
    """Replace values, which have microseconds, with pandas values, which have nanoseconds, if pandas is installed."""
    precise = _pandas.with_nanoseconds(nanoseconds) if len(nanoseconds) else []
    for row, value in zip(np.flatnonzero(where).tolist(), precise, strict=False):
        values[row] = value


def _guids(values: NDArray[Any]) -> list[Any]:
    return [UUID(bytes=value) for value in values.tolist()]


_CONVERSIONS: dict[Type, Callable[[NDArray[Any]], list[Any]]] = {
    Type.DATE: _dates,
    Type.TIME: _times,
    Type.TIMESTAMP: _timestamps,
    Type.TIMESPAN: _timespans,
    Type.GUID: _guids,
}
