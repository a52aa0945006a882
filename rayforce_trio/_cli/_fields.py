"""The items of columns as texts for CSV and JSON, column by column: see docs/reference/command_line.md."""

import json
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from json.encoder import encode_basestring
from typing import Any

import numpy as np

from .. import Columns
from .._values import json_cells, null_indexes, number_cells, text_cells

_ROWS_PER_BLOCK = 20_000  # converted to text at a time

_TEXTS = ("SYMBOL", "STRING")
_NEEDS_QUOTES = re.compile('[,"\r\n]')


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
    return json_cells(columns.vectors()["value"])


def json_item(columns: Columns) -> str:
    """Return an atom as JSON, given as a vector of one item. An atom has no mark for null, unlike a vector."""
    vector: Any = columns.vectors()["value"]
    if vector.type.name == "GUID":
        is_null = vector.values.tobytes() == bytes(16)
    else:
        is_null = vector.values.dtype.kind == "i" and vector.values[0] == np.iinfo(vector.values.dtype).min
    return "null" if is_null else json_cells(vector)[0]


def item_texts(columns: Columns, start: int, stop: int) -> list[str | None]:
    """Return some items of one column as texts, as in CSV but without quotes; `None` is null.

    Raises:
        RayforceConversionError: a value cannot be represented.
    """
    (name,) = columns.names
    if columns.schema[name] == "LIST":
        return [_item_text(value) for value in columns.to_dict()[name][start:stop]]
    vector: Any = columns.vectors()[name].slice(start, stop)
    if vector.type.name in _TEXTS:
        return list(text_cells(vector))
    fields: list[str | None] = list(number_cells(vector))
    for index in null_indexes(vector):
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
    for block in _blocks(vectors, json_cells):
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
    if vector.type.name not in _TEXTS:
        fields = number_cells(vector)
        for index in null_indexes(vector):
            fields[index] = ""
        return fields
    texts = text_cells(vector)
    return list(map(_csv_text, texts)) if _NEEDS_QUOTES.search("".join(texts)) else texts


def _csv_text(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if _NEEDS_QUOTES.search(text) else text
