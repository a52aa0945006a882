"""Directories for Unix sockets."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def short_directory() -> Iterator[Path]:
    """Make a temporary directory whose path leaves room for the name of a Unix socket, wherever TMPDIR is."""
    with TemporaryDirectory(prefix="rf", dir="/tmp") as made:
        yield Path(made)
