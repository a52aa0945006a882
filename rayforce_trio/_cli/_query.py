"""The command `query`."""

import argparse
import sys
from contextlib import aclosing
from functools import partial
from typing import Any

from anyio.abc import TaskGroup

from .. import Columns, Parameters, Query, Value, VerboseResult, WSClientConnection, columns_of, sql
from ..errors import NoColumns, RayforceConversionError, UnsupportedByServer
from ._batched_output import ArrowOutput, BatchedOutput, CsvOutput
from ._console import (
    FAILED,
    OK,
    CommandFailed,
    UsageError,
    is_terminal,
    set_output_encoding,
    show,
    show_error,
    write,
    write_bytes,
)
from ._expressions import is_blank
from ._formats import FORMATS
from ._interrupts import Interruptible, run
from ._options import add_timeout, examples
from ._parameters import parameter, parameters
from ._secrets import keep_secrets_out_of_standard_input
from ._session import Session, evaluate
from ._target import add_target, check_not_url, target_of

DESCRIPTION = "Evaluate an expression on a server, and write its value to standard output. Ctrl-C cancels the query."
_EXAMPLES = examples(
    "query prices",
    "query :8765 '(select {from: prices where: (> price low)})' -p low=200 --format csv",
    "query wss://ann@db.example.org --sql 'SELECT symbol FROM prices' --password-file password",
)


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "query", help="evaluate an expression on a server", description=DESCRIPTION, epilog=_EXAMPLES
    )
    add_target(parser)
    add_query(parser)
    parser.add_argument(
        "--format",
        choices=(*FORMATS, "arrow"),
        default="text",
        help="output format; text is for people, and abbreviates long tables; default: %(default)s",
    )
    add_timeout(parser)
    parser.set_defaults(run=query)


def add_query(parser: argparse.ArgumentParser) -> None:
    """Add a query and its parameters to a command."""
    parser.add_argument("expression", metavar="EXPR", help="the Rayfall expression; - reads it from standard input")
    parser.add_argument("--sql", action="store_true", help="EXPR is SQL, in which :NAME is a parameter")
    parser.add_argument(
        "-p",
        "--parameter",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        type=parameter,
        help="set a parameter of the expression, such as low=200 or day=2024-01-31; may be repeated",
    )


def query_of(options: argparse.Namespace) -> Query:
    """Return the query that the arguments of `add_query` specify.

    Raises:
        UsageError: the expression is missing or empty, or its bytes were not UTF-8.
    """
    check_not_url(options.expression, "EXPR")
    expression = checked_expression(_read_standard_input() if options.expression == "-" else options.expression)
    return sql(expression) if options.sql else expression


def checked_expression(text: str) -> str:
    """Return the text of an expression.

    Raises:
        UsageError: it is empty, or its bytes were not UTF-8.
    """
    try:
        text.encode()
    except UnicodeEncodeError:  # Python decodes other bytes of an argument as surrogates
        raise UsageError("the expression is not UTF-8") from None
    if is_blank(text):
        raise UsageError("the expression is empty")
    return text


def query(options: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    if options.expression == "-":
        keep_secrets_out_of_standard_input(options)
    client = target_of(options).client()
    query_ = query_of(options)
    values = parameters(options.parameter)
    if options.format == "arrow":
        _check_arrow_output()
        output: BatchedOutput | None = BatchedOutput(ArrowOutput())
    else:
        output = BatchedOutput(CsvOutput()) if options.format == "csv" else None

    async def evaluate_query(interruptible: Interruptible, tasks: TaskGroup) -> VerboseResult | None:
        """Evaluate the query; return the result, or `None` if it is written already.

        A checkpoint; if cancelled, the query is cancelled and the connection closed.
        """
        async with aclosing(await Session.connect(client, interruptible, tasks, time_limit=options.timeout)) as session:
            if output is None:
                return await session.call(partial(evaluate, session.connection, query_, values))
            return await session.call(
                partial(_stream, session.connection, query_, values, output),
                show_progress=not is_terminal(),
                status=output.status,
            )

    result = run(evaluate_query, backend="trio")
    if result is None:
        return OK
    _write(result, options.format)
    if result.error is None:
        return OK
    show_error(result.error)
    return FAILED


async def _stream(
    connection: WSClientConnection, query: Query, values: Parameters, output: BatchedOutput
) -> VerboseResult | None:
    """Write the result while it arrives. Return it in place of that if the server or the value has no batches.

    A checkpoint; if cancelled, the query is cancelled, and a part of the result may be written.

    Raises:
        RayforceError: as `WSClientConnection.stream`.
        OutputClosed, CommandFailed: as `write`.
    """
    try:
        async with connection.stream(query, values) as batches:
            show_output(batches.output)
            set_output_encoding("utf-8", "strict")
            await output.copy(batches)
    except NoColumns as error:
        return VerboseResult(error.output, error.value, None)
    except UnsupportedByServer:
        return await evaluate(connection, query, values)
    return None


def _write(result: VerboseResult, format_: str) -> None:
    if format_ == "text":
        set_output_encoding(None, "backslashreplace")
        write([result.output, *FORMATS[format_](result.value)])
        return
    show_output(result.output)
    if result.error is not None:
        return
    if format_ == "arrow":
        from ._files import arrow_stream

        write_bytes(arrow_stream(_columns(result.value)))
        return
    set_output_encoding("utf-8", "strict")
    write(FORMATS[format_](result.value))


def show_output(output: str) -> None:
    """Write the printed output of a query to standard error."""
    if output:
        show(output.rstrip("\n"))


def _columns(value: Value) -> Columns:
    try:
        return columns_of(value)
    except RayforceConversionError as error:
        raise CommandFailed(f"{error}; --format json writes any value") from None


def _check_arrow_output() -> None:
    """Raise an error, before the query is sent, if its result cannot be written."""
    if sys.stdout is not None and sys.stdout.isatty():
        raise UsageError(
            "--format arrow writes binary data, which a terminal cannot show; redirect it to a file or a pipe"
        )
    try:
        from . import _files  # noqa: F401 - imported only to see whether pyarrow is installed
    except ModuleNotFoundError as error:
        raise CommandFailed(f"--format arrow needs {error.name}: pip install 'rayforce-trio[arrow]'") from None


def _read_standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from None
