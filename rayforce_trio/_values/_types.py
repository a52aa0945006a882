"""The engine's types: their codes on the wire, and how their items are laid out.

Measured on rayforce-py 2.4.0 (core 3.0.1, wire version 3).
"""

import enum
from types import MappingProxyType

import numpy as np


class Type(enum.IntEnum):
    """The type code of a vector or a compound value; an atom has the negative code."""

    LIST = 0
    B8 = 1
    U8 = 2
    I16 = 3
    I32 = 4
    I64 = 5
    F32 = 6
    F64 = 7
    DATE = 8
    TIME = 9
    TIMESTAMP = 10
    GUID = 11
    SYMBOL = 12
    STRING = 13
    TIMESPAN = 16
    TABLE = 98
    DICT = 99
    FUNCTION = 100
    NULL = 0x7E
    ERROR = 0x7F


DTYPES = MappingProxyType(
    {
        Type.B8: np.dtype("?"),
        Type.U8: np.dtype("u1"),
        Type.I16: np.dtype("<i2"),
        Type.I32: np.dtype("<i4"),
        Type.I64: np.dtype("<i8"),
        Type.F32: np.dtype("<f4"),
        Type.F64: np.dtype("<f8"),
        Type.DATE: np.dtype("<i4"),
        Type.TIME: np.dtype("<i4"),
        Type.TIMESTAMP: np.dtype("<i8"),
        Type.GUID: np.dtype("V16"),
        Type.TIMESPAN: np.dtype("<i8"),
    }
)
"""The items of each vector of fixed width, as numpy reads them from the wire."""

EPOCH_DAYS = 10_957
"""Days from 1970-01-01 to 2000-01-01, the engine's epoch."""

EPOCH_NANOSECONDS = EPOCH_DAYS * 86_400 * 10**9
"""Nanoseconds from 1970-01-01 to the engine's epoch."""

HAS_NULLS = 0x40
"""The attribute of a vector in which the type's null value stands for null."""

QUOTED = 0x20
"""The attribute of a symbol atom that is data; without it, the symbol is a name to look up."""
