"""The public class `Columns`: the result of a query as data."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from numpy.typing import NDArray

from ..errors import RayforceIndexError, RayforceTypeError
from . import _arrow, _pandas, _polars
from ._decoding import to_list, to_numpy, to_vector
from ._payloads import Buffer
from ._reader import FixedColumn, PayloadReader, RawColumn, TextColumn
from ._vectors import Vector

_ROWS_PER_BLOCK = 10_000  # decoded at a time by `rows`


class Columns:
    """The result of a query as columns, stored as they arrived. Each method converts them when it is called.

    A table has its own columns, a dict of vectors of equal length has one column for each key, and a vector is one
    column named `value`. The page "Data" of the documentation lists the Python, numpy and Arrow type for each type of
    the engine, and the values that the engine cannot tell from null.

    Null is masked in arrays of integers, NaN in arrays of floats, NaT in arrays of dates and times, `None` in other
    arrays and in Python values, and null in Arrow. Timestamps are in UTC and have no time zone. A `datetime` or
    `timedelta` has microseconds; a value with nanoseconds is a `pandas.Timestamp` or `pandas.Timedelta` if pandas is
    installed, and is otherwise truncated to microseconds.

    Arrays of numbers are read-only views of the reply and may be unaligned; `numpy.require(array, requirements="A")`
    copies an unaligned one. Each of these arrays keeps the whole reply in memory as long as it exists.

    `polars.DataFrame(columns)`, `pandas.DataFrame.from_arrow(columns)`, `pyarrow.table(columns)` and DuckDB accept
    the object directly.
    """

    def __init__(self, columns: Mapping[str, RawColumn]) -> None:
        self._columns = dict(columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self._columns)

    @property
    def schema(self) -> Mapping[str, str]:
        """The engine's type of each column, such as `"SYMBOL"` or `"F64"`, by column name."""
        return MappingProxyType(
            {
                name: column.type.name if isinstance(column, FixedColumn | TextColumn) else "LIST"
                for name, column in self._columns.items()
            }
        )

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(next(iter(self._columns.values()), ()))

    def __repr__(self) -> str:
        described = ", ".join(f"{name}: {kind}" for name, kind in self.schema.items())
        return f"<Columns {described}; rows: {len(self)}>"

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> NDArray[Any]:
        """Return a column as a numpy array. The page "Data" of the documentation lists the types.

        Raises:
            RayforceIndexError: there is no column of this name; the error lists the names.
            RayforceConversionError: a value cannot be represented; the error names the row.
        """
        try:
            column = self._columns[name]
        except (KeyError, TypeError):
            raise RayforceIndexError(f"no column has the name {name!r}; the columns are: {', '.join(self)}") from None
        return to_numpy(f"column {name!r}", column)

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the columns. For the rows, use `rows`."""
        return iter(self._columns)

    def rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield each row as a tuple of Python values. 10,000 rows are converted at a time.

        Raises:
            RayforceConversionError: a value cannot be represented; the error names the column and the row.
        """
        for start in range(0, len(self), _ROWS_PER_BLOCK):
            yield from zip(*self._lists(start, start + _ROWS_PER_BLOCK).values(), strict=True)

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the columns as lists of Python values, by column name.

        Raises:
            RayforceConversionError: a value cannot be represented; the error names the column and the row.
        """
        return self._lists(0, None)

    def to_numpy(self) -> dict[str, NDArray[Any]]:
        """Return the columns as numpy arrays, as `columns[name]` returns them, by column name.

        Raises:
            RayforceConversionError: a value cannot be represented; the error names the column and the row.
        """
        return {name: self[name] for name in self._columns}

    def to_arrow(self) -> Any:
        """Return the columns as a `pyarrow.Table`.

        Raises:
            RayforceError: pyarrow is not installed.
            RayforceConversionError: Arrow cannot represent a value; the error names the column and the row.
        """
        return _arrow.to_table(self._columns)

    def to_pandas(self) -> Any:
        """Return the columns as a `pandas.DataFrame`. Integers with nulls have nullable types; symbols are categories.

        Raises:
            RayforceError: pandas or pyarrow is not installed.
            RayforceConversionError: Arrow cannot represent a value; the error names the column and the row.
        """
        return _pandas.to_frame(self.to_arrow())

    def to_polars(self) -> Any:
        """Return the columns as a `polars.DataFrame`. Symbols are categories.

        Raises:
            RayforceError: polars or pyarrow is not installed.
            RayforceConversionError: Arrow cannot represent a value; the error names the column and the row.
        """
        return _polars.to_frame(self.to_arrow())

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Export the columns through the Arrow PyCapsule interface.

        Args:
            requested_schema: as in that interface: a capsule with the schema to cast to, or `None`.

        Raises:
            RayforceError: pyarrow is not installed.
            RayforceConversionError: Arrow cannot represent a value; the error names the column and the row.
        """
        return self.to_arrow().__arrow_c_stream__(requested_schema)

    def __array__(self, dtype: object = None, copy: bool | None = None) -> NoReturn:
        """Refuse to become a single array, which `pandas.DataFrame(columns)` also requests.

        Raises:
            RayforceTypeError: always; it names the methods to use.
        """
        raise RayforceTypeError(
            "columns of several types are not one array: use to_pandas() for a pandas.DataFrame, "
            "to_numpy() for a dict of arrays, or columns['name'] for one array"
        )

    @property
    def raw(self) -> Mapping[str, RawColumn]:
        """The columns as they are in the reply, for the functions of this package that insert them."""
        return MappingProxyType(self._columns)

    def vectors(self) -> dict[str, Vector]:
        """Return the columns as vectors that can be sent, for the functions of this package that insert them.

        Raises:
            RayforceConversionError: a column is a list of values; the error names it.
        """
        return {name: to_vector(f"column {name!r}", column) for name, column in self._columns.items()}

    def _lists(self, start: int, stop: int | None) -> dict[str, list[Any]]:
        return {name: to_list(f"column {name!r}", column, start, stop) for name, column in self._columns.items()}


class ColumnsReader:
    """Reads a payload as columns in short steps, so that an event loop can do other work in between.

    Args:
        payload: the payload of a reply, without the frame's header; it must not change while the columns are in use.
    """

    def __init__(self, payload: Buffer) -> None:
        self._reader = PayloadReader(payload)

    def step(self) -> bool:
        """Read for a few milliseconds at most. Returns whether everything has been read.

        Raises:
            RayforceConversionError: the payload is damaged, or two columns have the same name.
            NotColumns: the payload is a value without columns.
            UnknownType: it contains a type that this reader does not know.
        """
        return self._reader.step()

    def result(self) -> Columns:
        """Return the columns, once `step` has returned True."""
        return Columns(self._reader.result())


def read_columns(payload: Buffer) -> Columns:
    """Read a payload as columns at once. Raises what `ColumnsReader.step` raises."""
    reader = ColumnsReader(payload)
    while not reader.step():
        pass
    return reader.result()
