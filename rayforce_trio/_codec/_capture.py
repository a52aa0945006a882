"""Capture the output of the engine, which writes to the standard output of the C library and not to `sys.stdout`."""

import ctypes
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from typing import IO, TypeVar

T = TypeVar("T")

_STDOUT = 1
_c_library = ctypes.CDLL(None)


def capture_stdout(function: Callable[[], T]) -> tuple[bytes, T]:
    """Call a function; returns the bytes that the process wrote to standard output meanwhile, and the result.

    Evaluation holds the GIL, so nearly all of the output is the engine's. If the process has no standard output, no
    bytes are returned.

    Raises:
        OSError: the output cannot be stored; the function was not called.
    """
    with _open_file() as file:
        with suppress(AttributeError, OSError, ValueError):  # sys.stdout may be None or closed
            sys.stdout.flush()
        _c_library.fflush(None)
        try:
            saved = os.dup(_STDOUT)
        except OSError:  # the process has no standard output
            return b"", function()
        os.dup2(file.fileno(), _STDOUT)
        try:
            result = function()
        finally:
            _c_library.fflush(None)  # sys.stdout is not flushed: its text is not the function's
            os.dup2(saved, _STDOUT)
            os.close(saved)
        file.seek(0)
        return file.read(), result


def _open_file() -> IO[bytes]:
    """Open a file without a name: in memory if the system can, because there may be no writable directory."""
    if hasattr(os, "memfd_create"):
        with suppress(OSError):
            return os.fdopen(os.memfd_create("rayforce-output"), "w+b")
    return tempfile.TemporaryFile()
