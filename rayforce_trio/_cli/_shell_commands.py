r"""The commands of the shell, such as `\tables`: `COMMANDS` is the list of all."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from .. import sql
from ._console import CommandFailed, UsageError, show, write
from ._drawing import draw_rows
from ._formats import FORMATS, space_of_output
from ._input_file import InputFile

if TYPE_CHECKING:
    from ._shell import Shell


@dataclass(frozen=True, slots=True)
class ShellCommand:
    """A command of the shell.

    Attributes:
        name: the name, without the backslash.
        arguments: the arguments, as the help shows them.
        help: what the command does, in one sentence without a full stop.
        run: runs the command with the text behind its name.
        completions: the words that Tab completes behind the name, or `TABLE` or `FILE` for names of these.
        aliases: other names.
    """

    name: str
    arguments: str
    help: str
    run: Callable[["Shell", str], Awaitable[None]]
    completions: Sequence[str] = ()
    aliases: Sequence[str] = ()

    @property
    def synopsis(self) -> str:
        return f"\\{self.name} {self.arguments}".rstrip()


TABLE = "TABLE"
FILE = "FILE"
_ON_OFF = {"on": True, "off": False}


def command_of(text: str) -> tuple[ShellCommand, str]:
    r"""Return the command that a text such as `schema prices` names, and the text behind the name.

    Raises:
        UsageError: there is no such command; the error names the closest one.
    """
    name, *rest = text.split(maxsplit=1) or [""]
    command = _BY_NAME.get(name)
    if command is None:
        close = get_close_matches(name, _BY_NAME, 1)
        hint = f"did you mean \\{close[0]}? " if close else ""
        raise UsageError(f"there is no command \\{name}; {hint}\\help lists the commands")
    return command, rest[0].strip() if rest else ""


async def _help(_: "Shell", argument: str) -> None:
    """Write the list of the commands, or the help of one. No checkpoint; cancelling has no effect."""
    if argument:
        command, _rest = command_of(argument.removeprefix("\\"))
        aliases = "".join(f", \\{alias}" for alias in command.aliases)
        write([f"{command.synopsis}{aliases}\n  {command.help}\n"])
        return
    width = max(len(command.synopsis) for command in COMMANDS)
    lines = [f"{command.synopsis:<{width}}  {command.help}\n" for command in COMMANDS]
    write([*lines, _KEYS])


async def _timing(shell: "Shell", argument: str) -> None:
    """Change the setting. No checkpoint; cancelling has no effect."""
    shell.settings.timing = _switch("timing", argument, now=shell.settings.timing)
    show(f"Timing is {'on' if shell.settings.timing else 'off'}.")


async def _pager(shell: "Shell", argument: str) -> None:
    """Change the setting. No checkpoint; cancelling has no effect."""
    shell.settings.pager = _switch("pager", argument, now=shell.settings.pager)
    show(f"The pager is {'on' if shell.settings.pager else 'off'}.")


async def _format(shell: "Shell", argument: str) -> None:
    """Change the setting. No checkpoint; cancelling has no effect."""
    if argument and argument not in FORMATS:
        raise UsageError(f"\\format: there is no format {argument!r}; the formats are {', '.join(FORMATS)}")
    shell.settings.format = argument or shell.settings.format
    show(f"The output format is {shell.settings.format}.")


async def _sql(shell: "Shell", argument: str) -> None:
    """Evaluate an SQL statement, or change the mode. A checkpoint if there is a statement; if cancelled, as that."""
    if argument and argument not in _ON_OFF:
        await shell.evaluate(sql(argument.removesuffix(";")))
        return
    shell.settings.sql = _switch("sql", argument, now=shell.settings.sql)
    if shell.settings.sql:
        show("Statements are SQL now, and end with a semicolon. \\sql off returns to Rayfall.")
    else:
        show("Expressions are Rayfall now.")


async def _tables(shell: "Shell", _: str) -> None:
    """Write the names of the tables. A checkpoint; if cancelled, the call is cancelled."""
    names = await shell.call(lambda connection: connection.tables())
    if not names:
        show("The server has no tables.")
        return
    write([f"{name}\n" for name in names])


async def _schema(shell: "Shell", argument: str) -> None:
    """Write the columns of a table and their types. A checkpoint; if cancelled, the call is cancelled."""
    if not argument:
        raise UsageError("\\schema needs the name of a table")
    schema = await shell.call(lambda connection: connection.schema(argument))
    write([draw_rows(["column", "type"], list(schema.items()), space_of_output())])


async def _load(shell: "Shell", argument: str) -> None:
    """Load a file into a new table. A checkpoint; if cancelled, the table keeps the rows loaded so far."""
    words = argument.rsplit(maxsplit=2)
    as_given = len(words) == 3 and words[1].lower() == "as"
    file, table = (words[0], words[2]) if as_given else (argument, Path(argument).name.partition(".")[0])
    if not file:
        raise UsageError("\\load needs the name of a file")
    from ._load import Loading, open_rows

    with closing(InputFile(_in_home(file))) as opened:
        try:
            source = await open_rows(opened, {}, shell.interruptible)
        except ModuleNotFoundError as error:
            raise CommandFailed(f"\\load needs {error.name}: pip install 'rayforce-trio[arrow]'") from None
        if table in await shell.call(lambda connection: connection.tables()):
            raise UsageError(f"the server already has a table {table!r}; use \\load {file} AS NAME with another name")
        shell.names.forget()
        await Loading(source, table, append=False, replace=False).run(await shell.session())


async def _quit(shell: "Shell", _: str) -> None:
    """End the shell. No checkpoint; cancelling has no effect."""
    shell.ended = True


def _in_home(file: str) -> str:
    """Return a path with the home directory in the place of `~`, which no other shell has replaced."""
    return str(Path(file).expanduser())


def _switch(name: str, argument: str, *, now: bool) -> bool:
    """Return the new state of a setting: the argument, or without one the opposite of the present state.

    Raises:
        UsageError: the argument is neither `on` nor `off`.
    """
    if argument and argument not in _ON_OFF:
        raise UsageError(f"\\{name}: {argument!r} is neither on nor off")
    return _ON_OFF.get(argument, not now)


COMMANDS = (
    ShellCommand("help", "[NAME]", "list the commands, or show the help of one", _help, aliases=["?"]),
    ShellCommand("tables", "", "list the tables of the server", _tables),
    ShellCommand("schema", "TABLE", "show the columns of a table and their types", _schema, [TABLE]),
    ShellCommand(
        "sql",
        "[on|off|SELECT ...]",
        "evaluate SQL, or switch between SQL and Rayfall",
        _sql,
        list(_ON_OFF),
    ),
    ShellCommand(
        "load",
        "FILE [AS TABLE]",
        "load a file into a new table",
        _load,
        [FILE],
    ),
    ShellCommand("format", "[text|json|csv]", "show or change the output format", _format, list(FORMATS)),
    ShellCommand("timing", "[on|off]", "show the time that each statement takes", _timing, list(_ON_OFF)),
    ShellCommand("pager", "[on|off]", "show long tables in a pager", _pager, list(_ON_OFF)),
    ShellCommand("q", "", "leave the shell; exit, quit and Ctrl-D do the same", _quit, aliases=["quit"]),
)
"""All commands, in the order of the help."""

_BY_NAME = {name: command for command in COMMANDS for name in (command.name, *command.aliases)}
_KEYS = """
Tab completes names. Ctrl-C cancels the query, or discards the input.
Ctrl-R searches the history. Alt-Enter starts a new line.
"""
