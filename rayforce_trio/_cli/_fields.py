"""The items of columns as texts for CSV and JSON, column by column: see docs/reference/command_line.md."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from json.encoder import encode_basestring
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import Columns

_ROWS_PER_BLOCK = 20_000  # converted to text at a time
_EPOCH_DAYS = 10_957  # from 1970-01-01 to the engine's epoch
_DAY = 86_400  # seconds

_NEEDS_QUOTES = re.compile('[,"\r\n]')
_TWO_DIGITS = np.array([f"{number:02}" for number in range(100)], "S2").view(np.uint8).reshape(-1, 2)
_THREE_DIGITS = np.array([f"{number:03}" for number in range(1000)], "S3").view(np.uint8).reshape(-1, 3)


def csv_lines(columns: Columns) -> Iterator[str]:
    """Return columns as CSV with a header, many lines at a time.

    Raises:
        RayforceConversionError: a column is a list of values.
    """
    return _csv_lines(columns.names, list(columns.vectors().values()))


def csv_batch(columns: Columns, *, header: bool) -> Iterator[str]:
    """Return columns as CSV, many lines at a time. The values of a list are texts or JSON."""
    vectors: list[Any] = []
    for name, kind in columns.schema.items():
        column = Columns({name: columns.raw[name]})
        vectors.append(_Items(column.to_dict()[name]) if kind == "LIST" else column.vectors()[name])
    lines = _csv_lines(columns.names, vectors)
    if not header:
        next(lines)
    return lines


def json_lines(columns: Columns, *, is_table: bool) -> Iterator[str]:
    """Return the rows of a table, as objects, or the items of a vector as a JSON array, each on a line of its own.

    Raises:
        RayforceConversionError: a column is a list of values.
    """
    names = (encode_basestring(name).replace("%", "%%") for name in columns.names)
    row = "{" + ", ".join(f"{name}: %s" for name in names) + "}" if is_table else "%s"
    return _json_lines(row, list(columns.vectors().values()))


def json_items(columns: Columns) -> list[str]:
    """Return the items of a vector as JSON."""
    return _json_fields(columns.vectors()["value"])


def json_item(columns: Columns) -> str:
    """Return an atom as JSON, given as a vector of one item. An atom has no mark for null, unlike a vector."""
    vector: Any = columns.vectors()["value"]
    if vector.type.name == "GUID":
        is_null = vector.values.tobytes() == bytes(16)
    else:
        is_null = vector.values.dtype.kind == "i" and vector.values[0] == np.iinfo(vector.values.dtype).min
    return "null" if is_null else _json_fields(vector)[0]


def item_texts(columns: Columns, start: int, stop: int) -> list[str | None]:
    """Return some items of one column as texts, as in CSV but without quotes; `None` is null.

    Raises:
        RayforceConversionError: a value cannot be represented.
    """
    (name,) = columns.names
    if columns.schema[name] == "LIST":
        return [_item_text(value) for value in columns.to_dict()[name][start:stop]]
    vector: Any = columns.vectors()[name].slice(start, stop)
    if vector.type.name not in _FIXED_WIDTH:
        return list(_texts(vector))
    fields: list[str | None] = list(_fixed_width(vector))
    for index in _null_indexes(vector):
        fields[index] = None
    return fields


class _Items:
    """The values of a list, as plain Python values, which can be divided like a vector."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __len__(self) -> int:
        return len(self.values)

    def slice(self, start: int, stop: int) -> "_Items":
        return _Items(self.values[start:stop])


def _item_text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=_other_text)


def _other_text(value: Any) -> str:
    """Return a date, time, duration or GUID as text."""
    if isinstance(value, datetime):
        return f"{value.isoformat()}Z"
    return value.isoformat() if isinstance(value, date | time) else str(value)


def _csv_lines(names: tuple[str, ...], vectors: list[Any]) -> Iterator[str]:
    yield ",".join(map(_csv_text, names)) + "\n"
    for block in _blocks(vectors, _csv_fields):
        if len(names) == 1:
            block = [[field or '""' for field in block[0]]]  # many readers skip empty lines
        yield "\n".join(map(",".join, zip(*block, strict=True))) + "\n"


def _json_lines(row: str, vectors: list[Any]) -> Iterator[str]:
    separator = "[\n"
    for block in _blocks(vectors, _json_fields):
        yield separator
        yield ",\n".join(map(row.__mod__, zip(*block, strict=True)))
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def _blocks(vectors: list[Any], fields: Callable[[Any], list[str]]) -> Iterator[list[list[str]]]:
    for start in range(0, len(vectors[0]), _ROWS_PER_BLOCK):
        yield [fields(vector.slice(start, start + _ROWS_PER_BLOCK)) for vector in vectors]


def _csv_fields(vector: Any) -> list[str]:
    if isinstance(vector, _Items):
        return [_csv_text(_item_text(value)) for value in vector.values]
    if vector.type.name in _FIXED_WIDTH:
        return _with_nulls(_fixed_width(vector), vector, "")
    texts = _texts(vector)
    return list(map(_csv_text, texts)) if _NEEDS_QUOTES.search("".join(texts)) else texts


def _json_fields(vector: Any) -> list[str]:
    kind = vector.type.name
    if kind not in _FIXED_WIDTH:
        return list(map(encode_basestring, _texts(vector)))
    fields = _fixed_width(vector)
    if kind in _FLOATS:
        fields = [f'"{field}"' if field.endswith("y") else field for field in fields]  # the infinities
    elif kind not in _NUMBERS:
        fields = [f'"{field}"' for field in fields]
    return _with_nulls(fields, vector, "null")


def _fixed_width(vector: Any) -> list[str]:
    values = vector.values
    if vector.nulls is not None and values.dtype.kind == "i":
        values = np.where(vector.nulls, 0, values)  # a null date would stretch the range of days
    return _FIXED_WIDTH[vector.type.name](values)


def _with_nulls(fields: list[str], vector: Any, null: str) -> list[str]:
    for index in _null_indexes(vector):
        fields[index] = null
    return fields


def _null_indexes(vector: Any) -> list[int]:
    nulls = np.isnan(vector.values) if vector.type.name in _FLOATS else vector.nulls
    indexes: list[int] = [] if nulls is None else np.flatnonzero(nulls).tolist()
    return indexes


def _csv_text(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text


def _texts(vector: Any) -> list[str]:
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
    if last - first >= len(days):
        return _calendar(days)
    rows: NDArray[np.uint8] = _calendar(np.arange(first, last + 1))[days - first]  # each day is formatted once
    return rows


def _calendar(days: NDArray[Any]) -> NDArray[np.uint8]:
    text = np.datetime_as_string((days + _EPOCH_DAYS).astype("M8[D]"))
    width = int(np.char.str_len(text).max())
    characters: NDArray[np.uint8] = text.astype(f"S{width}").view(np.uint8)
    return characters.reshape(len(days), width)


def _characters(text: NDArray[np.uint8]) -> list[str]:
    """Return the rows of a matrix of characters as texts; numpy pads short rows with NUL."""
    width = text.shape[1]
    characters = text.tobytes().decode("ascii")
    fields = [characters[at : at + width] for at in range(0, len(characters), width)]
    return [field.rstrip("\0") for field in fields] if "\0" in characters else fields


_FLOATS = {"F32", "F64"}
_NUMBERS = {"B8", "U8", "I16", "I32", "I64"}
_FIXED_WIDTH: dict[str, Callable[[NDArray[Any]], list[str]]] = {
    "B8": _booleans,
    "U8": _integers,
    "I16": _integers,
    "I32": _integers,
    "I64": _integers,
    "F32": _short_floats,
    "F64": _floats,
    "DATE": _dates,
    "TIME": _times,
    "TIMESTAMP": _timestamps,
    "TIMESPAN": _timespans,
    "GUID": _guids,
}
"""The functions that format the items, nulls included, of each type of fixed width."""
