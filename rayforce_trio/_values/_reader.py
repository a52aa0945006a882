"""Read payloads as columns: find the structure of a reply in short steps, and check every count against the bytes.

Nothing is copied. A vector of fixed width is a view of the payload. For symbols, strings and lists, the reader finds
where each item begins, and the items are decoded when they are used.
"""

import itertools
import struct
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from .._text import counted
from ..errors import RayforceConversionError
from ._payloads import Buffer
from ._types import DTYPES, HAS_NULLS, Type
from ._vectors import LENGTH_SIZE, words_at_every_byte

Positions = NDArray[np.integer[Any]]

_HEADER = struct.Struct("<Bq")  # attributes and number of items, after the type code
_LENGTH = struct.Struct("<q")
_CHUNK = 1 << 19  # bytes searched at a time, in about a millisecond
_SMALLEST_CHUNK = 4096  # bytes
_TYPICAL_SYMBOL = 16  # bytes
_ITEMS_PER_STEP = 300  # items of a list, each a step in Python
_WALKED = 16  # strings followed one by one before a guess
_RUNS_PER_STEP = 8  # of strings that are found together, or followed one by one
_LONG_STRING = 1024  # bytes; following longer strings one by one is faster
_MAX_LONG_RUN = 64  # long strings in one gap that a guess follows
_MAX_DEPTH = 16
_NULL_ATOM = 0x01  # the attribute of an atom that is null
_FUNCTIONS = range(Type.FUNCTION, Type.FUNCTION + 4)  # a lambda, and builtins by the number of their arguments

_Steps = Generator[None, None, Any]


class NotColumns(Exception):
    """The payload is a value without columns.

    Attributes:
        kind: the kind of value, as part of a sentence: "a list".
    """

    def __init__(self, kind: str) -> None:
        super().__init__(kind)
        self.kind = kind


class UnknownType(Exception):
    """The payload contains a type that this module does not know.

    Attributes:
        code: the type code, as it is on the wire.
    """

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code

    def __str__(self) -> str:
        return f"type code {self.code}"


@dataclass(frozen=True, slots=True)
class FixedColumn:
    """Items of one width, as they are in the payload.

    Attributes:
        type: B8 to GUID, or TIMESPAN.
        marked: whether the engine marked the vector as one that contains nulls.
        values: a read-only view of the payload, which may be unaligned.
    """

    type: Type
    marked: bool
    values: NDArray[Any]

    def __len__(self) -> int:
        return len(self.values)

    def slice(self, start: int, stop: int) -> "FixedColumn":
        """Return some of the rows, as views."""
        return FixedColumn(self.type, self.marked, self.values[start:stop])


@dataclass(frozen=True, slots=True)
class TextColumn:
    """Symbols or strings, as they are in the payload.

    Attributes:
        type: SYMBOL or STRING.
        marked: whether the engine marked the vector as one that contains nulls.
        data: the whole payload.
        starts: where each item begins, and where the last one ends. A symbol is text and a NUL, a string is a length
            and text.
    """

    type: Type
    marked: bool
    data: NDArray[np.uint8]
    starts: Positions

    def __len__(self) -> int:
        return len(self.starts) - 1

    def text(self, row: int) -> memoryview:
        """Return the bytes of one text."""
        begin, end = int(self.starts[row]), int(self.starts[row + 1])
        return (
            self.data.data[begin : end - 1] if self.type is Type.SYMBOL else self.data.data[begin + LENGTH_SIZE : end]
        )

    def slice(self, start: int, stop: int) -> "TextColumn":
        """Return some of the rows, as views."""
        return TextColumn(self.type, self.marked, self.data, self.starts[start : min(stop, len(self)) + 1])


@dataclass(frozen=True, slots=True)
class ListColumn:
    """Values of any type, as they are in the payload.

    Attributes:
        data: the whole payload.
        starts: where each value begins.
    """

    data: NDArray[np.uint8]
    starts: Positions

    def __len__(self) -> int:
        return len(self.starts)

    def slice(self, start: int, stop: int) -> "ListColumn":
        """Return some of the rows, as views."""
        return ListColumn(self.data, self.starts[start:stop])


RawColumn = FixedColumn | TextColumn | ListColumn


class PayloadReader:
    """Reads a payload step by step, so that an event loop can do other work in between.

    Args:
        payload: the payload of a reply, without the frame's header; it must not change while the columns are in use.
    """

    def __init__(self, payload: Buffer) -> None:
        self._steps = PayloadCursor(payload).read_columns()
        self._columns: dict[str, RawColumn] | None = None

    def step(self) -> bool:
        """Read for a few milliseconds at most. Returns whether everything has been read.

        Raises:
            RayforceConversionError: the payload is damaged, or two columns have the same name.
            NotColumns: the payload is a value without columns.
            UnknownType: it contains a type that this module does not know.
        """
        try:
            next(self._steps)
        except StopIteration as end:
            self._columns = end.value
            return True
        return False

    def result(self) -> dict[str, RawColumn]:
        """Return the columns by their names, once `step` has returned True."""
        assert self._columns is not None, "step() has not returned True"
        return self._columns


def read_values(column: ListColumn) -> Iterator[tuple[Type, Any]]:
    """Yield the values of a list: the type, and the bytes of an atom, a column, or `None` for null."""
    payload = PayloadCursor(column.data)
    for start in column.starts.tolist():
        yield payload.value_at(start)


def end_of_value(column: ListColumn, row: int) -> _Steps:
    """Read the value in a row of a list in steps; returns where it ends in the payload."""
    payload = PayloadCursor(column.data)
    payload.take(int(column.starts[row]))
    code = payload.type_code()
    if code < 0:
        payload.atom_view(code)
    elif code != Type.NULL:
        yield from payload.vector_items(code, depth=0)
    return payload.position


def _run(steps: _Steps) -> Any:
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return end.value


class PayloadCursor:
    """A payload, and how far it has been read.

    The methods read what comes next. They raise `RayforceConversionError` if the payload is damaged.

    Args:
        payload: the payload.
        chunk: the number of bytes that a step searches for the ends of texts. `None`: about a millisecond's worth.
    """

    def __init__(self, payload: Buffer | NDArray[np.uint8], chunk: int | None = None) -> None:
        self._chunk = chunk or _CHUNK
        self._data = np.frombuffer(payload, np.uint8)
        self._data.flags.writeable = False
        self._view = self._data.data
        self._at = 0
        self._items = 0  # of lists, that have been read
        self._end = len(self._data)
        self._positions = np.dtype(np.int32 if self._end < 1 << 31 else np.int64)

    @property
    def position(self) -> int:
        """How many bytes have been read."""
        return self._at

    def read_columns(self) -> _Steps:
        """Read a whole payload as columns; returns them by their names."""
        code = self.type_code()
        if code in (Type.TABLE, Type.DICT):
            columns = yield from self._named_columns(code)
        elif code in DTYPES or code in (Type.SYMBOL, Type.STRING):
            columns = {"value": (yield from self.vector_items(code, depth=0))}
        else:
            raise self._no_columns(code)
        if self._at != self._end:
            self.damaged(f"{counted(self._end - self._at, 'byte')} after the end of the value")
        return columns

    def value_at(self, start: int) -> tuple[Type, Any]:
        """Return a value that has been read before: its type, and the bytes of an atom, a column, or `None`."""
        self._at = start
        code = self.type_code()
        if code == Type.NULL:
            return Type.NULL, None
        if code < 0:
            return self.atom(code)
        return Type(code), _run(self.vector_items(code, depth=0))

    def _no_columns(self, code: int) -> Exception:
        if code < 0:
            known = -code in DTYPES or -code in (Type.SYMBOL, Type.STRING)
            return NotColumns(f"a single {Type(-code).name}") if known else UnknownType(code)
        kinds = {Type.LIST: "a list", Type.NULL: "null", Type.ERROR: "an error"}
        if code in _FUNCTIONS:
            return NotColumns("a function")
        return NotColumns(kinds[Type(code)]) if code in kinds else UnknownType(code)

    def _named_columns(self, code: int) -> _Steps:
        self.take(1)  # attributes
        key_type = self.type_code()
        if key_type != Type.SYMBOL:
            if code == Type.DICT:
                raise NotColumns("a dict whose keys are not all symbols")
            self.damaged("a table's column names are not symbols")
        names = yield from self.vector_items(key_type, depth=0)
        value_type = self.type_code()
        if value_type != Type.LIST:
            if code == Type.DICT:
                raise NotColumns("a dict of single values")
            self.damaged("a table's columns are not a list")
        _, count = self.header(1)
        if count != len(names):
            self.damaged(f"it has {counted(len(names), 'name')} for {counted(count, 'column')}")
        columns: dict[str, RawColumn] = {}
        lengths: set[int] = set()
        for number in range(count):
            name = self._name(names, number)
            column_type = self.type_code()
            if code == Type.DICT and not _is_vector(column_type):
                raise NotColumns("a dict whose values are not all vectors")
            if column_type < 0:
                self.damaged(f"column {name!r} is a single value")
            column = yield from self.vector_items(column_type, depth=0)
            if name in columns:
                raise RayforceConversionError(
                    f"the result has two columns with the name {name!r}; give them different names in the query"
                )
            columns[name] = column
            lengths.add(len(column))
            yield
        if len(lengths) > 1 or not columns:
            if code == Type.DICT:
                raise NotColumns("a dict whose values differ in length" if columns else "an empty dict")
            if columns:
                self.damaged(f"its columns have different lengths: {', '.join(map(str, sorted(lengths)))}")
        return columns

    def _name(self, names: TextColumn, number: int) -> str:
        text = bytes(self._view[names.starts[number] : names.starts[number + 1] - 1])
        try:
            return text.decode()
        except UnicodeDecodeError:
            raise RayforceConversionError(f"the name of column {number} is not UTF-8: {text!r}") from None

    def vector_items(self, code: int, depth: int) -> _Steps:
        """Read a vector or a list after its type code."""
        if code in DTYPES:
            return self._fixed_items(Type(code))
        if code == Type.SYMBOL:
            return self._symbol_items()
        if code == Type.STRING:
            return self._string_items()
        if code == Type.LIST:
            return self._list_items(depth)
        raise UnknownType(code)

    def _fixed_items(self, type_code: Type) -> _Steps:
        dtype = DTYPES[type_code]
        marked, count = self.header(dtype.itemsize)
        start = self.take(count * dtype.itemsize)
        values = self._data[start : self._at].view(dtype)
        return FixedColumn(type_code, marked, values)
        yield  # makes this a generator, like the others; it never pauses

    def _symbol_items(self) -> _Steps:
        marked, count = self.header(1)
        starts = np.empty(count + 1, self._positions)
        starts[0] = self._at
        found = 0
        while found < count:
            if self._at == self._end:
                self.damaged("it ends within a symbol")
            size = min(
                max(_SMALLEST_CHUNK, _TYPICAL_SYMBOL * (count - found)), self._chunk
            )  # to search little beyond the symbols
            chunk = self._data[self._at : self._at + size]
            ends = np.flatnonzero(chunk == 0)[: count - found]
            np.add(ends, self._at + 1, out=starts[found + 1 : found + 1 + len(ends)], casting="same_kind")
            found += len(ends)
            self._at += len(chunk) if found < count else int(ends[-1]) + 1
            if found < count:  # the few symbols of an item of a list are no step
                yield
        return TextColumn(Type.SYMBOL, marked, self._data, starts)

    def _string_items(self) -> _Steps:
        marked, count = self.header(LENGTH_SIZE)
        starts = np.empty(count + 1, self._positions)
        row = 0
        while row < count:
            begin = self._at
            walked = self._walk_strings(starts[row : min(row + _WALKED, count)])
            row += walked
            if row == count:
                break
            mean, rest = divmod(self._at - begin, walked)
            if mean > _LONG_STRING:
                row += self._walk_strings(starts[row : min(row + _ITEMS_PER_STEP, count)])
            elif rest == 0 and (run := self._run_of_strings(mean, starts[row:count])):
                row += run
            else:
                row = yield from self._guess_strings(starts, row, count, some_empty=marked)
            yield
        starts[count] = self._at
        return TextColumn(Type.STRING, marked, self._data, starts)

    def _run_of_strings(self, size: int, starts: NDArray[Any]) -> int:
        """Find the next strings if each takes `size` bytes, its length included; returns their number."""
        most = min(len(starts), (self._end - self._at) // size, self._chunk)
        lengths = np.ndarray((most,), "<i8", self._data.data, self._at, (size,))
        if (lengths[:_WALKED] != size - LENGTH_SIZE).any():
            return 0
        same = lengths == size - LENGTH_SIZE
        run = most if same.all() else int(same.argmin())
        starts[:run] = np.arange(self._at, self._at + run * size, size)
        self._at += run * size
        return run

    def _walk_strings(self, starts: NDArray[Any]) -> int:
        """Follow strings one by one from the current position; returns their number."""
        at, end, read, view = self._at, self._end - LENGTH_SIZE, _LENGTH.unpack_from, self._view
        found = []
        for _ in range(len(starts)):
            if at > end:
                self.damaged("it ends within a string")
            (length,) = read(view, at)
            if not 0 <= length <= end - at:
                self.damaged(f"a string has the length {length}, but only {counted(end - at, 'byte')} are left")
            found.append(at)
            at += LENGTH_SIZE + length
        starts[:] = found
        self._at = at
        return len(found)

    def _guess_strings(self, starts: NDArray[Any], row: int, count: int, *, some_empty: bool) -> _Steps:
        """Find the strings of a chunk all at once; returns the number of the row after the last one.

        A guess is right as long as each string's length leads to the next guessed string. From there on, the strings
        are followed one by one until they reach a guessed one.
        """
        begin = self._at
        guessed, after = _guess(self._data[begin : begin + self._chunk], some_empty=some_empty)
        breaks = np.flatnonzero(after[:-1] != guessed[1:])  # the last string of each run of right guesses
        for number in itertools.count(1):
            if row == count:
                break
            if number % _RUNS_PER_STEP == 0:
                yield
            first = int(np.searchsorted(guessed, self._at - begin))
            if first == len(guessed):
                break
            if guessed[first] != self._at - begin:
                row += self._walk_strings(starts[row : min(row + _WALKED, count)])
                continue
            run = int(np.searchsorted(breaks, first))
            last = int(breaks[run]) if run < len(breaks) else len(guessed) - 1
            last = min(last, first + count - row - 1)
            if not guessed[last] + LENGTH_SIZE <= after[last] <= self._end - begin:
                self.damaged("it ends within a string")
            found = guessed[first : last + 1]
            np.add(found, begin, out=starts[row : row + len(found)], casting="same_kind")
            row += len(found)
            self._at = begin + int(after[last])
        return row

    def _list_items(self, depth: int) -> _Steps:
        if depth == _MAX_DEPTH:
            raise RayforceConversionError(f"the result contains lists that are nested more than {_MAX_DEPTH} deep")
        _, count = self.header(1)
        starts = np.empty(count, self._positions)
        for number in range(count):
            starts[number] = self._at
            code = self.type_code()
            if code < 0:
                self.atom(code)
            elif code != Type.NULL:
                yield from self.vector_items(code, depth + 1)
            self._items += 1  # those of lists within lists included
            if self._items % _ITEMS_PER_STEP == 0:
                yield
        return ListColumn(self._data, starts)

    def atom(self, code: int) -> tuple[Type, bytes | None]:
        """Read an atom after its type code; returns its type, and its bytes or `None` for null."""
        kind, value = self.atom_view(code)
        return kind, None if value is None else bytes(value)

    def atom_view(self, code: int) -> tuple[Type, memoryview | None]:
        """Do what `atom` does, but do not copy the bytes."""
        attributes = self._data[self.take(1)]
        type_code = -code
        if type_code in DTYPES:
            size = DTYPES[Type(type_code)].itemsize
        elif type_code == Type.STRING:
            (size,) = _LENGTH.unpack_from(self._view, self.take(LENGTH_SIZE))
        elif type_code == Type.SYMBOL:
            size = self._symbol_size()
        else:
            raise UnknownType(code)
        start = self.take(size)
        value = self._view[start : self._at]
        if type_code == Type.SYMBOL:
            self.take(1)
        null = attributes & _NULL_ATOM or (type_code == Type.SYMBOL and not value)
        return Type(type_code), None if null else value

    def _symbol_size(self) -> int:
        start, size = self._at, _TYPICAL_SYMBOL
        while (found := bytes(self._view[start : start + size]).find(0)) < 0:
            start += size
            if start >= self._end:
                self.damaged("it ends within a symbol")
            size = min(2 * size, _CHUNK)
        return start + found - self._at

    def atoms_ahead(self, size: int, most: int) -> int:
        """Return how many atoms of `size` bytes with the type code that comes next follow each other, up to `most`."""
        codes = self._view[self._at : self._at + size * most : size]
        first = codes[0]
        return next((number for number, code in enumerate(codes) if code != first), len(codes))

    @property
    def is_at_end(self) -> bool:
        """Whether the whole payload has been read."""
        return self._at == self._end

    @property
    def next_code(self) -> int | None:
        """The type code that comes next, or `None` at the end."""
        if self._at == self._end:
            return None
        code = int(self._data[self._at])
        return code - 256 if code > 127 else code

    def type_code(self) -> int:
        """Return a type code, negative for an atom."""
        code = int(self._data[self.take(1)])
        return code - 256 if code > 127 else code

    def header(self, item_size: int) -> tuple[bool, int]:
        """Read the attributes and the item count of a vector. An item takes at least `item_size` bytes."""
        attributes, count = _HEADER.unpack_from(self._view, self.take(_HEADER.size))
        if not 0 <= count <= (self._end - self._at) // item_size:
            self.damaged(
                f"it announces {counted(count, 'item')} of {counted(item_size, 'byte')} each, but "
                f"{counted(self._end - self._at, 'byte')} are left"
            )
        return bool(attributes & HAS_NULLS), count

    def terminated(self) -> bytes:
        """Return the bytes before the next NUL, and skip it."""
        found = self.some_bytes(self._symbol_size())
        self.take(1)
        return found

    def some_bytes(self, size: int) -> bytes:
        """Return some bytes."""
        start = self.take(size)
        return bytes(self._view[start : self._at])

    def take(self, size: int) -> int:
        """Skip some bytes; returns where they begin."""
        start = self._at
        if not 0 <= size <= self._end - start:
            self.damaged(f"it ends at byte {self._end}, before byte {start + size}")
        self._at = start + size
        return start

    def damaged(self, reason: str) -> NoReturn:
        raise RayforceConversionError(f"the reply is damaged: {reason}")


def _is_vector(code: int) -> bool:
    return code in DTYPES or code in (Type.SYMBOL, Type.STRING, Type.LIST)


def _guess(chunk: NDArray[np.uint8], *, some_empty: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where strings may begin in a chunk that begins with one, and where each of them would end.

    Short strings are found by their lengths. The gaps between hold empty strings, which are zeros, or long strings,
    which are followed from one to the next, in all gaps at the same time.
    """
    places = _short_strings(chunk, some_empty=some_empty)
    after = places + chunk[places]
    after += LENGTH_SIZE
    stop = len(chunk) - LENGTH_SIZE + 1  # no string can begin here or later
    gap_starts = np.concatenate([[0], after])
    gap_ends = np.append(places, stop)
    some = np.flatnonzero(gap_starts < gap_ends)
    if not len(some) or stop < 1:
        return places, after
    words = words_at_every_byte(chunk)
    at, end = gap_starts[some], gap_ends[some]
    empty = words[at] == 0
    counts = (end[empty] - at[empty] + LENGTH_SIZE - 1) // LENGTH_SIZE
    ordinals = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    found = [places, np.repeat(at[empty], counts) + LENGTH_SIZE * ordinals]
    at, end = at[~empty], end[~empty]
    for _ in range(_MAX_LONG_RUN):
        if not len(at):
            break
        found.append(at)
        following = at + LENGTH_SIZE + words[at]
        inside = (following > at) & (following < end)
        at, end = following[inside], end[inside]
    guessed = np.sort(np.concatenate(found), kind="stable")
    return guessed, guessed + LENGTH_SIZE + words[guessed]


def _short_strings(chunk: NDArray[np.uint8], *, some_empty: bool) -> NDArray[np.int64]:
    """Return where the length of a string of 1 to 255 bytes may be: a byte and seven zeros.

    Args:
        some_empty: whether there are empty strings, which are zeros. Then the byte, and the one after the zeros, must
            not be zero.
    """
    count = max(len(chunk) - LENGTH_SIZE, 0)
    zero = chunk == 0
    two = zero[:-1] & zero[1:]
    four = two[:-2] & two[2:]
    found = np.zeros(count + -count % 8, np.bool_)
    places = found[:count]
    np.logical_and(four[1 : count + 1], four[4 : count + 4], out=places)
    if some_empty:
        np.greater(places, zero[:count], out=places)
        np.greater(places, zero[LENGTH_SIZE:], out=places)
    # Strings begin at least 8 bytes apart, so each 8 bytes contain the beginning of at most one, and a search by eights
    # is faster. A text with NULs can look like more. The wrong place does no harm, because no length leads to it.
    eights = found.view("<u8")
    at = np.flatnonzero(eights != 0)
    within = np.bitwise_count(eights[at] - np.uint64(1)) >> 3
    at <<= 3
    at += within
    return at
