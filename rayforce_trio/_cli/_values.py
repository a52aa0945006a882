"""Values as JSON data, for `--format json` and `--format csv` if a value has no columns."""

import json
from collections.abc import Iterator
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

from .. import columns_of, draw
from ._fields import json_item, json_items

_ATOMS = (B8, U8, I16, I32, I64, F32, F64, Date, Time, Timestamp, GUID)
_TEXTS = (String, Symbol)


def plain(value: Any) -> Any:
    """Return a value, as `execute` returns it, as what `json` can write: see docs/command_line.md."""
    if value is None or value is Null:
        return None
    if isinstance(value, Table):
        return list(records(value))
    if isinstance(value, Vector | List):
        return column(value)
    if isinstance(value, Dict):
        keys, values = column(value.keys()), column(value.values())
        if value.keys().get_type_code() in (-String.type_code, -Symbol.type_code):
            return dict(zip(keys, values, strict=True))
        return [list(pair) for pair in zip(keys, values, strict=True)]
    if isinstance(value, _TEXTS):
        return _text(value)
    if isinstance(value, _ATOMS):
        return json.loads(json_item(columns_of(Vector([value], ray_type=type(value)))))
    return draw(value)  # functions and operators


def records(table: Table) -> Iterator[dict[str, Any]]:
    """Yield the rows of a table, each with the columns' names."""
    names, columns = contents(table)
    for row in zip(*columns, strict=True):
        yield dict(zip(names, row, strict=True))


def contents(table: Table) -> tuple[list[str], list[list[Any]]]:
    """Return the names of the columns, and the columns."""
    return column(table.columns()), [column(values) for values in table.values()]


def column(values: Vector | List) -> list[Any]:
    """Return the items of a vector or list, each as `plain` returns it."""
    if isinstance(values, List):
        return [plain(value) for value in values]
    items: list[Any] = json.loads(f"[{','.join(json_items(columns_of(values)))}]")
    return items


def to_json(value: Any) -> str:
    """Return the JSON of what `plain` has returned, on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _text(value: String | Symbol) -> str:
    try:
        return str(value.to_python())
    except UnicodeDecodeError as error:
        return bytes(error.object).decode("utf-8", "replace")
