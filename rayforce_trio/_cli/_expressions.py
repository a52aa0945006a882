"""What the user has entered, without I/O: expressions, SQL statements and commands of the shell, and their tokens."""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

_TOKEN = re.compile(
    r"""
    (?P<string> "(?:\\.|[^"\\])*" | '(?:\\.|[^\\)\]}\s])' )  # a string or a character; '(' is a character, ')' is not
    | (?P<unfinished> "(?:\\.|[^"\\])* )
    | (?P<comment> ;[^\n]* )
    | (?P<open> [(\[{] )
    | (?P<close> [)\]}] )
    | (?P<quote> ' )
    | (?P<space> \s+ )
    | (?P<atom> [^\s()\[\]{}"';]+ )
    """,
    re.VERBOSE | re.DOTALL,
)
_SQL_TOKEN = re.compile(
    r"""
    (?P<string> '(?:[^']|'')*' | "(?:[^"]|"")*" )
    | (?P<unfinished> '(?:[^']|'')* | "(?:[^"]|"")* | /\*(?:(?!\*/).)*\Z )
    | (?P<comment> --[^\n]* | /\*.*?\*/ )
    | (?P<end> ; )
    | (?P<space> \s+ )
    | (?P<atom> [\w.:]+ )
    | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_NUMBER = re.compile(r"-?\.?\d\S*|0N\w|-?0[xXWw]\w*")
_COMMAND_NAME = re.compile(r"\\(\S*)[^\S\n]*")

_KEYWORDS = frozenset(
    {"and", "def", "do", "false", "fn", "if", "let", "not", "null", "or", "quote", "return", "select"}
)
_KEYWORDS |= {"set", "true", "try", "update", "while", "asc:", "by:", "desc:", "from:", "take:", "where:"}
_SQL_KEYWORDS = frozenset({"and", "as", "asc", "between", "by", "desc", "distinct", "from", "group", "having", "in"})
_SQL_KEYWORDS |= {"inner", "is", "join", "left", "like", "limit", "not", "null", "on", "or", "order", "select", "where"}
SQL_KEYWORDS = tuple(sorted(word.upper() for word in _SQL_KEYWORDS))
"""The words of SQL that the shell completes and highlights."""


class Kind(Enum):
    """The kinds of statements."""

    RAYFALL = auto()
    SQL = auto()
    COMMAND = auto()
    """A command of the shell; its text has no backslash."""


@dataclass(frozen=True, slots=True)
class Statement:
    """An expression, an SQL statement or a command of the shell."""

    kind: Kind
    text: str


_WORDS = {"exit": "q", "quit": "q", "help": "help"}
"""Words that are commands of the shell without a backslash, if they are a whole statement."""


@dataclass(frozen=True, slots=True)
class Input:
    """An input.

    Attributes:
        statements: the statements, in their order.
        is_unfinished: the last statement continues on the next line.
    """

    statements: tuple[Statement, ...]
    is_unfinished: bool


def parse_input(text: str, *, sql: bool = False) -> Input:
    r"""Divide an input into statements.

    An expression ends with its last bracket. A command is one line, which begins with a backslash. In the SQL mode, a
    statement ends with a semicolon.

    Args:
        text: the input.
        sql: whether the input begins in the SQL mode; the command `\sql` changes the mode.
    """
    spans = list(_scan(text, sql=sql))
    return Input(tuple(span.statement for span in spans), bool(spans) and spans[-1].is_unfinished)


def is_unfinished(text: str, *, sql: bool = False) -> bool:
    """Whether the input continues on the next line, because a bracket or a string is unclosed, or SQL has not ended."""
    return parse_input(text, sql=sql).is_unfinished


def is_blank(text: str) -> bool:
    """Whether a text contains only white space and comments."""
    return _skip(text, 0, sql=False) == len(text)


def unfinished_lines(text: str, *, sql: bool = False) -> list[bool]:
    """For each line of a text, whether it begins in the middle of a statement."""
    spans = deque(_scan(text, sql=sql))
    continues = []
    position = 0
    for line in text.split("\n"):
        while spans and spans[0].end <= position and not spans[0].is_unfinished:
            spans.popleft()
        continues.append(bool(spans) and spans[0].start < position)
        position += len(line) + 1
    return continues


def tokens(text: str, *, sql: bool = False) -> Iterator[tuple[str, str]]:
    """Divide an input into parts, each with the kind of its color, or `""`. The parts are the whole text."""
    if text.lstrip().startswith("\\"):
        head = _COMMAND_NAME.match(text, len(text) - len(text.lstrip()))
        assert head is not None
        yield "command", text[: head.end()]
        if head[1] == "sql":
            yield from tokens(text[head.end() :], sql=True)
        elif head.end() < len(text):
            yield "", text[head.end() :]
        return
    is_quoted = False
    for token in (_SQL_TOKEN if sql else _TOKEN).finditer(text):
        kind = token.lastgroup or ""
        yield _color(kind, token[0], sql=sql, is_quoted=is_quoted), token[0]
        is_quoted = kind == "quote"


@dataclass(frozen=True, slots=True)
class _Span:
    """A statement, and its place in the text."""

    statement: Statement
    start: int
    end: int
    is_unfinished: bool


def _scan(text: str, *, sql: bool) -> Iterator[_Span]:
    """Yield the statements of a text. Only the last one may be unfinished."""
    position = 0
    while (start := _skip(text, position, sql=sql)) < len(text):
        if text[start] == "\\":
            position, is_unfinished = _command_end(text, start)
            statement = Statement(Kind.COMMAND, text[start + 1 : position].strip())
            sql = _mode_after(statement.text, sql=sql)
        else:
            position, is_unfinished = _sql_end(text, start) if sql else _expression_end(text, start)
            statement = _statement(text[start:position], sql=sql)
            is_unfinished = is_unfinished and statement.kind is not Kind.COMMAND
        yield _Span(statement, start, position, is_unfinished)


def _color(kind: str, text: str, *, sql: bool, is_quoted: bool) -> str:
    if kind in ("string", "unfinished"):
        return "string"
    if kind == "comment":
        return "comment"
    if kind == "quote" or (is_quoted and kind == "atom"):
        return "symbol"
    if kind == "atom":
        if _NUMBER.fullmatch(text):
            return "number"
        if (text.lower() in _SQL_KEYWORDS) if sql else (text in _KEYWORDS):
            return "keyword"
    return ""


def _skip(text: str, position: int, *, sql: bool) -> int:
    """Return the position of the next statement: behind white space, comments and the ends of SQL statements."""
    pattern = _SQL_TOKEN if sql else _TOKEN
    while (token := pattern.match(text, position)) is not None and token.lastgroup in ("space", "comment", "end"):
        position = token.end()
    return position


def _expression_end(text: str, start: int) -> tuple[int, bool]:
    depth = 0
    for token in _TOKEN.finditer(text, start):
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        if token.lastgroup == "unfinished":
            return len(text), True
        if depth < 0:
            return len(text), False  # a syntax error, whatever follows
        if depth == 0 and token.lastgroup in ("string", "close", "atom"):
            return token.end(), False
    return len(text), depth > 0


def _sql_end(text: str, start: int) -> tuple[int, bool]:
    for token in _SQL_TOKEN.finditer(text, start):
        if token.lastgroup == "end":
            return token.end(), False
    return len(text), True


def _command_end(text: str, start: int) -> tuple[int, bool]:
    """Return where a command ends. One statement of SQL continues while a string in it is unclosed."""
    end = text.find("\n", start)
    end = len(text) if end < 0 else end
    name = _COMMAND_NAME.match(text, start)
    assert name is not None
    if name[1] != "sql":
        return end, False
    while any(token.lastgroup == "unfinished" for token in _SQL_TOKEN.finditer(text[:end], name.end())):
        if end == len(text):
            return end, True
        end = text.find("\n", end + 1)
        end = len(text) if end < 0 else end
    return end, False


def _mode_after(command: str, *, sql: bool) -> bool:
    """Return whether the shell is in the SQL mode after a command."""
    return {"sql": not sql, "sql on": True, "sql off": False}.get(" ".join(command.split()), sql)


def _statement(text: str, *, sql: bool) -> Statement:
    text = text.removesuffix(";").rstrip() if sql else text.rstrip()
    if text in _WORDS:
        return Statement(Kind.COMMAND, _WORDS[text])
    return Statement(Kind.SQL if sql else Kind.RAYFALL, text)
