"""Connecting over TCP, on both event loops, to whichever address of the host answers first.

If a host has several addresses, the next one is tried when an attempt fails or takes longer than 250 ms (RFC 8305,
"Happy Eyeballs").
"""

import os
import re
import socket
from contextlib import suppress
from typing import Any

import aiohappyeyeballs
import anyio
import sniffio
import trio

from ._asyncio_tcp import AsyncioTcpStream
from ._tcp import TcpStream
from ._trio_tcp import stream_of

_NEXT_ATTEMPT_DELAY = 0.25  # seconds; trio's and RFC 8305's default
_ERRNO = re.compile(r"\[Errno (\d+)\]")


async def connect_tcp(host: str, port: int) -> TcpStream:
    """Connect to a server. A checkpoint; if cancelled, no socket is left open.

    Args:
        host: a host name or an IP address, which may have a scope (`fe80::1%eth0`).
        port: 1-65535.

    Raises:
        OSError: the name could not be resolved (`socket.gaierror`), or no address could be connected to; then it is the
            error of the last attempt.
        UnicodeError: the host name is not valid.
    """
    if sniffio.current_async_library() == "trio":
        return await _connect_trio(host, port)
    sock = await _connect_asyncio(host, port)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return AsyncioTcpStream(sock)
    except BaseException:
        sock.close()
        raise


async def _connect_trio(host: str, port: int) -> TcpStream:
    try:
        stream = await trio.open_tcp_stream(host, port, happy_eyeballs_delay=_NEXT_ATTEMPT_DELAY)
    except OSError as error:
        raise _last_error(error) from None
    return stream_of(stream)


async def _connect_asyncio(host: str, port: int) -> socket.socket:
    addresses = await _resolve(host, port)
    try:
        return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_NEXT_ATTEMPT_DELAY)
    except (OSError, RuntimeError) as error:  # uvloop raises RuntimeError for some
        raise _last_error(error) from None


async def _resolve(host: str, port: int) -> list[Any]:
    with suppress(socket.gaierror, UnicodeError):  # a host name, which takes a thread to resolve
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    return await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)


def _last_error(error: OSError | RuntimeError) -> OSError:
    """Return the error of the last attempt, from an error that may stand for several attempts."""
    cause = error.__cause__ or error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[-1]
    if isinstance(cause, OSError) and cause.errno:
        return cause
    numbers = _ERRNO.findall(str(cause))  # aiohappyeyeballs joins the texts of several errors
    return OSError(int(numbers[-1]), os.strerror(int(numbers[-1]))) if numbers else OSError(str(cause))
