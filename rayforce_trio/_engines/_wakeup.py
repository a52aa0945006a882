"""Repeating a stop that a native server has missed."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from .._streams import BrokenResourceError, TcpStream
from .._tasks import enable_ki_protection
from ..errors import EngineError
from ._backoff import exponential_backoff

_FIRST_REMINDER = 0.05
"""The time from a missed stop to the first wake-up, in seconds. The interval doubles with each reminder."""

_MAX_REMINDER_INTERVAL = 1.0
"""The longest interval between two reminders, in seconds."""

_WAKE = b"!"  # the value has no meaning


class WakeupConnection:
    """A connection to a native server that carries no requests. The sessions with that server share it.

    The server misses a stop that arrives at the moment when it begins the request (measured: one in 600 to 160,000 of
    the stops that are sent immediately after their request). The stop is not lost: urgent data on any connection makes
    the server look again for a stop on the connection whose request it is evaluating. A wake-up cannot cancel a query
    that nobody asked to stop.

    Args:
        connect: opens a connection to the server. No handshake is needed.
    """

    def __init__(self, connect: Callable[[], Awaitable[TcpStream]]) -> None:
        self._connect = connect
        self._stream: TcpStream | None = None
        self._connecting = trio.Lock()

    async def ensure_connected(self) -> None:
        """Connect, unless the connection is alive. A checkpoint; if cancelled, there may be no connection.

        Wake-ups have an effect only after the server has accepted the connection, which it does between two queries.

        Raises:
            EngineError: the server cannot be reached.
        """
        async with self._connecting:
            if self._stream is None or self._stream.peer_is_gone():
                self.close()
                self._stream = await self._connect()

    def wake(self) -> None:
        """Make the server look for a stop. No checkpoint."""
        if self._stream is not None:
            with suppress(BrokenResourceError):  # the next `ensure_connected` connects again
                self._stream.send_urgent_nowait(_WAKE)

    def close(self) -> None:
        """Close the connection. No checkpoint. Idempotent."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


class StopReminder:
    """Wakes the server until it obeys the stop of one session.

    Args:
        wakeup: the connection to wake it with.
    """

    def __init__(self, wakeup: WakeupConnection) -> None:
        self._wakeup = wakeup
        self._stop_sent = trio.Event()  # set while the server has not obeyed a stop
        self._reply_begun = trio.Event()

    def stop_sent(self) -> None:
        """Begin to remind the server. No checkpoint."""
        self._stop_sent.set()

    def reply_begun(self) -> None:
        """End the reminders, since the server has begun its reply. No checkpoint."""
        if self._stop_sent.is_set():
            self._stop_sent = trio.Event()
            self._reply_begun.set()
            self._reply_begun = trio.Event()

    @enable_ki_protection
    async def run(self) -> None:
        """Send the reminders until cancelled. A checkpoint. It can be run again and then continues."""
        while True:
            await self._stop_sent.wait()
            if not self._stop_sent.is_set():
                continue  # the reply began before this task could run
            reply_begun = self._reply_begun
            for interval in exponential_backoff(_FIRST_REMINDER, _MAX_REMINDER_INTERVAL):
                with trio.move_on_after(interval):
                    await reply_begun.wait()
                    break
                with suppress(EngineError):  # the session reports it if the server itself is gone
                    await self._wakeup.ensure_connected()
                self._wakeup.wake()
