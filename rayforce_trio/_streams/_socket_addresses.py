"""The addresses of both ends of a connection, over TCP and over a Unix socket."""

import socket
import struct
import sys
from typing import Any, Protocol

from .._addresses import UNIX, ClientAddress, UnixPeer, ip_of

_LINUX_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid

_MACOS_CREDENTIALS = struct.Struct("IIhxx16I")  # struct xucred: version, uid, number of groups, groups
_SOL_LOCAL, _LOCAL_PEERCRED, _LOCAL_PEERPID = 0, 1, 2  # sys/un.h of macOS


class ConnectedSocket(Protocol):
    """A connected socket of the standard library, or one of trio."""

    @property
    def family(self) -> socket.AddressFamily: ...
    def getpeername(self) -> Any: ...
    def getsockname(self) -> Any: ...
    def getsockopt(self, level: int, option: int, size: int, /) -> bytes: ...


def peer_address(sock: ConnectedSocket) -> ClientAddress:
    """Return the address of the peer. No checkpoint.

    Raises:
        OSError: the peer is gone.
    """
    if sock.family == socket.AF_UNIX:
        peer = unix_peer_of(sock)
        return ClientAddress(UNIX if peer is None else f"{UNIX}uid={peer.uid}", unix_peer=peer)
    address, port, *_ = sock.getpeername()
    return ClientAddress(_unmapped(address), port)


def own_address(sock: ConnectedSocket) -> tuple[str, int]:
    """Return the IP address and the port on this side; for a Unix socket, `unix:` with its path and 0. No checkpoint.

    Raises:
        OSError: the socket is closed.
    """
    name = sock.getsockname()
    if sock.family == socket.AF_UNIX:
        return UNIX + _path_text(name), 0
    address, port, *_ = name
    return _unmapped(address), port


def _unmapped(address: str) -> str:
    """Return the IPv4 address in an address like `::ffff:192.0.2.1`, which sockets for both versions of IP report."""
    return str(ip_of(address)) if address.startswith("::ffff:") else address


def unix_peer_of(sock: ConnectedSocket, platform: str = sys.platform) -> UnixPeer | None:
    """Return the process that has connected to a Unix socket; `None` if this system does not report it. No checkpoint.

    Args:
        platform: the system, as `sys.platform`.

    Raises:
        OSError: the peer is gone, on macOS.
    """
    if platform == "linux":
        data = sock.getsockopt(socket.SOL_SOCKET, getattr(socket, "SO_PEERCRED", 17), _LINUX_CREDENTIALS.size)
        pid, uid, gid = _LINUX_CREDENTIALS.unpack(data)
        return UnixPeer(uid, gid, pid)
    if platform == "darwin":
        data = sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERCRED, _MACOS_CREDENTIALS.size)
        _, uid, _, gid, *_ = _MACOS_CREDENTIALS.unpack(data)
        pid = int.from_bytes(sock.getsockopt(_SOL_LOCAL, _LOCAL_PEERPID, 4), sys.byteorder)
        return UnixPeer(uid, gid, pid)
    return None


def _path_text(name: object) -> str:
    """Return the path of a Unix socket. A name that is not in the file system (Linux) begins with `@`."""
    return name.decode("utf-8", "replace").replace("\0", "@") if isinstance(name, bytes) else str(name)
