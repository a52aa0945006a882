"""Listening sockets on every address of a host."""

import contextlib
import errno
import socket
from collections.abc import Sequence

import trio

_BACKLOG = 4096

_UNAVAILABLE = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""The errors of an address that this machine does not have, such as ::1 where IPv6 is off."""


async def open_listeners(host: str, port: int, *, reuse_port: bool) -> list[trio.SocketListener]:
    """Listen on every address of a host that this machine has. A checkpoint; if cancelled, no socket is left open.

    Unlike `trio.open_tcp_listeners`, this skips addresses that cannot be bound if another one can, gives all of them
    the same port, and can share the port with other processes.

    Args:
        host: a name or an IP address.
        port: 1-65535, or 0 for a free port.
        reuse_port: whether to set `SO_REUSEPORT`.

    Raises:
        OSError: the name is unknown, none of its addresses is available, one of them is in use, or the system has no
            `SO_REUSEPORT`.
        UnicodeError: the host cannot be a name.
    """
    if reuse_port and not hasattr(socket, "SO_REUSEPORT"):
        raise OSError("this system cannot share a port among processes (SO_REUSEPORT)")
    addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    unavailable: OSError | None = None
    with contextlib.ExitStack() as opened:
        sockets: list[trio.socket.SocketType] = []
        for *kind, _, address in addresses:
            port = port or (sockets[0].getsockname()[1] if sockets else 0)
            try:
                bound = await _bind(kind, (address[0], port, *address[2:]), reuse_port=reuse_port)
            except OSError as error:
                if error.errno not in _UNAVAILABLE:
                    raise
                unavailable = error
            else:
                sockets.append(opened.enter_context(bound))
                bound.listen(_BACKLOG)
        if unavailable is not None and not sockets:
            raise unavailable
        opened.pop_all()
    return [trio.SocketListener(bound) for bound in sockets]


async def _bind(kind: Sequence[int], address: tuple[str | int, ...], *, reuse_port: bool) -> trio.socket.SocketType:
    """Return a socket bound to an address. A checkpoint; if it raises or is cancelled, no socket is left open.

    Args:
        kind: the family, type and protocol of the socket.
    """
    with contextlib.ExitStack() as opened:
        bound = opened.enter_context(trio.socket.socket(*kind))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if bound.family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        await bound.bind(address)
        opened.pop_all()
    return bound
