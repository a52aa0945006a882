"""Where an expression ends: as much of Rayfall's syntax as it takes to tell."""

import re

_TOKEN = re.compile(
    r"""
    (?P<string> "(?:\\.|[^"\\])*" | '(?:\\.|[^\\)\]}\s])' )  # a string, or a character: '(' is one, ')' is not
    | (?P<unfinished> " )
    | (?P<comment> ;[^\n]* )
    | (?P<open> [(\[{] )
    | (?P<close> [)\]}] )
    """,
    re.VERBOSE | re.DOTALL,
)


def is_unfinished(text: str) -> bool:
    """Whether a bracket or a string is open at the end of a text, so that more has to follow."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        if token.lastgroup == "unfinished":
            return True
        if depth < 0:
            return False  # what follows does not mend it
    return depth > 0


def is_blank(text: str) -> bool:
    """Whether there is nothing in a text but blanks and comments."""
    return all(not line.strip() or line.lstrip().startswith(";") for line in text.splitlines())
