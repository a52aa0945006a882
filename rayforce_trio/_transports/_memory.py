"""A transport in memory, for tests: without sockets and timers, on either event loop."""

import contextlib
import math

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from .._protocol import Frame, LazyFrame
from .._websocket import CloseCode, message_too_long, text_too_long, truncate_reason
from ..errors import ConnectionClosed, ConnectionLost, MessageTooLarge, RayforceWSError
from ._base import TEXT_LIMIT, SharedMessage, Transport, closed_by_peer, closed_by_us

_NO_LIMIT = 2**63


class MemoryTransport(Transport):
    """One end of a pair.

    Attributes:
        sent: the messages that this end has sent, in order.
    """

    def __init__(
        self,
        outgoing: MemoryObjectSendStream[bytes | str | ConnectionClosed],
        incoming: MemoryObjectReceiveStream[bytes | str | ConnectionClosed],
        subprotocol: str | None,
    ) -> None:
        self.subprotocol = subprotocol
        self.peer = "memory"
        self.max_message_size = _NO_LIMIT
        self.sent: list[bytes | str] = []
        self._parts = b""  # of a message whose last part was not sent yet
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed: RayforceWSError | None = None

    async def receive(self) -> bytes | str:
        try:
            return self._checked(await self._incoming.receive())
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            raise self._closed or ConnectionLost("the other end was closed") from None

    def receive_nowait(self) -> bytes | str | None:
        try:
            return self._checked(self._incoming.receive_nowait())
        except anyio.WouldBlock:
            return None
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            raise self._closed or ConnectionLost("the other end was closed") from None

    def has_bytes(self) -> bool:
        return self._incoming.statistics().current_buffer_used > 0

    def _checked(self, message: bytes | str | ConnectionClosed) -> bytes | str:
        """Return the message that has arrived, or raise the error that it stands for."""
        if isinstance(message, ConnectionClosed):
            self._closed = closed_by_peer(message.code, message.reason)
            raise self._closed
        if isinstance(message, str) and len(message) > TEXT_LIMIT:
            raise MessageTooLarge(text_too_long(TEXT_LIMIT))
        if len(message) > self.max_message_size:
            raise MessageTooLarge(message_too_long(self.max_message_size))
        return message

    async def send(self, message: Frame | LazyFrame | str) -> None:
        if self._closed:
            raise self._closed
        if not isinstance(message, str):
            message = bytes(message[:])
        self.sent.append(message)
        try:
            await self._outgoing.send(message)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise self._closed or ConnectionLost("the other end was closed") from None

    def send_between(self, message: SharedMessage | str) -> bool:
        if self._closed:
            raise self._closed
        if self._parts:
            return False
        text_or_data = message if isinstance(message, str) else message.data
        self.sent.append(text_or_data)
        try:
            self._outgoing.send_nowait(text_or_data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            raise self._closed or ConnectionLost("the other end was closed") from None
        return True

    async def send_part(self, data: Frame | LazyFrame, *, last: bool, text: bool = False) -> None:
        self._parts += data[:]
        if last:
            message, self._parts = self._parts, b""
            await self.send(message.decode() if text else message)
            self.on_idle()

    async def run(self) -> None:
        await anyio.sleep_forever()

    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        if self._closed is None:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                self._outgoing.send_nowait(ConnectionClosed(code, truncate_reason(reason)))
        self.abort()
        await anyio.lowlevel.checkpoint()

    def abort(self) -> None:
        self._closed = self._closed or closed_by_us()
        self._outgoing.close()
        self._incoming.close()


def memory_pair(subprotocol: str | None = None) -> tuple[MemoryTransport, MemoryTransport]:
    """Return the two ends of a connection. Its buffers are unlimited, so sending never waits."""
    to_server, at_server = anyio.create_memory_object_stream[bytes | str | ConnectionClosed](math.inf)
    to_client, at_client = anyio.create_memory_object_stream[bytes | str | ConnectionClosed](math.inf)
    return (
        MemoryTransport(to_server, at_client, subprotocol),
        MemoryTransport(to_client, at_server, subprotocol),
    )
