"""Checks of arguments that the client, the server and the engines share. The errors name the argument."""

from collections.abc import Iterable
from typing import Any

from .errors import RayforceValueError


def check_flag(name: str, value: object) -> None:
    """Raise `RayforceValueError` if the argument `name` is not a bool."""
    if not isinstance(value, bool):
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be True or False")


def list_argument(name: str, value: object, items: str) -> list[Any]:
    """Return the items of an iterable argument.

    Args:
        name: the name of the argument.
        value: the argument.
        items: the plural noun for the items, for the text of the error.

    Raises:
        RayforceValueError: it is a single str or bytes, or not iterable.
    """
    if isinstance(value, str):
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be a list; write [{value!r}]")
    if not isinstance(value, Iterable) or isinstance(value, bytes | type):
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be a list of {items}")
    return list(value)
