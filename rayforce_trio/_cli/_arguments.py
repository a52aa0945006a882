"""Arguments of several kinds: sizes, seconds, limits; and the address that they all are about."""

import math
import re
from argparse import ArgumentTypeError
from typing import Literal, NoReturn

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def size(text: str) -> int:
    """Return a number of bytes, given as `65536`, `64K`, `64M` or `1G`.

    Raises:
        ArgumentTypeError: it is none.
    """
    found = re.fullmatch(r"(\d+)([KMG]?)", text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no size; such look like 65536, 64K, 64M or 1G")
    return int(found[1]) * _UNITS[found[2].upper()]


def query_timeout(text: str) -> float | Literal["auto"] | None:
    """Return a number of seconds, `None` for 0, or `auto`.

    Raises:
        ArgumentTypeError: it is none of these.
    """
    if text == "auto":
        return "auto"
    return _number(text, "neither a number of seconds, nor 0, nor auto") or None


def grace(text: str) -> float:
    """Return a number of seconds, which may be 0.

    Raises:
        ArgumentTypeError: it is none.
    """
    return _number(text, "no number of seconds, 0 or above")


def seconds(text: str) -> float:
    """Return a positive number of seconds.

    Raises:
        ArgumentTypeError: it is none.
    """
    wrong = "no positive number of seconds"
    return _number(text, wrong) or _refuse(text, wrong)


def _number(text: str, wrong: str) -> float:
    """Return a number that is 0 or above."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    return value if 0 <= value < math.inf else _refuse(text, wrong)


def _refuse(text: str, wrong: str) -> NoReturn:
    raise ArgumentTypeError(f"{text!r} is {wrong}")


def limit(text: str) -> int | None:
    """Return a number above 0; 0 is no limit, which is `None`.

    Raises:
        ArgumentTypeError: it is none.
    """
    if not re.fullmatch(r"\d{1,9}", text, re.ASCII):
        raise ArgumentTypeError(f"{text!r} is no limit; such are numbers, and 0 for none")
    return int(text) or None
