"""The stream that trio-websocket gets to see during the opening handshake: one HTTP head, and nothing after it.

trio-websocket does the handshake and no more. What this stream keeps from it:

- bytes beyond the head, which belong to the frames (`leftover` has them);
- heads that are too long, or that it cannot decode (a header byte over 0x7f ends its reader task with an exception);
- the end of the stream and its errors, for which it would wait, or which it would answer in a way that raises
  elsewhere: each is raised here, at once, as the error the handshake ends with.
"""

import trio

from .._streams import READ_SIZE, BrokenResourceError, ByteStream, ClosedResourceError
from ..errors import ConnectionRejected, HandshakeError
from ._base import BODY_LIMIT

HEAD_LIMIT = 16 * 1024
"""The longest HTTP head accepted from a peer, in bytes."""

_END_OF_HEAD = b"\r\n\r\n"
_TLS_HANDSHAKE = b"\x16\x03"  # how every version of TLS begins: RFC 8446, section 5.1


class HeadTooLong(HandshakeError):
    """The peer's HTTP head is longer than HEAD_LIMIT."""


class SpeaksTls(HandshakeError):
    """The peer began with TLS."""


class PeerGone(HandshakeError):
    """The peer left during the handshake."""


class HeadStream(trio.abc.Stream):
    """One HTTP head of a stream; `aclose` closes nothing.

    Args:
        stream: where the head is read from, and what is sent goes to.
        with_body: after a head whose status is not 101, hand on what follows it, up to BODY_LIMIT.

    Attributes:
        head: the head, once it was read.
        leftover: what was read beyond it.
        answered: the HTTP status of what was sent; 0: nothing was.
    """

    def __init__(self, stream: ByteStream, *, with_body: bool = False) -> None:
        self._stream = stream
        self._with_body = with_body
        self._body: bytearray | None = None
        self._handed_on = False
        self.head = b""
        self.leftover = b""
        self.answered = 0

    async def receive_some(self, max_bytes: int | None = None) -> bytes:  # noqa: ARG002 - the head comes whole
        """Return the whole head at the first call; then parts of the body, if any; then wait for ever."""
        if not self._handed_on:
            await self.receive_head()
            self._handed_on = True
            return self.head
        if self._body is None:
            await trio.sleep_forever()
            return b""
        data, self.leftover = self.leftover, b""
        data = data or await self._receive()
        self._body += data
        if not data or len(self._body) >= BODY_LIMIT:  # trio-websocket would wait for more
            raise ConnectionRejected(self.status, self._body[:BODY_LIMIT].decode("utf-8", "replace"))
        return data

    @property
    def status(self) -> int:
        """The HTTP status in the head; 0 if there is none."""
        return _status_in(self.head)

    async def receive_head(self) -> None:
        """Receive the head, unless that was done; `receive_some` returns it all the same. A checkpoint if it waits."""
        if self.head:
            return
        received = bytearray()
        while _END_OF_HEAD not in received[:HEAD_LIMIT]:
            if len(received) >= HEAD_LIMIT:
                raise HeadTooLong(f"the peer's HTTP head is longer than {HEAD_LIMIT} bytes")
            data = await self._receive()
            if not data:
                raise PeerGone("the peer closed the connection during the opening handshake")
            received += data
            if received.startswith(_TLS_HANDSHAKE):
                raise SpeaksTls("the peer speaks TLS, which this port does not")
        end = received.index(_END_OF_HEAD) + len(_END_OF_HEAD)
        head, self.leftover = bytes(received[:end]), bytes(received[end:])
        if not head.isascii():
            raise HandshakeError("the peer's HTTP head has bytes that are not ASCII")
        self.head = head
        if self._with_body and self.status != 101:
            self._body = bytearray()

    async def _receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(READ_SIZE))
        except (BrokenResourceError, ClosedResourceError) as error:
            raise PeerGone("the connection broke during the opening handshake") from error.__cause__

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.send_all(data)
        except (BrokenResourceError, ClosedResourceError):
            raise PeerGone("the connection broke during the opening handshake") from None
        self.answered = self.answered or _status_in(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_writable()

    async def aclose(self) -> None:
        """Called by trio-websocket when it has refused the peer by itself, and then nobody would be told."""
        raise HandshakeError("the peer's opening handshake makes no sense")


def _status_in(head: bytes) -> int:
    words = head.split(maxsplit=2)
    return int(words[1]) if len(words) > 1 and words[1].isdigit() else 0
