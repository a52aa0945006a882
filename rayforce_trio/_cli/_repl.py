"""`repl`: a shell on a server."""

import argparse
import os
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup
from rayforce import Vector

from .. import WSClient
from ..errors import ConnectionRejected, RayforceError
from ._brackets import is_blank
from ._evaluation import Session, evaluate
from ._exits import FAILED, OK, CommandFailed, Interrupted
from ._formats import as_text
from ._lines import Lines
from ._output import complain, escape_controls, say, use_encoding, write
from ._secrets import ask, keep_secrets_out_of_standard_input
from ._target import add_target, target_of
from ._values import column
from ._waiting import Calls, run

DESCRIPTION = """Evaluate expressions on a server: from a terminal, with history and completion of names, or line by
line from a pipe or file. Ctrl-C cancels the query, Ctrl-D ends."""

COMPLETION_PATIENCE = 2.0
"""How long a completion waits for the server, which may be busy with somebody else's query; in seconds."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser("repl", help="a shell on a server", description=DESCRIPTION)
    add_target(parser)
    parser.add_argument("--no-history", action="store_true", help="keep nothing of what is entered")
    parser.set_defaults(run=repl)


def repl(options: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    use_encoding(None, "backslashreplace")
    on_terminal = sys.stdin.isatty() and sys.stdout is not None and sys.stdout.isatty()
    if not sys.stdin.isatty():
        keep_secrets_out_of_standard_input(options)
    target = target_of(options, may_ask=on_terminal)
    if not on_terminal:
        return run(partial(_read_all, target.client()), backend="trio")
    try:
        from ._prompt import Prompt
    except ModuleNotFoundError as error:
        raise CommandFailed(f"a shell on a terminal needs {error.name}: pip install 'rayforce-trio[cli]'") from None

    async def converse(client: WSClient, calls: Calls, tasks: TaskGroup) -> int:
        shell = _Shell(client, calls, tasks)
        await shell.connect()
        try:
            prompt = Prompt(shell.names, None if options.no_history else _history_file())
        except OSError as error:
            complain(f"no history is kept: {error.filename}: {error.strerror}")
            prompt = Prompt(shell.names, None)
        say(f"Connected to {client.uri}. Tab completes names, Ctrl-C cancels, Ctrl-D ends.")
        while (expression := await prompt.read()) is not None:
            await shell.attempt(expression)
        await shell.close()
        return OK

    try:
        return run(partial(converse, target.client()), backend="asyncio")
    except ConnectionRejected as error:
        if error.status != HTTPStatus.UNAUTHORIZED or target.has_secret:
            raise
        password = ask("Password: " if target.user is None else f"Password for {escape_controls(target.user)}: ")
        if password is None:
            raise
    return run(partial(converse, replace(target, password=password).client()), backend="asyncio")


async def _read_all(client: WSClient, calls: Calls, tasks: TaskGroup) -> int:
    """Evaluate what comes from a pipe or a file, and tell of any failure in the end."""
    shell = _Shell(client, calls, tasks)
    await shell.connect()
    try:
        return await _answer_lines(shell, calls)
    finally:
        await shell.close()


async def _answer_lines(shell: "_Shell", calls: Calls) -> int:
    lines = Lines(sys.stdin.fileno())
    code = OK
    while (expression := await calls.call(lines.read, quietly=True)) is not None:
        if is_blank(expression):
            continue
        try:
            await shell.answer(expression)
        except RayforceError as error:
            if shell.closed:
                raise
            complain(error)
            code = FAILED
    return code


class _Shell:
    """A connection, and another one when it is lost."""

    def __init__(self, client: WSClient, calls: Calls, tasks: TaskGroup) -> None:
        self._client = client
        self._calls = calls
        self._tasks = tasks
        self._session: Session | None = None

    async def connect(self) -> None:
        self._session = await Session.connect(self._client, self._calls, self._tasks)

    @property
    def closed(self) -> bool:
        return self._session is None or bool(self._session.connection.closed)

    async def attempt(self, expression: str) -> None:
        """Like `answer`, but whatever goes wrong is said, and the session goes on."""
        if is_blank(expression):
            return
        try:
            if self.closed:
                await self.connect()
                say("connected again")
            await self.answer(expression)
        except Interrupted as interrupted:
            say(f"cancelled: {interrupted}" if str(interrupted) else "cancelled")
        except RayforceError as error:
            complain(error)

    async def answer(self, expression: str) -> None:
        """Evaluate an expression, and show what it printed and what it came to.

        Raises:
            RayforceError: it failed.
            Interrupted: Ctrl-C cancelled it.
        """
        assert self._session is not None
        result = await self._session.call(partial(evaluate, self._session.connection, expression))
        write([result.output, *as_text(result.value)])
        if result.error is not None:
            raise result.error

    async def names(self, prefix: str) -> list[str]:
        """Return the names known to the server that begin so; none, if it does not tell them in time."""
        assert self._session is not None
        with suppress(RayforceError), anyio.move_on_after(COMPLETION_PATIENCE):
            names = await self._session.connection.execute(f'(.repl.complete "{prefix}")')
            return column(names) if isinstance(names, Vector) else []
        return []

    async def close(self) -> None:
        if self._session is not None:
            await self._session.aclose()


def _history_file() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    base = Path(state) if state.startswith("/") else Path.home() / ".local" / "state"
    return base / "rayforce-trio" / "history"
