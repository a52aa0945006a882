"""Rayforce objects as columns."""

from typing import Any

from rayforce import Table, python_to_ray
from rayforce import _rayforce_c as ffi

from .._protocol import HEADER_SIZE
from .._values._columns import Columns, read_columns
from .._values._reader import NotColumns, UnknownType
from ..errors import RayforceConversionError


def columns_of(value: Any) -> Columns:
    """Return a table, vector or dict of vectors, as `execute` returns it, as columns.

    Args:
        value: what `execute` returned, or `VerboseResult.value`.

    Raises:
        RayforceConversionError: it has no columns, or two columns with one name.
    """
    try:
        serialized = ffi.ser_obj(value.ptr if isinstance(value, Table) else python_to_ray(value))
        return read_columns(memoryview(ffi.read_u8_vector(serialized))[HEADER_SIZE:])
    except NotColumns as error:
        raise RayforceConversionError(f"{error.kind} has no columns") from None
    except UnknownType as error:
        raise RayforceConversionError(f"a column has an unknown type: {error}") from None
    except RuntimeError as error:
        raise RayforceConversionError(f"the value cannot be read as columns: {error}") from None
