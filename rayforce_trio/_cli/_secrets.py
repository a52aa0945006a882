"""Secrets from files, the environment and the terminal, never from arguments. No error here shows a secret."""

import getpass
import os
import stat
from argparse import SUPPRESS, ArgumentTypeError, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, NoReturn

from ._console import UsageError, show_warning

PASSWORD_VARIABLE = "RAYFORCE_PASSWORD"
TOKEN_VARIABLE = "RAYFORCE_TOKEN"

_MAX_FILE_SIZE = 1024**2  # bytes to read at most; a device may have no end


def first_line(path: str) -> str:
    """Return the first line of a file. Warns if every user of the machine can read the file.

    Raises:
        UsageError: the file cannot be read, or its first line is empty, too long or not UTF-8.
    """
    with _open(path) as file:
        return read_secret(file, path)


def read_secret(file: BinaryIO, name: str) -> str:
    """Return the first line of an open file.

    Args:
        file: the file.
        name: the file's name, for errors.

    Raises:
        UsageError: the line is empty, too long or not UTF-8.
    """
    line = _decode(file.readline(_MAX_FILE_SIZE + 1), name).removesuffix("\n").removesuffix("\r")
    if not line:
        raise UsageError(f"the first line of {name} is empty; it must be the secret")
    return line


def all_lines(path: str) -> list[str]:
    """Return the lines of a file. Warns if every user of the machine can read the file.

    Raises:
        UsageError: the file cannot be read, is too long or not UTF-8.
    """
    with _open(path) as file:
        return [line.removesuffix("\r") for line in _decode(file.read(_MAX_FILE_SIZE + 1), path).split("\n")]


def add_secrets(group: Any, help_: str) -> None:
    """Add the options that name the files with a password and a token.

    Args:
        group: a group of arguments that exclude each other.
        help_: the help text, with `{}` in the place of `password` or `token`.
    """
    for kind, variable in ("password", PASSWORD_VARIABLE), ("token", TOKEN_VARIABLE):
        group.add_argument(
            f"--{kind}-file", metavar="FILE", help=f"{help_.format(kind)} in the first line of FILE; or set {variable}"
        )
        group.add_argument(f"--{kind}", type=refuse_secret, help=SUPPRESS)


def refuse_secret(_: str) -> NoReturn:
    """Refuse a secret as an argument.

    Raises:
        ArgumentTypeError: always.
    """
    raise ArgumentTypeError("a secret cannot be an argument: other users could read it in the list of processes")


def secrets_of(options: Namespace) -> tuple[str | None, str | None]:
    """Return the password and the token, at most one of which is set: from a file, or else from the environment.

    Both variables are removed from the environment, because clients can read the environment of an engine.

    Raises:
        UsageError: the file cannot be read, or the environment has both secrets or an empty one.
    """
    password, token = (os.environ.pop(name, None) for name in (PASSWORD_VARIABLE, TOKEN_VARIABLE))
    if options.password_file is not None:
        return first_line(options.password_file), None
    if options.token_file is not None:
        return None, first_line(options.token_file)
    for name, secret in (PASSWORD_VARIABLE, password), (TOKEN_VARIABLE, token):
        if secret == "":
            raise UsageError(f"{name} is set, but empty")
    if password is not None and token is not None:
        raise UsageError(f"{PASSWORD_VARIABLE} and {TOKEN_VARIABLE} are both set; unset one of them")
    return password, token


def keep_secrets_out_of_standard_input(options: Namespace) -> None:
    """Check that no secret is read from standard input, from which the command reads something else.

    Raises:
        UsageError: a file with a secret is standard input.
    """
    if "/dev/stdin" in (options.password_file, options.token_file):
        raise UsageError("standard input is the input of this command; read the secret from another file")


def ask_secret(prompt: str) -> str | None:
    """Ask for a secret on the terminal, without echo; `None` after Ctrl-D.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C.
    """
    try:
        return getpass.getpass(prompt)
    except EOFError:
        return None


def warn_if_readable(path: str) -> None:
    """Warn if every user of the machine can read a file.

    Raises:
        OSError: the file does not exist.
    """
    mode = os.stat(path).st_mode  # noqa: PTH116 - as for `open`
    if stat.S_ISREG(mode) and mode & stat.S_IROTH:
        show_warning(f"every user of this machine can read {path}; use chmod o-r to prevent that")


@contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - an error then names the path as the user wrote it
            warn_if_readable(path)
            yield file
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from None


def _decode(data: bytes, name: str) -> str:
    if len(data) > _MAX_FILE_SIZE:
        raise UsageError(f"{name} is too long; the limit is {_MAX_FILE_SIZE} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise UsageError(f"{name} is not UTF-8") from None
