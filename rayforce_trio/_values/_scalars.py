"""Python scalars: the engine's type for each Python type, and values in the engine's units.

`_numpy` converts numpy scalars, as arrays without dimensions. Only the caller knows Rayforce objects.
"""

import datetime as dt
import struct
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType
from typing import Any

from ._payloads import symbol
from ._types import EPOCH_DAYS, Type

INT_MAX = 2**63 - 1
"""The largest 64-bit integer. The smallest one that is a value is `-INT_MAX`; the one below stands for null."""

_EPOCH_ORDINAL = dt.date(1970, 1, 1).toordinal() + EPOCH_DAYS
_MICROSECOND = dt.timedelta(microseconds=1)
_SHOWN_BITS = 256  # Python refuses to show very long ints
_FORMATS = {
    Type.B8: "<bB?",
    Type.I64: "<bBq",
    Type.F64: "<bBd",
    Type.DATE: "<bBi",
    Type.TIME: "<bBi",
    Type.TIMESTAMP: "<bBq",
    Type.TIMESPAN: "<bBq",
    Type.GUID: "<bB16s",
}


class Unrepresentable(Exception):
    """A value that Rayforce cannot represent. Callers turn it into a `RayforceConversionError` that says where it is.

    Attributes:
        problem: a sentence about the value, with what to write instead.
        index: the position of the value in the sequence that was converted; `None` if it is the value itself.
    """

    def __init__(self, problem: str, index: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.index = index


@dataclass(frozen=True, slots=True)
class Kind:
    """How values of a Python type are represented.

    Attributes:
        type: the type of a vector of these values.
        item: returns a value in the engine's units: a number, the bytes of a GUID, or the text of a symbol.
            Raises `Unrepresentable`.
    """

    type: Type
    item: Callable[[Any], Any]

    def atom(self, value: Any) -> bytes:
        """Return the payload of one value. Raises `Unrepresentable`."""
        item = self.item(value)
        return symbol(item) if self.type is Type.SYMBOL else struct.pack(_FORMATS[self.type], -self.type, 0, item)


def kind_of(cls: type) -> Kind | None:
    """Return how values of a class are represented; `None` if they are null, not scalars or unknown."""
    if (kind := _KINDS.get(cls)) is None and not is_null_class(cls):
        kind = next((_KINDS[base] for base in cls.__mro__ if base in _KINDS), None)
    return kind


def is_null_class(cls: type) -> bool:
    """Return whether a value of this class is null: `None`, `pandas.NA` or `pandas.NaT`."""
    return cls is NoneType or (cls.__name__ in ("NaTType", "NAType") and cls.__module__.partition(".")[0] == "pandas")


def type_name(value: object) -> str:
    """Return the name of a value's type with an article, for errors."""
    cls = type(value)
    name = cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _int(value: int) -> int:
    number = int.__index__(value)
    if -INT_MAX <= number <= INT_MAX:
        return number
    if number == -INT_MAX - 1:
        raise Unrepresentable(f"the engine treats the int {number} as null; write None for null")
    shown = str(number) if number.bit_length() <= _SHOWN_BITS else f"of {number.bit_length()} bits"
    raise Unrepresentable(f"the int {shown} is outside the 64-bit range of the engine; write a float or a str")


def _timestamp(value: dt.datetime) -> int:
    seconds = (value.toordinal() - _EPOCH_ORDINAL) * 86_400 + value.hour * 3600 + value.minute * 60 + value.second
    microseconds = seconds * 1_000_000 + value.microsecond
    if (offset := value.utcoffset()) is not None:
        microseconds -= offset // _MICROSECOND
    nanoseconds = microseconds * 1000
    if type(value) is not dt.datetime:
        nanoseconds += getattr(value, "nanosecond", 0)  # of a pandas.Timestamp
    if abs(nanoseconds) > INT_MAX:
        raise Unrepresentable(
            f"the timestamp {value} is outside the engine's range, 1707-09-22 to 2292-04-10; write a date or a str"
        )
    return nanoseconds


def _date(value: dt.date) -> int:
    return value.toordinal() - _EPOCH_ORDINAL


def _time(value: dt.time) -> int:
    if value.tzinfo is not None:
        raise Unrepresentable(f"the time {value} has a time zone, which needs a date; write a datetime, or remove it")
    milliseconds, rest = divmod(value.microsecond, 1000)
    if rest:
        raise Unrepresentable(f"the time {value} is finer than the engine's milliseconds; round it")
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 1000 + milliseconds


def _timespan(value: dt.timedelta) -> int:
    nanoseconds = ((value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds) * 1000
    if type(value) is not dt.timedelta:
        nanoseconds += getattr(value, "nanoseconds", 0)  # of a pandas.Timedelta
    if abs(nanoseconds) > INT_MAX:
        raise Unrepresentable(
            f"the timedelta {value} is outside the engine's range of 292 years; write a float or an int"
        )
    return nanoseconds


def _guid(value: uuid.UUID) -> bytes:
    if not value.int:
        raise Unrepresentable("the engine treats the nil UUID as null; write None for null")
    return value.bytes


def _symbol(value: str) -> str:
    text = str.__str__(value)
    if "\0" in text:
        raise Unrepresentable(
            f"a symbol cannot contain the character NUL: {_shortened(text)}; write String(value) instead"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise Unrepresentable(
            f"the str {_shortened(text)} contains a lone surrogate, which UTF-8 cannot encode; write bytes"
        ) from None
    return text


def _shortened(text: str) -> str:
    return ascii(text) if len(text) <= 40 else f"{text[:40]!a}..."


BOOL = Kind(Type.B8, bool)
INT = Kind(Type.I64, _int)
FLOAT = Kind(Type.F64, float)
SYMBOL = Kind(Type.SYMBOL, _symbol)
DATETIME = Kind(Type.TIMESTAMP, _timestamp)
TIMEDELTA = Kind(Type.TIMESPAN, _timespan)

_KINDS = {
    bool: BOOL,
    int: INT,
    float: FLOAT,
    str: SYMBOL,
    dt.datetime: DATETIME,
    dt.date: Kind(Type.DATE, _date),
    dt.time: Kind(Type.TIME, _time),
    dt.timedelta: TIMEDELTA,
    uuid.UUID: Kind(Type.GUID, _guid),
}
