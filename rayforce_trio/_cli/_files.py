"""Files with tables, read in batches, and Arrow streams. Only this module of the command line imports pyarrow."""

import io
import re
import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from .. import Columns
from ._console import CommandFailed, UsageError
from ._input_file import InputFile

TYPES: Mapping[str, Any] = {
    "B8": pa.bool_(),
    "U8": pa.uint8(),
    "I16": pa.int16(),
    "I32": pa.int32(),
    "I64": pa.int64(),
    "F32": pa.float32(),
    "F64": pa.float64(),
    "DATE": pa.date32(),
    "TIME": pa.time32("ms"),
    "TIMESTAMP": pa.timestamp("ns"),
    "TIMESPAN": pa.duration("ns"),
    "GUID": pa.binary(16),
    "SYMBOL": pa.dictionary(pa.int32(), pa.string()),
    "STRING": pa.string(),
}
"""The engine's types that `--type` accepts, and the Arrow types that represent them."""

BYTES_PER_BATCH = 4 * 1024**2
"""How many bytes of CSV are read for a batch."""

_NO_TYPES: Mapping[str, str] = MappingProxyType({})
_ROWS_PER_BATCH = 100_000
_MAGIC_SIZE = 8
_NULLS = pa.array(pyarrow.csv.ConvertOptions().null_values)  # the texts that are null in CSV
_CSV_ERROR = re.compile(
    r"(?:In CSV column #(?P<column>\d+): )?(?:CSV parse error: )?(?:Row #(?P<row>\d+): )?(?P<problem>.*)", re.DOTALL
)


class Source:
    """The rows of a file.

    Args:
        file: the file that the batches are read from.
        stream: the file as pyarrow reads it.
        schema: the schema of the batches.
        batches: the rows, in record batches.
        types: the engine's types of some columns, by name.
        total_rows: `None` if the number of rows is not known.
        total_batches: `None` if the number of batches is not known.
        batch_size: how many bytes of the file a batch is made of; `None` if it is not known.

    Attributes:
        file: the file.
        schema: the Arrow schema of the batches that `next_batch` returns.

    Raises:
        UsageError: a column in `types` does not exist.
    """

    def __init__(
        self,
        file: InputFile,
        stream: Any,
        schema: Any,
        batches: Iterator[Any],
        types: Mapping[str, str],
        total_rows: int | None = None,
        total_batches: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if missing := [column for column in types if column not in schema.names]:
            raise UsageError(f"{file.name} has no column {missing[0]!r}; its columns are: {', '.join(schema.names)}")
        self.schema = pa.schema([(field.name, TYPES.get(types.get(field.name, ""), field.type)) for field in schema])
        self.file = file
        self._stream = stream
        self._batches = batches
        self._types = types
        self._rows = 0
        self._total_rows = total_rows
        self._returned = 0  # batches
        self._total_batches = total_batches
        self._bytes = 0
        self._batch_size = batch_size

    @property
    def fraction(self) -> float | None:
        """The part of the file that `next_batch` has returned, between 0 and 1; `None` if its length is not known."""
        if self._total_rows:
            return self._rows / self._total_rows
        if self._total_batches:
            return self._returned / self._total_batches
        if not self.file.size:
            return None
        position = self._bytes if self._batch_size else self._stream.tell()  # of CSV, pyarrow reads far ahead
        return float(min(1, position / self.file.size))

    def next_batch(self) -> Any:
        """Read some rows; returns a pyarrow.Table, or `None` at the end. Blocks while a pipe is empty.

        Raises:
            CommandFailed: the file is damaged, or a value does not have the type of its column. The error names the
                file, the column and the row.
        """
        try:
            batch = next(self._batches, None)
        except (pa.ArrowException, OSError) as error:
            raise CommandFailed(_explain(self.file.name, error, self.schema.names)) from None
        if batch is None:
            return None
        columns = [
            self._cast(name, column, self._types[name]) if name in self._types else column
            for name, column in zip(self.schema.names, batch.columns, strict=True)
        ]
        self._rows += batch.num_rows
        self._returned += 1
        self._bytes += self._batch_size or 0
        return pa.table(columns, names=self.schema.names)

    def _cast(self, name: str, column: Any, kind: str) -> Any:
        try:
            return _cast(column, kind)
        except (pa.ArrowException, ValueError):
            row = _first_that_fails(column, kind)
            raise CommandFailed(
                f"{self.file.name}, row {self._rows + row + 1}, column {name!r}: "
                f"{column[row].as_py()!r} is not of the type {kind}"
            ) from None


def open_source(
    file: InputFile, types: Mapping[str, str], *, delimiter: str = ",", defaults: Mapping[str, str] = _NO_TYPES
) -> Source:
    """Return the rows of a CSV, Parquet or Arrow file, or an Arrow stream, recognized by its first bytes.

    Blocks while a pipe is empty.

    Args:
        file: the file. CSV may be compressed with gzip.
        types: the engine's types of some of the columns, by name.
        delimiter: the character between the fields of CSV.
        defaults: types that are used instead of inferred ones for columns of CSV.

    Raises:
        UsageError: the file cannot be read as any of these, or lacks a column in `types`.
    """
    try:
        return _source(file, types, delimiter, defaults)
    except (pa.ArrowException, OSError) as error:
        raise UsageError(_explain(file.name, error)) from None


def _explain(name: str, error: Exception, columns: Sequence[str] = ()) -> str:
    """Return the text of an error of pyarrow, with the file and, for CSV, the row and the column."""
    found = _CSV_ERROR.match(str(error))
    assert found is not None  # it matches everything
    where, hint = name, ""
    if found["row"] is not None:
        where += f", row {int(found['row']) - 1}"  # the header is not a row
    if found["column"] is not None and columns:
        column = columns[int(found["column"])]
        where += f", column {column!r}"
        if "invalid UTF8" not in found["problem"]:
            hint = f"; the first rows have another type: set it with --type {column}=TYPE"
    return f"{where}: {found['problem'].strip()}{hint}"


def _source(file: InputFile, types: Mapping[str, str], delimiter: str, defaults: Mapping[str, str]) -> Source:
    beginning = file.peek(_MAGIC_SIZE)
    if beginning.startswith(b"PAR1"):
        return _open_parquet(file, types)
    if beginning.startswith(b"ARROW1"):
        return _open_arrow_file(file, types)
    if beginning.startswith(b"\xff\xff\xff\xff"):
        stream = _stream(file)
        arrow = pa.ipc.open_stream(stream)
        return Source(file, stream, arrow.schema, iter(arrow), types)
    is_compressed = beginning.startswith(b"\x1f\x8b")
    return _open_csv(file, types, delimiter, defaults, is_compressed=is_compressed)


def _stream(file: InputFile) -> Any:
    """Return a file as pyarrow reads it from the beginning to the end."""
    if not file.is_stream:
        return pa.OSFile(file.path)
    pa.set_io_thread_count(1)
    file.on_close = _wait_for_reads
    return pa.PythonFile(_Unclosed(file), mode="r")


class _Unclosed:
    """A file that pyarrow reads, and does not close.

    Args:
        file: the file.
    """

    def __init__(self, file: InputFile) -> None:
        self.read = file.read
        self.tell = file.tell
        self.closed = False

    def close(self) -> None:
        """Do nothing: the command closes the file."""


def _wait_for_reads() -> None:
    """Wait until pyarrow's thread has left the reads of a file, which have ended.

    The thread reads ahead, and needs the interpreter for that. If it asks for it while the process ends, the process is
    aborted. It carries out one task after the other, and is done with the file when it has read something else.
    """
    other = pa.BufferOutputStream()  # to free memory of its own, it does not need the interpreter
    other.write(b"n\n1\n")
    pyarrow.csv.open_csv(pa.BufferReader(other.getvalue()))


def _random_access(file: InputFile) -> Any:
    """Return a file as pyarrow reads it with random access.

    Raises:
        UsageError: the file is a pipe.
    """
    if file.size is None:
        raise UsageError(f"{file.name}: a file of this kind cannot be read from a pipe; name the file")
    return pa.OSFile(file.path)


class ArrowWriter:
    """Writes batches of columns as an Arrow IPC stream.

    Args:
        file: is written to; `close` does not close it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._writer: Any = None

    def write(self, columns: Columns) -> None:
        """Write a batch.

        Raises:
            RayforceConversionError: Arrow cannot represent a value.
            CommandFailed: a column of lists has other types than in the first batch.
        """
        table = columns.to_arrow()
        if self._writer is None:
            self._writer = self._open(table.schema)
        self._writer.write_table(_with_schema(table, self._writer_schema))

    def _open(self, schema: Any) -> Any:
        self._writer_schema = schema
        return pa.ipc.new_stream(self._file, schema)

    def close(self) -> None:
        """Write the end, unless nothing was written. Idempotent."""
        if self._writer is not None:
            self._writer.close()


class ParquetWriter(ArrowWriter):
    """Writes batches of columns as a Parquet file. Otherwise like `ArrowWriter`."""

    def _open(self, schema: Any) -> Any:
        self._writer_schema = schema
        return pyarrow.parquet.ParquetWriter(self._file, schema)


def _with_schema(table: Any, schema: Any) -> Any:
    """Return a table with the types of the first batch, which differ only if a column holds lists."""
    if table.schema == schema:
        return table
    try:
        return table.cast(schema)
    except (pa.ArrowException, ValueError):
        column = next(field.name for field in schema if table.schema.field(field.name) != field)
        raise CommandFailed(
            f"column {column!r} holds {table.schema.field(column).type} where earlier rows hold "
            f"{schema.field(column).type}; --format json writes any value"
        ) from None


def arrow_stream(columns: Columns) -> Iterator[bytes]:
    """Yield columns as an Arrow IPC stream.

    Raises:
        RayforceConversionError: Arrow cannot represent a value.
    """
    table = columns.to_arrow()
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        for batch in table.to_batches(_ROWS_PER_BATCH):
            writer.write_batch(batch)
            yield sink.getvalue()
            sink.seek(0)
            sink.truncate()
    yield sink.getvalue()


def _open_csv(
    file: InputFile, types: Mapping[str, str], delimiter: str, defaults: Mapping[str, str], *, is_compressed: bool
) -> Source:
    stream = _stream(file)
    wanted = {**{column: kind for column, kind in defaults.items() if kind in TYPES}, **types}
    batches = pyarrow.csv.open_csv(
        pa.CompressedInputStream(stream, "gzip") if is_compressed else stream,
        read_options=pyarrow.csv.ReadOptions(
            block_size=BYTES_PER_BATCH, use_threads=False
        ),  # with threads, errors name no rows
        parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string())),
    )
    for field in batches.schema:
        if pa.types.is_binary(field.type):
            raise UsageError(f"{file.name}, column {field.name!r}: the text is not UTF-8; convert the file to UTF-8")
    existing = {column: kind for column, kind in wanted.items() if column in types or column in batches.schema.names}
    batch_size = None if is_compressed else BYTES_PER_BATCH
    return Source(file, stream, batches.schema, iter(batches), existing, batch_size=batch_size)


def _open_parquet(file: InputFile, types: Mapping[str, str]) -> Source:
    stream = _random_access(file)
    parquet = pyarrow.parquet.ParquetFile(stream)
    batches = parquet.iter_batches(_ROWS_PER_BATCH)
    return Source(file, stream, parquet.schema_arrow, batches, types, total_rows=parquet.metadata.num_rows)


def _open_arrow_file(file: InputFile, types: Mapping[str, str]) -> Source:
    stream = _random_access(file)
    arrow = pa.ipc.open_file(stream)
    batches = map(arrow.get_batch, range(arrow.num_record_batches))
    return Source(file, stream, arrow.schema, batches, types, total_batches=arrow.num_record_batches)


def _cast(column: Any, kind: str) -> Any:
    """Cast a column to the Arrow type that represents an engine's type."""
    target = TYPES[kind]
    if pa.types.is_dictionary(column.type):
        if kind == "SYMBOL":
            return column
        column = column.dictionary_decode()
    if kind == "SYMBOL":
        return column.cast(pa.string()).dictionary_encode()
    if kind == "STRING":
        return column.cast(target)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = pc.if_else(pc.is_in(column, _NULLS), pa.scalar(None, column.type), column)
        if kind == "GUID":
            return pa.array([None if text is None else uuid.UUID(text).bytes for text in column.to_pylist()], target)
        if kind == "TIMESPAN":
            column = column.cast(pa.int64())
        if kind == "TIME":
            column = pc.binary_join_element_wise("1970-01-01", column, "T").cast(pa.timestamp("ms"))
        if kind == "TIMESTAMP":
            return _timestamps(column)
    return column.cast(target)


def _timestamps(texts: Any) -> Any:
    """Return timestamps in UTC from texts. Either all texts have a time zone, or none has."""
    has_zone = pc.any(pc.match_substring_regex(texts, r"(Z|[+-]\d\d:?\d\d)$")).as_py()
    return texts.cast(pa.timestamp("ns", "UTC" if has_zone else None)).cast(pa.timestamp("ns"))


def _first_that_fails(column: Any, kind: str) -> int:
    """Return the index of the first value of a column that cannot be cast, found by halving."""
    start, stop = 0, len(column)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            _cast(column.slice(start, middle - start), kind)
        except (pa.ArrowException, ValueError):
            stop = middle
        else:
            start = middle
    return start
