"""What a query came to, as text, JSON or CSV."""

import csv
import io
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from rayforce import Dict, List, Table, Vector

from .. import Columns, columns_of, draw
from ..errors import RayforceConversionError
from ._fields import csv_lines, json_lines
from ._values import column, contents, plain, records, to_json


def as_text(value: Any) -> Iterator[str]:
    """Yield a value as the engine draws it; nothing for null, as in the engine's shell."""
    if value is not None:
        yield f"{draw(value)}\n"


def as_json(value: Any) -> Iterator[str]:
    """Return a value as JSON; each row of a table, and each item of a vector or list, is on a line of its own."""
    columns = _columns(value)
    if columns is not None:
        with suppress(RayforceConversionError):
            return json_lines(columns, is_table=isinstance(value, Table))
    return _json_by_item(value)


def as_csv(value: Any) -> Iterator[str]:
    """Return a value as CSV, with a header."""
    columns = _columns(value)
    if columns is not None:
        with suppress(RayforceConversionError):
            return csv_lines(columns)
    return _csv_by_item(value)


FORMATS: dict[str, Callable[[Any], Iterable[str]]] = {"text": as_text, "json": as_json, "csv": as_csv}


def _columns(value: Any) -> Columns | None:
    """Return a table or vector as columns; `None` if it must be written item by item."""
    if isinstance(value, Table | Vector):
        with suppress(RayforceConversionError):  # two columns may have the same name
            return columns_of(value)
    return None


def _json_by_item(value: Any) -> Iterator[str]:
    if not isinstance(value, Table | Vector | List):
        yield f"{to_json(plain(value))}\n"
        return
    separator = "[\n"
    for element in records(value) if isinstance(value, Table) else column(value):
        yield separator
        yield to_json(element)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def _csv_by_item(value: Any) -> Iterator[str]:
    names, rows = _rows(value)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow(map(_cell, row))
    yield buffer.getvalue()


def _rows(value: Any) -> tuple[list[str], Iterable[Iterable[Any]]]:
    if isinstance(value, Table):
        names, columns = contents(value)
        return names, zip(*columns, strict=True)
    if isinstance(value, Dict):
        return ["key", "value"], zip(column(value.keys()), column(value.values()), strict=True)
    if isinstance(value, Vector | List):
        return ["value"], ([element] for element in column(value))
    return ["value"], [[plain(value)]]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else to_json(value)
