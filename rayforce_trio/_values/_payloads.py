"""Payloads: values, and the expressions made of them, as bytes in the engine's wire format.

A payload is one value without a frame's header. Nothing here decides whether a list is data or code: `quoted` marks
data, `call` makes code.
"""

import struct
from collections.abc import Iterable, Sequence

from ._types import QUOTED, Type

Buffer = bytes | bytearray | memoryview
"""Bytes of a payload; large vectors are not copied until the message is joined."""

_HEADER = struct.Struct("<BBq")  # type code, attributes, number of items or bytes
_ATOM = struct.Struct("<bB")
_I64 = struct.Struct("<bBq")

NULL = bytes([Type.NULL])


def symbol(text: str) -> bytes:
    """Return a symbol that is data. The text must not contain NUL, which would end the symbol early."""
    return _ATOM.pack(-Type.SYMBOL, QUOTED) + _terminated(text)


def name(text: str) -> bytes:
    """Return a name, which the engine looks up when it evaluates the payload."""
    return _ATOM.pack(-Type.SYMBOL, 0) + _terminated(text)


def string(text: str | bytes) -> bytes:
    """Return a String; any bytes are allowed in it."""
    data = text.encode() if isinstance(text, str) else text
    return _HEADER.pack(-Type.STRING & 0xFF, 0, len(data)) + data


def i64(value: int) -> bytes:
    """Return a 64-bit integer."""
    return _I64.pack(-Type.I64, 0, value)


def vector(type_code: Type, count: int, items: Iterable[Buffer], attributes: int = 0) -> bytes:
    """Return a vector whose items are laid out already."""
    return b"".join([_HEADER.pack(type_code, attributes, count), *items])


def symbols(texts: Iterable[str]) -> bytes:
    """Return a vector of symbols."""
    items = [_terminated(text) for text in texts]
    return vector(Type.SYMBOL, len(items), items)


def list_of(payloads: Sequence[Buffer]) -> bytes:
    """Return a list. The engine evaluates it as a call of its first element: use `quoted` for data."""
    return b"".join([_HEADER.pack(Type.LIST, 0, len(payloads)), *payloads])


def dict_of(keys: Buffer, values: Buffer) -> bytes:
    """Return a dict of a vector of keys and a list, or vector, of values."""
    return b"".join([_ATOM.pack(Type.DICT, 0), keys, values])


def table_of(names: Iterable[str], columns: Sequence[Buffer]) -> bytes:
    """Return a table; each column is the payload of a vector or a list, all of one length."""
    return b"".join([_ATOM.pack(Type.TABLE, 0), symbols(names), list_of(columns)])


def call(function: str, *arguments: Buffer) -> bytes:
    """Return the expression that calls a function of the engine by its name."""
    return list_of([name(function), *arguments])


def quoted(payload: Buffer) -> bytes:
    """Return the expression that evaluates to the payload itself, whatever it contains."""
    return call("quote", payload)


def text_of_symbol(payload: Buffer) -> str | None:
    """Return the text of the symbol that is a whole payload, or `None` if the payload is something else."""
    if len(payload) < _ATOM.size + 1 or payload[0] != -Type.SYMBOL & 0xFF:
        return None
    return bytes(payload[_ATOM.size : -1]).decode("utf-8", "replace")


def _terminated(text: str) -> bytes:
    data = text.encode()
    assert b"\0" not in data, "callers check texts for NUL, so that their errors can name the text"
    return data + b"\0"
