"""The command `load`."""

import argparse
from collections.abc import Mapping
from contextlib import aclosing, closing
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from .. import WSClientConnection
from ..errors import RayforceConversionError, RayforceError
from ._batched_output import progress_bar
from ._console import OK, CommandFailed, Interrupted, UsageError, counted, show
from ._input_file import InputFile
from ._interrupts import Interruptible, run
from ._options import add_timeout, examples
from ._secrets import keep_secrets_out_of_standard_input
from ._session import Session
from ._target import add_target, check_not_url, target_of

if TYPE_CHECKING:
    from ._files import Source

DESCRIPTION = """Load a CSV, Parquet or Arrow file into a table of a server, in batches. By default the command creates
the table, which must not exist. The types of the columns come from a Parquet or Arrow file, are inferred from CSV, or
with --append come from the table; --type sets them."""
_EXAMPLES = examples(
    "load trades trades.csv --type symbol=SYMBOL",
    "load :8765 trades today.parquet --append",
    "load wss://ann@db.example.org trades - --replace --password-file password < trades.csv",
)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("load", help="load a file into a table", description=DESCRIPTION, epilog=_EXAMPLES)
    add_target(parser)
    parser.add_argument("table", metavar="TABLE", help="the name of the table")
    parser.add_argument("file", metavar="FILE", help="the file; - reads CSV or an Arrow stream from standard input")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--append", action="store_true", help="insert the rows into an existing table")
    mode.add_argument("--replace", action="store_true", help="replace the table if it exists")
    parser.add_argument(
        "--type",
        metavar="COLUMN=TYPE",
        action="append",
        default=[],
        type=_column_type,
        help="set the engine's type of a column, such as price=F64 or symbol=SYMBOL; may be repeated",
    )
    parser.add_argument(
        "--delimiter", metavar="CHARACTER", default=",", help="the character between CSV fields; default: %(default)s"
    )
    add_timeout(parser)
    parser.set_defaults(run=load)


def load(options: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    try:
        from ._files import TYPES
    except ModuleNotFoundError as error:
        raise CommandFailed(f"load needs {error.name}: pip install 'rayforce-trio[arrow]'") from None
    check_not_url(options.table, "FILE")
    if options.file == "-":
        keep_secrets_out_of_standard_input(options)
    if len(options.delimiter) != 1 or not options.delimiter.isascii():
        raise UsageError(f"--delimiter: {options.delimiter!r} is not one ASCII character")
    given = dict(options.type)
    for column, kind in given.items():
        if kind not in TYPES:
            raise UsageError(f"--type {column}={kind}: the types are {', '.join(TYPES)}")
    client = target_of(options).client()
    delimiter = options.delimiter

    async def append(interruptible: Interruptible, tasks: TaskGroup) -> None:
        """Insert the rows into the table. A checkpoint; if cancelled, the table keeps the rows inserted so far."""
        async with aclosing(await Session.connect(client, interruptible, tasks, time_limit=options.timeout)) as session:
            schema = await session.call(partial(session.connection.schema, options.table))
            with closing(InputFile(options.file)) as file:
                source = await open_rows(file, given, interruptible, delimiter=delimiter, defaults=schema)
                await Loading(source, options.table, append=True, replace=False).run(session)

    async def create(interruptible: Interruptible, tasks: TaskGroup) -> None:
        """Create the table with the rows. A checkpoint; if cancelled, the table keeps the rows inserted so far."""
        with closing(InputFile(options.file)) as file:
            source = await open_rows(file, given, interruptible, delimiter=delimiter)  # reports a mistake at once
            async with aclosing(
                await Session.connect(client, interruptible, tasks, time_limit=options.timeout)
            ) as session:
                if not options.replace and options.table in await session.call(session.connection.tables):
                    raise CommandFailed(f"the server already has a table {options.table!r}; use --append or --replace")
                await Loading(source, options.table, append=False, replace=options.replace).run(session)

    run(append if options.append else create, backend="trio")
    return OK


def _column_type(text: str) -> tuple[str, str]:
    column, equals, kind = text.rpartition("=")
    if not equals or not column:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form COLUMN=TYPE")
    return column, kind.upper()


async def open_rows(
    file: InputFile, types: Mapping[str, str], interruptible: Interruptible, **options: Any
) -> "Source":
    """Open the rows of a file, as `open_source`, in a thread. A checkpoint; if cancelled, the file cannot be used.

    Args:
        file: the file.
        types: the engine's types of some of the columns, by name.
        interruptible: receives Ctrl-C.
        options: the other options of `open_source`.

    Raises:
        Interrupted: the user pressed Ctrl-C.
        UsageError: as `open_source`.
    """
    from ._files import open_source

    return await interruptible.call(partial(file.call, partial(open_source, file, types, **options)))


class Loading:
    """Sends the rows of a file to a table."""

    def __init__(self, source: "Source", table: str, *, append: bool, replace: bool) -> None:
        self._source = source
        self._table = table
        self._append = append
        self._replace = replace
        self._rows = 0  # confirmed by the server
        self._rows_before = 0  # confirmed before the current batch

    async def run(self, session: Session) -> None:
        """Load all rows, and report their number. A checkpoint; if cancelled, the table keeps the rows sent so far.

        Raises:
            Interrupted: the user pressed Ctrl-C; the text says how many rows were loaded.
            CommandFailed: the file is damaged, or the time limit has passed.
            RayforceError: the server refused the rows, or the connection was lost.
        """
        started_at = anyio.current_time()
        try:
            await session.call(partial(self._load, session.connection), status=self._status)
        except Interrupted as interrupted:
            raise Interrupted(f"interrupted: {self._loaded}{_current_batch(interrupted)}") from None
        except (CommandFailed, RayforceError):
            show(self._loaded)
            raise
        show(f"{self._loaded} in {anyio.current_time() - started_at:.1f} s")

    async def _load(self, connection: WSClientConnection) -> None:
        """Send all batches with rows, or no rows. A checkpoint; if cancelled, a batch may be inserted in part."""
        while (batch := await self._next_batch()) is not None:
            if batch.num_rows:
                await self._send(connection, batch)
        if self._rows == 0:  # the table is created, or its columns are checked
            await self._send(connection, self._source.schema.empty_table())

    async def _next_batch(self) -> Any:
        """Read a batch in a thread. A checkpoint; if cancelled, nothing more can be read."""
        return await self._source.file.call(self._source.next_batch)

    async def _send(self, connection: WSClientConnection, batch: Any) -> None:
        """Send a batch. A checkpoint; if cancelled, the batch may be inserted in part."""
        self._rows_before = self._rows
        try:
            if self._append or self._rows:
                await connection.insert(self._table, batch, progress=self._progress)
            else:
                await connection.create_table(self._table, batch, replace=self._replace, progress=self._progress)
        except RayforceConversionError as error:
            where = f"; row 0 is row {self._rows_before + 1} of the file" if ", row " in str(error) else ""
            raise CommandFailed(f"{error}{where}") from None
        self._rows = self._rows_before + batch.num_rows

    def _progress(self, rows: int) -> None:
        self._rows = self._rows_before + rows

    @property
    def _loaded(self) -> str:
        return f"{counted(self._rows, 'row')} loaded into {self._table}"

    def _status(self) -> str:
        """Return a progress bar, if the length of the file is known, and the number of rows."""
        return progress_bar(self._source.fraction, self._rows)


def _current_batch(interrupted: Interrupted) -> str:
    return f"; the current batch may also have been loaded: {interrupted}" if str(interrupted) else ""
