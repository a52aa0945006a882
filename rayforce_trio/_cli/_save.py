"""The command `save`."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import aclosing, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import anyio
from anyio.abc import TaskGroup

from .. import Columns, Query, WSClientConnection
from ..errors import NoColumns
from ._batched_output import BatchedOutput, BatchWriter
from ._console import OK, CommandFailed, UsageError, counted, show
from ._fields import csv_batch
from ._interrupts import Interruptible, run
from ._options import add_timeout, examples
from ._parameters import parameters
from ._query import add_query, query_of
from ._secrets import keep_secrets_out_of_standard_input
from ._session import Session
from ._target import add_target, target_of

DESCRIPTION = """Write the result of a query to a file, in batches. The extension of the file sets the format: .csv,
.parquet or .arrow (an Arrow stream). The result must be a table, a vector, or a dict of vectors of equal length."""
_EXAMPLES = examples(
    "save prices prices.parquet",
    "save :8765 '(select {from: trades where: (> size 200)})' large.csv --replace",
)


class _CsvWriter:
    """Writes batches as CSV with a header."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._header = True

    def write(self, columns: Columns) -> None:
        for lines in csv_batch(columns, header=self._header):
            self._file.write(lines.encode())
        self._header = False

    def close(self) -> None:
        """Do nothing: CSV has no end."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "save", help="write the result of a query to a file", description=DESCRIPTION, epilog=_EXAMPLES
    )
    add_target(parser)
    add_query(parser)
    parser.add_argument("file", metavar="FILE", help="the file, with the extension .csv, .parquet or .arrow")
    parser.add_argument("--replace", action="store_true", help="replace the file if it exists")
    add_timeout(parser)
    parser.set_defaults(run=save)


def save(options: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    path = Path(options.file)
    new_writer = _writer(path)
    if path.exists() and not options.replace:
        raise UsageError(f"{path} already exists; use --replace to overwrite it")
    if options.expression == "-":
        keep_secrets_out_of_standard_input(options)
    client = target_of(options).client()
    values = parameters(options.parameter)
    query = query_of(options)

    async def save_result(interruptible: Interruptible, tasks: TaskGroup) -> None:
        """Write the result. A checkpoint; if cancelled, the file is as before."""
        started_at = anyio.current_time()
        with _replacing(path, replace=options.replace) as file, closing(new_writer(file)) as writer:
            output = BatchedOutput(writer, abandon=False)  # the writer is closed next
            async with aclosing(
                await Session.connect(client, interruptible, tasks, time_limit=options.timeout)
            ) as session:
                await session.call(partial(_copy, session.connection, query, values, output), status=output.status)
        show(f"{counted(output.rows, 'row')} saved to {path} in {anyio.current_time() - started_at:.1f} s")

    run(save_result, backend="trio")
    return OK


async def _copy(connection: WSClientConnection, query: Query, values: Any, output: BatchedOutput) -> None:
    """Write all batches. A checkpoint; if cancelled, a batch may be written in part."""
    try:
        async with connection.stream(query, values) as batches:
            await output.copy(batches)
    except NoColumns as error:
        raise CommandFailed(str(error).partition(";")[0]) from None


def _writer(path: Path) -> Callable[[BinaryIO], BatchWriter]:
    if path.suffix == ".csv":
        return _CsvWriter
    if path.suffix not in (".parquet", ".arrow"):
        raise UsageError(f"{path}: the extension must be .csv, .parquet or .arrow; it sets the format")
    try:
        from ._files import ArrowWriter, ParquetWriter
    except ModuleNotFoundError as error:
        raise CommandFailed(f"{path.suffix} needs {error.name}: pip install 'rayforce-trio[arrow]'") from None
    return ParquetWriter if path.suffix == ".parquet" else ArrowWriter


@contextmanager
def _replacing(path: Path, *, replace: bool) -> Iterator[BinaryIO]:
    """Open a file that takes the place of `path` at the end of the block, unless the block raises.

    Raises:
        CommandFailed: the file cannot be written; or, unless `replace`, another command may be writing it.
    """
    part = path.with_name(f"{path.name}.part")
    if not replace and part.exists():
        raise CommandFailed(f"{part} exists: another command is writing it, or was killed; delete it, or use --replace")
    try:
        try:
            with part.open("wb") as file:
                yield file
            part.replace(path)
        except OSError as error:
            raise CommandFailed(f"{path} cannot be written: {error.strerror}") from None
    except BaseException:
        with suppress(OSError):
            part.unlink()
        raise
