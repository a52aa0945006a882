"""Payloads as the beginning of Rayfall text, for error messages.

A payload may be damaged or large: no more than the beginning of it is read, and damage ends the text.
"""

import datetime as dt
import struct
import uuid

from ._payloads import Buffer, name
from ._types import QUOTED, Type

ABBREVIATED_AT = 80
"""The longest text in characters; a longer one is cut."""

_VECTOR = struct.Struct("<BBq")
_NUMBERS = {
    Type.B8: struct.Struct("<?"),
    Type.U8: struct.Struct("<B"),
    Type.I16: struct.Struct("<h"),
    Type.I32: struct.Struct("<i"),
    Type.I64: struct.Struct("<q"),
    Type.F32: struct.Struct("<f"),
    Type.F64: struct.Struct("<d"),
    Type.DATE: struct.Struct("<i"),
    Type.TIME: struct.Struct("<i"),
    Type.TIMESTAMP: struct.Struct("<q"),
    Type.TIMESPAN: struct.Struct("<q"),
}
_NULLS = {Type.I16: -(2**15)} | {
    kind: -(2 ** (8 * _NUMBERS[kind].size - 1)) for kind in (Type.I32, Type.I64, Type.DATE, Type.TIME, Type.TIMESTAMP)
}
_NULL_TEXTS = {
    Type.I16: "0Nh",
    Type.I32: "0Ni",
    Type.I64: "0Nl",
    Type.DATE: "0Nd",
    Type.TIME: "0Nt",
    Type.TIMESTAMP: "0Np",
}
_EPOCH = dt.date(2000, 1, 1)
_DAY = 86_400 * 10**9  # nanoseconds
_FUNCTIONS = range(Type.FUNCTION + 1, Type.FUNCTION + 4)  # builtins of one, of two and of any number of arguments
_GUID_SIZE = 16
_QUOTE = name("quote")


class _Full(Exception):
    """The text is long enough."""


def abbreviated(text: str) -> str:
    """Return the beginning of a text, with three dots if there is more."""
    return text if len(text) <= ABBREVIATED_AT else f"{text[:ABBREVIATED_AT]}..."


def render(payload: Buffer) -> str:
    """Return the beginning of the Rayfall text of a payload, at most `ABBREVIATED_AT` characters and three dots."""
    renderer = _Renderer(memoryview(payload).cast("B"))
    try:
        renderer.value()
    except _Full:
        pass
    except (struct.error, LookupError, ValueError):  # too long for its beginning to be read, damaged, or unknown
        renderer.text += "..."
    return abbreviated(renderer.text)


class _Renderer:
    def __init__(self, payload: memoryview) -> None:
        self.text = ""
        self._payload = payload
        self._at = 0

    def value(self) -> None:
        code = self._payload[self._at]
        if code == Type.NULL:
            self._at += 1
            self._write("null")
        elif code in _FUNCTIONS:
            self._at += 1
            self._write(self._terminated())
        elif code >= 0x80:
            self._atom(Type(256 - code))
        elif code == Type.LIST:
            self._list()
        elif code in (Type.TABLE, Type.DICT):
            self._pairs(is_table=code == Type.TABLE)
        elif code == Type.FUNCTION:
            self._at += 2
            self._write("(fn ")
            self.value()
            self._items(self._count(), first=" ")
            self._write(")")
        else:
            self._vector(Type(code))

    def _write(self, text: str) -> None:
        self.text += text
        if len(self.text) > ABBREVIATED_AT:
            raise _Full

    def _count(self) -> int:
        _, _, count = _VECTOR.unpack_from(self._payload, self._at)
        self._at += _VECTOR.size
        return int(count)

    def _list(self) -> None:
        count = self._count()
        start = self._at
        if count == 2 and bytes(self._payload[start : start + len(_QUOTE)]) == _QUOTE:
            self._at += len(_QUOTE)
            self._write("'")
            self.value()
            return
        self._write("(")
        self._items(count)
        self._write(")")

    def _items(self, count: int, first: str = "") -> None:
        for index in range(count):
            self._write(" " if index else first)
            self.value()

    def _atom(self, kind: Type) -> None:
        attributes = self._payload[self._at + 1]
        self._at += 2
        if kind is Type.SYMBOL:
            self._write(("'" if attributes == QUOTED else "") + self._terminated())
        else:
            self._item(kind)

    def _vector(self, kind: Type) -> None:
        count = self._count()
        self._write("[")
        for index in range(count):
            self._write(" " if index else "")
            if kind is Type.SYMBOL:
                self._write(self._terminated())
            else:
                self._item(kind)
        self._write("]")

    def _item(self, kind: Type) -> None:
        if kind is Type.STRING:
            self._write(self._string())
        elif kind is Type.GUID:
            self._write(str(uuid.UUID(bytes=bytes(self._take(_GUID_SIZE)))))
        else:
            layout = _NUMBERS[kind]
            (number,) = layout.unpack(self._take(layout.size))
            self._write(_number(kind, number))

    def _take(self, size: int) -> memoryview:
        self._at += size
        return self._payload[self._at - size : self._at]

    def _string(self) -> str:
        (size,) = struct.unpack("<q", self._take(8))
        data = bytes(self._take(min(max(size, 0), 4 * ABBREVIATED_AT)))
        self._at += max(size, 0) - len(data)
        text = data.decode("utf-8", "replace")
        for character, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t")):
            text = text.replace(character, escaped)
        return f'"{text}"'

    def _terminated(self) -> str:
        beginning = bytes(self._payload[self._at : self._at + 4 * ABBREVIATED_AT])
        end = beginning.find(b"\0")
        if end < 0:  # longer than the text may be, or damaged
            self._write(beginning.decode("utf-8", "replace"))
            raise ValueError
        self._at += end + 1
        return beginning[:end].decode("utf-8", "replace")

    def _pairs(self, *, is_table: bool) -> None:
        self._at += 2
        if is_table:
            self._write("(table ")
            self.value()
            self._write(" ")
            self.value()
            self._write(")")
            return
        if self._payload[self._at] != Type.SYMBOL:
            self._write("(dict ")
            self.value()
            self._write(" ")
            self.value()
            self._write(")")
            return
        self._write("{")
        if (count := self._count()) > ABBREVIATED_AT:
            self._write(self._terminated())
            raise ValueError
        names = [self._terminated() for _ in range(count)]
        if self._payload[self._at] != Type.LIST or self._count() != count:
            raise ValueError
        for index, text in enumerate(names):
            self._write(f"{' ' if index else ''}{text}: ")
            self.value()
        self._write("}")


def _number(kind: Type, number: float) -> str:
    if number == _NULLS.get(kind):
        return _NULL_TEXTS[kind]
    if kind is Type.B8:
        return "true" if number else "false"
    if kind in (Type.F32, Type.F64):
        return "0Nf" if number != number else repr(number)
    whole = int(number)
    try:
        if kind is Type.DATE:
            return _date(whole)
        if kind is Type.TIME:
            return _clock(whole * 10**6, digits=3)
        if kind is Type.TIMESTAMP:
            days, nanoseconds = divmod(whole, _DAY)
            return f"{_date(days)}D{_clock(nanoseconds, digits=9)}"
    except OverflowError:  # outside Python's calendar
        pass
    return str(whole)


def _date(days: int) -> str:
    return (_EPOCH + dt.timedelta(days=days)).strftime("%Y.%m.%d")


def _clock(nanoseconds: int, *, digits: int) -> str:
    seconds, fraction = divmod(nanoseconds, 10**9)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02}:{minutes:02}:{seconds:02}.{fraction // 10 ** (9 - digits):0{digits}}"
