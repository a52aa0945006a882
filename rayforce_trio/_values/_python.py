"""Python values as payloads.

    Python                                      engine
    None, pandas.NA, pandas.NaT, numpy's NaT    null
    bool                                        B8
    int                                         I64; an error outside -(2**63 - 1) to 2**63 - 1
    float                                       F64; NaN is the engine's null float
    str                                         symbol; an error if it contains NUL: use a String
    bytes, bytearray                            vector of U8
    datetime                                    TIMESTAMP, in UTC if it has a time zone, unchanged otherwise
    date                                        DATE
    time                                        TIME, in milliseconds; an error if it is finer or has a time zone
    timedelta                                   TIMESPAN, in nanoseconds
    UUID                                        GUID; an error for the nil UUID, which is the engine's null
    list, tuple                                 a vector if all values are of one type or null, otherwise a list
    dict and other mappings                     dict; the keys must be of one type
    numpy scalars                               an atom of the type below
    numpy arrays of one dimension               a vector:
        bool; uint8; int8, int16                B8; U8; I16
        uint16, int32; uint32, int64, uint64    I32; I64, an error for a uint64 from 2**63
        float16, float32; float64               F32; F64
        datetime64 in days or longer; shorter   DATE; TIMESTAMP
        timedelta64                             TIMESPAN
        str; bytes                              symbols; strings
        object                                  as the list of its values
    Arrow arrays, Series; DataFrames, tables    a vector; a table
    Columns                                     a table

Subclasses count as their base class. An IntEnum is an int, a StrEnum a str. Ints among floats become floats. A bool
does not count as an int: a list of both stays a list. The engine treats an empty symbol, an empty string in a vector
and NaN as null.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import RayforceConversionError, RayforceValueError
from ._arrow_import import is_arrow
from ._atoms import array_atom, atom
from ._numpy import array_of_scalars, array_vector, is_objects
from ._payloads import Buffer, dict_of, list_of, symbols, vector
from ._scalars import SYMBOL, Unrepresentable
from ._sequences import combine, reader_for, refuse_first
from ._table_data import arrow_payload
from ._types import Type
from ._vectors import Texts, vector_payload

MAX_DEPTH = 100
"""Levels of lists and dicts in a value; the engine fails beyond 255 nested dicts."""

_KEYS = object()  # the step from a mapping to the list of its keys
_WITHOUT_NULL = (np.dtype("?"), np.dtype("u1"))
_SHOWN_STEPS = 6  # at each end of a long path, in errors


def encode_value(value: Any, where: str, other: Callable[[Any], Buffer | None]) -> Buffer:
    """Return the payload of a value. It is data: the caller quotes it wherever the engine would evaluate it.

    Args:
        value: any value of the table above.
        where: the name of the value in errors: `params["low"]`.
        other: returns the payload of a Rayforce object, and `None` for anything else.

    Raises:
        RayforceConversionError: the value, or a value inside it, cannot be represented; the error says where it is.
    """
    encoder = _Encoder(where, other)
    try:
        return encoder.encode(value)
    except Unrepresentable as found:
        step = "" if found.index is None else f"[{found.index}]"
        raise RayforceConversionError(f"{encoder.place()}{step}: {found.problem}") from None


def payload_of_items(payloads: Sequence[Buffer], where: str) -> Buffer:
    """Return the vector of some items if they are atoms of one type, and otherwise their list.

    Args:
        payloads: the payloads of the items.
        where: the name of the value in errors.

    Raises:
        RayforceConversionError: an item cannot be in a vector.
    """
    combined = combine(payloads)
    return list_of(payloads) if combined is None else vector_payload(combined, where)


class _Encoder:
    """Encodes one value, and keeps the path to the part that is being encoded, for errors."""

    def __init__(self, where: str, other: Callable[[Any], Buffer | None]) -> None:
        self._where = where
        self._other = other
        self._path: list[Any] = []

    def place(self) -> str:
        """Return the path to the part that is being encoded."""
        steps = [".keys()" if step is _KEYS else f"[{step!r}]" for step in self._path]
        if len(steps) > 2 * _SHOWN_STEPS:
            steps[_SHOWN_STEPS:-_SHOWN_STEPS] = ["..."]
        return self._where + "".join(steps)

    def encode(self, value: Any) -> Buffer:
        if isinstance(value, list | tuple):
            return self._sequence(value)
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, bytes | bytearray) and not isinstance(value, np.bytes_):
            return vector(Type.U8, len(value), [value])
        if isinstance(value, Mapping):
            return self._dict(value)
        if is_arrow(value):
            return self._arrow(value)
        return atom(value, self._other)

    def _sequence(self, values: Sequence[Any]) -> Buffer:
        classes = {*map(type, values)}
        numbers = array_of_scalars(values, classes)
        if numbers is not None and not (np.ma.is_masked(numbers) and numbers.dtype in _WITHOUT_NULL):
            return vector_payload(array_vector(numbers), self.place())
        if (reader := reader_for(values, classes)) is not None and not (reader.nullable and reader.type is Type.B8):
            read = reader.read(values)
            if isinstance(read, Texts) and not read.data.all():
                refuse_first(SYMBOL, values)
            return vector_payload(read, self.place())
        return payload_of_items(self._each(enumerate(values)), self.place())

    def _each(self, values: Iterable[tuple[Any, Any]]) -> list[Buffer]:
        if len(self._path) >= MAX_DEPTH:
            raise Unrepresentable(f"lists and dicts are nested more than {MAX_DEPTH} levels deep")
        payloads = []
        for step, value in values:
            self._path.append(step)
            payloads.append(self.encode(value))
            self._path.pop()
        return payloads

    def _dict(self, value: Mapping[Any, Any]) -> Buffer:
        self._path.append(_KEYS)
        keys = self._sequence([*value]) if value else symbols([])
        self._path.pop()
        if keys[0] == Type.LIST:
            raise Unrepresentable("the keys of a dict must be of one type, and not null; write a list of pairs")
        return dict_of(keys, list_of(self._each(value.items())))

    def _array(self, array: np.ndarray[Any, Any]) -> Buffer:
        if is_objects(array) and array.ndim <= 1:
            return self.encode(array.tolist())
        return vector_payload(array_vector(array), self.place()) if array.ndim else array_atom(array)

    def _arrow(self, value: Any) -> Buffer:
        try:
            return arrow_payload(value)
        except (RayforceConversionError, RayforceValueError) as error:
            raise RayforceConversionError(f"{self.place()}: {error}") from None
