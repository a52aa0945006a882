"""Cut a value with columns into batches of rows, without copying: each batch is a payload in pieces."""

import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from itertools import accumulate

from ._payloads import Buffer, table_of
from ._reader import FixedColumn, ListColumn, PayloadReader, RawColumn, TextColumn, end_of_value
from ._types import HAS_NULLS, Type

_SIZED = struct.Struct("<BBq")  # type code, attributes, number of items


class BatchReader:
    """Reads the payload of a value step by step, and then cuts it.

    Args:
        payload: a table, a dict of vectors of equal length, or a vector. It must not change.
    """

    def __init__(self, payload: Buffer) -> None:
        self._payload = payload
        self._reader = PayloadReader(payload)

    def step(self) -> bool:
        """Read for a few milliseconds at most. Returns whether everything has been read.

        Raises:
            RayforceConversionError: the payload is damaged, or two columns have the same name.
            NotColumns: the payload is a value without columns.
            UnknownType: it contains a type that this module does not know.
        """
        return self._reader.step()

    def result(self) -> "BatchedValue":
        """Return the value, once `step` has returned True."""
        return BatchedValue(self._reader.result(), is_table=self._payload[0] in (Type.TABLE, Type.DICT))


class BatchedValue:
    """A value that can be cut into batches.

    Args:
        columns: its columns.
        is_table: whether batches are tables; otherwise there is one column, and batches are vectors.
    """

    def __init__(self, columns: Mapping[str, RawColumn], *, is_table: bool) -> None:
        self._columns = columns
        self._is_table = is_table

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self._columns.values()), ()))

    @property
    def index_size(self) -> int:
        """How many bytes of memory the positions of texts and lists take, in addition to the payload."""
        return sum(column.starts.nbytes for column in self._columns.values() if not isinstance(column, FixedColumn))

    def batch(self, start: int, stop: int) -> "Pieces":
        """Return the payload of the rows from `start` to before `stop`: a table or a vector."""
        stop = min(stop, len(self))
        pieces: list[Buffer] = []
        if self._is_table:
            pieces.append(table_of(self._columns, [])[: -_SIZED.size])
            pieces.append(_SIZED.pack(Type.LIST, 0, len(self._columns)))
        for column in self._columns.values():
            pieces += _vector(column, start, stop)
        return Pieces(pieces)


class Pieces:
    """Bytes in pieces.

    Attributes:
        pieces: as given.
    """

    def __init__(self, pieces: list[Buffer]) -> None:
        self.pieces = pieces
        self._ends = list(accumulate(map(len, pieces)))

    def __len__(self) -> int:
        return self._ends[-1]

    def copy(self, start: int, stop: int) -> bytes:
        """Return a copy of the bytes from `start` to before `stop`."""
        return b"".join(self._parts(start, min(stop, len(self))))

    def _parts(self, start: int, stop: int) -> Iterator[Buffer]:
        number = bisect_right(self._ends, start)
        while start < stop:
            piece, end = self.pieces[number], self._ends[number]
            begin = end - len(piece)
            yield memoryview(piece)[start - begin : stop - begin]
            start = end
            number += 1


def _vector(column: RawColumn, start: int, stop: int) -> Iterator[Buffer]:
    """Yield the payload of some rows of a column in pieces."""
    if isinstance(column, ListColumn):
        yield _SIZED.pack(Type.LIST, 0, stop - start)
        if start < stop:
            yield column.data[int(column.starts[start]) : end_of_value(column, stop - 1)].data
        return
    yield _SIZED.pack(column.type, HAS_NULLS if column.marked else 0, stop - start)
    if isinstance(column, TextColumn):
        yield column.data[int(column.starts[start]) : int(column.starts[stop])].data
    else:
        yield column.values[start:stop].view("u1").data
