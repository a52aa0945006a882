"""How trio-websocket does the opening handshake: it never sees the peer's bytes, and has no task of its own.

It receives one HTTP head, which this package has parsed and reduced to what trio-websocket needs, and sends one. It
reads in a reader task, for which it needs a nursery. Starting and ending that task would take half of the time of the
handshake. So the task that opens the connection runs the function of the reader task itself, until the head is read.
"""

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress

import trio

from .._streams import ByteStream

ReaderTask = Callable[[], Coroutine[object, object, None]]
"""The function of trio-websocket's reader task. On a `HeadStream` it raises `HeadRead`."""


class HeadRead(Exception):
    """trio-websocket's reader task has read the head."""


class HeadStream(trio.abc.Stream):
    """A stream on which one HTTP head is sent and one is received. `aclose` closes nothing.

    Args:
        receive_head: waits for the peer's head and returns it.

    Attributes:
        sent: the bytes that were sent.
    """

    def __init__(self, receive_head: Callable[[], Awaitable[bytes]]) -> None:
        self.sent = b""
        self._receive_head = receive_head
        self._head_received = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Add the bytes to `sent`. Not a checkpoint, so it cannot be cancelled."""
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: `send_all` does not wait. Not a checkpoint, so it cannot be cancelled."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - a head is returned whole
        """Return the head on the first call, and raise `HeadRead` on the second one.

        The first call is a checkpoint if `receive_head` is one; if cancelled, as `receive_head`. The second one is not.
        """
        if self._head_received:
            raise HeadRead
        self._head_received = True
        return await self._receive_head()

    async def aclose(self) -> None:
        """Do nothing: the stream behind this one stays open. Not a checkpoint, so it cannot be cancelled."""


class ServerNursery:
    """Takes the place of a nursery in a server: runs the reader task in `start_soon`, since the head is there."""

    def start_soon(self, reader: ReaderTask) -> None:
        """Run the reader task up to its first checkpoint. If it accepts the head, it has nothing more to do then.

        Raises:
            RuntimeError: the reader task did not accept the head, and would have sent an error.
        """
        coroutine = reader()
        with suppress(HeadRead):
            coroutine.send(None)
        coroutine.close()


class ClientNursery:
    """Takes the place of a nursery in a client: raises `ReaderStarted`, and the caller runs the reader task.

    trio-websocket's function that starts the reader task is not needed any more: it would only wait for that task.
    """

    def start_soon(self, reader: ReaderTask) -> None:
        raise ReaderStarted(reader)


class ReaderStarted(Exception):
    """trio-websocket wants to start its reader task.

    Attributes:
        reader: the function of the task.
    """

    def __init__(self, reader: ReaderTask) -> None:
        super().__init__()
        self.reader = reader


async def send_head(stream: ByteStream, head: bytes) -> None:
    """Send a head. A checkpoint only if the network does not take it at once. If cancelled, it may have been cut."""
    sent = stream.send_nowait(head)
    if sent < len(head):
        await stream.send_all(head[sent:])
