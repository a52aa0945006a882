"""The items of vectors as texts, as they are in CSV and JSON: see the page "Data" of the documentation."""

from collections.abc import Callable
from functools import lru_cache
from json.encoder import encode_basestring
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._types import EPOCH_DAYS, Type
from ._vectors import FixedWidth, Texts, Vector

_DAY = 86_400  # seconds
_TWO_DIGITS = np.array([f"{number:02}" for number in range(100)], "S2").view(np.uint8).reshape(-1, 2)
_THREE_DIGITS = np.array([f"{number:03}" for number in range(1000)], "S3").view(np.uint8).reshape(-1, 3)


def json_cells(vector: Vector) -> list[str]:
    """Return the items of a vector as JSON.

    Null and NaN, which the engine cannot tell from null, are null. Infinities are the strings "Infinity" and
    "-Infinity". Dates, times and GUIDs are strings. Bytes that are not UTF-8 become U+FFFD.
    """
    if isinstance(vector, Texts):
        cells = list(map(encode_basestring, text_cells(vector)))
    else:
        cells = number_cells(vector)
        if vector.type in _FLOATS:
            cells = [f'"{cell}"' if cell.endswith("y") else cell for cell in cells]  # the infinities
        elif vector.type not in _NUMBERS:
            cells = [f'"{cell}"' for cell in cells]
    for index in null_indexes(vector):
        cells[index] = "null"
    return cells


def number_cells(vector: FixedWidth) -> list[str]:
    """Return the items of a vector of fixed width as texts without quotes. Those of nulls are arbitrary."""
    values = vector.values
    if vector.nulls is not None and values.dtype.kind == "i":
        values = np.where(vector.nulls, 0, values)  # a null date would stretch the range of days
    return _FORMATS[vector.type](values) if len(values) else []


def null_indexes(vector: Vector) -> list[int]:
    """Return where null is in a vector."""
    nulls = np.isnan(vector.values) if isinstance(vector, FixedWidth) and vector.type in _FLOATS else vector.nulls
    indexes: list[int] = [] if nulls is None else np.flatnonzero(nulls).tolist()
    return indexes


def text_cells(vector: Texts) -> list[str]:
    """Return symbols and strings; bytes that are not UTF-8 become U+FFFD."""
    offsets = vector.offsets - vector.offsets[0]
    data = vector.data[vector.offsets[0] : vector.offsets[-1]]
    count = len(offsets) - 1
    # One call decodes all texts, with NUL between them, and one splits them.
    is_text = np.ones(len(data) + count, np.bool_)
    is_text[offsets[1:] + np.arange(count)] = False
    joined = np.zeros(len(is_text), np.uint8)
    joined[is_text] = data
    texts = joined.tobytes().decode("utf-8", "replace").split("\0")[:-1]
    if len(texts) == count:
        return texts
    pairs = zip(offsets.tolist(), offsets[1:].tolist(), strict=False)
    return [data[start:stop].tobytes().decode("utf-8", "replace") for start, stop in pairs]  # a string contains NUL


def _booleans(values: NDArray[Any]) -> list[str]:
    return ["true" if value else "false" for value in values.tolist()]


def _integers(values: NDArray[Any]) -> list[str]:
    return list(map(str, values.tolist()))


def _floats(values: NDArray[Any]) -> list[str]:
    fields = list(map(repr, values.tolist()))
    for index in np.flatnonzero(np.isinf(values)).tolist():
        fields[index] = "Infinity" if values[index] > 0 else "-Infinity"
    return fields


def _short_floats(values: NDArray[Any]) -> list[str]:
    return _floats(np.array([float(str(value)) for value in values]))  # 0.1, not 0.10000000149011612


def _dates(values: NDArray[Any]) -> list[str]:
    return _characters(_date_characters(values.astype(np.int64)))


def _times(values: NDArray[Any]) -> list[str]:
    seconds, milliseconds = np.divmod(np.abs(values.astype(np.int64)), 1000)
    signs = np.where(values < 0, "-", "")
    parts = (signs, seconds // 3600, seconds // 60 % 60, seconds % 60, milliseconds)
    return list(map("%s%02d:%02d:%02d.%03d".__mod__, zip(*(part.tolist() for part in parts), strict=True)))


def _timestamps(values: NDArray[Any]) -> list[str]:
    seconds, nanoseconds = np.divmod(values, 10**9)
    days, seconds = np.divmod(seconds, _DAY)
    text = np.empty((len(values), 30), np.uint8)
    text[:] = np.frombuffer(b"0000-00-00T00:00:00.000000000Z", np.uint8)
    text[:, :10] = _date_characters(days)
    text[:, 11:13] = _TWO_DIGITS[seconds // 3600]
    text[:, 14:16] = _TWO_DIGITS[seconds // 60 % 60]
    text[:, 17:19] = _TWO_DIGITS[seconds % 60]
    text[:, 20:23] = _THREE_DIGITS[nanoseconds // 10**6]
    text[:, 23:26] = _THREE_DIGITS[nanoseconds // 1000 % 1000]
    text[:, 26:29] = _THREE_DIGITS[nanoseconds % 1000]
    return _characters(text)


def _timespans(values: NDArray[Any]) -> list[str]:
    """Return timespans as the engine writes them: days, hours, minutes, seconds, nanoseconds."""
    fields = []
    for value in values.tolist():
        seconds, nanoseconds = divmod(abs(value), 10**9)
        days, seconds = divmod(seconds, _DAY)
        sign = "-" if value < 0 else ""
        fields.append(f"{sign}{days}D{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{nanoseconds:09}")
    return fields


def _guids(values: NDArray[Any]) -> list[str]:
    digits = values.tobytes().hex()
    parts = (digits[at : at + 32] for at in range(0, len(digits), 32))
    return [f"{part[:8]}-{part[8:12]}-{part[12:16]}-{part[16:20]}-{part[20:]}" for part in parts]


def _date_characters(days: NDArray[Any]) -> NDArray[np.uint8]:
    """Return days since the engine's epoch as characters, one row for each."""
    first, last = int(days.min()), int(days.max())
    if first == last:
        return np.broadcast_to(_day(first), (len(days), len(_day(first))))
    if last - first >= len(days):
        return _calendar(days)
    rows: NDArray[np.uint8] = _calendar(np.arange(first, last + 1))[days - first]  # each day is formatted once
    return rows


@lru_cache(maxsize=64)
def _day(day: int) -> NDArray[np.uint8]:
    """Return one day. Most timestamps that are converted together are of one day."""
    characters: NDArray[np.uint8] = _calendar(np.array([day]))[0]
    return characters


def _calendar(days: NDArray[Any]) -> NDArray[np.uint8]:
    text = np.datetime_as_string((days + EPOCH_DAYS).astype("M8[D]"))
    width = int(np.char.str_len(text).max())
    characters: NDArray[np.uint8] = text.astype(f"S{width}").view(np.uint8)
    return characters.reshape(len(days), width)


def _characters(text: NDArray[np.uint8]) -> list[str]:
    """Return the rows of a matrix of characters as texts; numpy pads short rows with NUL."""
    width = text.shape[1]
    characters = text.tobytes().decode("ascii")
    fields = [characters[at : at + width] for at in range(0, len(characters), width)]
    return [field.rstrip("\0") for field in fields] if "\0" in characters else fields


_FLOATS = frozenset({Type.F32, Type.F64})
_NUMBERS = frozenset({Type.B8, Type.U8, Type.I16, Type.I32, Type.I64})
_FORMATS: MappingProxyType[Type, Callable[[NDArray[Any]], list[str]]] = MappingProxyType(
    {
        Type.B8: _booleans,
        Type.U8: _integers,
        Type.I16: _integers,
        Type.I32: _integers,
        Type.I64: _integers,
        Type.F32: _short_floats,
        Type.F64: _floats,
        Type.DATE: _dates,
        Type.TIME: _times,
        Type.TIMESTAMP: _timestamps,
        Type.TIMESPAN: _timespans,
        Type.GUID: _guids,
    }
)
"""The functions that format the items of each type of fixed width, nulls included."""
