"""A shell on a server: it runs the statements of an input on a connection, which it opens again after a loss."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from anyio.abc import TaskGroup

from .. import Query, Value, WSClient, WSClientConnection, sql
from ..errors import RayforceError
from ._console import CommandFailed, Interrupted, UsageError, show, show_error, write
from ._expressions import Kind, Statement, is_blank, parse_input
from ._formats import FORMATS, to_json_data
from ._interrupts import Interruptible
from ._names import Names
from ._pager import page
from ._session import Session, evaluate
from ._shell_commands import command_of

_ENGINE_RESTARTED = (
    "The engine has been restarted. Tables and variables that existed only in its memory are gone; define them again."
)


@dataclass(slots=True)
class Settings:
    """The settings of a shell, which its commands change.

    Attributes:
        format: the output format, a name in `FORMATS`.
        sql: whether statements are SQL.
        timing: show how long each statement takes.
        pager: show long results in a pager.
    """

    format: str = "text"
    sql: bool = False
    timing: bool = False
    pager: bool = False


class Shell:
    """Runs inputs on a server.

    Args:
        client: connects to the server.
        interruptible: receives Ctrl-C.
        tasks: runs the tasks of connections.

    Attributes:
        interruptible: receives Ctrl-C.
        settings: the settings, which commands change.
        names: the names that Tab completes.
        ended: whether a command has ended the shell.
    """

    def __init__(self, client: WSClient, interruptible: Interruptible, tasks: TaskGroup) -> None:
        self.settings = Settings()
        self.names = Names(self._open_connection)
        self.ended = False
        self._client = client
        self.interruptible = interruptible
        self._tasks = tasks
        self._session: Session | None = None
        self._engine: Any = None  # identifies the engine process; `None` if it is not known
        self._is_engine_checked = False  # on the present connection

    async def connect(self) -> None:
        """Connect to the server. A checkpoint; if cancelled, no connection is left open.

        Raises:
            Interrupted: the user pressed Ctrl-C.
            RayforceError: as `WSClient.connect`.
        """
        self._session = await Session.connect(self._client, self.interruptible, self._tasks)
        self._is_engine_checked = False

    @property
    def closed(self) -> bool:
        return self._session is None or bool(self._session.connection.closed)

    async def session(self) -> Session:
        """Return the session. Connect again if the connection was lost, and tell the user so.

        A checkpoint if the connection was lost, or on the first call. If cancelled, as `connect`.

        Raises:
            Interrupted: the user pressed Ctrl-C.
            RayforceError: as `connect`.
        """
        if self.closed:
            await self.connect()
            show("Connected again.")
        assert self._session is not None
        if not self._is_engine_checked:
            await self._check_engine(self._session)
        return self._session

    async def run_and_go_on(self, text: str) -> None:
        """Run the statements of an input in turn, and show all errors. Ctrl-C and a loss end the input.

        A checkpoint, unless the input is blank. If cancelled, the query is cancelled.

        Raises:
            OutputClosed, CommandFailed: as `write`.
        """
        try:
            await self.run(text)
        except Interrupted as interrupted:
            write([interrupted.output])
            show(f"cancelled: {interrupted}" if str(interrupted) else "cancelled")
        except RayforceError as error:
            show_error(error)

    async def run(self, text: str) -> bool:
        """Run the statements of an input in turn; show errors, and return whether there were none.

        A checkpoint, unless the input is blank. If cancelled, the query is cancelled.

        Raises:
            Interrupted: the user pressed Ctrl-C.
            RayforceError: the connection was lost.
            OutputClosed, CommandFailed: as `write`.
        """
        succeeded = True
        for statement in parse_input(text, sql=self.settings.sql).statements:
            if not self.ended and not is_blank(statement.text):
                succeeded &= await self._run_statement(statement)
        return succeeded

    async def _run_statement(self, statement: Statement) -> bool:
        """Run a statement; show its error, and return whether there was none. As `run`, also if cancelled."""
        try:
            if statement.kind is Kind.COMMAND:
                await self._run_command(statement.text)
            else:
                await self.evaluate(sql(statement.text) if statement.kind is Kind.SQL else statement.text)
        except _ShownError as error:
            show_error(error.__cause__)
            return False
        except RayforceError as error:
            if self.closed:
                raise
            show_error(error)
            return False
        return True

    async def _run_command(self, text: str) -> None:
        """Run a command of the shell. A checkpoint if the command calls the server; if cancelled, as the call."""
        try:
            command, argument = command_of(text)
            await command.run(self, argument)
        except (UsageError, CommandFailed, OSError) as error:
            raise _ShownError from error

    async def evaluate(self, query: Query) -> None:
        """Evaluate a query, and write the printed output and the value. A checkpoint.

        If cancelled, the query is cancelled.

        Raises:
            RayforceError: the query failed, or the connection was lost.
            Interrupted: the user pressed Ctrl-C.
            OutputClosed, CommandFailed: as `write`.
        """
        session = await self.session()
        self.names.forget()
        started_at = anyio.current_time()
        result = await session.call(partial(evaluate, session.connection, query))
        elapsed = anyio.current_time() - started_at
        write([result.output])
        if result.error is None:
            await self._write_value(result.value)
        if self.settings.timing:
            show(f"Time: {_duration(elapsed)}")
        if result.error is not None:
            raise result.error

    async def call(self, function: Callable[[WSClientConnection], Awaitable[Any]]) -> Any:
        """Call an async function with the connection, and return its result. A checkpoint; if cancelled, as the call.

        Raises:
            Interrupted: the user pressed Ctrl-C.
            RayforceError: what the function raises, or as `connect`.
        """
        session = await self.session()
        return await session.call(lambda: function(session.connection))

    async def aclose(self) -> None:
        """Close the connection. A checkpoint; if cancelled, the connection is closed at once."""
        if self._session is not None:
            await self._session.aclose()

    async def _write_value(self, value: Value) -> None:
        """Write a value in the format of the settings. A checkpoint if a pager shows it; if cancelled, it stays."""
        if self.settings.format == "text" and self.settings.pager and await page(value):
            return
        write(FORMATS[self.settings.format](value))

    def _open_connection(self) -> WSClientConnection | None:
        return None if self._session is None or self.closed else self._session.connection

    async def _check_engine(self, session: Session) -> None:
        """Tell the user if the engine process is another one than on the connection before.

        A checkpoint; if cancelled, nothing has changed. Raises as `call`, if the connection is lost.
        """
        with suppress(CommandFailed):
            engine = await session.call(partial(_engine_process, session.connection), show_progress=False)
            if self._engine is not None and engine is not None and engine != self._engine:
                show(_ENGINE_RESTARTED)
            self._engine = engine or self._engine
        self._is_engine_checked = True


class _ShownError(Exception):
    """A command of the shell failed; its cause is the error to show."""


async def _engine_process(connection: WSClientConnection) -> Any:
    """Return what identifies the engine's process, or `None` if the engine does not tell.

    A checkpoint; if cancelled, as `execute`.

    Raises:
        RayforceError: the connection was lost.
    """
    try:
        system = to_json_data(await connection.execute("(.sys.info)"))
    except RayforceError:
        if connection.closed:
            raise
        return None
    return (system.get("hostname"), system.get("pid")) if isinstance(system, dict) and "pid" in system else None


def _duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
