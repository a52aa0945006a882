"""Vectors to be sent: numpy arrays in the engine's units, checked and laid out for the wire.

Every source of columns (Python values, Arrow, a fetched result) is converted to these two classes, and casts work on
them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import RayforceConversionError
from ._payloads import Buffer, vector
from ._types import DTYPES, HAS_NULLS, Type

LENGTH_SIZE = 8
"""Bytes of the length that precedes each string of a vector."""

NULL_VALUES = {
    Type.I16: np.iinfo(np.int16).min,
    Type.I32: np.iinfo(np.int32).min,
    Type.I64: np.iinfo(np.int64).min,
    Type.F32: np.nan,
    Type.F64: np.nan,
    Type.DATE: np.iinfo(np.int32).min,
    Type.TIME: np.iinfo(np.int32).min,
    Type.TIMESTAMP: np.iinfo(np.int64).min,
    Type.TIMESPAN: np.iinfo(np.int64).min,
    Type.GUID: np.void(bytes(16)),
}
"""The value that stands for null in a vector of fixed width. B8 and U8 have none."""

_ROWS_PER_BLOCK = 1 << 16  # texts are laid out in blocks that stay in the processor's cache


@dataclass(frozen=True, slots=True)
class FixedWidth:
    """A vector of a type whose items all have the same width.

    Attributes:
        type: B8 to GUID, or TIMESPAN.
        values: items of `DTYPES[type]`, in the engine's units and epoch; may be unaligned and read-only.
        nulls: True where the item is null, and its value arbitrary; `None` if there are no nulls.
    """

    type: Type
    values: NDArray[Any]
    nulls: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def slice(self, start: int, stop: int) -> "FixedWidth":
        """Return some of the rows, as views."""
        return FixedWidth(self.type, self.values[start:stop], _cut(self.nulls, start, stop))

    def row_sizes(self) -> NDArray[np.int64]:
        """Return the size of each row on the wire, in bytes."""
        return np.full(len(self), DTYPES[self.type].itemsize, np.int64)


@dataclass(frozen=True, slots=True)
class Texts:
    """A vector of symbols or strings.

    Attributes:
        type: SYMBOL or STRING.
        data: the texts, one after the other: UTF-8, in a STRING any bytes.
        offsets: one more than there are texts; text i is `data[offsets[i]:offsets[i + 1]]`. The first need not be 0.
        nulls: True where the text is null, and therefore empty; `None` if there are no nulls.
        terminated: whether each text ends with a NUL that is not part of it, as in a vector of symbols.
    """

    type: Type
    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    nulls: NDArray[np.bool_] | None = None
    terminated: bool = False

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def slice(self, start: int, stop: int) -> "Texts":
        """Return some of the rows, as views."""
        stop = min(stop, len(self))
        nulls = _cut(self.nulls, start, stop)
        return Texts(self.type, self.data, self.offsets[start : stop + 1], nulls, self.terminated)

    def plain(self) -> "Texts":
        """Return the texts without the NULs that end them."""
        if not self.terminated:
            return self
        begin, end = int(self.offsets[0]), int(self.offsets[-1])
        mask = np.ones(end - begin, np.bool_)
        mask[self.offsets[1:] - begin - 1] = False
        offsets = self.offsets - begin - np.arange(len(self.offsets))
        return Texts(self.type, self.data[begin:end][mask], offsets, self.nulls)

    @property
    def extra_size(self) -> int:
        """The bytes of each row on the wire that are not in `data`."""
        return LENGTH_SIZE if self.type is Type.STRING else int(not self.terminated)

    def row_sizes(self) -> NDArray[np.int64]:
        """Return the size of each row on the wire, in bytes."""
        return np.diff(self.offsets) + self.extra_size


Vector = FixedWidth | Texts


def vector_payload(values: Vector, where: str, first_row: int = 0) -> bytes:
    """Return the payload of a vector.

    NaN and empty texts become null, because the engine cannot tell them from null.

    Args:
        where: the name of the vector in errors: `column 'px'`.
        first_row: the number of the vector's first row, for errors.

    Raises:
        RayforceConversionError: an item is null in a type without nulls, has the value that stands for null, or is a
            symbol with a NUL; the error names its row.
    """
    items, attributes = vector_items(values, where, first_row)
    return vector(values.type, len(values), [items], attributes)


def vector_items(values: Vector, where: str, first_row: int = 0) -> tuple[Buffer, int]:
    """Return the items of a vector as they are on the wire, and its attributes. See `vector_payload`."""
    if isinstance(values, Texts):
        nullable = bool((values.offsets[1:] == values.offsets[:-1] + values.terminated).any())
        items = _symbol_items(values, where, first_row) if values.type is Type.SYMBOL else _string_items(values)
    else:
        items, nullable = _fixed_items(values, where, first_row)
    return items, HAS_NULLS if nullable else 0


def find_nulls(type_code: Type, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where the value that stands for null occurs. The type must have one."""
    if values.dtype.kind == "f":
        return np.asarray(np.isnan(values))
    return np.asarray(values == NULL_VALUES[type_code])


def _cut(nulls: NDArray[np.bool_] | None, start: int, stop: int) -> NDArray[np.bool_] | None:
    return None if nulls is None else nulls[start:stop]


def _fixed_items(values: FixedWidth, where: str, first_row: int) -> tuple[Buffer, bool]:
    nulls = values.nulls if values.nulls is not None and values.nulls.any() else None
    items = np.asarray(values.values, DTYPES[values.type])
    if values.type not in NULL_VALUES:
        if nulls is not None:
            row = first_row + int(nulls.argmax())
            raise RayforceConversionError(f"{where}, row {row}: null, but {values.type.name} has no null value")
        return _bytes_of(items), False
    reserved = find_nulls(values.type, items)
    if nulls is not None:
        items = np.where(nulls, np.array(NULL_VALUES[values.type], items.dtype), items)
    if items.dtype.kind != "f" and (mistaken := reserved if nulls is None else reserved & ~nulls).any():
        row = int(mistaken.argmax())
        shown = "the nil UUID" if values.type is Type.GUID else items[row]
        raise RayforceConversionError(
            f"{where}, row {first_row + row}: the engine treats {shown} as null in a vector of type "
            f"{values.type.name}; write None for null"
        )
    return _bytes_of(items), nulls is not None or bool(reserved.any())


def _bytes_of(items: NDArray[Any]) -> Buffer:
    return np.ascontiguousarray(items).view(np.uint8).data


def _symbol_items(texts: Texts, where: str, first_row: int) -> Buffer:
    begin, end = int(texts.offsets[0]), int(texts.offsets[-1])
    data = texts.data[begin:end]
    if end - begin - np.count_nonzero(data) != len(texts) * texts.terminated:
        plain = texts.plain()
        at = int(plain.offsets[0]) + int((plain.data[plain.offsets[0] : plain.offsets[-1]] == 0).argmax())
        row = int(np.searchsorted(plain.offsets, at, "right")) - 1
        raise RayforceConversionError(
            f"{where}, row {first_row + row}: a symbol cannot contain the character NUL; a String can"
        )
    if texts.terminated:
        return data.data
    items = np.empty(end - begin + len(texts), np.uint8)
    for data, ends, place in _blocks(texts, items, 1):
        mask = np.ones(len(place), np.bool_)
        mask[ends + np.arange(len(ends))] = False
        place[mask] = data
        place[~mask] = 0
    return items.data


def _string_items(texts: Texts) -> Buffer:
    items = np.empty(int(texts.offsets[-1] - texts.offsets[0]) + LENGTH_SIZE * len(texts), np.uint8)
    for data, ends, place in _blocks(texts, items, LENGTH_SIZE):
        if len(ends):
            lengths = np.diff(ends, prepend=0)
            starts = ends - lengths + LENGTH_SIZE * np.arange(len(ends))
            place[text_mask(place, starts)] = data
            words_at_every_byte(place)[starts] = lengths
    return items.data


def _blocks(
    texts: Texts, items: NDArray[np.uint8], extra: int
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8]]]:
    """Yield the data of some texts, where each of them ends in it, and the place for them among the items."""
    at = 0
    for row in range(0, len(texts), _ROWS_PER_BLOCK):
        offsets = texts.offsets[row : row + _ROWS_PER_BLOCK + 1]
        begin, end = int(offsets[0]), int(offsets[-1])
        size = end - begin + extra * (len(offsets) - 1)
        yield texts.data[begin:end], np.asarray(offsets[1:] - begin, np.int64), items[at : at + size]
        at += size


def text_mask(items: NDArray[np.uint8], starts: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which bytes of a vector's strings are text, not length, given where each string's length is."""
    mask = np.ones(len(items), np.bool_)
    if len(starts):
        words_at_every_byte(mask)[starts] = 0
    return mask


def words_at_every_byte(data: NDArray[Any]) -> NDArray[np.int64]:
    """Return the 8 bytes at every index of an array of bytes as integers, as a view."""
    return np.ndarray((len(data) - LENGTH_SIZE + 1,), "<i8", data.data, strides=(1,))
