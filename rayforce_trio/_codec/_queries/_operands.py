"""The values and names of a query: values that the engine would evaluate are quoted, names are checked."""

import struct
from collections.abc import Mapping
from typing import Any

from rayforce import Operation
from rayforce.types.null import Null

from ..._values._payloads import Buffer, dict_of, list_of, quoted, symbols
from ..._values._python import encode_value
from ..._values._types import QUOTED, Type
from ...errors import RayforceConversionError, RayforceQueryCompilationError
from .._ffi import type_name
from .._objects import payload_of_object

COUNT = struct.Struct("<q")
"""The format of the number of items in the payload of a vector or list."""

COUNT_OFFSET = 2
"""The offset of `COUNT` in the payload of a vector or list."""

_SYMBOL_ATOM = -Type.SYMBOL & 0xFF


def value_payload(value: Any, where: str) -> Buffer:
    """Return the payload of a value; its evaluation may call functions, so use `data_payload` in code."""
    if isinstance(value, Operation) or value is Null:  # an Operation is also a str
        payload = payload_of_object(value)
        assert payload is not None
        return payload
    return encode_value(value, where, _object_at(where))


def cell_payload(value: Any, where: str) -> Buffer:
    """Return the payload of one value of a row. A list in it stays a list, as rayforce-py stores it."""
    if isinstance(value, list | tuple):
        return list_of([cell_payload(item, f"{where}[{index}]") for index, item in enumerate(value)])
    if isinstance(value, dict) and value:
        keys = value_payload([*value], f"{where}: the keys")
        if keys[0] != Type.LIST:
            return dict_of(keys, list_of([cell_payload(item, f"{where}[{key!r}]") for key, item in value.items()]))
    return value_payload(value, where)


def data_payload(value: Any, where: str) -> Buffer:
    """Return an expression that evaluates to a value of any kind."""
    return as_data(value_payload(value, where))


def as_data(payload: Buffer) -> Buffer:
    """Return an expression that evaluates to the value in a payload.

    The engine evaluates lists and names. It leaves atoms, vectors and tables as they are, and optimizes expressions
    that contain them without a quote.
    """
    kind = payload[0]
    if kind == _SYMBOL_ATOM:
        return payload if payload[1] == QUOTED else bytes([kind, QUOTED]) + payload[2:]
    return quoted(payload) if kind in (Type.LIST, Type.DICT) else payload


def _object_at(where: str) -> Any:
    def payload(value: Any) -> Buffer | None:
        try:
            return payload_of_object(value)
        except RayforceConversionError as error:
            raise RayforceConversionError(f"{where}: {error}") from None

    return payload


def checked_name(text: Any, where: str) -> str:
    """Return a name or column name if it can be sent.

    Raises:
        RayforceConversionError: the name is not a str, contains NUL, or cannot be encoded as UTF-8.
    """
    if not isinstance(text, str):
        raise RayforceConversionError(f"{where}: a name is a str, not {type_name(text)}")
    if "\0" in text:
        raise RayforceConversionError(f"{where}: the name {text!r} contains NUL")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RayforceConversionError(f"{where}: UTF-8 cannot encode the name {text!r}") from None
    return str(text)


def checked_names(texts: Any, where: str) -> list[str]:
    return [checked_name(text, where) for text in ([texts] if isinstance(texts, str) else texts)]


def clauses_payload(clauses: Mapping[str, Buffer]) -> bytes:
    return dict_of(symbols(clauses), list_of(list(clauses.values())))


def refuse_words(columns: Mapping[str, Any], words: frozenset[str], where: str) -> None:
    if taken := sorted(words.intersection(columns)):
        raise RayforceQueryCompilationError(
            f"{where}: a column cannot be named {taken[0]!r} here, because it is a clause of the query"
        )
