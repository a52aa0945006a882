"""The names that Tab completes."""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import anyio

from .. import WSClientConnection
from ..errors import RayforceError
from ._expressions import SQL_KEYWORDS
from ._formats import to_json_data
from ._shell_commands import COMMANDS, FILE, TABLE

COMPLETION_TIMEOUT = 2.0
"""Seconds to wait for the server's names: the server may be busy with the query of another client."""

COMMAND_NAMES = tuple(f"\\{command.name}" for command in COMMANDS)
_QUERY = """((fn [globals] (list
    (.repl.complete "")
    (key globals)
    (map type (value globals))
    (map cols (at (value globals) (where (== 'TABLE (map type (value globals))))))))
(env 0))"""
_INTERNAL = "#"  # how the names of the server's own variables begin
_NAME = re.compile(r"[^\s()\[\]{}\"';\\,=<>]+$")
_COMMAND_ARGUMENT = re.compile(r"\\(\S+)\s+(\S*)$")
_COMMAND_NAME = re.compile(r"\\\S*$")


@dataclass(frozen=True, slots=True)
class Completion:
    """A text that completes an input.

    Attributes:
        text: the text.
        replaced: how many characters before the cursor it replaces.
        kind: what the text is: a table, a column, a function, a variable, or empty.
    """

    text: str
    replaced: int
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What an input needs to be completed.

    Attributes:
        prefix: how the completions begin.
        words: the words to choose from; `None` means names of the server.
        kind: only names of this kind; empty means all.
        sql: names of tables and columns, and the words without regard to their case.
        is_file: the completions are names of files.
    """

    prefix: str
    words: Sequence[str] | None = None
    kind: str = ""
    sql: bool = False
    is_file: bool = False


def completion_request(before: str, *, sql: bool) -> Request | None:
    """Return what completes the text before the cursor; `None` if nothing can.

    Args:
        before: the text before the cursor.
        sql: whether the shell is in the SQL mode.
    """
    line = before.rpartition("\n")[2]
    if _COMMAND_NAME.fullmatch(line):
        return Request(line, COMMAND_NAMES)
    if not line.startswith("\\sql ") and (found := _COMMAND_ARGUMENT.fullmatch(line)) is not None:
        command = next((command for command in COMMANDS if command.name == found[1]), None)
        if command is None:
            return None
        if command.completions == [FILE]:
            return Request(found[2], is_file=True)
        if command.completions == [TABLE]:
            return Request(found[2], kind="table")
        return Request(found[2], tuple(command.completions))
    name = _NAME.search(before)
    if name is None:
        return None
    if sql or line.startswith("\\sql "):
        return Request(name[0], SQL_KEYWORDS, sql=True)
    return Request(name[0])


class Names:
    """The names that the server knows: asked for when they are first needed, and kept until `forget`.

    Args:
        connection: returns the open connection, or `None`.
    """

    def __init__(self, connection: Callable[[], WSClientConnection | None]) -> None:
        self._connection = connection
        self._kinds: dict[str, str] = {}
        self._are_current = False

    def forget(self) -> None:
        """Ask the server again at the next completion, because names may have changed."""
        self._are_current = False

    async def complete(self, request: Request) -> list[Completion]:
        """Return the completions of an input. If the server is busy, they are from the last answer.

        A checkpoint if the server is asked. If cancelled, the request is cancelled.
        """
        prefix = request.prefix
        if request.words is not None and not request.sql:
            return [Completion(word, len(prefix)) for word in request.words if word.startswith(prefix)]
        if not self._are_current:
            await self._ask()
        found = [
            Completion(name, len(prefix), kind)
            for name, kind in sorted(self._kinds.items(), key=_order)
            if name.startswith(prefix)
            and request.kind in ("", kind)
            and not (request.sql and kind in ("function", "variable"))
            and (not name.startswith(".") or prefix)
        ]
        keywords = [word for word in request.words or () if word.startswith(prefix.upper())]
        return found + [Completion(word, len(prefix)) for word in keywords]

    async def _ask(self) -> None:
        """Ask the server for its names. A checkpoint; if cancelled, the request is cancelled."""
        connection = self._connection()
        if connection is None:
            return
        with suppress(RayforceError), anyio.move_on_after(COMPLETION_TIMEOUT):
            answer = to_json_data(await connection.execute(_QUERY))
            if isinstance(answer, list) and len(answer) == 4:
                self._kinds = _kinds(*answer)
                self._are_current = True


def _kinds(
    known: Iterable[str], names: Sequence[str], types: Sequence[str], columns: Iterable[list[str]]
) -> dict[str, str]:
    """Return the kind of each name."""
    kinds = dict.fromkeys(known, "") | {column: "column" for table in columns for column in table}
    for name, type_ in zip(names, types, strict=True):
        kinds[name] = {"TABLE": "table", "?": "function"}.get(type_, "variable")
    return {name: kind for name, kind in kinds.items() if not name.startswith(_INTERNAL)}


def _order(item: tuple[str, str]) -> tuple[int, str]:
    """Sort tables and columns before other names."""
    name, kind = item
    return ("table", "column").index(kind) if kind in ("table", "column") else 2, name
