"""The stream that trio-websocket does the opening handshake on.

It receives one HTTP head, which the package has parsed and normalized, and nothing after it. So trio-websocket never
sees bytes that a peer wrote, and its reader task waits until it is cancelled.
"""

from collections.abc import Awaitable, Callable

import trio


class HeadStream(trio.abc.Stream):
    """A stream of one HTTP head. `aclose` closes nothing.

    Args:
        send: sends all the bytes it is given.
        receive_head: waits for the peer's head and returns it.
    """

    def __init__(
        self, *, send: Callable[[bytes], Awaitable[None]], receive_head: Callable[[], Awaitable[bytes]]
    ) -> None:
        self._send = send
        self._receive_head = receive_head
        self._head_received = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all the bytes. A checkpoint; if cancelled, an unknown part of them has been sent."""
        await self._send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        """Return at once: `send_all` waits. A checkpoint; if cancelled, nothing has changed."""
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - a head is returned whole
        """Return the head on the first call, then wait until cancelled. A checkpoint; if cancelled, nothing is lost."""
        if self._head_received:
            await trio.sleep_forever()
        self._head_received = True
        return await self._receive_head()

    async def aclose(self) -> None:
        """Do nothing: the stream behind this one stays open. A checkpoint, also if cancelled."""
        await trio.lowlevel.checkpoint()
