"""The command `hash-password`."""

import argparse
import sys
from typing import Any

from .. import auth
from ..errors import RayforceValueError
from ._console import OK, UsageError, write
from ._options import examples
from ._secrets import ask_secret, read_secret, refuse_secret

DESCRIPTION = """Write the hash of a password, for serve --users-file. On a terminal, the command asks for the password
without echo; otherwise the password is the first line of standard input."""
_EXAMPLES = examples("hash-password", "hash-password < password")


def add_parser(commands: Any) -> None:
    parser = commands.add_parser(
        "hash-password", help="hash a password for serve --users-file", description=DESCRIPTION, epilog=_EXAMPLES
    )
    parser.add_argument("password", nargs="*", type=refuse_secret, help=argparse.SUPPRESS)
    parser.set_defaults(run=hash_password)


def hash_password(_: argparse.Namespace) -> int:
    """Run the command, and return its exit code."""
    password = _ask_twice() if sys.stdin.isatty() else read_secret(sys.stdin.buffer, "standard input")
    try:
        write([f"{auth.hash_password(password)}\n"])
    except RayforceValueError as error:
        raise UsageError(error) from None
    return OK


def _ask_twice() -> str:
    password = ask_secret("Password: ")
    if password is None:
        raise UsageError("no password was entered")
    if ask_secret("Repeat the password: ") != password:
        raise UsageError("the passwords do not match")
    return password
