"""Find out how much a server on this machine has left unread on its connections. Linux only."""

from pathlib import Path

_TABLE = Path("/proc/net/tcp")  # the IPv4 connections of this network namespace
_ESTABLISHED_OR_CLOSE_WAIT = ("01", "08")


def unread_bytes(port: int) -> dict[int, int]:
    """Return how many bytes have arrived at a server that it has not read yet, for each of its connections.

    This reads the table of all connections of the system, which takes milliseconds if there are thousands.

    Args:
        port: the port of the server.

    Returns:
        The number for each port of a client. Connections that this system does not know are missing.
    """
    try:
        lines = _TABLE.read_text("ascii").splitlines()[1:]
    except OSError:
        return {}
    unread = {}
    for line in lines:
        _, local, remote, state, queues, *_ = line.split()
        if int(local.partition(":")[2], 16) == port and state in _ESTABLISHED_OR_CLOSE_WAIT:
            unread[int(remote.partition(":")[2], 16)] = int(queues.partition(":")[2], 16)
    return unread
