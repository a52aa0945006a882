"""Rayforce objects as payloads, and the symbols in them that the wire cannot carry.

The engine's serialization ends a symbol at its first NUL. The server would read the bytes behind it as the next
value, and might evaluate them. Therefore every object is searched before it is serialized.
"""

from collections.abc import Iterator
from typing import Any

from rayforce import List, Operation, String
from rayforce import _rayforce_c as ffi

from .._protocol import HEADER_SIZE, Failure, MessageType
from .._values._payloads import Buffer
from ..errors import RayforceConversionError
from ._ffi import pointer_of, serialize

_NUL_PATTERN = String("*\0*")


def payload_of_object(value: Any) -> Buffer | None:
    """Return the payload of an object of rayforce-py; `None` if the value is no such object.

    Raises:
        RayforceConversionError: a symbol in it contains NUL, or the engine cannot serialize it.
    """
    if isinstance(value, ffi.RayObject):
        return payload_of_pointer(value)
    if isinstance(value, Operation):
        return payload_of_pointer(value.primitive)
    pointer = pointer_of(value)
    return None if pointer is None else payload_of_pointer(pointer)


def payload_of_pointer(pointer: ffi.RayObject) -> Buffer:
    """Return the payload of an object of rayforce-py's C module. Raises as `payload_of_object`."""
    if (symbol := symbol_with_nul(pointer)) is not None:
        raise RayforceConversionError(f"the symbol {symbol!r} contains NUL, which a symbol cannot; use a String")
    serialized = serialize(pointer, MessageType.ASYNC)
    if isinstance(serialized, Failure):
        raise RayforceConversionError(f"the engine cannot serialize the object: {serialized}")
    return memoryview(ffi.read_u8_vector(serialized))[HEADER_SIZE:]


def symbol_with_nul(pointer: ffi.RayObject) -> str | None:
    """Return a symbol in an object that contains NUL; `None` if there is none.

    A function is not searched: its text cannot contain such a symbol, and the engine does not show its expressions.
    """
    waiting = [pointer]
    while waiting:
        value = waiting.pop()
        kind = ffi.get_obj_type(value)
        if kind == -ffi.TYPE_SYMBOL:
            if "\0" in (text := str(ffi.read_symbol(value))):
                return text
        elif kind == ffi.TYPE_SYMBOL:
            if _any_with_nul(value):
                return next(text for text in _symbols(value) if "\0" in text)
        elif kind == ffi.TYPE_LIST:
            waiting += [ffi.at_idx(value, index) for index in range(ffi.get_obj_length(value))]
        elif kind == ffi.TYPE_TABLE:
            waiting += [ffi.table_keys(value), ffi.table_values(value)]
        elif kind == ffi.TYPE_DICT:
            waiting += [ffi.dict_keys(value), ffi.dict_values(value)]
    return None


def _any_with_nul(symbols: ffi.RayObject) -> bool:
    """Return whether a vector of symbols has one that contains NUL. The engine looks at each distinct symbol once."""
    found = ffi.eval_obj(List([Operation.SUM, List([Operation.LIKE, symbols, _NUL_PATTERN])]).ptr)
    return ffi.get_obj_type(found) != -ffi.TYPE_I64 or ffi.read_i64(found) != 0


def _symbols(symbols: ffi.RayObject) -> Iterator[str]:
    return (str(ffi.read_symbol(ffi.at_idx(symbols, index))) for index in range(ffi.get_obj_length(symbols)))
