"""Options of a server that make no sense are refused at once, with words that say what would."""

from typing import TypeGuard

from ..errors import RayforceValueError


def check_flag(name: str, value: object) -> None:
    """Raise `RayforceValueError` if an option is neither `True` nor `False`."""
    if not isinstance(value, bool):
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be True or False")


def check_limit(name: str, value: object) -> None:
    """Raise `RayforceValueError` if an option is neither a whole number above 0 nor `None`."""
    if value is not None and (type(value) is not int or value < 1):
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be a number above 0, or None for no limit")


def check_timeout(name: str, value: object, others: str = "") -> None:
    """Raise `RayforceValueError` if an option is no number of seconds above 0; its text names `others` that may be."""
    if not _is_number(value) or not value > 0:
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be a number of seconds above 0{others}")


def check_grace(name: str, value: object) -> None:
    """Raise `RayforceValueError` if an option is no number of seconds, 0 included."""
    if not _is_number(value) or not value >= 0:
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be a number of seconds, 0 or above")


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)
