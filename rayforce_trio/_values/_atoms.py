"""Single values as payloads: Python and numpy scalars, null, and Rayforce objects, which the caller converts."""

import decimal
import enum
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ._numpy import array_vector, is_objects
from ._payloads import NULL, Buffer
from ._scalars import Unrepresentable, is_null_class, kind_of, type_name
from ._types import QUOTED, Type
from ._vectors import vector_payload

_VECTOR_HEADER = 10  # bytes: type code, attributes and count


def atom(value: Any, other: Callable[[Any], Buffer | None]) -> Buffer:
    """Return the payload of a single value, which is not a list, an array, bytes or a mapping.

    Args:
        value: a Python or numpy scalar, null, or a Rayforce object of any kind.
        other: returns the payload of a Rayforce object, and `None` for anything else.

    Raises:
        Unrepresentable: the value has another type, or is outside its type's range.
    """
    if (kind := kind_of(type(value))) is not None:
        return kind.atom(value)
    if is_null_class(type(value)):
        return NULL
    if isinstance(value, np.generic):
        return array_atom(np.asarray(value))
    if (payload := other(value)) is not None:
        return payload
    raise Unrepresentable(_advice(value))


def array_atom(array: np.ndarray[Any, Any]) -> bytes:
    """Return the payload of the value in an array of no dimensions that does not hold a Python object.

    Raises:
        Unrepresentable: the engine has no type for the array, or the value is outside its type's range.
    """
    assert array.ndim == 0, "an array with dimensions is a vector"
    assert not is_objects(array), "convert the Python object, not the array"
    try:
        one = array_vector(array.reshape(1))
    except Unrepresentable as found:
        raise Unrepresentable(found.problem) from None  # without an index
    if one.nulls is not None:
        return NULL
    items = vector_payload(one, f"numpy's {array.dtype}")[_VECTOR_HEADER:]
    return bytes([-one.type & 0xFF, QUOTED if one.type is Type.SYMBOL else 0]) + items


def _advice(value: object) -> str:
    """Return why a value cannot be represented, and what to write instead."""
    if isinstance(value, decimal.Decimal):
        return "the engine has no decimals; write float(value) or str(value)"
    if isinstance(value, enum.Enum):
        return f"{type_name(value)} is an enum member; write its .value"
    if isinstance(value, Iterable):
        return f"{type_name(value)} cannot be sent; write list(value)"
    return f"the engine has no type for {type_name(value)}; write a number, a str, a list or a dict"
