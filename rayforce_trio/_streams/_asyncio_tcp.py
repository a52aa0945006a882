"""TCP on asyncio.

The streams use a socket instead of an asyncio transport. A transport keeps a reference to bytes that the network does
not take, and receives bytes that no task waits for. The event loop goes on watching the socket between two receives:
to register it for every receive doubles the time that a small message takes.
"""

import asyncio
import socket
import weakref
from collections.abc import Callable
from typing import Any

from anyio import BusyResourceError, ClosedResourceError

from ._base import READ_SIZE, check_max_bytes
from ._tcp import TcpStream, closed_error

_CHECKPOINT_INTERVAL = 16  # receives

_Target = memoryview | int  # the buffer to receive into, or the number of bytes to receive


class AsyncioTcpStream(TcpStream):
    """A stream over a connected TCP socket, on the running asyncio event loop."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._loop = asyncio.get_running_loop()
        # Receiving
        self._target: _Target = 0
        self._received: asyncio.Future[Any] | None = None  # the bytes, or their number, for the task that waits
        self._callback: Callable[[], Callable[[], None] | None] = _no_callback  # see `_watch`
        self._unread = b""  # received for a task that was cancelled
        self._failure: OSError | None = None  # raised for a task that was cancelled
        self._receives = 0
        # Sending
        self._writable: asyncio.Future[None] | None = None

    async def _checkpoint(self) -> None:
        await asyncio.sleep(0)

    async def wait_writable(self) -> None:
        await self._check_open()
        if self._writable is not None:
            raise BusyResourceError("sending on")
        self._writable = self._loop.create_future()
        try:
            self._loop.remove_writer(self._socket.fileno())  # see `_watch`
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
            return await self._take_unread(size)
        data: bytes = await self._receive(size)
        return data

    async def receive_into(self, buffer: memoryview) -> int:
        if self._unread:
            data = await self._take_unread(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        count: int = await self._receive(buffer)
        return count

    async def _take_unread(self, size: int) -> bytes:
        """Return bytes that a cancelled task received. A checkpoint; if cancelled, nothing is lost."""
        await self._checkpoint()
        await self._check_open()
        data, self._unread = self._unread[:size], self._unread[size:]
        return data

    async def _receive(self, target: _Target) -> Any:
        """Receive into a buffer, or a number of bytes. A checkpoint; if cancelled, `_keep` keeps received bytes."""
        self._receives += 1
        if self._receives % _CHECKPOINT_INTERVAL == 0:
            # anyio does not cancel a task whose future is done, and on uvloop, which receives before it runs callbacks,
            # the future below is always done if the peer sends fast enough.
            await self._checkpoint()
        if self._socket.fileno() < 0:  # closed, perhaps during the checkpoint
            await self._check_open()
        if self._received is not None:
            raise BusyResourceError("receiving from")
        if self._failure is not None:
            await self._checkpoint()
            raise self._error() from self._failure
        self._target = target
        self._received = future = self._loop.create_future()
        try:
            if self._callback() is None:
                self._watch()
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
            self._target = 0  # it would keep the caller's memory

    def _watch(self) -> None:
        """Have the event loop call `_receive_now` whenever the socket is readable.

        uvloop stops watching a socket with an error after one more call, even if there were bytes to receive before the
        error. It drops the callback then, which the weak reference tells, and it must be told to forget the socket.
        """
        callback = self._receive_now
        self._loop.remove_reader(self._socket.fileno())
        self._loop.add_reader(self._socket.fileno(), callback)
        self._callback = weakref.ref(callback)

    def _stop_watching(self) -> None:
        self._callback = _no_callback
        if not self.closed and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())

    def _receive_now(self) -> None:
        """Receive for the task that waits. If no task waits, stop watching: the bytes stay with the system."""
        future, target = self._received, self._target
        if future is None or future.done():
            self._stop_watching()
            return
        try:
            if isinstance(target, int):
                future.set_result(self._socket.recv(target))
            else:
                future.set_result(self._socket.recv_into(target))
        except BlockingIOError:
            pass
        except OSError as error:
            future.set_exception(error)

    def _keep(self, future: asyncio.Future[Any], target: _Target) -> None:
        """Keep what was received for a task that was cancelled at the same moment."""
        self._stop_watching()
        if future.cancelled() or not future.done():
            return
        error = future.exception()
        if isinstance(error, OSError):
            self._failure = error
        elif error is None:
            self._unread = future.result() if isinstance(target, int) else bytes(target[: future.result()])

    def close(self) -> None:
        if self.closed:
            return
        self._stop_watching()
        if not self._loop.is_closed():
            self._loop.remove_writer(self._socket.fileno())
            for future in (self._received, self._writable):
                if future is not None and not future.done():
                    future.set_exception(closed_error())
        self._socket.close()


def _no_callback() -> None:
    return None


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _wrong_loop() -> ClosedResourceError:
    return ClosedResourceError("this stream belongs to another event loop, or to one that is closed")
