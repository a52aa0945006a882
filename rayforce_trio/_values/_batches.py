"""Cut a value with columns into batches of rows. Long parts are not copied: each batch is a payload in pieces.

A value may have hundreds of thousands of columns, so everything is done in steps of less than a tenth of a millisecond,
or of a few milliseconds if one column has many items. An event loop can do other work in between.
"""

import struct
from bisect import bisect_right
from collections.abc import Generator, Iterator

from ._payloads import Buffer
from ._reader import FixedColumn, ListColumn, PayloadCursor, RawColumn, TextColumn, end_of_value
from ._types import HAS_NULLS, Type

_SIZED = struct.Struct("<BBq")  # type code, attributes, number of items
_BEFORE_NAMES = 2 + _SIZED.size  # bytes of a table: its type code and attributes, and the beginning of the names
_COLUMNS_PER_STEP = 16
_COLUMN_SIZE = 200  # bytes that a column takes in memory beside its items
_SHORT = 4096  # bytes; a piece up to this length is copied
_JOINED = 1 << 16  # bytes of short pieces that become one


def batched_value(payload: Buffer) -> Generator[None, None, "BatchedValue"]:
    """Read the payload of a value in steps: yield between them, and return the value.

    Args:
        payload: a table, a dict of vectors of equal length, or a vector. It must not change.

    Raises:
        RayforceConversionError: the payload is damaged, or two columns have the same name.
        NotColumns: the payload is a value without columns.
        UnknownType: it contains a type that this module does not know.
    """
    found: dict[str, RawColumn] = yield from PayloadCursor(payload).read_columns()
    columns: list[RawColumn] = []
    names_end, index_size = _BEFORE_NAMES, 0
    while found:  # a dict of many columns would take long to free at once
        name, column = found.popitem()
        columns.append(column)
        names_end += len(name.encode()) + 1
        index_size += _COLUMN_SIZE + (0 if isinstance(column, FixedColumn) else column.starts.nbytes)
        if len(columns) % _COLUMNS_PER_STEP == 0:
            yield
    columns.reverse()
    names = memoryview(payload)[2:names_end] if payload[0] in (Type.TABLE, Type.DICT) else None
    return BatchedValue(columns, names, index_size)


class BatchedValue:
    """A value that can be cut into batches.

    Args:
        columns: its columns.
        names: the payload of their names, if batches are tables. `None`: there is one column, and batches are vectors.
        index_size: how many bytes of memory the columns take in addition to the payload.

    Attributes:
        index_size: as given.
    """

    def __init__(self, columns: list[RawColumn], names: Buffer | None, index_size: int) -> None:
        self._columns = columns
        self._names = names
        self.index_size = index_size

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._columns[0]) if self._columns else 0

    def cut(self, start: int, stop: int, pieces: "Pieces") -> Generator[None, None, None]:
        """Add the payload of the rows from `start` to before `stop`: a table or a vector. Yield between steps."""
        stop = min(stop, len(self))
        if self._names is not None:
            pieces.add(bytes((Type.TABLE, 0)))
            pieces.add(self._names)
            pieces.add(_SIZED.pack(Type.LIST, 0, len(self._columns)))
        for number, column in enumerate(self._columns, 1):
            if isinstance(column, ListColumn):
                pieces.add(_SIZED.pack(Type.LIST, 0, stop - start))
                if start < stop:
                    end = yield from _end(column, stop)
                    pieces.add(column.data[int(column.starts[start]) : end].data)
            else:
                pieces.add(_SIZED.pack(column.type, HAS_NULLS if column.marked else 0, stop - start))
                if isinstance(column, TextColumn):
                    pieces.add(column.data[int(column.starts[start]) : int(column.starts[stop])].data)
                else:
                    pieces.add(column.values[start:stop].view("u1").data)
            if number % _COLUMNS_PER_STEP == 0:
                yield

    def release(self) -> Generator[None, None, None]:
        """Free the memory in steps: yield between them. Afterwards, there are no rows."""
        while self._columns:
            del self._columns[-_COLUMNS_PER_STEP:]
            yield


def _end(column: ListColumn, stop: int) -> Generator[None, None, int]:
    """Return where the values before the row `stop` end. Yield between steps: the last value may be a long list."""
    if stop < len(column):
        return int(column.starts[stop])
    end: int = yield from end_of_value(column, stop - 1)
    yield
    return end


class Pieces:
    """Bytes in pieces: long ones as they were added, and short ones joined.

    Args:
        reserved: the number of bytes at the beginning, which are given last.
    """

    def __init__(self, reserved: int = 0) -> None:
        self._pieces: list[Buffer] = [bytes(reserved)]
        self._ends = [reserved]

    def __len__(self) -> int:
        return self._ends[-1]

    def add(self, piece: Buffer) -> None:
        """Add bytes at the end."""
        if len(piece) <= _SHORT and isinstance(last := self._pieces[-1], bytearray) and len(last) < _JOINED:
            last += piece
            self._ends[-1] += len(piece)
        else:
            self._pieces.append(bytearray(piece) if len(piece) <= _SHORT else piece)
            self._ends.append(self._ends[-1] + len(piece))

    def begin_with(self, reserved: bytes) -> None:
        """Give the bytes at the beginning. Nothing can be added afterwards."""
        assert len(reserved) == self._ends[0]
        self._pieces[0] = reserved

    def copy(self, start: int, stop: int) -> bytes:
        """Return a copy of the bytes from `start` to before `stop`."""
        return b"".join(self._parts(start, min(stop, len(self))))

    def _parts(self, start: int, stop: int) -> Iterator[Buffer]:
        number = bisect_right(self._ends, start)
        while start < stop:
            piece, end = self._pieces[number], self._ends[number]
            begin = end - len(piece)
            yield memoryview(piece)[start - begin : stop - begin]
            start = end
            number += 1
