"""Python values to payloads: a stand-in with the signature of the module to come."""

import datetime as dt
import struct
import uuid
from collections.abc import Callable
from typing import Any

from ..errors import RayforceConversionError
from ._payloads import NULL, Buffer, dict_of, i64, list_of, symbol, symbols, vector
from ._types import Type


def encode_value(value: Any, where: str, other: Callable[[Any], Buffer | None]) -> Buffer:
    if value is None:
        return NULL
    if isinstance(value, bool):
        return struct.pack("<bBB", -Type.B8, 0, value)
    if type(value) is int:
        if not -(2**63) <= value < 2**63:
            raise RayforceConversionError(f"{where}: the int {value} is outside the 64-bit range")
        return i64(value)
    if isinstance(value, float):
        return struct.pack("<bBd", -Type.F64, 0, value)
    if type(value) is str:
        if "\0" in value:
            raise RayforceConversionError(f"{where}: the str {value!r} contains NUL, which a symbol cannot; use String")
        try:
            return symbol(value)
        except UnicodeEncodeError:
            raise RayforceConversionError(f"{where}: the str {value!r} is no valid Unicode") from None
    if isinstance(value, dt.datetime):
        if value.tzinfo is None:
            value = value.replace(tzinfo=dt.UTC)
        delta = value - dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
        return struct.pack(
            "<bBq",
            -Type.TIMESTAMP,
            0,
            (delta.days * 86400 + delta.seconds) * 10**9 + delta.microseconds * 1000,
        )
    if isinstance(value, dt.date):
        return struct.pack("<bBi", -Type.DATE, 0, (value - dt.date(2000, 1, 1)).days)
    if isinstance(value, dt.time):
        return struct.pack(
            "<bBi",
            -Type.TIME,
            0,
            (value.hour * 3600 + value.minute * 60 + value.second) * 1000 + value.microsecond // 1000,
        )
    if isinstance(value, uuid.UUID):
        return struct.pack("<bB", -Type.GUID, 0) + value.bytes
    if type(value) in (list, tuple):
        if value and all(type(x) in (int, type(None)) for x in value) and any(x is not None for x in value):
            for x in value:
                encode_value(x, where, other)
            return vector(
                Type.I64,
                len(value),
                [struct.pack(f"<{len(value)}q", *[-(2**63) if x is None else x for x in value])],
                0x40 if None in value else 0,
            )
        if value and all(type(x) in (float, type(None)) for x in value) and any(x is not None for x in value):
            nan = float("nan")
            return vector(
                Type.F64,
                len(value),
                [struct.pack(f"<{len(value)}d", *[nan if x is None else x for x in value])],
                0x40 if None in value else 0,
            )
        if value and all(type(x) in (str, type(None)) for x in value) and any(x is not None for x in value):
            for i, x in enumerate(value):
                encode_value(x, f"{where}[{i}]", other)
            data = symbols(x or "" for x in value)
            return bytes([data[0], 0x40 if None in value else 0]) + data[2:]
        items = [encode_value(x, f"{where}[{i}]", other) for i, x in enumerate(value)]
        heads = {item[0] for item in items}
        if len(heads) == 1 and (code := 256 - next(iter(heads))) in (1, 2, 3, 4, 8, 9, 10, 11):
            return vector(Type(code), len(items), [item[2:] for item in items])
        return list_of(items)
    if isinstance(value, dict):
        if not all(type(k) is str for k in value):
            return dict_of(
                encode_value(list(value), where, other),
                list_of([encode_value(v, where, other) for v in value.values()]),
            )
        for k in value:
            encode_value(k, where, other)
        return dict_of(symbols(value), list_of([encode_value(v, f"{where}[{k!r}]", other) for k, v in value.items()]))
    payload = other(value)
    if payload is None:
        raise RayforceConversionError(f"{where}: a {type(value).__qualname__} cannot be sent as a value")
    return payload
