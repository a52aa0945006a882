"""Lists and tuples of Python values of one kind, as vectors."""

import datetime as dt
from collections.abc import Callable, Sequence, Set
from itertools import compress
from operator import attrgetter
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ._payloads import Buffer
from ._scalars import (
    BOOL,
    DATETIME,
    FLOAT,
    INT,
    INT_MAX,
    SYMBOL,
    TIMEDELTA,
    Kind,
    Unrepresentable,
    is_null_class,
    kind_of,
)
from ._types import DTYPES, Type
from ._vectors import FixedWidth, Texts, Vector

EXACT_FLOAT = 2**53
"""A float can represent every int up to this one exactly."""

_EPOCH = dt.datetime(2000, 1, 1, tzinfo=dt.UTC)
_NAIVE_EPOCH = _EPOCH.replace(tzinfo=None)
_EXACT_DAYS = 106_750  # days of nanoseconds that fit into 64 bits for certain
_ATOM_HEADER = 2  # bytes: type code and attributes
_NULL = int(Type.NULL)  # an int is compared faster than a member of an enum
_NULL_ATOM = 1  # the attribute of an atom that is null


class SequenceReader(NamedTuple):
    """How values of one kind become a vector.

    Attributes:
        type: the type of the vector.
        nullable: whether some of the values that the reader was made for are null.
        read: converts some of these values; raises `Unrepresentable` with the index of a value.
    """

    type: Type
    nullable: bool
    read: Callable[[Sequence[Any]], Vector]


def reader_for(values: Sequence[Any], classes: Set[type] | None = None) -> SequenceReader | None:
    """Return the reader for values of one kind and nulls; `None` if the kinds differ, or if all values are null.

    Ints among floats become floats if each of them can be represented exactly.

    Args:
        classes: the classes of the values, if they are known.
    """
    if classes is None:
        classes = {*map(type, values)}
    present = {cls for cls in classes if not is_null_class(cls)}
    null_classes = classes - present
    kinds = {kind_of(cls) for cls in present}
    if kinds == {INT, FLOAT}:
        ints = {cls for cls in present if kind_of(cls) is INT}
        if not any(type(value) in ints and abs(value) > EXACT_FLOAT for value in values):
            kinds = {FLOAT}
    kind = kinds.pop() if len(kinds) == 1 else None
    if kind is None:
        return None
    read = _texts if kind is SYMBOL else _fixed
    return SequenceReader(kind.type, bool(null_classes), lambda some: read(kind, some, null_classes))


def vector_of(values: Sequence[Any], classes: Set[type]) -> Vector | None:
    """Return the vector of some values; `None` if they are no vector, or if one cannot be represented.

    Args:
        classes: the classes that the values may have. They decide the type of the vector.
    """
    reader = reader_for(values, classes)
    if reader is None or (reader.nullable and reader.type is Type.B8):
        return None
    try:
        read = reader.read(values)
    except Unrepresentable:
        return None
    return None if isinstance(read, Texts) and not read.data.all() else read


def concatenated(parts: Sequence[Vector]) -> Vector:
    """Return one vector of the items of all parts, which have the same type."""
    if len(parts) == 1:
        return parts[0]
    nulls = None
    if any(part.nulls is not None for part in parts):
        nulls = np.concatenate([np.zeros(len(part), np.bool_) if part.nulls is None else part.nulls for part in parts])
    texts = [part for part in parts if isinstance(part, Texts)]
    if texts:
        lengths = np.concatenate([np.diff(part.offsets) for part in texts])
        return Texts(parts[0].type, np.concatenate([part.data for part in texts]), _offsets(lengths), nulls)
    values = np.concatenate([part.values for part in parts if isinstance(part, FixedWidth)])
    return FixedWidth(parts[0].type, values, nulls)


def refuse_first(kind: Kind, values: Sequence[Any]) -> NoReturn:
    """Raise `Unrepresentable` with the index of the first value that cannot be represented. One must exist."""
    for index, value in enumerate(values):
        if not is_null_class(type(value)):
            try:
                kind.item(value)
            except Unrepresentable as found:
                raise Unrepresentable(found.problem, index) from None
    raise AssertionError("every value can be represented")


def combine(atoms: Sequence[Buffer]) -> Vector | None:
    """Return the vector of some atoms; `None` if no type can represent all of them, or if all are null."""
    kind = _common_type(atoms)
    if kind is None:
        return None
    nulls = [atom[0] == _NULL or atom[1] == _NULL_ATOM for atom in atoms]
    found = np.array(nulls) if True in nulls else None
    if kind in (Type.B8, Type.U8) and found is not None:
        return None
    if kind is Type.STRING:
        return encoded_texts_of([b"" if atom[0] == _NULL else bytes(atom[10:]) for atom in atoms], kind, found)
    if kind is Type.SYMBOL:
        return encoded_texts_of([b"" if atom[0] == _NULL else bytes(atom[2:-1]) for atom in atoms], kind, found)
    blank = bytes(DTYPES[kind].itemsize)
    items = b"".join([blank if atom[0] == _NULL else atom[_ATOM_HEADER:] for atom in atoms])
    return FixedWidth(kind, np.frombuffer(items, DTYPES[kind]), found)


def _common_type(atoms: Sequence[Buffer]) -> Type | None:
    """Return the type of the vector that may contain all atoms; `None` as soon as one rules it out."""
    common = None
    for atom in atoms:
        first = atom[0]
        if first in (common, _NULL):
            continue
        code = -first & 0xFF
        if common is not None or (code not in DTYPES and code not in (Type.SYMBOL, Type.STRING)):
            return None
        common = first
    return None if common is None else Type(-common & 0xFF)


def texts_of(texts: Sequence[str], type_code: Type, nulls: NDArray[np.bool_] | None = None) -> Texts:
    """Return the vector of some texts. Raises `UnicodeEncodeError` for a lone surrogate."""
    joined = "".join(texts)
    data = joined.encode()
    lengths = map(len, texts) if len(data) == len(joined) else [len(text.encode()) for text in texts]
    return Texts(type_code, np.frombuffer(data, np.uint8), _offsets(np.fromiter(lengths, np.int64, len(texts))), nulls)


def encoded_texts_of(texts: Sequence[bytes], type_code: Type, nulls: NDArray[np.bool_] | None = None) -> Texts:
    """Return the vector of some texts that are encoded already."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    return Texts(type_code, np.frombuffer(b"".join(texts), np.uint8), _offsets(lengths), nulls)


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))


def _null_mask(values: Sequence[Any], null_classes: Set[type]) -> NDArray[np.bool_] | None:
    nulls = np.fromiter(map(null_classes.__contains__, map(type, values)), np.bool_, len(values))
    return nulls if nulls.any() else None


def _texts(kind: Kind, values: Sequence[Any], null_classes: Set[type]) -> Vector:
    nulls = _null_mask(values, null_classes) if null_classes else None
    try:
        if nulls is None:
            return texts_of(values, kind.type)
        return texts_of(["" if null else text for text, null in zip(values, nulls, strict=True)], kind.type, nulls)
    except UnicodeEncodeError:
        refuse_first(kind, values)


def _fixed(kind: Kind, values: Sequence[Any], null_classes: Set[type]) -> Vector:
    nulls = _null_mask(values, null_classes) if null_classes else None
    present = values if nulls is None else [*compress(values, ~nulls)]
    try:
        items = _items(kind, present)
    except (Unrepresentable, OverflowError):
        refuse_first(kind, values)
    if kind is INT and len(items) and items.min() < -INT_MAX:
        refuse_first(kind, values)
    if nulls is not None:
        spread = np.zeros(len(nulls), items.dtype)
        spread[~nulls] = items
        items = spread
    return FixedWidth(kind.type, items, nulls)


def _items(kind: Kind, values: Sequence[Any]) -> NDArray[Any]:
    dtype = DTYPES[kind.type]
    if kind in (BOOL, INT, FLOAT):
        return np.array(values, dtype)
    if kind.type is Type.GUID:
        return np.frombuffer(b"".join(map(kind.item, values)), dtype)
    if kind in (DATETIME, TIMEDELTA) and (spans := _time_spans(values)) is not None:
        return spans
    return np.fromiter(map(kind.item, values), dtype, len(values))


def _time_spans(values: Sequence[Any]) -> NDArray[np.int64] | None:
    """Return datetimes or timedeltas as nanoseconds, faster than one by one; `None` if that is not exact."""
    if {*map(type, values)} == {dt.datetime}:
        if {value.tzinfo for value in values} == {None}:
            values = [value - _NAIVE_EPOCH for value in values]
        else:
            values = [value - (_EPOCH if value.utcoffset() is not None else _NAIVE_EPOCH) for value in values]
    elif {*map(type, values)} != {dt.timedelta}:
        return None
    days, seconds, microseconds = (
        np.fromiter(map(attrgetter(part), values), np.int64, len(values))
        for part in ("days", "seconds", "microseconds")
    )
    if np.abs(days).max(initial=0) > _EXACT_DAYS:
        return None
    spans: NDArray[np.int64] = ((days * 86_400 + seconds) * 1_000_000 + microseconds) * 1000
    return spans
