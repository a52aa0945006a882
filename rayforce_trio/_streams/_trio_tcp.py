"""TCP on trio.

`trio.SocketStream` yields to the event loop in every call, and tries to receive before it waits for bytes. For small
messages this takes a third of the time of a request. The streams of this module wait first, and then receive.
"""

import socket
from collections.abc import Awaitable
from contextlib import suppress

import trio

from ._base import anyio_error
from ._tcp import TcpStream

_wait_readable = trio.lowlevel.wait_readable


class TrioTcpStream(TcpStream):
    """A stream over a connected TCP or Unix socket, on trio."""

    async def _checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    async def wait_writable(self) -> None:
        await self._check_open()
        try:
            await trio.lowlevel.wait_writable(self._socket)
        except (trio.ClosedResourceError, trio.BusyResourceError) as error:
            if isinstance(error, trio.BusyResourceError) or self.closed:
                raise anyio_error(error) from None
            # else `wake_reader` was called

    def wait_readable(self) -> Awaitable[None]:
        descriptor = self._socket.fileno()
        return self._check_open() if descriptor < 0 else _wait_readable(descriptor)

    def wake_reader(self) -> None:
        with suppress(RuntimeError):  # raised outside of trio, where no task waits
            trio.lowlevel.notify_closing(self._socket)

    def close(self) -> None:
        if not self.closed:
            self.wake_reader()
            self._socket.close()


def stream_of(stream: trio.SocketStream) -> TcpStream:
    """Return a stream over the socket of a trio stream, which can no longer be used."""
    return TrioTcpStream(socket.socket(fileno=stream.socket.detach()))
