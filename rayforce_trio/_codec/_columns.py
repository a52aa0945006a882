"""Rayforce objects as columns."""

from typing import Any

from .._values._columns import Columns, read_columns
from .._values._reader import NotColumns, UnknownType
from ..errors import RayforceConversionError
from ._objects import payload_of_object


def columns_of(value: Any) -> Columns:
    """Return a value of `execute` as columns.

    Args:
        value: a table, a vector or a dict of vectors, as `execute` returns it.

    Raises:
        RayforceConversionError: the value has no columns, two columns have the same name, or a symbol contains NUL.
    """
    payload = payload_of_object(value)
    try:
        if payload is not None:
            return read_columns(payload)
    except NotColumns as error:
        raise RayforceConversionError(f"{error.kind} has no columns") from None
    except UnknownType as error:
        raise RayforceConversionError(f"a column has an unknown type: {error}") from None
    raise RayforceConversionError(f"a value of type {type(value).__name__} has no columns")
