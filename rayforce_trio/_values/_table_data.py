"""Tabular data of any kind, converted to be inserted into a table of the engine.

    data                                        columns
    mapping of names to columns                 lists, tuples, numpy arrays, Arrow arrays, Series, Rayforce vectors
    polars or pandas DataFrame, pyarrow Table   Arrow's types; text is a STRING, a dictionary (categorical) of text a
    or RecordBatch, DuckDB relation, anything   SYMBOL
    else that has `__arrow_c_stream__`
    `Columns`, a Rayforce Table                 the engine's own

In a list, a str is a symbol. A cast to a table's types turns symbols into strings and strings into symbols. A column
that holds only nulls, or an empty list, is I64 unless it is cast.
"""

import difflib
import struct
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar, cast

import numpy as np

from .._text import counted
from ..errors import RayforceConversionError, RayforceValueError
from ._arrow_import import ArrowColumn, import_arrow, is_arrow
from ._atoms import atom
from ._casts import cast_vector
from ._columns import Columns, read_columns
from ._decoding import to_vector
from ._numpy import array_of_scalars, array_vector, is_objects
from ._payloads import NULL, Buffer, table_of
from ._reader import RawColumn
from ._scalars import Unrepresentable, is_null_class, type_name
from ._sequences import combine, reader_for
from ._types import DTYPES, Type
from ._vectors import FixedWidth, Vector, vector_items, vector_payload

ROWS_AT_ONCE = 1 << 16
"""Rows of a column that are converted in one step, which takes some milliseconds."""

_SIZED = struct.Struct("<BBq")  # of vectors and lists: type code, attributes, count
_NO_LIMIT = 2**63 - 1  # bytes
_SHOWN_NAMES = 20

_ATOMS_AT_ONCE = 100  # values converted one by one between two pauses

_Other = Callable[[Any], Buffer | None]
_T = TypeVar("_T")
_Steps = Generator[None, None, _T]


@dataclass(frozen=True, slots=True)
class _Column:
    """A column whose rows are converted when they are read.

    Attributes:
        where: the name of the column in errors.
        type: the type of the vectors that `read` returns.
        rows: the number of rows.
        read: returns the rows from a first one to before a last one.
    """

    where: str
    type: Type
    rows: int
    read: Callable[[int, int], Vector]


class TableData:
    """Columns of one length with unique names, to be inserted into a table.

    Attributes:
        names: the names of the columns.
    """

    def __init__(self, columns: Mapping[str, _Column]) -> None:
        if not columns:
            raise RayforceValueError("the data has no columns; at least one is needed")
        for name in columns:
            _check_name(name)
        longest, shortest = (choose(columns, key=lambda name: columns[name].rows) for choose in (max, min))
        if columns[longest].rows != columns[shortest].rows:
            raise RayforceValueError(
                f"the columns differ in length: {longest!r} has {counted(columns[longest].rows, 'row')}, "
                f"{shortest!r} has {columns[shortest].rows}"
            )
        self.names = tuple(columns)
        self._columns = dict(columns)
        self._rows = columns[longest].rows

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._rows

    @property
    def types(self) -> Mapping[str, Type]:
        """The type of each column, by its name."""
        return {name: column.type for name, column in self._columns.items()}

    def cast(self, schema: Mapping[str, Type], *, table: str) -> "TableData":
        """Return the data with the columns of a table, in its order, cast to its types when they are read.

        Raises:
            RayforceValueError: the data lacks columns of the table or has others, or the table has a column of lists.
        """
        if unknown := [name for name in self.names if name not in schema]:
            close = difflib.get_close_matches(unknown[0], schema, 1)
            hint = f", did you mean {close[0]!r}?" if close else ""
            raise RayforceValueError(
                f"the table {table!r} has no {_listed(unknown)}{hint} (it has the {_listed([*schema])})"
            )
        if missing := [name for name in schema if name not in self._columns]:
            raise RayforceValueError(f"the data lacks the {_listed(missing)} of the table {table!r}")
        for name, target in schema.items():
            if target not in DTYPES and target not in (Type.SYMBOL, Type.STRING):
                raise RayforceValueError(
                    f"the column {name!r} of the table {table!r} has the type {target.name}, which bulk inserts "
                    f"do not support; insert its rows with a query"
                )
        return TableData({name: _cast(self._columns[name], target) for name, target in schema.items()})

    def payloads(self, max_bytes: int) -> Iterator[tuple[bytes, int] | None]:
        """Convert the rows to payloads of tables of at most `max_bytes`. Yields each with its number of rows.

        There is at least one payload; it may have no rows. Yields `None` between short steps, so that the caller
        can do other work.

        Raises:
            RayforceConversionError: a value cannot be represented in its column (the error names column and row), or a
                single row is longer than `max_bytes`.
        """
        table = _TablePayload(self._columns, max_bytes)
        for step in self._read():
            yield None
            if step is None:
                continue
            row, vectors = step
            while rest := len(vectors[self.names[0]]):
                if fitting := table.fitting(vectors):
                    for name, vector in vectors.items():
                        table.add(name, vector.slice(0, fitting), row)
                        yield None
                    table.rows += fitting
                elif not table.rows:
                    raise RayforceConversionError(f"row {row} does not fit into a message of {max_bytes} bytes")
                if fitting < rest:
                    yield table.take(), table.taken_rows
                row += fitting
                vectors = {name: vector.slice(fitting, rest) for name, vector in vectors.items()}
        if table.rows or not len(self):
            yield table.take(), table.taken_rows

    def _read(self) -> Iterator[tuple[int, dict[str, Vector]] | None]:
        """Yield the number of a row, and vectors of some rows from there; `None` after each column that is read."""
        for start in range(0, len(self), ROWS_AT_ONCE):
            vectors = {}
            for name, column in self._columns.items():
                stop = min(len(self), start + ROWS_AT_ONCE)
                vectors[name] = column.read(start, stop)
                if len(vectors[name]) != stop - start:
                    raise RayforceConversionError(f"{column.where} became shorter while it was sent; pass a copy")
                yield None
            yield start, vectors


class _TablePayload:
    """The payload of a table that grows by some rows at a time.

    Attributes:
        rows: the number of rows in it.
        taken_rows: the number of rows of the payload that was taken last.
    """

    def __init__(self, columns: Mapping[str, _Column], max_bytes: int) -> None:
        self._columns = columns
        self._start = table_of(columns, [])[: -_SIZED.size] + _SIZED.pack(Type.LIST, 0, len(columns))
        self._room = max_bytes - len(self._start) - _SIZED.size * len(columns)
        self.rows = self.taken_rows = 0
        self._size = 0
        self._clear()

    def _clear(self) -> None:
        self._items: dict[str, list[Buffer]] = {name: [] for name in self._columns}
        self._attributes = dict.fromkeys(self._columns, 0)

    def fitting(self, vectors: Mapping[str, Vector]) -> int:
        """Return how many of the first rows fit."""
        room = self._room - self._size
        if sum(map(_size, vectors.values())) <= room:
            return len(next(iter(vectors.values())))
        sizes = sum(vector.row_sizes() for vector in vectors.values())
        return int(np.searchsorted(np.cumsum(sizes), room, "right"))

    def add(self, name: str, vector: Vector, first_row: int) -> None:
        """Append to one column. Raises `RayforceConversionError` for a value that cannot be represented."""
        items, attributes = vector_items(vector, self._columns[name].where, first_row)
        self._attributes[name] |= attributes
        self._items[name].append(items)
        self._size += len(items)

    def take(self) -> bytes:
        """Return the payload, and start again with an empty table."""
        parts: list[Buffer] = [self._start]
        for name, column in self._columns.items():
            parts.append(_SIZED.pack(column.type, self._attributes[name], self.rows))
            parts += self._items[name]
        self.taken_rows, self.rows, self._size = self.rows, 0, 0
        self._clear()
        return b"".join(parts)


def table_data(data: Any, other: _Other) -> TableData:
    """Return tabular data of any kind. Arguments and errors are those of `table_data_steps`."""
    steps = table_data_steps(data, other)
    try:
        while True:
            next(steps)
    except StopIteration as end:
        return cast(TableData, end.value)


def table_data_steps(data: Any, other: _Other) -> Generator[None, None, TableData]:
    """Return tabular data of any kind. Looks through lists at once, and reads other columns later.

    Yields between short steps, so that the caller can do other work.

    Args:
        data: as the table at the top of this module lists it.
        other: returns the payload of a Rayforce object, and `None` for anything else.

    Raises:
        RayforceValueError: there are no columns, their lengths differ, or a name is empty or occurs twice.
        RayforceConversionError: the engine cannot represent the data or a column.
    """
    if isinstance(data, Mapping):
        columns = {}
        for name, values in data.items():
            columns[name] = yield from _column(name, values, other)
            yield
        return TableData(columns)
    if is_arrow(data):
        if isinstance(imported := _imported(data), ArrowColumn):
            raise RayforceConversionError("the data is one array without a name; write a mapping: {name: array}")
        return imported
    payload = other(data)
    if payload is not None and payload[0] in (Type.TABLE, Type.DICT):
        return _decoded(read_columns(payload))
    raise RayforceConversionError(
        f"{type_name(data)} is not tabular data; write a mapping of columns, a DataFrame, an Arrow table, Columns or a "
        "Table"
    )


def arrow_payload(data: Any) -> bytes:
    """Return the payload of Arrow data or of Columns: a vector for an array, otherwise a table.

    Raises:
        RayforceValueError: a table has no columns, or a name is empty or occurs twice.
        RayforceConversionError: the engine cannot represent the data, or a value in it.
    """
    columns = _imported(data)
    if isinstance(columns, ArrowColumn):
        return vector_payload(columns.read(), "the array")
    (payload,) = (item[0] for item in columns.payloads(_NO_LIMIT) if item is not None)
    return payload


def _imported(data: Any) -> TableData | ArrowColumn:
    """Return the columns of Arrow data or of Columns. An array becomes one column without a name."""
    if isinstance(data, Columns):
        return _decoded(data)
    imported = import_arrow(data, "the data")
    if isinstance(imported, ArrowColumn):
        return imported
    names = [column.name for column in imported]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise RayforceValueError(f"the data has the {_listed(sorted(doubled))} more than once")
    return TableData({column.name: _arrow(column, f"column {column.name!r}") for column in imported})


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise RayforceValueError(f"the name of a column must be a str, not {type_name(name)}")
    if not name:
        raise RayforceValueError("the name of a column is empty")
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise RayforceValueError(f"the column name {name!a} has a character that the engine cannot represent")


def _column(name: str, values: Any, other: _Other) -> _Steps[_Column]:
    """Return a column of a mapping."""
    where = f"column {name!r}"
    other = partial(_object, where, other)
    if isinstance(values, np.ndarray):
        if not is_objects(values):
            return _array(values, where)
        if values.ndim == 1:
            values = values.tolist()
    if isinstance(values, list | tuple):
        return (yield from _sequence(values, where, other))
    if is_arrow(values) and not isinstance(values, Columns):
        imported = import_arrow(values, where)
        if isinstance(imported, ArrowColumn):
            return _arrow(imported, where)
    elif (payload := other(values)) is not None and (payload[0] in DTYPES or payload[0] in (Type.SYMBOL, Type.STRING)):
        return _vector(read_columns(payload).vectors()["value"], where)
    raise RayforceConversionError(f"{where} is {type_name(values)}; write a list or an array of one dimension")


def _object(where: str, other: _Other, value: Any) -> Buffer | None:
    try:
        return other(value)
    except RayforceConversionError as error:
        raise RayforceConversionError(f"{where}: {error}") from None


def _sequence(values: Sequence[Any], where: str, other: _Other) -> _Steps[_Column]:
    classes: set[type] = set()
    for start in range(0, len(values), ROWS_AT_ONCE):
        classes.update(map(type, values[start : start + ROWS_AT_ONCE]))
        yield
    if (numbers := array_of_scalars(values, classes)) is not None:
        return _array(numbers, where)
    reader = reader_for(values, classes)
    if reader is None:
        return _vector((yield from _mixed(values, where, other)), where)
    read = reader.read

    def convert(start: int, stop: int) -> Vector:
        try:
            return read(values[start:stop])
        except Unrepresentable as found:
            raise _refused(where, start, found) from None

    return _Column(where, reader.type, len(values), convert)


def _mixed(values: Sequence[Any], where: str, other: _Other) -> _Steps[Vector]:
    """Return the vector of numpy scalars, Rayforce objects, or only nulls."""
    if all(is_null_class(type(value)) for value in values):
        return FixedWidth(Type.I64, np.zeros(len(values), DTYPES[Type.I64]), np.ones(len(values), np.bool_))
    atoms = []
    for row, value in enumerate(values):
        atoms.append(_atom(value, f"{where}, row {row}", other))
        if row % _ATOMS_AT_ONCE == 0:
            yield
    if (vector := combine(atoms)) is not None:
        return vector
    first = next(row for row, atom in enumerate(atoms) if atom != NULL)
    other_row = next((row for row, atom in enumerate(atoms) if atom[0] not in (Type.NULL, atoms[first][0])), None)
    if other_row is not None:
        raise RayforceConversionError(
            f"{where}, row {other_row}: {type_name(values[other_row])} in a column that began with "
            f"{type_name(values[first])}; write values of one type"
        )
    if NULL in atoms and (code := -atoms[first][0] & 0xFF) in (Type.B8, Type.U8):
        row = atoms.index(NULL)
        raise RayforceConversionError(f"{where}, row {row}: null, but {Type(code).name} has no null value")
    raise RayforceConversionError(f"{where}, row {first}: {type_name(values[first])} cannot be a value of a column")


def _atom(value: Any, where: str, other: _Other) -> Buffer:
    if isinstance(value, list | tuple | Mapping | np.ndarray | bytes):
        raise RayforceConversionError(f"{where}: {type_name(value)} cannot be a value of a column")
    try:
        return atom(value, other)
    except Unrepresentable as found:
        raise RayforceConversionError(f"{where}: {found.problem}") from None


def _decoded(columns: Columns) -> TableData:
    return TableData({name: _received(name, column) for name, column in columns.raw.items()})


def _received(name: str, column: RawColumn) -> _Column:
    where = f"column {name!r}"
    type_code = to_vector(where, column.slice(0, 0)).type
    return _Column(where, type_code, len(column), lambda start, stop: to_vector(where, column.slice(start, stop)))


def _array(array: np.ndarray[Any, Any], where: str) -> _Column:
    try:
        return _vector(array_vector(array), where)
    except Unrepresentable as found:
        raise _refused(where, 0, found) from None


def _vector(vector: Vector, where: str) -> _Column:
    return _Column(where, vector.type, len(vector), vector.slice)


def _arrow(column: ArrowColumn, where: str) -> _Column:
    return _Column(where, column.type, len(column), column.read)


def _cast(column: _Column, target: Type) -> _Column:
    def read(start: int, stop: int) -> Vector:
        return cast_vector(column.read(start, stop), target, column.where, start)

    return _Column(column.where, target, column.rows, read)


def _refused(where: str, start: int, found: Unrepresentable) -> RayforceConversionError:
    row = "" if found.index is None else f", row {start + found.index}"
    return RayforceConversionError(f"{where}{row}: {found.problem}")


def _size(vector: Vector) -> int:
    """Return the size of the items of a vector on the wire, in bytes."""
    if isinstance(vector, FixedWidth):
        return len(vector) * DTYPES[vector.type].itemsize
    return int(vector.offsets[-1] - vector.offsets[0]) + len(vector) * vector.extra_size


def _listed(names: Sequence[str]) -> str:
    shown = [repr(name) for name in names[:_SHOWN_NAMES]]
    if len(names) > _SHOWN_NAMES:
        shown.append(f"{len(names) - _SHOWN_NAMES} more")
    if len(shown) == 1:
        return f"column {shown[0]}"
    return f"columns {', '.join(shown[:-1])} and {shown[-1]}"
