"""Checks of a server's options. Each raises an error that names the option and the values it may have."""

from typing import TypeGuard

from ..errors import RayforceValueError

MIN_REPLY_SIZE = 1024 * 1024
"""The lowest limit on the size of a reply, in bytes. Shorter replies are sent without being looked at."""


def check_limit(name: str, value: object) -> None:
    """Raise `RayforceValueError` if the option `name` is neither a positive int nor `None`."""
    if value is not None and (type(value) is not int or value < 1):
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be an int above 0, or None for no limit")


def check_size_option(name: str, value: object, *, lowest: int) -> None:
    """Raise `RayforceValueError` if the option `name` is not an int of at least `lowest`."""
    if type(value) is not int or value < lowest:
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be a number of bytes, an int of at least {lowest}")


def check_reply_size(value: object) -> None:
    """Raise `RayforceValueError` if `max_reply_size` is neither `None` nor an int of at least 1 MiB."""
    if value is not None and (type(value) is not int or value < MIN_REPLY_SIZE):
        raise RayforceValueError(
            f"Invalid max_reply_size: {value!r}. Must be a number of bytes, an int of at least {MIN_REPLY_SIZE}, or "
            "None "
            "for no limit"
        )


def check_timeout(name: str, value: object, others: str = "") -> None:
    """Raise `RayforceValueError` if the option `name` is not a positive number of seconds.

    Args:
        others: further values that the option may have, for the text of the error.
    """
    if not _is_number(value) or not value > 0:
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be a number of seconds above 0{others}")


def check_grace(name: str, value: object) -> None:
    """Raise `RayforceValueError` if the option `name` is not a number of seconds, 0 or above."""
    if not _is_number(value) or not value >= 0:
        raise RayforceValueError(f"Invalid {name}: {value!r}. Must be a number of seconds, at least 0")


def _is_number(value: object) -> TypeGuard[float]:
    return type(value) in (int, float)
