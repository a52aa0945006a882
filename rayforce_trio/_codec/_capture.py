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

    Evaluation holds the GIL, so nearly all that is written meanwhile is the engine's.

    Raises:
        OSError: there is no room for it.
    """
    with tempfile.TemporaryFile() as file:
        with suppress(AttributeError, OSError, ValueError):  # there may be no sys.stdout, or a closed one
            sys.stdout.flush()
        _c_library.fflush(None)
        try:
            before = os.dup(_STDOUT)
        except OSError:  # the process has no standard output
            return b"", function()
        os.dup2(file.fileno(), _STDOUT)
        try:
            result = function()
        finally:
            _c_library.fflush(None)  # not Python's: what it could not print before is none of the function's
            os.dup2(before, _STDOUT)
            os.close(before)
        file.seek(0)
        return file.read(), result
