"""`hash-password`: what a file of users has to know of a password."""

import argparse
import sys
from typing import Any

from .. import auth
from ..errors import RayforceValueError
from ._exits import OK, UsageError
from ._output import write
from ._secrets import ask, line_in, refuse

DESCRIPTION = """Read a password, from the terminal without echo or else the first line of standard input, and print the
hash by which `serve --users-file` knows it."""


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "hash-password", help="hash a password, for serve --users-file", description=DESCRIPTION
    )
    parser.add_argument("password", nargs="*", type=refuse, help=argparse.SUPPRESS)
    parser.set_defaults(run=hash_password)


def hash_password(_: argparse.Namespace) -> int:
    """Run the command; returns its exit code."""
    password = _from_terminal() if sys.stdin.isatty() else line_in(sys.stdin.buffer, "standard input")
    try:
        write([f"{auth.hash_password(password)}\n"])
    except RayforceValueError as error:
        raise UsageError(error) from None
    return OK


def _from_terminal() -> str:
    password = ask("Password: ")
    if password is None:
        raise UsageError("there is no password")
    if ask("The same again: ") != password:
        raise UsageError("the two passwords are not the same")
    return password
