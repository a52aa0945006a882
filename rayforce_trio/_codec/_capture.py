"""What the engine prints while it evaluates: it writes to the C library's standard output, past Python's."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")

_STDOUT = 1
_c_library = ctypes.CDLL(None)


def capture_stdout(function: Callable[[], T]) -> tuple[bytes, T]:
    """Return what the process wrote to its standard output while `function` ran, and what that returned.

    Evaluation holds the GIL, so what is written meanwhile is the engine's.
    """
    with tempfile.TemporaryFile() as file:
        _flush()
        try:
            before = os.dup(_STDOUT)
        except OSError:  # the process has no standard output
            return b"", function()
        os.dup2(file.fileno(), _STDOUT)
        try:
            result = function()
        finally:
            _flush()
            os.dup2(before, _STDOUT)
            os.close(before)
        file.seek(0)
        return file.read(), result


def _flush() -> None:
    with suppress(AttributeError, OSError, ValueError):  # there may be no sys.stdout, or a closed one
        sys.stdout.flush()
    _c_library.fflush(None)
