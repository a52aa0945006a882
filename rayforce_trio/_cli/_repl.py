"""The command `repl`."""

import argparse
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from typing import Any

import anyio
from anyio.abc import TaskGroup
from rayforce import Vector

from .. import WSClient
from .._text import escape_controls
from ..errors import ConnectionRejected, RayforceError
from ._console import (
    FAILED,
    OK,
    CommandFailed,
    Interrupted,
    set_output_encoding,
    show,
    show_error,
    write,
)
from ._expressions import ExpressionReader, is_blank
from ._formats import as_text, items_of
from ._interrupts import Interruptible, run
from ._secrets import ask_secret, keep_secrets_out_of_standard_input
from ._session import Session, evaluate
from ._target import add_target, target_of

DESCRIPTION = """Evaluate expressions on a server: from a terminal, with history and completion of names, or line by
line from a pipe or file. Ctrl-C cancels the query, Ctrl-D ends the shell."""

COMPLETION_TIMEOUT = 2.0
"""Seconds to wait for the names that complete a prefix: the server may be busy with the query of another client."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("repl", help="open a shell on a server", description=DESCRIPTION)
    add_target(parser)
    parser.add_argument("--no-history", action="store_true", help="do not keep the expressions in a file")
    parser.set_defaults(run=repl)


def repl(options: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    set_output_encoding(None, "backslashreplace")
    on_terminal = sys.stdin.isatty() and sys.stdout is not None and sys.stdout.isatty()
    if not sys.stdin.isatty():
        keep_secrets_out_of_standard_input(options)
    target = target_of(options, can_ask=on_terminal)
    if not on_terminal:
        return run(partial(_evaluate_input, target.client()), backend="trio")
    try:
        from ._prompt import Prompt
    except ModuleNotFoundError as error:
        raise CommandFailed(f"a shell on a terminal needs {error.name}: pip install 'rayforce-trio[cli]'") from None

    async def run_shell(client: WSClient, interruptible: Interruptible, tasks: TaskGroup) -> int:
        """Run the shell until Ctrl-D. A checkpoint; if cancelled, the connection is left to `tasks`."""
        shell = _Shell(client, interruptible, tasks)
        await shell.connect()
        prompt = Prompt(shell.complete_names, keep_history=not options.no_history)
        show(f"Connected to {client.uri}. Tab completes names, Ctrl-C cancels, Ctrl-D ends.")
        while (expression := await prompt.read()) is not None:
            await shell.evaluate_and_go_on(expression)
        await shell.aclose()
        return OK

    try:
        return run(partial(run_shell, target.client()), backend="asyncio")
    except ConnectionRejected as error:
        if error.status != HTTPStatus.UNAUTHORIZED or target.has_secret:
            raise
        password = ask_secret("Password: " if target.user is None else f"Password for {escape_controls(target.user)}: ")
        if password is None:
            raise
    return run(partial(run_shell, replace(target, password=password).client()), backend="asyncio")


async def _evaluate_input(client: WSClient, interruptible: Interruptible, tasks: TaskGroup) -> int:
    """Evaluate the expressions from standard input, and return the exit code.

    A checkpoint. If cancelled, the query is cancelled and the connection closed.

    Raises:
        Interrupted: the user pressed Ctrl-C.
        UsageError: standard input is not UTF-8.
        RayforceError: the connection was lost.
    """
    shell = _Shell(client, interruptible, tasks)
    await shell.connect()
    try:
        reader = ExpressionReader(sys.stdin.fileno())
        code = OK
        while (expression := await interruptible.call(reader.read, show_progress=False)) is not None:
            if is_blank(expression):
                continue
            try:
                await shell.evaluate(expression)
            except RayforceError as error:
                if shell.closed:
                    raise
                show_error(error)
                code = FAILED
        return code
    finally:
        await shell.aclose()


class _Shell:
    """Evaluates expressions on a connection, which it opens again after a loss."""

    def __init__(self, client: WSClient, interruptible: Interruptible, tasks: TaskGroup) -> None:
        self._client = client
        self._interruptible = interruptible
        self._tasks = tasks
        self._session: Session | None = None

    async def connect(self) -> None:
        """Connect to the server. A checkpoint; if cancelled, no connection is left open.

        Raises:
            Interrupted: the user pressed Ctrl-C.
            RayforceError: as `WSClient.connect`.
        """
        self._session = await Session.connect(self._client, self._interruptible, self._tasks)

    @property
    def closed(self) -> bool:
        return self._session is None or bool(self._session.connection.closed)

    async def evaluate_and_go_on(self, expression: str) -> None:
        """Evaluate an expression, on a new connection if necessary, and show the value or the error.

        A checkpoint, unless the expression is blank. If cancelled, the query is cancelled.
        """
        if is_blank(expression):
            return
        try:
            if self.closed:
                await self.connect()
                show("connected again")
            await self.evaluate(expression)
        except Interrupted as interrupted:
            show(f"cancelled: {interrupted}" if str(interrupted) else "cancelled")
        except RayforceError as error:
            show_error(error)

    async def evaluate(self, expression: str) -> None:
        """Evaluate an expression, and write the printed output and the value. A checkpoint.

        If cancelled, the query is cancelled.

        Raises:
            RayforceError: the query failed, or the connection was lost.
            Interrupted: the user pressed Ctrl-C.
            OutputClosed, CommandFailed: as `write`.
        """
        assert self._session is not None
        result = await self._session.call(partial(evaluate, self._session.connection, expression))
        write([result.output, *as_text(result.value)])
        if result.error is not None:
            raise result.error

    async def complete_names(self, prefix: str) -> list[str]:
        """Return the names known to the server that begin with a prefix, or no names if the server is busy.

        A checkpoint. If cancelled, the request is cancelled.
        """
        assert self._session is not None
        with suppress(RayforceError), anyio.move_on_after(COMPLETION_TIMEOUT):
            names = await self._session.connection.execute(f'(.repl.complete "{prefix}")')
            return items_of(names) if isinstance(names, Vector) else []
        return []

    async def aclose(self) -> None:
        """Close the connection. A checkpoint; if cancelled, the connection is closed at once."""
        if self._session is not None:
            await self._session.aclose()
