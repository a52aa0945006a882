"""Byte streams for tests: over loopback, in memory, and as streams of trio's."""

import select
import socket
import struct
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager

import anyio
import pytest
import sniffio
import trio
from trio.testing import memory_stream_pair

from rayforce_trio._streams import (
    BrokenResourceError,
    ByteStream,
    ClosedResourceError,
    TcpStream,
    TlsStream,
    connect_tcp,
)
from rayforce_trio._streams._asyncio_tcp import AsyncioTcpStream
from rayforce_trio._streams._trio_tcp import TrioTcpStream

from .certificates import client_context, local_certificates, server_context

LOCAL = "127.0.0.1"
MEGABYTE = 1024 * 1024

EVENT_LOOPS = ["trio", "asyncio", pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")]
"""Parameters of the fixture `anyio_backend` for tests that run on every event loop."""


def tcp_stream(sock: socket.socket) -> TcpStream:
    """Return a stream of the running event loop over a connected socket."""
    return TrioTcpStream(sock) if sniffio.current_async_library() == "trio" else AsyncioTcpStream(sock)


async def tcp_pair() -> tuple[TcpStream, TcpStream]:
    """Connect two streams; the caller closes them. A checkpoint; do not cancel it."""
    with socket.create_server((LOCAL, 0)) as listener:
        one = await connect_tcp(LOCAL, listener.getsockname()[1])
        other, _ = listener.accept()
    return one, tcp_stream(other)


async def tls_pair(*, post_handshake_auth: bool = False) -> tuple[TlsStream, TlsStream]:
    """Connect two streams that have performed the TLS handshake; the caller closes them. Do not cancel it.

    Args:
        post_handshake_auth: the client has a certificate, and shows it if it is asked for it after the handshake.
    """
    one, other = await tcp_pair()
    clients = client_context(local_certificates(), shows_itself=post_handshake_auth)
    servers = server_context(local_certificates())
    clients.post_handshake_auth = servers.post_handshake_auth = post_handshake_auth
    client = TlsStream(one, clients, server_hostname="localhost")
    server = TlsStream(other, servers, server_hostname=None)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(client.do_handshake)
        tasks.start_soon(server.do_handshake)
    return client, server


def socket_of(stream: ByteStream) -> socket.socket:
    """Return the socket that the bytes of a stream go through."""
    while isinstance(stream, TlsStream):
        stream = stream._stream
    assert isinstance(stream, TcpStream)
    return stream._socket


def fill(stream: ByteStream) -> int:
    """Send until the network takes no more and has no bytes left to move; return the number of bytes sent."""
    sent, count = 0, 1
    while count:
        while count := stream.send_nowait(bytes(MEGABYTE)):
            sent += count
        select.select([], [socket_of(stream)], [], 0.1)
        count = stream.send_nowait(bytes(MEGABYTE))
        sent += count
    return sent


def reset(stream: ByteStream) -> None:
    """Break the connection: the other end gets an RST."""
    socket_of(stream).setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    (stream._stream if isinstance(stream, TlsStream) else stream).close()  # TLS would send its close_notify


async def receive_all(stream: ByteStream) -> bytes:
    """Receive until the peer sends no more."""
    data = bytearray()
    while piece := await stream.receive_some():
        data += piece
    return bytes(data)


class MemoryByteStream(ByteStream):
    """A `ByteStream` over a stream of trio's, without the methods that do not wait."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._closed = False

    @property
    def closed(self) -> bool:
        return self._closed

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        raise NotImplementedError

    async def wait_writable(self) -> None:
        with _anyio_errors():
            await self._stream.wait_send_all_might_not_block()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with _anyio_errors():
            await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        with _anyio_errors():
            return bytes(await self._stream.receive_some(max_bytes))

    def wait_readable(self) -> Awaitable[None]:
        raise NotImplementedError

    def wake_reader(self) -> None:
        raise NotImplementedError

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        raise NotImplementedError

    def receive_into_nowait(self, buffer: memoryview) -> int | None:
        raise NotImplementedError

    async def send_eof(self) -> None:
        with _anyio_errors():
            await self._stream.send_eof()

    def close(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        self._closed = True
        await self._stream.aclose()


def memory_byte_streams() -> tuple[MemoryByteStream, MemoryByteStream]:
    """Return two connected streams in memory."""
    one, other = memory_stream_pair()
    return MemoryByteStream(one), MemoryByteStream(other)


class TrioStream(trio.abc.HalfCloseableStream):
    """A `ByteStream` as a stream of trio's, for the checks that trio has for its streams."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with _trio_errors():
            await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        with _trio_errors():
            await self._stream.wait_writable()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        with _trio_errors():
            return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        with _trio_errors():
            await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


@contextmanager
def _anyio_errors() -> Iterator[None]:
    try:
        yield
    except trio.BrokenResourceError as error:
        raise BrokenResourceError from error
    except trio.ClosedResourceError as error:
        raise ClosedResourceError from error


@contextmanager
def _trio_errors() -> Iterator[None]:
    try:
        yield
    except BrokenResourceError as error:
        raise trio.BrokenResourceError from error
    except ClosedResourceError as error:
        raise trio.ClosedResourceError from error
    except anyio.BusyResourceError as error:
        raise trio.BusyResourceError from error
