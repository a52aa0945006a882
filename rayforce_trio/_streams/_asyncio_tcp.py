"""TCP on asyncio.

The streams use a socket instead of an asyncio transport. A transport keeps a reference to bytes that the network does
not take, and receives bytes that no task waits for. The event loop goes on watching the socket between two receives:
to register it for every receive doubles the time that a small message takes.
"""

import asyncio
import socket
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextvars import Context
from typing import Any

from anyio import BusyResourceError, ClosedResourceError

from ._base import closed_error
from ._tcp import TcpStream


class AsyncioTcpStream(TcpStream):
    """A stream over a connected TCP or Unix socket, on the running asyncio event loop."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._loop = asyncio.get_running_loop()
        self._readable = Waiter(self._loop)
        self._writable: asyncio.Future[None] | None = None
        self._reader: Callable[[], Callable[[], None] | None] = _no_callback  # see `_watch`

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

    def wait_readable(self) -> Awaitable[None]:
        if self._socket.fileno() < 0:
            return self._check_open()
        if self._readable.waiting:
            raise BusyResourceError("receiving from")
        if self._reader() is None:
            self._watch()
        return self._readable

    def _watch(self) -> None:
        """Have the event loop call `_on_readable` whenever the socket is readable.

        uvloop stops watching a socket with an error after one more call, even if there were bytes to receive before the
        error. It drops the callback then, which the weak reference tells, and it must be told to forget the socket.
        """
        callback = self._on_readable
        try:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.add_reader(self._socket.fileno(), callback)
        except RuntimeError as error:
            raise _wrong_loop() from error
        self._reader = weakref.ref(callback)

    def _stop_watching(self) -> None:
        self._reader = _no_callback
        if not self.closed and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())

    def _on_readable(self) -> None:
        """Resume the task that waits. If no task waits, stop watching: the bytes stay with the system."""
        if not self._readable.wake():
            self._stop_watching()

    def wake_reader(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon(self._readable.wake)  # called directly, it would run the task within the caller

    def close(self) -> None:
        if self.closed:
            return
        self._stop_watching()
        if not self._loop.is_closed():
            self._loop.remove_writer(self._socket.fileno())
            self._readable.fail(closed_error())
            if self._writable is not None and not self._writable.done():
                self._writable.set_exception(closed_error())
        self._socket.close()


class Waiter:
    """Lets a task wait for a callback of the event loop, any number of times, and resumes the task in the callback.

    This is a future in the sense of `asyncio.isfuture`. An `asyncio.Future` resumes its task in the next turn of the
    event loop, and a turn takes as long as it takes to receive and decode a short message. A task that waits for two
    sockets alternately may be resumed for both within one turn.

    On other event loops than asyncio's own, the task is resumed in the next turn, too: uvloop calls the callbacks of
    sockets before those of tasks that were ready before, so a task that always has something to receive would overtake
    them.
    """

    _asyncio_future_blocking = False  # how `asyncio.Task` recognizes that its coroutine awaits this object

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiting = False
        self._loop = loop
        self._at_once = isinstance(loop, asyncio.BaseEventLoop)
        self._resume: Callable[[Waiter], object] | None = None  # runs the task, if it has not been resumed yet
        self._context: Context | None = None
        self._error: BaseException | None = None

    def __await__(self) -> Generator["Waiter", None, None]:
        """Wait for `wake`. A checkpoint; if cancelled, nothing has changed.

        Raises:
            ClosedResourceError: the task belongs to another event loop, or `fail` was called with this error.
        """
        self.waiting = self._asyncio_future_blocking = True
        try:
            yield self
        except RuntimeError as error:
            raise _wrong_loop() from error
        finally:
            self.waiting = False

    def wake(self) -> bool:
        """Resume the task that waits; return whether there was one.

        On asyncio's own event loop, the task runs before this returns, unless another task calls this: a task cannot
        run within another.
        """
        resume, context = self._resume, self._context
        if resume is None or context is None:
            return False
        self._resume = self._context = None
        if self._at_once and asyncio.current_task(self._loop) is None:
            context.run(resume, self)
        else:
            self._loop.call_soon(resume, self, context=context)
        return True

    def fail(self, error: BaseException) -> bool:
        """Raise an error in the task that waits, in the next turn of the event loop; return whether there was one."""
        if self._resume is None:
            return False
        self._error = error
        self._loop.call_soon(self._resume, self, context=self._context)
        self._resume = self._context = None
        return True

    # The methods of a future that `asyncio.Task` and anyio call

    def done(self) -> bool:
        """Return whether no task waits, or the one that does will run in the next turn of the event loop."""
        return self._resume is None

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """Return the event loop of the tasks that may wait."""
        return self._loop

    def add_done_callback(self, resume: Callable[["Waiter"], object], *, context: Context) -> None:
        """Keep the callback that runs the task."""
        self._resume, self._context = resume, context

    def cancel(self, msg: Any = None) -> bool:
        """Cancel the task that waits; return whether there was one."""
        return self.fail(asyncio.CancelledError() if msg is None else asyncio.CancelledError(msg))

    def result(self) -> None:
        """Raise the error that the task was resumed with, if there is one."""
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback refers to this frame


def _no_callback() -> None:
    return None


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _wrong_loop() -> ClosedResourceError:
    return ClosedResourceError("this stream belongs to another event loop, or to one that is closed")
