"""TCP and Unix sockets: the part that is the same on both event loops.

Every stream has a non-blocking socket of its own. Bytes that the network takes at once cost one system call and no turn
of the event loop.
"""

import select
import socket

from anyio import BrokenResourceError, ClosedResourceError

from ._base import ByteStream, closed_error

_HANG_UP = getattr(select, "POLLRDHUP", 0)
"""The event that the peer has closed its side, which only Linux reports before everything has been received."""


class TcpStream(ByteStream):
    """A stream over a connected TCP or Unix socket. The subclasses know how to wait for the socket.

    Args:
        sock: the socket; the stream owns it from now on.
    """

    __slots__ = ("_socket",)  # as in `WebSocketTransport`

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._eof_sent = False

    @property
    def closed(self) -> bool:
        return self._socket.fileno() < 0

    @property
    def local_port(self) -> int:
        """The port on this side; 0 if the stream is closed."""
        return 0 if self.closed else int(self._socket.getsockname()[1])

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._error() from error

    def receive_nowait(self, max_bytes: int) -> bytes | None:
        try:
            return self._socket.recv(max_bytes)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._error() from error

    def receive_into_nowait(self, buffer: memoryview) -> int | None:
        try:
            return self._socket.recv_into(buffer)
        except BlockingIOError:
            return None
        except OSError as error:
            raise self._error() from error

    def setsockopt(self, level: int, option: int, value: int) -> None:
        """Set an option of the socket, as `socket.socket.setsockopt` does."""
        self._socket.setsockopt(level, option, value)

    def send_urgent_nowait(self, data: bytes) -> bool:
        """Send TCP urgent data; return False if the network does not take it now. No checkpoint."""
        try:
            return self._socket.send(data, socket.MSG_OOB) > 0
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._error() from error

    def peer_is_gone(self) -> bool:
        if self.closed:
            return True
        poll = select.poll()
        poll.register(self._socket, _HANG_UP)
        if poll.poll(0):
            return True
        if _HANG_UP:
            return False
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._check_open()
        if self._eof_sent:
            await self._checkpoint()
            raise ClosedResourceError("send_eof was called, so nothing more can be sent")
        await super().send_all(data)

    async def send_eof(self) -> None:
        await self._checkpoint()
        if self.closed:
            raise closed_error()
        if not self._eof_sent:
            self._eof_sent = True
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise self._error() from error

    async def _check_open(self) -> None:
        """Raise a `ClosedResourceError` if the stream is closed. A checkpoint in that case only.

        If cancelled, nothing has changed.
        """
        if self.closed:
            await self._checkpoint()
            raise closed_error()

    def _error(self) -> BrokenResourceError | ClosedResourceError:
        return closed_error() if self.closed else BrokenResourceError("the connection broke")
