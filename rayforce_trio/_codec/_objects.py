"""Rayforce objects as payloads, and the symbols in them that the wire cannot carry.

The engine's serialization ends a symbol at its first NUL. The server would read the bytes behind it as the next
value, and might evaluate them. Therefore every object is searched before it is serialized.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from rayforce import List, Operation, String, Table
from rayforce import _rayforce_c as ffi

from .._protocol import HEADER_SIZE, SIZED, Failure
from .._values._payloads import Buffer
from ..errors import RayforceConversionError
from ._ffi import WIDTHS, pointer_of, reraise, serialize

_NUL_PATTERN = String("*\0*")
_SHORT_LIST = 64  # items; shorter lists are searched item by item
_MAY_HOLD_SYMBOLS = frozenset({"SYM", "LIST", "DICT", "TABLE"})
_TABLE_PREFIX = 2 + 2 * SIZED.size  # type code and attributes, and the headers of the names and of the columns


def payload_of_object(value: Any) -> Buffer | None:
    """Return the payload of an object of rayforce-py; `None` if the value is another object.

    Raises:
        RayforceConversionError: a symbol in it contains NUL, the engine cannot serialize it, or it only
            names a table.
        RayforceThreadError: Rayforce was first imported in another thread.
    """
    if isinstance(value, Table) and value.is_reference:
        raise RayforceConversionError(
            f"Table({value._ptr!r}) names a table of the server and holds no data; fetch the table first"
        )
    try:
        if isinstance(value, Operation):
            return payload_of_pointer(value.primitive)
        pointer = value if isinstance(value, ffi.RayObject) else pointer_of(value)
        return None if pointer is None else payload_of_pointer(pointer)
    except RuntimeError as error:
        reraise(error)


def payload_of_pointer(pointer: ffi.RayObject) -> Buffer:
    """Return the payload of an object of rayforce-py's C module. Raises as `payload_of_object`."""
    if (symbol := symbol_with_nul(pointer)) is not None:
        raise RayforceConversionError(f"the symbol {symbol!r} contains NUL, which a symbol cannot; use a String")
    serialized = serialize(pointer)
    if isinstance(serialized, Failure):
        raise RayforceConversionError(f"the engine cannot serialize the object: {serialized}")
    return memoryview(ffi.read_u8_vector(serialized))[HEADER_SIZE:]


def symbol_with_nul(pointer: ffi.RayObject) -> str | None:
    """Return a symbol with a NUL in an object, or `None`.

    A function is not searched. Its text cannot contain a symbol with a NUL, and the engine hides its expressions.
    """
    waiting = [pointer]
    while waiting:
        value = waiting.pop()
        kind = ffi.get_obj_type(value)
        if kind == -ffi.TYPE_SYMBOL:
            if b"\0" in (text := _text(value)):
                return text.decode(errors="replace")
        elif kind == ffi.TYPE_SYMBOL:
            if _any_with_nul(value):
                return next(text for text in _texts(value) if b"\0" in text).decode(errors="replace")
        elif kind == ffi.TYPE_LIST:
            if _may_hold_symbols(value):
                waiting += _items(value)
        elif kind == ffi.TYPE_TABLE:
            waiting += [ffi.table_keys(value), ffi.table_values(value)]
        elif kind == ffi.TYPE_DICT:
            waiting += [ffi.dict_keys(value), ffi.dict_values(value)]
    return None


def lost_symbol(value: ffi.RayObject, frame: ffi.RayObject) -> str | None:
    """Return a symbol that the frame of a value truncates, because the symbol contains NUL, or `None`.

    The usual result has at most one column of symbols among columns of fixed width. The position of that column in the
    frame is then known. Counting the NULs there takes a fraction of the time of examining each symbol.
    """
    if abs(ffi.get_obj_type(value)) in WIDTHS:
        return None
    found = _place_of_symbols(value, ffi.get_obj_length(frame))
    if found is not None:
        start, end, count = found
        if _zeros(frame, start, end) == count:
            return None
    return symbol_with_nul(value)


def _place_of_symbols(value: ffi.RayObject, size: int) -> tuple[int, int, int] | None:
    """Return the start and end of the symbols in a frame, and their number; `None` unless they are in one place."""
    kind = ffi.get_obj_type(value)
    if kind == ffi.TYPE_SYMBOL:
        return HEADER_SIZE + SIZED.size, size, ffi.get_obj_length(value)
    if kind != ffi.TYPE_TABLE:
        return None
    columns = _items(ffi.table_values(value))
    widths = [WIDTHS.get(ffi.get_obj_type(column)) for column in columns]
    if widths.count(None) != 1:
        return None
    place = widths.index(None)
    names = list(_texts(ffi.table_keys(value)))
    if ffi.get_obj_type(columns[place]) != ffi.TYPE_SYMBOL or any(b"\0" in text for text in names):
        return None
    sizes = [
        SIZED.size + (width or 0) * ffi.get_obj_length(column) for column, width in zip(columns, widths, strict=True)
    ]
    before_columns = HEADER_SIZE + _TABLE_PREFIX + sum(len(text) + 1 for text in names)
    start = before_columns + sum(sizes[: place + 1])
    return start, size - sum(sizes[place + 1 :]), ffi.get_obj_length(columns[place])


def _zeros(frame: ffi.RayObject, start: int, end: int) -> int:
    data = np.frombuffer(ffi.read_u8_vector(ffi.vec_slice(frame, start, end - start)), np.uint8)
    return len(data) - int(np.count_nonzero(data))


def _any_with_nul(symbols: ffi.RayObject) -> bool:
    """Return whether a vector of symbols has one that contains NUL. The engine examines each distinct symbol once."""
    found = ffi.eval_obj(List([Operation.SUM, List([Operation.LIKE, symbols, _NUL_PATTERN])]).ptr)
    return ffi.get_obj_type(found) != -ffi.TYPE_I64 or ffi.read_i64(found) != 0


def _may_hold_symbols(values: ffi.RayObject) -> bool:
    """Return whether a list may hold symbols, judged by the types of its items if it is long."""
    if ffi.get_obj_length(values) <= _SHORT_LIST:
        return True
    types = List([Operation.DISTINCT, List([Operation.MAP, Operation.TYPE, List([Operation.QUOTE, values])])])
    return any(str(ffi.read_symbol(kind)).upper() in _MAY_HOLD_SYMBOLS for kind in _items(ffi.eval_obj(types.ptr)))


def _items(values: ffi.RayObject) -> list[ffi.RayObject]:
    return [ffi.at_idx(values, index) for index in range(ffi.get_obj_length(values))]


def _texts(symbols: ffi.RayObject) -> Iterator[bytes]:
    return (_text(ffi.at_idx(symbols, index)) for index in range(ffi.get_obj_length(symbols)))


def _text(symbol: ffi.RayObject) -> bytes:
    try:
        return str(ffi.read_symbol(symbol)).encode()
    except UnicodeDecodeError as error:  # a symbol need not be UTF-8
        return error.object
