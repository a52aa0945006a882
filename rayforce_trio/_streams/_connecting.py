"""Connecting over TCP and to Unix sockets, on both event loops.

If a host has several addresses, the next one is tried when an attempt fails or takes longer than 250 ms, and the first
connection is used (RFC 8305, "Happy Eyeballs").
"""

import asyncio
import os
import re
import socket
from contextlib import suppress
from typing import Any

import aiohappyeyeballs
import anyio
import anyio.lowlevel
import trio

from .._tasks import in_trio
from ._asyncio_tcp import AsyncioTcpStream
from ._tcp import TcpStream
from ._trio_tcp import TrioTcpStream, stream_of

_NEXT_ATTEMPT_DELAY = 0.25  # seconds; recommended by RFC 8305
_NOTSENT_LOWAT = 16 * 1024  # bytes; the same as on trio
_FULL_QUEUE_DELAY = 0.01  # seconds
_ERRNO = re.compile(r"\[Errno (\d+)\]")


async def connect_tcp(host: str, port: int) -> TcpStream:
    """Connect to a server. If cancelled, no socket is left open.

    A checkpoint, unless the system connects at once, as it does to an IP address of this machine.

    Args:
        host: a host name or an IP address. An IPv6 address may have a scope (`fe80::1%eth0`).
        port: 1-65535.

    Raises:
        OSError: the host name cannot be resolved (`socket.gaierror`), or all attempts to connect failed; then this is
            the error of the last attempt.
        UnicodeError: the host name is not valid.
    """
    try:
        addresses = _ip_address(host, port)
        if len(addresses) == 1:
            return await _connect_to_one(addresses[0])
        if in_trio():
            return stream_of(await trio.open_tcp_stream(host, port, happy_eyeballs_delay=_NEXT_ATTEMPT_DELAY))
        sock = await _connect_asyncio(host, port)
    except (OSError, RuntimeError) as error:  # uvloop raises RuntimeErrors, too
        raise _last_error(error) from None
    _set_options(sock)
    return AsyncioTcpStream(sock)


async def connect_unix(path: str) -> TcpStream:
    """Connect to the Unix socket at a path. If cancelled, no socket is left open.

    A checkpoint, unless the system connects at once, as it does unless too many connections wait for the server.

    Raises:
        OSError: there is no socket at the path, nobody listens on it, it may not be used, or the path is too long.
    """
    return await _connect_to_one((socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path))


async def _connect_to_one(address: Any) -> TcpStream:
    """Connect to an IP address or a Unix socket, in the form of `socket.getaddrinfo`.

    A checkpoint, unless the system connects at once, as it does on this machine. If cancelled, no socket is left open.
    """
    if in_trio():
        await trio.lowlevel.checkpoint_if_cancelled()
    family, kind, protocol, _, peer = address
    sock = socket.socket(family, kind, protocol)
    stream: TcpStream = TrioTcpStream(sock) if in_trio() else AsyncioTcpStream(sock)
    try:
        while not _connects_now(sock, peer) and family == socket.AF_UNIX:
            await _wait_for_room()
        if not _is_connected(sock):
            await stream.wait_writable()
            if number := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(number, os.strerror(number))
    except Exception:
        stream.close()
        await anyio.lowlevel.checkpoint()  # without a route, the system refuses without waiting
        raise
    except BaseException:
        stream.close()
        raise
    if family != socket.AF_UNIX:
        _set_options(sock)
    return stream


async def _wait_for_room() -> None:
    """Wait until the queue of a Unix socket may have room, which the system does not report.

    A checkpoint; if cancelled, nothing has changed.
    """
    await anyio.sleep(_FULL_QUEUE_DELAY)


def _connects_now(sock: socket.socket, peer: Any) -> bool:
    """Begin to connect, and return whether the system did not have to wait."""
    try:
        sock.connect(peer)
    except BlockingIOError:
        return False
    return True


def _is_connected(sock: socket.socket) -> bool:
    try:
        sock.getpeername()
    except OSError:
        return False
    return True


def _set_options(sock: socket.socket) -> None:
    """Have small messages sent at once, and `send` take few bytes that have to wait. trio sets the same options."""
    with suppress(OSError):  # some systems refuse options if the peer has already reset the connection
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _NOTSENT_LOWAT)


async def _connect_asyncio(host: str, port: int) -> socket.socket:
    """Return a socket connected to a host name. A checkpoint; if cancelled, no socket is left open.

    If cancelled while the name is being resolved, the thread that resolves it is abandoned.
    """
    task = asyncio.current_task()
    assert task is not None
    cancel_requests = task.cancelling()
    addresses = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    sock = await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_NEXT_ATTEMPT_DELAY)
    if task.cancelling() > cancel_requests:  # aiohappyeyeballs swallows a cancellation while it cancels other attempts
        sock.close()
        await asyncio.sleep(0)  # a cancel scope cancels again
        raise asyncio.CancelledError
    return sock


def _ip_address(host: str, port: int) -> list[Any]:
    """Return an IP address in the form of `socket.getaddrinfo`, or an empty list for a host name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):  # a host name, which takes a thread to resolve
        return []
    # uvloop ignores the scope of an IPv6 address unless it is part of the text.
    return [
        (*rest, (f"{address[0]}%{address[3]}", port) if len(address) == 4 and address[3] else address)
        for *rest, address in found
    ]


def _last_error(error: OSError | RuntimeError) -> OSError:
    """Return the error of the last attempt to connect from an error that may describe several attempts."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[-1]
    if isinstance(cause, OSError) and cause.errno:
        return cause
    numbers = _ERRNO.findall(str(cause))  # aiohappyeyeballs joins the texts of the attempts
    return OSError(int(numbers[-1]), os.strerror(int(numbers[-1]))) if numbers else OSError(str(cause))
