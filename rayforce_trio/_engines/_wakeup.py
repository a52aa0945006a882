"""What makes a native server look again whether the request it evaluates is to be stopped."""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from .._streams import BrokenResourceError, TcpStream

_ANY = b"!"  # its value means nothing


class WakeupConnection:
    """A connection to a native server on which nothing is ever asked, shared by the sessions with it.

    A stop that arrives in the very moment in which the engine begins with the request goes unheeded (measured: one in
    600 to 160,000, if it is sent at once after it). It is not lost: with urgent data on any connection, the engine
    looks for a stop on the one whose request it evaluates. So to ring never stops what was not to be stopped.

    Args:
        connect: opens a connection to the server; a handshake is not needed.
    """

    def __init__(self, connect: Callable[[], Awaitable[TcpStream]]) -> None:
        self._connect = connect
        self._stream: TcpStream | None = None
        self._hanging = trio.Lock()

    async def ensure_connected(self) -> None:
        """See to it that there is a connection. A checkpoint; if cancelled, there may be none.

        The engine has to accept it, and so to be free, before it can be rung to any effect.

        Raises:
            EngineError: the server cannot be reached.
        """
        async with self._hanging:
            if self._stream is None or self._stream.peer_is_gone():
                self.close()
                self._stream = await self._connect()

    def wake(self) -> None:
        """Have the engine look. No checkpoint."""
        if self._stream is not None:
            with suppress(BrokenResourceError):  # the engine is gone, as the sessions will find out
                self._stream.send_urgent_nowait(_ANY)

    def close(self) -> None:
        """Close the connection. No checkpoint. Idempotent."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None
