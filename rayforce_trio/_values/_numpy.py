"""Numpy arrays and scalars as vectors."""

from collections.abc import Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ._scalars import INT_MAX, Unrepresentable, is_null_class
from ._sequences import encoded_texts_of, texts_of
from ._types import DTYPES, EPOCH_DAYS, EPOCH_NANOSECONDS, Type
from ._vectors import NULL_VALUES, FixedWidth, Vector, find_nulls

_TYPES = {
    "b1": Type.B8,
    "i1": Type.I16,
    "i2": Type.I16,
    "i4": Type.I32,
    "i8": Type.I64,
    "u1": Type.U8,
    "u2": Type.I32,
    "u4": Type.I64,
    "u8": Type.I64,
    "f2": Type.F32,
    "f4": Type.F32,
    "f8": Type.F64,
    "V16": Type.GUID,
}
_NANOSECONDS = {
    "W": 7 * 86_400 * 10**9,
    "D": 86_400 * 10**9,
    "h": 3600 * 10**9,
    "m": 60 * 10**9,
    "s": 10**9,
    "ms": 10**6,
    "us": 1000,
    "ns": 1,
}
_PARTS_OF_NANOSECOND = {"ps": 1000, "fs": 10**6, "as": 10**9}
_INT32_MAX = 2**31 - 1


def is_objects(array: NDArray[Any]) -> bool:
    """Return whether an array holds Python objects; read its `tolist()` as a list."""
    return array.dtype.kind == "O"


def array_of_scalars(values: Sequence[Any], classes: Set[type]) -> NDArray[Any] | None:
    """Return numpy's numbers or bools of one type as an array, with nulls masked; `None` if the values are others.

    Args:
        classes: those of the values.
    """
    present = {cls for cls in classes if not is_null_class(cls)}
    cls = present.pop() if len(present) == 1 else None
    if cls is None or not issubclass(cls, np.number | np.bool_) or issubclass(cls, np.timedelta64):
        return None
    if len(classes) == 1:
        return np.fromiter(values, cls, len(values))
    nulls = [is_null_class(type(value)) for value in values]
    numbers = (cls(0) if null else value for value, null in zip(values, nulls, strict=True))
    return np.ma.array(np.fromiter(numbers, cls, len(values)), mask=nulls)


def array_vector(array: NDArray[Any]) -> Vector:
    """Return the vector of an array of one dimension that does not hold Python objects.

    Masked values, NaT and NaN are null.

    Raises:
        Unrepresentable: the engine has no type for the array, or a value is outside its type's range.
    """
    if array.ndim != 1:
        raise Unrepresentable(f"an array of {array.ndim} dimensions is not a vector; write a list of its rows")
    masked = np.ma.getmask(array)
    nulls = np.asarray(masked, np.bool_) if masked.any() else None
    plain = np.ma.getdata(array)
    match plain.dtype.kind:
        case "M":
            return _datetimes(plain, nulls)
        case "m":
            return _timespans(plain, nulls)
        case "U" | "T":
            return _symbols(plain.tolist(), nulls)
        case "S":
            texts = plain.tolist() if nulls is None else np.where(nulls, b"", plain).tolist()
            return encoded_texts_of(texts, Type.STRING, nulls)
    if plain.dtype.fields is not None or (code := plain.dtype.str[1:]) not in _TYPES:
        raise Unrepresentable(f"the engine has no type for numpy's {plain.dtype}; convert the array with astype()")
    if code == "u8" and (plain > INT_MAX).any():
        index = int((plain > INT_MAX).argmax())
        raise Unrepresentable(
            f"the uint64 {plain[index]} is outside the 64-bit range of the engine; write a float", index
        )
    kind = _TYPES[code]
    values = plain.astype(DTYPES[kind], copy=False)
    if kind in NULL_VALUES and values.dtype.kind != "f":
        mistaken = find_nulls(kind, values) if nulls is None else find_nulls(kind, values) & ~nulls
        if mistaken.any():
            index = int(mistaken.argmax())
            shown = "nil UUID" if kind is Type.GUID else f"{plain.dtype} {values[index]}"
            raise Unrepresentable(f"the engine treats the {shown} as null; write None for null", index)
    return FixedWidth(kind, values, nulls)


def _symbols(texts: list[str], nulls: NDArray[np.bool_] | None) -> Vector:
    if nulls is not None:
        texts = ["" if null else text for text, null in zip(texts, nulls.tolist(), strict=True)]
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise Unrepresentable("numpy's StringDType has a missing text here; write a list with None for null", index)
    return texts_of(texts, Type.SYMBOL, nulls)


def _datetimes(values: NDArray[Any], masked: NDArray[np.bool_] | None) -> Vector:
    nulls = _nulls(values, masked)
    unit, _ = np.datetime_data(values.dtype)
    if unit in ("Y", "M", "W", "D"):
        days = _checked(values.astype(np.int64), nulls, -_INT32_MAX, _INT32_MAX, values)
        days = days.astype(values.dtype).astype("M8[D]").astype(np.int64) - EPOCH_DAYS
        days = _checked(days, nulls, -_INT32_MAX, _INT32_MAX, values)
        return FixedWidth(Type.DATE, days.astype(DTYPES[Type.DATE]), nulls)
    return FixedWidth(Type.TIMESTAMP, _nanoseconds(values, nulls, EPOCH_NANOSECONDS), nulls)


def _timespans(values: NDArray[Any], masked: NDArray[np.bool_] | None) -> Vector:
    nulls = _nulls(values, masked)
    return FixedWidth(Type.TIMESPAN, _nanoseconds(values, nulls, 0), nulls)


def _nulls(values: NDArray[Any], masked: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    nulls = np.isnat(values) if masked is None else np.isnat(values) | masked
    return nulls if nulls.any() else None


def _nanoseconds(values: NDArray[Any], nulls: NDArray[np.bool_] | None, epoch: int) -> NDArray[np.int64]:
    """Return times as nanoseconds since an epoch, which is given in nanoseconds since 1970."""
    unit, count = np.datetime_data(values.dtype)
    numbers = values.astype(np.int64)
    if unit in _PARTS_OF_NANOSECOND and count == 1:
        whole, rest = np.divmod(numbers, _PARTS_OF_NANOSECOND[unit])
        _checked(rest, nulls, 0, 0, values)
        return whole - epoch
    if unit not in _NANOSECONDS:
        if nulls is not None and nulls.all():
            return np.zeros(len(values), np.int64)
        raise Unrepresentable(f"the engine has no type for numpy's {values.dtype}; convert the array with astype()")
    factor = _NANOSECONDS[unit] * count
    checked = _checked(numbers, nulls, -((INT_MAX - epoch) // factor), (INT_MAX + epoch) // factor, values)
    return checked * factor - epoch  # the product may wrap around where the difference does not


def _checked(
    numbers: NDArray[np.int64], nulls: NDArray[np.bool_] | None, low: int, high: int, values: NDArray[Any]
) -> NDArray[np.int64]:
    """Return the numbers, with 0 for null. Raises `Unrepresentable` for a number out of range."""
    if nulls is not None:
        numbers = np.where(nulls, 0, numbers)
    outside = (numbers < max(low, -INT_MAX)) | (numbers > min(high, INT_MAX))
    if outside.any():
        index = int(outside.argmax())
        raise Unrepresentable(
            f"the {values.dtype} {values[index]} is outside the engine's range or precision; convert it with astype()",
            index,
        )
    return numbers
