"""Values as JSON has them: what `--format json` and `--format csv` are made of."""

import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
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
    Operation,
    String,
    Symbol,
    Table,
    Time,
    Timestamp,
    Vector,
    eval_obj,
)
from rayforce.types.base import Scalar

from .. import draw

_NULL_I32 = -(2**31)
_NULL_I64 = -(2**63)
_EPOCH = np.datetime64("2000-01-01", "s")  # the engine's
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
        if _is_text(value.keys()):
            return dict(zip(keys, values, strict=True))
        return [list(pair) for pair in zip(keys, values, strict=True)]
    if isinstance(value, _TEXTS):
        return _text(value)
    for kind, (raw, convert) in _ATOMS.items():
        if isinstance(value, kind):
            return convert(raw(value))
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
    """Return the elements of a vector or list, each as `plain` returns it."""
    convert = _ELEMENTS.get(values.get_type_code())
    if convert is None or isinstance(values, List):
        empty = "" if _is_text(values) else None  # an empty string in a vector counts as a null there
        return [empty if value is Null else plain(value) for value in values]
    return [None if raw is Null else convert(raw) for raw in values.to_list()]


def to_json(value: Any) -> str:
    """Return the JSON of what `plain` has returned, on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _is_text(values: Vector | List) -> bool:
    return values.get_type_code() in (-String.type_code, -Symbol.type_code)


def _text(value: String | Symbol) -> str:
    try:
        return str(value.to_python())
    except UnicodeDecodeError as error:
        return bytes(error.object).decode("utf-8", "replace")


def _number(value: float) -> float | str | None:
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _short_number(value: float) -> float | str | None:
    return _number(float(str(np.float32(value))))  # 0.1, not 0.10000000149011612


def _date(days: int) -> str | None:
    return None if days == _NULL_I32 else str((_EPOCH + np.timedelta64(days, "D")).astype("datetime64[D]"))


def _time(milliseconds: int) -> str | None:
    if milliseconds == _NULL_I32:
        return None
    seconds, rest = divmod(abs(milliseconds), 1000)
    sign = "-" if milliseconds < 0 else ""
    return f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{rest:03}"


def _timestamp(nanoseconds: int) -> str | None:
    if nanoseconds == _NULL_I64:
        return None
    seconds, rest = divmod(nanoseconds, 10**9)  # numpy's own nanoseconds end in 2262, the engine's in 2292
    return f"{_EPOCH + np.timedelta64(seconds, 's')}.{rest:09}Z"


def _guid(guid: Any) -> str | None:
    return str(guid) if guid.int else None


def _low_32_bits(number: int) -> int:
    """Return what of a number the engine has written; rayforce-py 2.4.0 reads twice as much of dates and times."""
    return (number + 2**31) % 2**32 - 2**31


def _widened(value: F32) -> float:
    return float(eval_obj(List([Operation.ADD, value, 0.0])).to_python())  # rayforce-py 2.4.0 cannot read it directly


def _same(value: Any) -> Any:
    return value


_ATOMS: dict[type[Scalar], tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    **{kind: (kind.to_python, _same) for kind in (B8, U8, I16, I32, I64)},
    F32: (_widened, _short_number),
    F64: (F64.to_python, _number),
    Date: (lambda date: _low_32_bits(date.to_days()), _date),
    Time: (lambda time: _low_32_bits(time.to_millis()), _time),
    Timestamp: (Timestamp.to_millis, _timestamp),  # nanoseconds, in spite of its name
    GUID: (GUID.to_python, _guid),
}
"""For each kind of atom, what reads it and what converts what was read."""

_ELEMENTS: dict[int, Callable[[Any], Any]] = {
    -kind.type_code: bool if kind is B8 else convert for kind, (_, convert) in _ATOMS.items() if kind is not GUID
}
"""For each type of vector that is read at once, what converts an element."""
