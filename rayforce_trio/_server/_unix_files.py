"""The file of a Unix socket: make it, replace one that is left there, and recognize it later."""

import errno
import os
import socket
import stat
from contextlib import ExitStack, suppress

from ._listening import BACKLOG


def bind_unix(path: str, mode: int) -> tuple[socket.socket, tuple[int, int, int]]:
    """Return a socket that listens at a path, and the identity of its file.

    A socket that is left there is replaced if nobody listens on it. Nobody can connect before the permissions are set,
    since the socket listens only then. No checkpoint.

    Raises:
        OSError: the path is in use, or the file cannot be created there.
    """
    with ExitStack() as opened:
        bound = opened.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        bound.setblocking(False)
        try:
            bound.bind(path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_stale(path):
                raise
            _remove_if_there(path)
            bound.bind(path)
        opened.callback(_remove_if_there, path)
        os.chmod(path, mode)  # noqa: PTH101
        identity = identity_of(path)
        bound.listen(BACKLOG)
        opened.pop_all()
    return bound, identity


def _remove_if_there(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def _is_stale(path: str) -> bool:
    """Return whether nobody listens on the socket at a path.

    On macOS, a server whose queue of connections is full looks as if it did not listen.

    Raises:
        OSError: the file is not a socket.
    """
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise OSError("the file exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            probe.connect(path)
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except (BlockingIOError, PermissionError, ConnectionError):
        return False
    return False


def identity_of(path: str) -> tuple[int, int, int]:
    """Return what tells a file from one that replaces it: numbers of inodes are reused, so the time is a part of it."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino, found.st_mtime_ns
