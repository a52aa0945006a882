"""Parameters of a query from `-p NAME=VALUE`. The form of a value determines its type."""

import json
import re
from argparse import ArgumentTypeError
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from typing import Any

import numpy as np

from ._console import UsageError

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_TIME = re.compile(r"\d\d:\d\d(:\d\d(\.\d{1,6})?)?", re.ASCII)
_TIMESTAMP = re.compile(
    r"(?P<start>\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?)(?P<nanoseconds>\d{1,3})?(?P<zone>Z|[+-]\d\d:\d\d)?",
    re.ASCII,
)
_WORDS = {"true": True, "false": False, "null": None}


def parameter(text: str) -> tuple[str, Any]:
    """Parse a parameter `NAME=VALUE`; returns the name and the value.

    Raises:
        ArgumentTypeError: the name is missing or cannot be one, or the value looks like a number, JSON, a date or a
            time but is not valid.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise ArgumentTypeError(f"{text!r} is not of the form NAME=VALUE")
    if not _NAME.fullmatch(name):
        raise ArgumentTypeError(f"{name!r} cannot be the name of a parameter; use letters, digits and underscores")
    try:
        return name, _value(value)
    except ValueError as error:
        raise ArgumentTypeError(f"{name}={value}: {error}") from None


def parameters(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Return parameters by their names.

    Raises:
        UsageError: two parameters have the same name.
    """
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise UsageError(f"the parameter {name} is given twice")
        values[name] = value
    return values


def _value(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if text[:1] in ("[", "{", '"') or _NUMBER.fullmatch(text):
        value = json.loads(text)
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError("the number is outside the 64-bit range of the engine; write it with a decimal point")
        return value
    if _DATE.fullmatch(text):
        return date.fromisoformat(text)
    if _TIME.fullmatch(text):
        return time.fromisoformat(text)
    if found := _TIMESTAMP.fullmatch(text):
        return _timestamp(found)
    return text


def _timestamp(found: re.Match[str]) -> datetime | np.datetime64:
    moment = datetime.fromisoformat(found["start"] + (found["zone"] or ""))
    nanoseconds = found["nanoseconds"]
    if nanoseconds is None:
        return moment
    if moment.tzinfo is not None:
        moment = moment.astimezone(UTC).replace(tzinfo=None)
    if not 1678 <= moment.year <= 2261:  # the years of numpy's nanoseconds
        raise ValueError("a timestamp with nanoseconds must be between the years 1678 and 2261")
    return np.datetime64(moment, "ns") + np.timedelta64(int(nanoseconds.ljust(3, "0")), "ns")
