"""Values in a query: compiled SQL expressions, and literals and parameters as the engine's atoms and vectors.

Text is a String, which the engine compares with symbols and strings alike. Where it needs one or the other, the
compiler makes both, and the query chooses when it runs.
"""

import datetime as dt
import enum
import math
import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..._values._columns import read_columns
from ..._values._payloads import NULL, Buffer, i64, string, vector
from ..._values._types import EPOCH_DAYS, EPOCH_NANOSECONDS, HAS_NULLS, Type
from ...errors import RayforceConversionError, RayforceValueError, UnsupportedQuery

Encode = Callable[[Any, str], Buffer]
"""Returns the payload of a Python value; the str is the place of the value, for errors."""

_I64_NULL = -(2**63)
_NANOSECONDS = {"day": 86_400 * 10**9, "hour": 3600 * 10**9, "minute": 60 * 10**9, "second": 10**9}
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_TIMESTAMP = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:?\d\d)?")
_TIME = re.compile(r"(\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,3}))?")

UNITS = {
    **_NANOSECONDS,
    "week": 7 * _NANOSECONDS["day"],
    "millisecond": 10**6,
    "microsecond": 10**3,
}
"""Units of intervals that have a fixed length, in nanoseconds."""


_NULL_ITEMS = {
    Type.DATE: struct.pack("<i", -(2**31)),
    Type.TIME: struct.pack("<i", -(2**31)),
    Type.TIMESTAMP: struct.pack("<q", _I64_NULL),
}


class Kind(enum.Enum):
    """The kind of an expression, as far as it is known before the query runs."""

    UNKNOWN = enum.auto()
    """Not a constant; its type depends on the table."""
    NULL = enum.auto()
    BOOL = enum.auto()
    INT = enum.auto()
    FLOAT = enum.auto()
    TEXT = enum.auto()
    OTHER = enum.auto()
    """A constant of another type: a date, a GUID."""
    LIST = enum.auto()
    """A parameter with several values: a list, a dict or a table."""


_KINDS = {
    Type.B8: Kind.BOOL,
    Type.U8: Kind.INT,
    Type.I16: Kind.INT,
    Type.I32: Kind.INT,
    Type.I64: Kind.INT,
    Type.F32: Kind.FLOAT,
    Type.F64: Kind.FLOAT,
    Type.SYMBOL: Kind.TEXT,
    Type.STRING: Kind.TEXT,
}


@dataclass(frozen=True)
class Value:
    """A compiled expression.

    Attributes:
        payload: the Rayfall expression.
        kind: the known part of its type.
        nullable: whether it can be null.
        text: the text of a constant of kind `TEXT`.
        items: the values of a parameter of kind `LIST`, where they are text or None.
        column: the column's name, if the expression is a column and nothing else.
    """

    payload: Buffer
    kind: Kind = Kind.UNKNOWN
    nullable: bool = True
    text: str = ""
    items: tuple[str | None, ...] | None = None
    column: str | None = None

    @property
    def constant(self) -> bool:
        """Whether the value does not depend on the table."""
        return self.kind is not Kind.UNKNOWN


NULL_VALUE = Value(NULL, Kind.NULL)


def b8(value: bool) -> bytes:
    """Return a bool."""
    return struct.pack("<bB?", -Type.B8, 0, value)


def f64(value: float) -> bytes:
    """Return a 64-bit float."""
    return struct.pack("<bBd", -Type.F64, 0, value)


def date(text: str) -> bytes | None:
    """Return the date that an ISO text such as 2024-01-31 denotes, or None."""
    if not _DATE.fullmatch(text):
        return None
    try:
        days = dt.date.fromisoformat(text).toordinal() - dt.date(1970, 1, 1).toordinal() - EPOCH_DAYS
    except ValueError:
        return None
    return struct.pack("<bBi", -Type.DATE, 0, days)


def timestamp(text: str) -> bytes | None:
    """Return the timestamp, in UTC, that an ISO text denotes, or None; a date is its midnight."""
    if (day := date(text)) is not None:
        nanoseconds = struct.unpack("<i", day[2:])[0] * UNITS["day"]
    elif match := _TIMESTAMP.fullmatch(text):
        try:
            moment = dt.datetime.fromisoformat(f"{match[1]}T{match[2]}{match[4] or 'Z'}")
        except ValueError:
            return None
        since = moment - dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
        seconds = since.days * 86_400 + since.seconds
        nanoseconds = seconds * 10**9 + int((match[3] or "0").ljust(9, "0")) - EPOCH_NANOSECONDS
    else:
        return None
    if not _I64_NULL < nanoseconds < 2**63:
        return None
    return struct.pack("<bBq", -Type.TIMESTAMP, 0, nanoseconds)


def time(text: str) -> bytes | None:
    """Return the time of day that an ISO text such as 09:30:00.250 denotes, or None."""
    match = _TIME.fullmatch(text)
    if not match:
        return None
    try:
        clock = dt.time.fromisoformat(match[1])
    except ValueError:
        return None
    milliseconds = (clock.hour * 3600 + clock.minute * 60 + clock.second) * 1000 + int((match[2] or "0").ljust(3, "0"))
    return struct.pack("<bBi", -Type.TIME, 0, milliseconds)


def number(text: str) -> Value:
    """Return the number that an SQL literal denotes.

    Raises:
        RayforceValueError: an integer does not fit 64 bits.
    """
    if not text.isdigit():
        return Value(f64(float(text)), Kind.FLOAT, nullable=False)
    value = int(text)
    if value >= 2**63:
        raise RayforceValueError(f"the integer {text} does not fit 64 bits; write {text}.0 for a float")
    return integer(value)


def integer(value: int) -> Value:
    """Return a constant integer, which fits 64 bits."""
    return Value(i64(value), Kind.INT, nullable=False)


def text_value(text: str) -> Value:
    """Return constant text."""
    return Value(string(text), Kind.TEXT, nullable=False, text=text)


def atom_value(payload: Buffer) -> Value | None:
    """Return the constant that an atom's payload holds, or None if the payload is not an atom."""
    data = bytes(payload[:2])
    if payload == NULL:
        return NULL_VALUE
    code = struct.unpack_from("<b", data)[0]
    if code >= 0:
        return None
    type_code = Type(-code)
    if type_code is Type.SYMBOL:
        return text_value(bytes(payload[2:-1]).decode())
    if type_code is Type.STRING:
        return text_value(bytes(payload[10:]).decode())
    return Value(payload, _KINDS.get(type_code, Kind.OTHER), nullable=type_code not in (Type.B8, Type.U8))


def int_of(value: Value) -> int | None:
    """Return the integer that a constant holds, or None."""
    if value.kind is not Kind.INT:
        return None
    return int.from_bytes(bytes(value.payload[2:]), "little", signed=value.payload[0] != -Type.U8 & 0xFF)


def negated(value: Value) -> Value | None:
    """Return a constant number with the other sign, or None if the value is not a constant number."""
    if (whole := int_of(value)) is not None:
        return integer(-whole)
    if value.kind is Kind.FLOAT and len(value.payload) == 10:
        return Value(f64(-struct.unpack("<d", value.payload[2:])[0]), Kind.FLOAT, nullable=value.nullable)
    return None


def strings(texts: Sequence[str]) -> bytes:
    """Return a vector of strings."""
    return vector(Type.STRING, len(texts), [string(text)[2:] for text in texts])


def constants(values: Sequence[Value]) -> bytes | None:
    """Return the vector of constants that are not text, or None if they have no common type.

    Integers become floats among floats; nulls stay nulls, which is impossible among bools.
    """
    found = {value.kind for value in values} - {Kind.NULL}
    if found <= {Kind.INT, Kind.FLOAT}:
        nulls = HAS_NULLS if any(value.kind is Kind.NULL for value in values) else 0
        if Kind.FLOAT in found:
            return vector(Type.F64, len(values), [struct.pack("<d", _float_of(value)) for value in values], nulls)
        whole = [_I64_NULL if (one := int_of(value)) is None else one for value in values]
        return vector(Type.I64, len(values), [struct.pack("<q", one) for one in whole], nulls)
    codes = {value.payload[0] for value in values if value.kind is not Kind.NULL}
    if len(codes) != 1 or not found <= {Kind.BOOL, Kind.OTHER} or found == {Kind.BOOL} != {one.kind for one in values}:
        return None
    type_code = Type(256 - codes.pop())
    null = _NULL_ITEMS.get(type_code, bytes(16))
    items = [null if value.kind is Kind.NULL else value.payload[2:] for value in values]
    return vector(
        type_code, len(values), items, 0 if all(value.kind is not Kind.NULL for value in values) else HAS_NULLS
    )


def _float_of(value: Value) -> float:
    if (whole := int_of(value)) is not None:
        return float(whole)
    if value.kind is Kind.NULL:
        return math.nan
    return float(struct.unpack("<d" if len(value.payload) == 10 else "<f", value.payload[2:])[0])


class Parameters:
    """The parameters of a query and, once it is sent, their values.

    Args:
        values: the values by the parameters' names; None while the query is only checked.
        encode: encodes a value as a payload.

    Attributes:
        used: the names that the query has asked for.
    """

    def __init__(self, values: Mapping[str, Any] | None = None, encode: Encode | None = None) -> None:
        self._values = values
        self._encode = encode
        self.used: set[str] = set()

    def value(self, name: str) -> Value:
        """Return the value of a parameter. A list is refused, because the engine would evaluate it.

        Raises:
            RayforceValueError: the parameter has no value.
            RayforceConversionError: the value cannot be represented.
            UnsupportedQuery: the value is a list, a dict or a table.
        """
        value = self.one_or_several(name)
        if value.kind is Kind.LIST:
            raise UnsupportedQuery(
                f"the parameter :{name} must be a single value here; a list can only follow IN, and a table FROM"
            )
        return value

    def one_or_several(self, name: str) -> Value:
        """Return a parameter's value, which may be of kind `LIST`: the caller quotes its payload. Raises as `value`."""
        self.used.add(name)
        if self._values is None:
            return Value(NULL)
        if name not in self._values:
            raise RayforceValueError(f"the query uses the parameter :{name}, which has no value")
        return self._constant(name, self._values[name])

    def limit(self, name: str) -> int:
        """Return a parameter that is a number of rows.

        Raises:
            RayforceValueError: the parameter has no value, or its value is not an int of 0 or more.
        """
        value = self.one_or_several(name)
        if self._values is None:
            return 0
        rows = int_of(value)
        if rows is None or rows < 0:
            raise RayforceValueError(f"the parameter :{name} is a number of rows: it must be an int of 0 or more")
        return rows

    @property
    def checking(self) -> bool:
        """Whether the statement is compiled without values, only to check it."""
        return self._values is None

    def _constant(self, name: str, value: Any) -> Value:
        if value is None:
            return NULL_VALUE
        where = f"params[{name!r}]"
        if type(value) is str:
            return text_value(_checked(value, where))
        if isinstance(value, list | tuple) and all(item is None or type(item) is str for item in value):
            texts = (None if item is None else _checked(item, f"{where}[{at}]") for at, item in enumerate(value))
            return Value(NULL, Kind.LIST, items=tuple(texts))
        assert self._encode is not None, "who gives values gives an encoder"
        payload = self._encode(value, where)
        try:
            constant = atom_value(payload)
        except UnicodeDecodeError:
            raise RayforceConversionError(f"{where}: text in SQL must be UTF-8") from None
        if constant is not None:
            return constant
        return Value(payload, Kind.LIST, items=_texts(payload))


def _checked(text: str, where: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RayforceConversionError(f"{where}: UTF-8 cannot encode the str {text!r}") from None
    return text


def _texts(payload: Buffer) -> tuple[str | None, ...] | None:
    """Return the texts of a vector of symbols or strings, with None for null, or None if the payload is another."""
    if payload[0] not in (Type.SYMBOL, Type.STRING):
        return None
    return tuple(read_columns(payload).to_dict()["value"])
