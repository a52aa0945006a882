"""Expressions in text: where an expression ends, and expressions from standard input."""

import re

from ._lines import LineReader

_TOKEN = re.compile(
    r"""
    (?P<string> "(?:\\.|[^"\\])*" | '(?:\\.|[^\\)\]}\s])' )  # a string or a character; '(' is a character, ')' is not
    | (?P<unfinished> " )
    | (?P<comment> ;[^\n]* )
    | (?P<open> [(\[{] )
    | (?P<close> [)\]}] )
    """,
    re.VERBOSE | re.DOTALL,
)


def is_unfinished(text: str) -> bool:
    """Whether a bracket or a string is unclosed at the end of a text, so that the expression continues."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        if token.lastgroup == "unfinished":
            return True
        if depth < 0:
            return False  # a syntax error, whatever follows
    return depth > 0


def is_blank(text: str) -> bool:
    """Whether a text contains only white space and comments."""
    return all(not line.strip() or line.lstrip().startswith(";") for line in text.splitlines())


class ExpressionReader:
    """Reads expressions from a file, pipe or socket: one per line, or per several lines if brackets are unclosed.

    Args:
        descriptor: the descriptor of the file, pipe or socket.
    """

    def __init__(self, descriptor: int) -> None:
        self._lines = LineReader(descriptor)

    async def read(self) -> str | None:
        """Return the next expression, or `None` at the end.

        A checkpoint unless the expression is already in the buffer. If cancelled, the lines of an expression that is
        not complete are lost.

        Raises:
            UsageError: the expression is not UTF-8.
        """
        expression = ""
        while (line := await self._lines.read()) is not None:
            expression += line
            if not is_unfinished(expression):
                return expression
        return expression or None
