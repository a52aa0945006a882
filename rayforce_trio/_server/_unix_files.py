"""The file of a Unix socket: make it, replace one that is left there, and recognize it later."""

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from ._listening import BACKLOG

FileIdentity = tuple[int, int, int]
"""Device, inode and time. Numbers of inodes are reused, so the time is a part of it."""


def bind_unix(path: str, mode: int) -> tuple[socket.socket, FileIdentity]:
    """Return a socket that listens at a path, and the identity of its file.

    A socket that is left there is replaced if nobody listens on it. Nobody can connect before the permissions are set,
    since the socket listens only then. No checkpoint.

    Raises:
        OSError: the path is in use, or the file cannot be created there.
    """
    with ExitStack() as opened, _locked(path):
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
        identity = _identity_of(os.lstat(path))
        bound.listen(BACKLOG)
        opened.pop_all()
    return bound, identity


def remove_unix(path: str, identity: FileIdentity) -> None:
    """Remove the file of a socket that no longer listens, unless another server has replaced it. No checkpoint.

    Raises:
        OSError: the file is gone, or cannot be removed, or another server is just starting there.
    """
    with _locked(path):
        if _identity_of(os.lstat(path)) == identity:
            os.unlink(path)  # noqa: PTH108


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Keep other servers away from a path for the block. No checkpoint, and it does not wait for them.

    A socket that is bound and does not listen yet looks as if it were left there, and it may be replaced only by one
    server. The lock is a file, which exists for the block. If the process is killed meanwhile, the file remains, but
    the system releases the lock. A lock on the directory would need no file, but all users who can read the directory
    could hold it.

    Raises:
        OSError: another server is just starting or stopping there, or the file cannot be created.
    """
    name = f"{path}.starting"
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_ours = os.path.samestat(os.lstat(name), os.fstat(descriptor))  # not removed since `open`
        except (BlockingIOError, FileNotFoundError):
            is_ours = False
        if not is_ours:
            raise OSError("another server is starting there at this moment")
        try:
            yield
        finally:
            _remove_if_there(name)
    finally:
        os.close(descriptor)


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


def _identity_of(found: os.stat_result) -> FileIdentity:
    return found.st_dev, found.st_ino, found.st_mtime_ns
