"""A TCP connection under trio, as lean as it can be: a message that the network takes at once costs one system call.

`trio.SocketStream` goes round the event loop once for every call, and tries to receive before it waits for data. On
small messages that is a third of the time a request takes.
"""

import operator
import socket
from abc import abstractmethod

import trio

READ_SIZE = 64 * 1024
"""How much is received at once, in bytes, unless the caller has a buffer of another size."""

_PIECE = 1024 * 1024  # bytes; more is not sent without a look at whether the caller was cancelled


class ByteStream(trio.abc.HalfCloseableStream):
    """A stream that takes at once what the network does, and receives where the caller wants it.

    Its errors are trio's: `BrokenResourceError` for those of the network, `ClosedResourceError` once it is closed. One
    task may receive and one send at a time.
    """

    @abstractmethod
    def fileno(self) -> int:
        """Return the socket's file descriptor; -1 once it is closed."""

    @abstractmethod
    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        """Send what the network takes at once; returns how many bytes that was. No checkpoint.

        What is sent next has to begin with the rest.
        """

    @abstractmethod
    async def receive_some(self, max_bytes: int | None = None) -> bytes: ...

    @abstractmethod
    async def receive_into(self, buffer: memoryview) -> int:
        """Receive to the beginning of a buffer; returns how many bytes, 0 if the peer sends no more. A checkpoint."""

    @abstractmethod
    def close(self) -> None:
        """Close the socket at once; whoever waits for it gets a `ClosedResourceError`. No checkpoint. Idempotent."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it. A checkpoint; if cancelled, part of it may have been sent, and nothing else can follow."""
        await trio.lowlevel.checkpoint()
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                with view[sent : sent + _PIECE] as piece:
                    count = self.send_nowait(piece)
                sent += count
                if sent < len(view):
                    await self.wait_send_all_might_not_block()


class TcpStream(ByteStream):
    """A stream over a socket.

    Args:
        stream: where the socket comes from; it is of no more use afterwards.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        self._socket = socket.socket(fileno=stream.socket.detach())
        self._socket.setblocking(False)
        self._eof_sent = False

    def fileno(self) -> int:
        return self._socket.fileno()

    def send_nowait(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._error() from error

    def send_urgent_nowait(self, data: bytes) -> bool:
        """Send TCP urgent data; returns whether the network took it at once. No checkpoint."""
        try:
            return self._socket.send(data, socket.MSG_OOB) > 0
        except BlockingIOError:
            return False
        except OSError as error:
            raise self._error() from error

    def peer_is_gone(self) -> bool:
        """Whether the connection has ended or broken, if the peer has sent nothing. No checkpoint."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._check_open()
        if self._eof_sent:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("nothing can be sent after the end of the stream")
        await super().send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the network takes more. A checkpoint."""
        await self._check_open()
        await trio.lowlevel.wait_writable(self._socket)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        while True:
            await self._check_open()
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(max_bytes or READ_SIZE)
            except BlockingIOError:
                pass
            except OSError as error:
                raise self._error() from error

    async def receive_into(self, buffer: memoryview) -> int:
        while True:
            await self._check_open()
            await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv_into(buffer)
            except BlockingIOError:
                pass
            except OSError as error:
                raise self._error() from error

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        await self._check_open()
        if not self._eof_sent:
            self._eof_sent = True
            try:
                self._socket.shutdown(socket.SHUT_WR)
            except OSError as error:
                raise self._error() from error

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()

    async def _check_open(self) -> None:
        if self._socket.fileno() < 0:
            await trio.lowlevel.checkpoint()
            raise trio.ClosedResourceError("this stream was closed")

    def _error(self) -> trio.BrokenResourceError | trio.ClosedResourceError:
        if self._socket.fileno() < 0:
            return trio.ClosedResourceError("this stream was closed")
        return trio.BrokenResourceError("the connection broke")
