"""TCP on asyncio.

The streams use a socket instead of an asyncio transport. A transport keeps a reference to bytes that the network does
not take, and receives bytes that no task waits for. The event loop keeps watching the socket from one receive to the
next, because to register it again for every receive takes two system calls.
"""

import asyncio
import socket
from typing import Any

import anyio.lowlevel
from anyio import BusyResourceError, ClosedResourceError

from ._base import READ_SIZE, check_max_bytes
from ._tcp import TcpStream, closed_error


class AsyncioTcpStream(TcpStream):
    """A stream over a connected TCP socket, on the running asyncio event loop."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._loop = asyncio.get_running_loop()
        self._watched = False  # the event loop calls `_receive_now` when the socket is readable
        self._target: memoryview | int = 0  # the buffer to receive into, or the number of bytes to receive
        self._received: asyncio.Future[Any] | None = None  # the bytes, or their number, for the task that waits for it
        self._unread = b""  # received for a task that was cancelled
        self._failure: OSError | None = None  # raised for a task that was cancelled
        self._writable: asyncio.Future[None] | None = None

    async def _checkpoint(self) -> None:
        await asyncio.sleep(0)

    async def wait_writable(self) -> None:
        await self._check_open()
        if self._writable is not None:
            raise BusyResourceError("sending on")
        self._writable = self._loop.create_future()
        try:
            self._loop.add_writer(self._socket.fileno(), _wake, self._writable)
            await self._writable
        except RuntimeError as error:
            raise _wrong_loop() from error
        finally:
            self._writable = None
            if not self.closed and not self._loop.is_closed():
                self._loop.remove_writer(self._socket.fileno())

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = READ_SIZE if max_bytes is None else check_max_bytes(max_bytes)
        if self._unread:
            await self._checkpoint()
            return self._take_unread(size)
        data: bytes = await self._receive(size)
        return data

    async def receive_into(self, buffer: memoryview) -> int:
        if self._unread:
            await self._checkpoint()
            data = self._take_unread(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        count: int = await self._receive(buffer)
        return count

    def _take_unread(self, size: int) -> bytes:
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    async def _receive(self, target: memoryview | int) -> Any:
        await anyio.lowlevel.checkpoint_if_cancelled()
        await self._check_open()
        if self._received is not None:
            raise BusyResourceError("receiving from")
        if self._failure is not None:
            raise self._error() from self._failure
        self._target = target
        self._received = future = self._loop.create_future()
        try:
            if not self._watched:
                self._loop.add_reader(self._socket.fileno(), self._receive_now)
                self._watched = True
            return await future
        except asyncio.CancelledError:
            self._keep(future, target)
            raise
        except OSError as error:
            raise self._error() from error
        except RuntimeError as error:
            raise _wrong_loop() from error
        finally:
            self._received = None

    def _receive_now(self) -> None:
        """Receive for the waiting task; the event loop calls this when the socket is readable."""
        future, target = self._received, self._target
        if future is not None and not future.done():
            try:
                if isinstance(target, int):
                    future.set_result(self._socket.recv(target))
                else:
                    future.set_result(self._socket.recv_into(target))
            except BlockingIOError:
                return
            except OSError as error:
                future.set_exception(error)
        self._stop_watching()

    def _keep(self, future: asyncio.Future[Any], target: memoryview | int) -> None:
        """Keep what was received for a task that was cancelled at the same moment."""
        if future.cancelled() or not future.done():
            return
        error = future.exception()
        if isinstance(error, OSError):
            self._failure = error
        elif error is None:
            self._unread = future.result() if isinstance(target, int) else bytes(target[: future.result()])

    def _stop_watching(self) -> None:
        self._watched = False
        self._loop.remove_reader(self._socket.fileno())

    def close(self) -> None:
        if self.closed:
            return
        if not self._loop.is_closed():
            self._stop_watching()
            self._loop.remove_writer(self._socket.fileno())
            for future in (self._received, self._writable):
                if future is not None and not future.done():
                    future.set_exception(closed_error())
        self._socket.close()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _wrong_loop() -> ClosedResourceError:
    return ClosedResourceError("the event loop of this stream is closed, or is not the running one")
