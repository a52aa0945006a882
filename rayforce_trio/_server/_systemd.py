"""systemd: the listening sockets that it passes to the program (socket activation), and what the program tells it."""

import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import NamedTuple

from .._addresses import os_error_text
from ..errors import ListenError

FIRST_DESCRIPTOR = 3
"""The number of the first file descriptor that is passed. The others follow it."""


_MAX_DESCRIPTORS = 4096  # more than a process may have open by default


class PassedDescriptor(NamedTuple):
    """A file descriptor that was passed, and its name: `FileDescriptorName=`, or the name of the socket unit."""

    number: int
    name: str


def systemd_sockets(name: str | None = None) -> list[socket.socket]:
    """Return the sockets that systemd passes to this process, for `WSServer(sockets=...)`. Not a checkpoint.

    They are duplicates, so the function may be called again: systemd has the sockets open in any case.

    Args:
        name: return only the sockets with this name: `FileDescriptorName=` of the socket unit, by default its file
            name. `None`: all of them.

    Raises:
        ListenError: systemd has not passed a socket, or none with this name, to this process.
    """
    passed = passed_descriptors(os.environ, os.getpid())
    if not passed:
        raise ListenError(
            "systemd has passed no sockets to this process: start the service by its socket unit, and the program "
            "without a shell or another process in between"
        )
    for number, _ in passed:
        with suppress(OSError):
            os.set_inheritable(number, False)
    found = [number for number, its_name in passed if name in (None, its_name)]
    if not found:
        names = ", ".join(sorted({repr(its_name) for _, its_name in passed}))
        raise ListenError(f"systemd has passed no socket with the name {name!r}; the names are {names}")
    sockets: list[socket.socket] = []
    try:
        for number in found:
            sockets.append(_duplicate(number))
    except OSError as error:
        for one in sockets:
            one.close()
        reason = os_error_text(error)
        raise ListenError(f"the file descriptor {number} from systemd is not a socket: {reason}") from None
    return sockets


def notify_systemd(state: str) -> None:
    """Tell systemd the state of the service, for units with `Type=notify`. Does nothing for others. No checkpoint.

    Args:
        state: `READY=1` or `STOPPING=1`.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):
        address = "\0" + address.removeprefix("@")
    if address:
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # a queue that is full must not stop the event loop
            sender.sendto(state.encode(), address)


def passed_descriptors(environment: Mapping[str, str], pid: int) -> list[PassedDescriptor]:
    """Return the file descriptors that the environment says were passed to the process `pid`; empty if there are none.

    Their names are "unknown" if the environment does not have one for each.
    """
    try:
        is_meant = int(environment.get("LISTEN_PID", "")) == pid
        count = int(environment.get("LISTEN_FDS", ""))
    except ValueError:
        return []
    if not is_meant or not 1 <= count <= _MAX_DESCRIPTORS:
        return []
    names = environment.get("LISTEN_FDNAMES", "").split(":")
    if len(names) != count or not all(names):
        names = ["unknown"] * count
    return [PassedDescriptor(FIRST_DESCRIPTOR + index, name) for index, name in enumerate(names)]


def _duplicate(number: int) -> socket.socket:
    duplicate = os.dup(number)
    try:
        return socket.socket(fileno=duplicate)
    except OSError:
        os.close(duplicate)
        raise
