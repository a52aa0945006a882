"""What goes to standard output and standard error."""

import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import RayforceWSError
from ._exits import CommandFailed, OutputClosed

_NUMBER = re.compile(r"\[Errno -?\d+\] ")
"""What precedes the words of an `OSError`, which say the same."""


def open_standard_streams() -> None:
    """Put something in the place of standard input, output and error that are closed, which files opened later take.

    Standard input is empty then, standard error goes nowhere, and standard output cannot be written; it stays `None`.
    """
    for name, flags in ("stdin", os.O_RDONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, flags)
            if name != "stdout":
                mode = "r" if name == "stdin" else "w"
                setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115 - it lasts


def use_encoding(encoding: str | None, errors: str) -> None:
    """Have standard output encode so; `None`: as the locale says."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


def write(parts: Iterable[str]) -> None:
    """Write to standard output, all the way; to a terminal, without what could give it orders.

    Raises:
        OutputClosed: nobody reads it any more.
        CommandFailed: it cannot be written, since a disk is full, say.
    """
    stdout = _standard_output()
    shown = escape_controls if stdout.isatty() else str
    with _reported_errors():
        for part in parts:
            stdout.write(shown(part))
        stdout.flush()


def write_bytes(parts: Iterable[bytes]) -> None:
    """Write bytes to standard output and flush it. Raises the errors of `write`."""
    buffer = _standard_output().buffer
    with _reported_errors():
        for part in parts:
            buffer.write(part)
        buffer.flush()


def _standard_output() -> Any:
    if sys.stdout is None:
        raise CommandFailed("the output cannot be written: it is closed")
    return sys.stdout


@contextmanager
def _reported_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)  # or Python tries once more when it ends, and complains
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        if isinstance(error, BrokenPipeError):
            raise OutputClosed from None
        raise CommandFailed(f"the output cannot be written: {error.strerror}") from None


def complain(problem: object) -> None:
    """Say on standard error what is wrong, on a line of its own."""
    said = str(problem)
    if isinstance(problem, OSError | RayforceWSError):  # in an error of the engine it is data
        said = _NUMBER.sub("", said)
    first, *rest = said.splitlines() or [type(problem).__name__]
    say("\n  ".join([f"error: {first}", *rest]))


def warn(problem: str) -> None:
    """Say on standard error what should be otherwise, though the command goes on."""
    say(f"warning: {problem}")


def say(text: str) -> None:
    """Write a line to standard error, for people."""
    print(escape_controls(text), file=sys.stderr, flush=True)  # noqa: T201 - a command talks


def escape_controls(text: str) -> str:
    """Return a text without what could give orders to a terminal; lines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
