"""Lossless casts of vectors to the types of a table's columns."""

from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from ..errors import RayforceConversionError
from ._decoding import to_list
from ._reader import FixedColumn
from ._scalars import INT_MAX
from ._types import DTYPES, Type
from ._vectors import FixedWidth, Texts, Vector

_INTEGERS = frozenset({Type.U8, Type.I16, Type.I32, Type.I64})
_FLOATS = frozenset({Type.F32, Type.F64})
_TEXTS = frozenset({Type.SYMBOL, Type.STRING})
_WITHOUT_NULL = frozenset({Type.B8, Type.U8})
_NANOSECONDS = {  # per unit of each type
    Type.DATE: 86_400 * 10**9,
    Type.TIMESTAMP: 1,
    Type.TIME: 10**6,
    Type.TIMESPAN: 1,
}
_SAME_QUANTITY = (frozenset({Type.DATE, Type.TIMESTAMP}), frozenset({Type.TIME, Type.TIMESPAN}))
_SHOWN = 40  # characters of a text in an error


def cast_vector(values: Vector, target: Type, where: str, first_row: int = 0) -> Vector:
    """Cast a vector to another type, if no value changes.

    There are casts among numbers, between SYMBOL and STRING, between DATE and TIMESTAMP (at midnight), and between TIME
    and TIMESPAN (of whole milliseconds). Null becomes null; NaN counts as null. A vector that holds only nulls can be
    cast to any type that has null.

    Args:
        where: the name of the vector in errors: `column 'px'`.
        first_row: the number of the vector's first row, for errors.

    Raises:
        RayforceConversionError: the cast does not exist, or a value would change; the error names the row, the
            value and both types.
    """
    if values.type is target:
        return values
    nulls = _nulls(values)
    if nulls.any() and target in _WITHOUT_NULL:
        row = first_row + int(nulls.argmax())
        raise RayforceConversionError(f"{where}, row {row}: null, but {target.name} has no null value")
    if nulls.all():
        return _all_null(target, len(values))
    found = nulls if nulls.any() else None
    if isinstance(values, Texts):
        if target in _TEXTS:
            return replace(values.plain(), type=target)
        _refuse(values, int((~nulls).argmax()), target, where, first_row)
    items = values.values if found is None else np.where(nulls, np.zeros(1, values.values.dtype), values.values)
    with np.errstate(all="ignore"):
        cast, same = _cast(values.type, items, target)
    if not same.all():
        _refuse(values, int((~same).argmax()) if cast is not None else int((~nulls).argmax()), target, where, first_row)
    assert cast is not None
    return FixedWidth(target, cast, found)


def _nulls(values: Vector) -> NDArray[np.bool_]:
    nulls = np.zeros(len(values), np.bool_) if values.nulls is None else values.nulls
    if values.type in _FLOATS and isinstance(values, FixedWidth):
        nulls = nulls | np.isnan(values.values)
    return nulls


def _all_null(target: Type, count: int) -> Vector:
    nulls = np.ones(count, np.bool_)
    if target in _TEXTS:
        return Texts(target, np.zeros(0, np.uint8), np.zeros(count + 1, np.int64), nulls)
    return FixedWidth(target, np.zeros(count, DTYPES[target]), nulls)


def _cast(source: Type, items: NDArray[Any], target: Type) -> tuple[NDArray[Any] | None, NDArray[np.bool_]]:
    """Return the cast items, and a mask of those that kept their value; `None` if the cast does not exist."""
    if source in _INTEGERS and target in _INTEGERS:
        return _bounded(items.astype(np.int64), target)
    if source in _INTEGERS and target in _FLOATS:
        cast = items.astype(DTYPES[target])
        return cast, _as_int64(cast) == items
    if source in _FLOATS and target in _INTEGERS:
        numbers = _as_int64(items)
        cast, same = _bounded(numbers, target)
        return cast, same & (numbers == items)
    if source in _FLOATS and target in _FLOATS:
        cast = items.astype(DTYPES[target])
        return cast, cast == items
    if {source, target} in _SAME_QUANTITY:
        return _rescaled(items.astype(np.int64), _NANOSECONDS[source], _NANOSECONDS[target], target)
    return None, np.zeros(len(items), np.bool_)


def _as_int64(floats: NDArray[Any]) -> NDArray[np.int64]:
    """Truncate floats to integers. Floats outside the range become 0, which never equals them."""
    return np.where(np.abs(floats) < 2.0**63, floats, 0).astype(np.int64)


def _bounded(numbers: NDArray[np.int64], target: Type) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    limits = np.iinfo(DTYPES[target])
    low = int(limits.min) + (target not in _WITHOUT_NULL)  # the minimum stands for null
    return numbers.astype(DTYPES[target]), (numbers >= low) & (numbers <= int(limits.max))


def _rescaled(
    numbers: NDArray[np.int64], unit: int, target_unit: int, target: Type
) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    if unit < target_unit:
        whole, rest = np.divmod(numbers, target_unit)
        cast, same = _bounded(whole, target)
        return cast, same & (rest == 0)
    return numbers * unit, np.abs(numbers) <= INT_MAX // unit


def _refuse(values: Vector, row: int, target: Type, where: str, first_row: int) -> NoReturn:
    raise RayforceConversionError(
        f"{where}, row {first_row + row}: the {values.type.name} {_shown(values, row, where)} cannot be stored as "
        f"{target.name} without a change"
    )


def _shown(values: Vector, row: int, where: str) -> str:
    if isinstance(values, Texts):
        values = values.plain()
        text = values.data[values.offsets[row] : values.offsets[row + 1]].tobytes().decode(errors="replace")
        return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."
    value = to_list(where, FixedColumn(values.type, False, values.values[row : row + 1]))[0]
    return repr(value) if isinstance(value, float | bool) else str(value)
