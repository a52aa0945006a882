"""Secrets: from files, the environment and the terminal, and never from arguments. No error here shows one."""

import getpass
import os
import stat
from argparse import SUPPRESS, ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

from ._exits import UsageError
from ._output import warn

PASSWORD_VARIABLE = "RAYFORCE_PASSWORD"
TOKEN_VARIABLE = "RAYFORCE_TOKEN"

MAX_SIZE = 1024**2
"""What is read of a file at most, in bytes; a device may have no end."""


def first_line(path: str) -> str:
    """Return the first line of a file; warns if every user of the machine can read it.

    Raises:
        UsageError: it cannot be read, or its first line is empty, too long or not UTF-8.
    """
    with _opened(path) as file:
        return line_in(file, path)


def line_in(file: BinaryIO, name: str) -> str:
    """Return the first line of an open file, whose name is for errors.

    Raises:
        UsageError: it is empty, too long or not UTF-8.
    """
    line = _text(file.readline(MAX_SIZE + 1), name).removesuffix("\n").removesuffix("\r")
    if not line:
        raise UsageError(f"the first line of {name} is empty, where a secret should be")
    return line


def all_lines(path: str) -> list[str]:
    """Return the lines of a file; warns if every user of the machine can read it.

    Raises:
        UsageError: it cannot be read, is too long or not UTF-8.
    """
    with _opened(path) as file:
        return [line.removesuffix("\r") for line in _text(file.read(MAX_SIZE + 1), path).split("\n")]


def add_secrets(group: Any, whose: str) -> None:
    """Add the arguments that say which files a password and a token are in."""
    for kind, variable in ("password", PASSWORD_VARIABLE), ("token", TOKEN_VARIABLE):
        group.add_argument(
            f"--{kind}-file", metavar="FILE", help=f"{whose} {kind}, the first line of a file; or set {variable}"
        )
        group.add_argument(f"--{kind}", type=refuse, help=SUPPRESS)


def refuse(_: str) -> NoReturn:
    """Take no secret as an argument.

    Raises:
        ArgumentTypeError: always.
    """
    raise ArgumentTypeError("secrets are no arguments: other users could read them in the list of processes")


def secrets_of(options: Namespace) -> tuple[str | None, str | None]:
    """Return the password and the token, of which there is one at most: from a file, or else from the environment.

    They are taken out of the environment in any case: clients can read that of an engine.

    Raises:
        UsageError: there is no such file, or the environment has both, or an empty one.
    """
    password, token = (os.environ.pop(name, None) for name in (PASSWORD_VARIABLE, TOKEN_VARIABLE))
    if options.password_file is not None:
        return first_line(options.password_file), None
    if options.token_file is not None:
        return None, first_line(options.token_file)
    for name, secret in (PASSWORD_VARIABLE, password), (TOKEN_VARIABLE, token):
        if secret == "":
            raise UsageError(f"{name} is in the environment, but empty")
    if password is not None and token is not None:
        raise UsageError(f"{PASSWORD_VARIABLE} and {TOKEN_VARIABLE} are both in the environment; leave out one")
    return password, token


def keep_secrets_out_of_standard_input(options: Namespace) -> None:
    """Refuse to read a secret from where the expressions come from: the one would swallow the other.

    Raises:
        UsageError: a file with a secret is standard input.
    """
    if "/dev/stdin" in (options.password_file, options.token_file):
        raise UsageError("standard input is read for expressions, so no secret can come from /dev/stdin")


def ask(question: str) -> str | None:
    """Ask for a secret on the terminal, without echo; `None` if there is none, since Ctrl-D came.

    Raises:
        KeyboardInterrupt: Ctrl-C.
    """
    try:
        return getpass.getpass(question)
    except EOFError:
        return None


def warn_if_readable(path: str) -> None:
    """Warn if every user of the machine can read a file.

    Raises:
        OSError: there is none.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 - as for `open`
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        warn(f"every user of this machine can read {path}; chmod o-r makes an end of that")


@contextmanager
def _opened(path: str) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - errors name it as it was given
            warn_if_readable(path)
            yield file
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _text(data: bytes, name: str) -> str:
    if len(data) > MAX_SIZE:
        raise UsageError(f"{name} is too long, where a secret should be")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8") from None
