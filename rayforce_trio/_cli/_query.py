"""`query`: one expression, its value to standard output."""

import argparse
import sys
from functools import partial
from typing import Any

from anyio.abc import TaskGroup

from .. import VerboseResult
from ._arguments import seconds
from ._brackets import is_blank
from ._evaluation import Session, evaluate
from ._exits import FAILED, OK, UsageError
from ._formats import FORMATS
from ._output import complain, say, use_encoding, write
from ._secrets import keep_secrets_out_of_standard_input
from ._target import add_target, target_of
from ._waiting import Calls, run

DESCRIPTION = "Evaluate an expression on a server, and write its value to standard output. Ctrl-C cancels it there."


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("query", help="evaluate an expression on a server", description=DESCRIPTION)
    add_target(parser)
    parser.add_argument("expression", metavar="EXPR", help="Rayfall code; - reads it from standard input")
    parser.add_argument(
        "--format", choices=FORMATS, default="text", help="of the output; default: text, as the engine draws it"
    )
    parser.add_argument("--timeout", metavar="SECONDS", type=seconds, help="give up after so long")
    parser.set_defaults(run=query)


def query(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    if options.expression == "-":
        keep_secrets_out_of_standard_input(options)
    client = target_of(options).client()
    expression = _standard_input() if options.expression == "-" else _checked(options.expression)
    if is_blank(expression):
        raise UsageError("there is no expression")

    async def ask(calls: Calls, tasks: TaskGroup) -> VerboseResult:
        session = await Session.connect(client, calls, tasks, time_limit=options.timeout)
        try:
            return await session.call(partial(evaluate, session.connection, expression))
        finally:
            await session.close()

    result = run(ask, backend="trio")
    _write(result, options.format)
    if result.error is None:
        return OK
    complain(result.error)
    return FAILED


def _write(result: VerboseResult, format_: str) -> None:
    if format_ == "text":
        use_encoding(None, "backslashreplace")
        write([result.output, *FORMATS[format_](result.value)])
        return
    use_encoding("utf-8", "strict")
    if result.output:
        say(result.output.rstrip("\n"))
    if result.error is None:
        write(FORMATS[format_](result.value))


def _checked(expression: str) -> str:
    try:
        expression.encode()
    except UnicodeEncodeError:  # how Python passes on other bytes
        raise UsageError("the expression is not UTF-8") from None
    return expression


def _standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8: {error.reason} at byte {error.start}") from None
