"""Listening sockets on every address of a host, and the connections that they accept."""

import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from math import inf
from typing import NoReturn

import trio

from .._tasks import enable_ki_protection
from ._log import logger

BACKLOG = 4096

_UNAVAILABLE = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""The errors of an address that this machine does not have, such as ::1 where IPv6 is off."""

_OVERLOADED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""The errors of `accept` that pass when the system has resources again."""

_RETRY_DELAY = 0.1
"""Seconds until another attempt after one of these errors."""

_LOG_INTERVAL = 60.0
"""One of these errors is logged at most once in this many seconds."""


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
        raise OSError("reuse_port needs SO_REUSEPORT, which this system does not have")
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
                bound.listen(BACKLOG)
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


@enable_ki_protection
async def accept_connections(
    listener: trio.SocketListener, handle: Callable[[trio.SocketStream], Awaitable[None]], connections: trio.Nursery
) -> NoReturn:
    """Start a task for each connection that a listening socket accepts, until cancelled; then close the socket.

    Unlike `trio.serve_listeners`, this loses no connection if Ctrl-C comes between two instructions. A checkpoint.

    Args:
        listener: the listening socket.
        handle: the function of the task. It closes the connection.
        connections: the nursery of the tasks.

    Raises:
        OSError: the socket cannot accept connections.
    """
    logged_at = -inf
    try:
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _OVERLOADED:
                    raise
                if trio.current_time() >= logged_at + _LOG_INTERVAL:
                    logged_at = trio.current_time()
                    logger.error("cannot accept connections: %s; trying again", os.strerror(error.errno))
                await trio.sleep(_RETRY_DELAY)
            else:
                connections.start_soon(handle, stream)
    finally:
        listener.socket.close()
