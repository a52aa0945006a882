"""Results of queries as text, JSON or CSV. See docs/reference/command_line.md."""

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from rayforce import (
    B8,
    F32,
    F64,
    GUID,
    I16,
    I32,
    I64,
    U8,
    Date,
    Dict,
    List,
    Null,
    String,
    Symbol,
    Table,
    Time,
    Timestamp,
    Vector,
)

from .. import Columns, columns_of, draw
from ..errors import RayforceConversionError
from ._console import has_unicode, is_terminal
from ._drawing import Space, draw_columns
from ._fields import csv_lines, json_item, json_items, json_lines

_LINES_AROUND_ROWS = 8
"""The lines of a terminal that the rows of a table leave free: borders, headings, and the prompts around it."""

_MIN_ROWS = 10
_ATOMS = (B8, U8, I16, I32, I64, F32, F64, Date, Time, Timestamp, GUID)


def as_text(value: Any) -> Iterator[str]:
    """Yield a table as it fits the terminal, any other value as the engine draws it, and nothing for null."""
    if value is not None:
        yield drawn(value, space_of_output())


def drawn(value: Any, space: Space) -> str:
    """Return a table as it fits the space, and any other value as the engine draws it."""
    columns = _columns(value) if isinstance(value, Table) else None
    if columns is not None and columns.names:
        with suppress(RayforceConversionError):
            return draw_columns(columns, space)
    return f"{draw(value)}\n"


def space_of_output() -> Space:
    """Return the space of the terminal, or the space for files and pipes."""
    if not is_terminal():
        return Space(ascii=not has_unicode())
    width, height = shutil.get_terminal_size()
    return Space(width, max(height - _LINES_AROUND_ROWS, _MIN_ROWS), ascii=not has_unicode())


def as_json(value: Any) -> Iterator[str]:
    """Return a value as JSON; each row of a table, and each item of a vector or list, is on a line of its own."""
    columns = _columns(value)
    if columns is not None:
        with suppress(RayforceConversionError):
            return json_lines(columns, is_table=isinstance(value, Table))
    return _json_by_item(value)


def as_csv(value: Any) -> Iterator[str]:
    """Return a value as CSV. The first text is the header."""
    columns = _columns(value)
    if columns is not None:
        with suppress(RayforceConversionError):
            return csv_lines(columns)
    return _csv_by_item(value)


def csv_of_update(value: Any) -> Iterator[str]:
    """Return a table as CSV, and any other value as one line. The first text is the header."""
    if isinstance(value, Table):
        return as_csv(value)
    return iter((_csv_text([["value"]]), _csv_text([[to_json_data(value)]])))


def json_of_update(value: Any, **about: Any) -> str:
    """Return a value as one line of JSON, an object that begins with the items of `about`."""
    key = "rows" if isinstance(value, Table) else "value"
    return f"{_json_text({**about, key: to_json_data(value)})}\n"


FORMATS: dict[str, Callable[[Any], Iterable[str]]] = {"text": as_text, "json": as_json, "csv": as_csv}


def to_json_data(value: Any) -> Any:
    """Return a value, as `execute` returns it, as data for the `json` module."""
    if value is None or value is Null:
        return None
    if isinstance(value, Table):
        return list(_rows_by_name(value))
    if isinstance(value, Vector | List):
        return items_of(value)
    if isinstance(value, Dict):
        keys, values = items_of(value.keys()), items_of(value.values())
        if value.keys().get_type_code() in (-String.type_code, -Symbol.type_code):
            return dict(zip((key or "" for key in keys), values, strict=True))
        return [list(pair) for pair in zip(keys, values, strict=True)]
    if isinstance(value, Symbol):
        return _text(value) or None
    if isinstance(value, String):
        return _text(value)
    if isinstance(value, _ATOMS):
        return json.loads(json_item(columns_of(Vector([value], ray_type=type(value)))))
    return draw(value)  # functions and operators


def items_of(values: Vector | List) -> list[Any]:
    """Return the items of a vector or list, each as `to_json_data` returns it."""
    if isinstance(values, List):
        return [to_json_data(value) for value in values]
    items: list[Any] = json.loads(f"[{','.join(json_items(columns_of(values)))}]")
    return items


def _columns(value: Any) -> Columns | None:
    """Return a table or vector as columns; `None` if it must be written item by item."""
    if isinstance(value, Table | Vector):
        with suppress(RayforceConversionError):  # two columns may have the same name
            return columns_of(value)
    return None


def _json_by_item(value: Any) -> Iterator[str]:
    if not isinstance(value, Table | Vector | List):
        yield f"{_json_text(to_json_data(value))}\n"
        return
    separator = "[\n"
    for item in _rows_by_name(value) if isinstance(value, Table) else items_of(value):
        yield separator
        yield _json_text(item)
        separator = ",\n"
    yield "[]\n" if separator == "[\n" else "\n]\n"


def _csv_by_item(value: Any) -> Iterator[str]:
    names, rows = _csv_rows(value)
    yield _csv_text([names])
    yield _csv_text(rows)


def _csv_text(rows: Iterable[Iterable[Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    for row in rows:
        writer.writerow(map(_csv_field, row))
    return buffer.getvalue()


def _csv_rows(value: Any) -> tuple[list[str], Iterable[Iterable[Any]]]:
    """Return the header and the rows."""
    if isinstance(value, Table):
        names, columns = _contents(value)
        return names, zip(*columns, strict=True)
    if isinstance(value, Dict):
        return ["key", "value"], zip(items_of(value.keys()), items_of(value.values()), strict=True)
    if isinstance(value, Vector | List):
        return ["value"], ([item] for item in items_of(value))
    return ["value"], [[to_json_data(value)]]


def _csv_field(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else _json_text(value)


def _rows_by_name(table: Table) -> Iterator[dict[str, Any]]:
    names, columns = _contents(table)
    for row in zip(*columns, strict=True):
        yield dict(zip(names, row, strict=True))


def _contents(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Return the names of the columns, and the columns."""
    names = [name or "" for name in items_of(table.columns())]
    return names, [items_of(values) for values in table.values()]


def _json_text(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, allow_nan=False)


def _text(value: String | Symbol) -> str:
    try:
        return str(value.to_python())
    except UnicodeDecodeError as error:
        return bytes(error.object).decode("utf-8", "replace")
