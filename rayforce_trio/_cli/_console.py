"""How a command talks and ends: standard output, standard error, its exceptions and its exit codes."""

import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from .._text import escape_controls
from ..errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionLost,
    ConnectionRejected,
    ProtocolError,
    RayforceError,
    RayforceWSError,
)

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130

_NETWORK_ERRORS = (ConnectError, ConnectionClosed, ConnectionLost, ProtocolError)
_ERROR_NUMBER = re.compile(r"\[Errno -?\d+\] ")


class UsageError(Exception):
    """The arguments, the environment or the input are wrong; the text says what is wrong and what to do."""


class CommandFailed(Exception):
    """The command failed; the text says why."""


class Interrupted(Exception):
    """The user pressed Ctrl-C.

    Args:
        text: says what may still be going on, if anything.
        output: the text that the stopped query had printed.
    """

    def __init__(self, text: str = "", *, output: str = "") -> None:
        super().__init__(text)
        self.output = output


class Refused(ConnectionRejected):
    """A server refused the connection; the text says which server."""

    def __init__(self, uri: str, error: ConnectionRejected) -> None:
        super().__init__(error.status, error.body)
        self._uri = uri

    def __str__(self) -> str:
        return f"{self._uri}: {super().__str__()}"


class OutputClosed(Exception):
    """The reader closed the pipe."""


def exit_code_of(error: RayforceError) -> int:
    """Return the exit code of a command that ends with this error."""
    return UNREACHABLE if isinstance(error, _NETWORK_ERRORS) else FAILED


def open_standard_streams() -> None:
    """Replace standard streams that are closed, so that no file opened later gets their descriptors.

    Standard input is then empty, and standard error is discarded. Standard output stays `None`: see `write`.
    """
    for name, flags in ("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            if name != "stdout":
                mode = "r" if name == "stdin" else "w"
                stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open until exit
                setattr(sys, name, stream)


def set_output_encoding(encoding: str | None, errors: str) -> None:
    """Set the encoding of standard output; `None` means the encoding of the locale."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout is not None and sys.stdout.isatty()


def has_unicode() -> bool:
    """Return whether standard output can represent the characters that tables are drawn with."""
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    try:
        "┼…".encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def write(parts: Iterable[str]) -> None:
    """Write text to standard output and flush it; on a terminal, control characters are escaped.

    Raises:
        OutputClosed: the reader closed the pipe.
        CommandFailed: the output cannot be written, for example because the disk is full.
    """
    stdout = _standard_output()
    shown = _escaped if stdout.isatty() else str
    with _reported_errors():
        for part in parts:
            stdout.write(shown(part))
        stdout.flush()


def encoded(text: str) -> bytes:
    """Return text as `write` would write it.

    Raises:
        CommandFailed: standard output is closed.
    """
    stdout = _standard_output()
    shown = _escaped(text) if stdout.isatty() else text
    return shown.encode(stdout.encoding, stdout.errors)


def write_bytes(parts: Iterable[bytes]) -> None:
    """Write bytes to standard output and flush it. Raises the errors of `write`."""
    buffer = _standard_output().buffer
    with _reported_errors():
        for part in parts:
            buffer.write(part)
        buffer.flush()


def flush_output() -> None:
    """Flush standard output, if it is open. Raises the errors of `write`."""
    if sys.stdout is not None:
        with _reported_errors():
            sys.stdout.flush()


def _standard_output() -> Any:
    if sys.stdout is None:
        raise CommandFailed("standard output is closed")
    return sys.stdout


@contextmanager
def _reported_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        _discard(sys.stdout)
        if isinstance(error, BrokenPipeError):
            raise OutputClosed from None
        raise CommandFailed(f"the output cannot be written: {error.strerror}") from None


def _discard(stream: Any) -> None:
    """Discard everything that is written to a stream. Otherwise Python reports the error again when it exits."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def counted(number: int, noun: str) -> str:
    """Return a number with a noun in the singular or plural, such as `1 row` or `1,234 rows`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def show_error(problem: object) -> None:
    """Write an error to standard error. Further lines of its text are indented."""
    text = str(problem)
    if isinstance(problem, OSError | RayforceWSError):  # in an error of the engine, the number is data
        text = _ERROR_NUMBER.sub("", text)
    first, *rest = text.splitlines() or [type(problem).__name__]
    show("\n  ".join([f"error: {first}", *rest]))


def show_warning(problem: str) -> None:
    """Write a warning to standard error."""
    show(f"warning: {problem}")


def show(text: str) -> None:
    """Write a line for the user to standard error, with control characters escaped."""
    write_to_terminal(f"{_escaped(text)}\n")


def write_to_terminal(text: str) -> None:
    """Write text to standard error as it is. If nobody can read standard error, the text is discarded."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _escaped(text: str) -> str:
    return escape_controls(text, keep="\n\t")
