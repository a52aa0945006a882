"""What goes to standard output and standard error."""

import io
import os
import sys
from collections.abc import Iterable

from ._exits import OutputClosed


def use_encoding(encoding: str | None, errors: str) -> None:
    """Have standard output encode so; `None`: as the locale says."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding, errors=errors)


def write(parts: Iterable[str]) -> None:
    """Write to standard output, all the way.

    Raises:
        OutputClosed: nobody reads it any more.
        OSError: it cannot be written, since a disk is full, say.
    """
    try:
        for part in parts:
            sys.stdout.write(part)
        sys.stdout.flush()
    except OSError as error:
        null = os.open(os.devnull, os.O_WRONLY)  # or Python tries once more when it ends, and complains
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        if isinstance(error, BrokenPipeError):
            raise OutputClosed from None
        raise OSError(error.errno, f"the output cannot be written: {error.strerror}") from None


def complain(problem: object) -> None:
    """Say on standard error what is wrong, on a line of its own."""
    first, *rest = str(problem).splitlines() or [type(problem).__name__]
    say("\n  ".join([f"error: {first}", *rest]))


def warn(problem: str) -> None:
    """Say on standard error what should be otherwise, though the command goes on."""
    say(f"warning: {problem}")


def say(text: str) -> None:
    """Write a line to standard error, for people."""
    print(harmless(text), file=sys.stderr, flush=True)  # noqa: T201 - a command talks


def harmless(text: str) -> str:
    """Return a text without what could give orders to a terminal; lines and tabs stay."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)
