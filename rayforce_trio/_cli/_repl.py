"""The command `repl`."""

import argparse
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

from anyio.abc import TaskGroup

from .. import WSClient
from .._text import escape_controls
from ..errors import ConnectionRejected
from ._console import FAILED, OK, set_output_encoding, show
from ._expressions import is_unfinished
from ._interrupts import Interruptible, run
from ._lines import InputReader
from ._options import examples
from ._plain_prompt import PlainPrompt
from ._secrets import ask_secret, keep_secrets_out_of_standard_input
from ._shell import Shell
from ._target import add_target, target_of

_EXAMPLES = examples("repl", "repl ann@db.example.org:8765", "repl :8765 < expressions.rfl")
DESCRIPTION = """Evaluate expressions on a server: from a terminal, with history, completion and colors, or line by line
from a pipe or file. Enter \\help in the shell for its commands."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("repl", help="open a shell on a server", description=DESCRIPTION, epilog=_EXAMPLES)
    add_target(parser)
    parser.add_argument("--no-history", action="store_true", help="do not save the history to a file")
    parser.set_defaults(run=repl)


def repl(options: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    set_output_encoding(None, "backslashreplace")
    on_terminal = sys.stdin.isatty() and sys.stdout is not None and sys.stdout.isatty()
    if not sys.stdin.isatty():
        keep_secrets_out_of_standard_input(options)
    target = target_of(options, can_ask=on_terminal)
    if not on_terminal:
        return run(partial(_run_input, target.client()), backend="trio")
    run_shell = partial(_run_shell, keep_history=not options.no_history)
    try:
        return run(partial(run_shell, target.client()), backend="asyncio")
    except ConnectionRejected as error:
        if error.status != HTTPStatus.UNAUTHORIZED or target.has_secret:
            raise
        password = ask_secret("Password: " if target.user is None else f"Password for {escape_controls(target.user)}: ")
        if password is None:
            raise
    return run(partial(run_shell, replace(target, password=password).client()), backend="asyncio")


async def _run_shell(client: WSClient, interruptible: Interruptible, tasks: TaskGroup, *, keep_history: bool) -> int:
    """Run the shell on a terminal until the user leaves it, and return the exit code.

    A checkpoint; if cancelled, the connection is left to `tasks`.
    """
    shell = Shell(client, interruptible, tasks)
    await shell.connect()
    show(f"Connected to {client.uri}. Type \\help for help, \\q to leave.")
    read = _reader(shell, interruptible, keep_history=keep_history)
    while not shell.ended and (text := await read()) is not None:
        await shell.run_and_go_on(text)
    await shell.aclose()
    return OK


def _reader(shell: Shell, interruptible: Interruptible, *, keep_history: bool) -> Callable[[], Awaitable[str | None]]:
    """Return the function that reads an input from the terminal: with prompt_toolkit, if it is installed."""

    def is_sql() -> bool:
        return shell.settings.sql

    try:
        from ._prompt import Prompt
    except ModuleNotFoundError as error:
        show(f"For history, completion and colors, install {error.name}: pip install 'rayforce-trio[cli]'")
        return PlainPrompt(interruptible, is_sql).read
    return Prompt(shell.names, is_sql, keep_history=keep_history).read


async def _run_input(client: WSClient, interruptible: Interruptible, tasks: TaskGroup) -> int:
    """Run the inputs from standard input, and return the exit code.

    A checkpoint. If cancelled, the query is cancelled and the connection closed.

    Raises:
        Interrupted: the user pressed Ctrl-C.
        UsageError: standard input is not UTF-8.
        RayforceError: the connection was lost.
    """
    shell = Shell(client, interruptible, tasks)
    await shell.connect()
    try:
        reader = InputReader(sys.stdin.fileno())

        async def read() -> str | None:
            """Read an input. A checkpoint unless it is in the buffer; if cancelled, an incomplete input is lost."""
            return await reader.read(partial(is_unfinished, sql=shell.settings.sql))

        code = OK
        while not shell.ended and (text := await interruptible.call(read, show_progress=False)) is not None:
            if not await shell.run(text):
                code = FAILED
        return code
    finally:
        await shell.aclose()
