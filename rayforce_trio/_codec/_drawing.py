"""Values as the engine's own shell shows them."""

from typing import Any

from rayforce import Table, python_to_ray
from rayforce import _rayforce_c as ffi

from ..errors import RayforceConversionError


def draw(value: Any) -> str:
    """Return a value as the engine's own shell draws it: tables with borders, long values abbreviated.

    Args:
        value: a value that `execute` returned, or `VerboseResult.value`.

    Raises:
        RayforceConversionError: the engine cannot represent the value.
    """
    try:
        return str(ffi.repr_table(value.ptr if isinstance(value, Table) else python_to_ray(value)))
    except UnicodeDecodeError as error:  # the engine cuts long strings at any byte
        return bytes(error.object).decode("utf-8", "replace")
    except RuntimeError as error:
        raise RayforceConversionError(f"the value cannot be drawn: {error}") from None
