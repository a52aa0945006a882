"""The stream and the nursery with which trio-websocket does the opening handshake.

trio-websocket receives one HTTP head, which the package has parsed and normalized, and sends one. So it never sees bytes
that a peer wrote. Its reader task ends when it has read the head: to start a task and cancel it would take a third of
the time of the handshake.
"""

from collections.abc import Awaitable, Callable
from contextlib import suppress

import trio

from .._streams import ByteStream


class HeadRead(Exception):
    """trio-websocket's reader task has read the head."""


ReaderTask = Callable[[], Awaitable[None]]
"""trio-websocket's reader task. It raises `HeadRead` when it has read the head."""


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
        """Keep the bytes in `sent`. Not a checkpoint, since trio-websocket calls it after one."""
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: `send_all` does not wait. A checkpoint; if cancelled, nothing has changed."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - a head is returned whole
        """Return the head on the first call, and raise `HeadRead` on the second one. As `receive_head`, if cancelled.

        A checkpoint if `receive_head` is one.
        """
        if self._head_received:
            raise HeadRead
        self._head_received = True
        return await self._receive_head()

    async def aclose(self) -> None:
        """Do nothing: the stream behind this one stays open. A checkpoint, also if cancelled."""
        await trio.lowlevel.checkpoint()


class ReaderTaskCaught(Exception):
    """A function was called with a `ReaderTaskCatcher`, and would start trio-websocket's reader task now."""

    def __init__(self, reader: ReaderTask) -> None:
        self.reader = reader


class ReaderTaskCatcher:
    """Takes the place of a nursery; raises `ReaderTaskCaught` instead of starting trio-websocket's reader task."""

    def start_soon(self, reader: ReaderTask) -> None:
        raise ReaderTaskCaught(reader)


class ReaderNursery:
    """Starts trio-websocket's reader task in a nursery, and expects that it raises `HeadRead`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    def start_soon(self, reader: ReaderTask) -> None:
        self._nursery.start_soon(self._run, reader)

    async def _run(self, reader: ReaderTask) -> None:
        """Run the reader task until it has read the head. A checkpoint. As `HeadStream.receive_some`, if cancelled."""
        with suppress(HeadRead):
            await reader()


async def send_head(stream: ByteStream, head: bytes) -> None:
    """Send a head. A checkpoint only if the network does not take it at once. If cancelled, it may have been cut."""
    sent = stream.send_nowait(head)
    if sent < len(head):
        await stream.send_all(head[sent:])
