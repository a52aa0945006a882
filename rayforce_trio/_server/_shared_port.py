"""Listening on a port together with other processes, which `trio.open_tcp_listeners` has no option for."""

import contextlib
import errno
import socket

import trio

_BACKLOG = 4096


async def open_shared_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen with `SO_REUSEPORT` on every address of a host; otherwise like `trio.open_tcp_listeners`.

    Raises:
        OSError: an address cannot be had, or the system has no `SO_REUSEPORT`.
    """
    if not hasattr(socket, "SO_REUSEPORT"):
        raise OSError("this system cannot share a port among processes (SO_REUSEPORT)")
    addresses = await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    lacking: OSError | None = None
    with contextlib.ExitStack() as opened:
        listeners = []
        for family, kind, protocol, _, address in addresses:
            try:
                listener = opened.enter_context(trio.socket.socket(family, kind, protocol))
            except OSError as error:
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                lacking = error  # name services tell of IPv6 addresses on systems that have no IPv6
                continue
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            await listener.bind(address)
            listener.listen(_BACKLOG)
            listeners.append(trio.SocketListener(listener))
        if lacking is not None and not listeners:
            raise lacking
        opened.pop_all()
        return listeners
