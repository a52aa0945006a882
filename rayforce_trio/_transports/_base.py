"""The message pipe that the client and the server are written against, and its limits.

To add a WebSocket library, write one more module with a `Transport` in it; nothing else has to change.
"""

from abc import ABC, abstractmethod

import anyio

from .._addresses import Endpoint, os_error_text
from .._protocol import Frame, LazyFrame
from .._streams import is_plaintext_error, tls_error_text
from .._websocket import CloseCode, message_too_long, text_too_long
from ..errors import (
    ConnectError,
    ConnectionClosed,
    ConnectionLost,
    HandshakeError,
    MessageTooLarge,
    ProtocolError,
    RayforceValueError,
    RayforceWSError,
)

TEXT_LIMIT = 64 * 1024
"""The longest text message accepted, in characters: text is for control only."""

CLOSE_TIMEOUT = 10.0
"""Bound on the closing handshake, in seconds."""

SHIELDED_CLOSE_TIMEOUT = 2.0
"""How long a connection whose scope was cancelled may take to tell its peer, in seconds."""

WRITE_STALL_TIMEOUT = 30.0
"""A peer that takes not one piece of READ_SIZE bytes in so many seconds is given up by a server."""


class Transport(ABC):
    """A WebSocket connection after its opening handshake: whole messages in order, bytes or text.

    At most one task may be in `receive` and one in `send` at a time, while `run` runs in a third. A transport starts no
    tasks of its own. Whoever has one must end it with `aclose` or `abort`.

    Attributes:
        subprotocol: the one agreed on, or `None`.
        peer: the peer's address, for people to read.
        max_message_size: the longest message accepted from the peer, in bytes; on trio it may be changed meanwhile.
        peer_max_message_size: the longest message that the server accepts, in bytes; `None` if it did not say so, and
            at the server's end.
    """

    subprotocol: str | None
    peer: str
    max_message_size: int
    peer_max_message_size: int | None = None

    @abstractmethod
    async def receive(self) -> Frame | str:
        """Return the next message, a long one as a view. If cancelled, nothing is lost.

        A checkpoint if it has to wait, and now and then if messages have arrived that nobody has taken: `TIME_SLICE` in
        `_tasks`. In a cancelled scope it is always cancelled. Before it waits, it does what `flush` does.

        Raises:
            ConnectionClosed: the peer closed the connection, or `aclose` did.
            ConnectionLost: the connection broke.
            MessageTooLarge: the message is longer than `max_message_size`; close with code 1009.
            ProtocolError: the peer broke the WebSocket protocol; close with the error's code.
        """

    @abstractmethod
    async def send(self, message: Frame | LazyFrame | str) -> None:
        """Send one message; returns when the network has taken it. A checkpoint.

        If cancelled, the message may have been cut, and then nothing more can be sent: end the connection.

        Raises:
            ConnectionClosed: the connection is closed or closing.
            ConnectionLost: the connection broke, or the peer took nothing for too long.
        """

    def send_nowait(self, message: Frame | LazyFrame | str) -> bool:  # noqa: ARG002 - a transport may have no such way
        """Put a short message among those that `flush` sends; returns whether it did, else use `send`. No checkpoint.

        Raises:
            ConnectionClosed, ConnectionLost: as `send`.
        """
        return False

    def flush(self) -> None:  # noqa: B027 - nothing is put by unless send_nowait is overridden, too
        """Send what `send_nowait` has put by. No checkpoint: what the network does not take at once, `run` sends.

        Raises:
            ConnectionLost: the connection broke.
        """

    async def send_part(self, data: Frame | LazyFrame, *, last: bool) -> None:
        """Send a part of a binary message, the parts of which are sent one after the other; otherwise like `send`.

        Only the transports that a server can have do this. Between the parts nothing else may be sent.
        """
        raise NotImplementedError(f"{type(self).__name__} sends whole messages only")

    @abstractmethod
    async def run(self) -> None:
        """Answer the peer's pings and send our own, until cancelled.

        Raises:
            ConnectionLost: the peer fell silent, or the connection broke.
        """

    @abstractmethod
    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Close in good order: finish the frame under way, shake hands, close the socket; at most `CLOSE_TIMEOUT`.

        A checkpoint. May be called while other tasks are in `receive`, `send` and `run`. Raises nothing of the network.
        If cancelled, the socket is closed all the same. Of a reason longer than `REASON_LIMIT`, the beginning is sent.
        In the middle of a message of several fragments, the `websockets` library says 1011, whatever it is given.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close the socket at once, without waiting and without a word to the peer. Idempotent."""


def too_large(limit: int) -> MessageTooLarge:
    """Return the error for a message from the peer that is longer than `limit` bytes."""
    return MessageTooLarge(message_too_long(limit))


def text_too_large() -> MessageTooLarge:
    """Return the error for a text message from the peer that is longer than `TEXT_LIMIT`."""
    return MessageTooLarge(text_too_long(TEXT_LIMIT))


def connect_failed(endpoint: Endpoint, error: OSError | UnicodeError) -> ConnectError:
    """Return the error for a server to which no TCP connection could be made."""
    return ConnectError(f"Failed to connect to {endpoint}: {os_error_text(error)}")


def no_websocket_server(endpoint: Endpoint, reason: object) -> HandshakeError:
    """Return the error for a peer whose opening handshake is not a WebSocket server's."""
    return HandshakeError(f"Failed to connect to {endpoint}: the peer is not a WebSocket server: {reason}")


def tls_failed(endpoint: Endpoint, error: BaseException) -> HandshakeError:
    """Return the error for a server with which TLS could not be agreed on."""
    hint = "; if that is meant, connect to it without TLS" if is_plaintext_error(error) else ""
    return HandshakeError(f"Failed to connect to {endpoint}: the TLS handshake failed: {tls_error_text(error)}{hint}")


def closed_by_peer(code: int, reason: str) -> ConnectionClosed | MessageTooLarge:
    """Return the error for a connection that the peer closed."""
    if code == CloseCode.MESSAGE_TOO_BIG:
        return MessageTooLarge(f"the peer refused a message as too large: {reason or 'it did not say its limit'}")
    return ConnectionClosed(code, reason)


def closed_by_us() -> ConnectionClosed:
    """Return the error for a connection that this side closed."""
    return ConnectionClosed(CloseCode.NORMAL_CLOSURE, by_peer=False)


async def aclose_shielded(transport: Transport) -> None:
    """Close the transport, even in a cancelled scope, within `SHIELDED_CLOSE_TIMEOUT`. A checkpoint. Idempotent."""
    with anyio.CancelScope(shield=True, deadline=anyio.current_time() + SHIELDED_CLOSE_TIMEOUT):
        await transport.aclose(CloseCode.GOING_AWAY)


async def end(transport: Transport, error: RayforceWSError) -> None:
    """End a connection that failed with `error`: in good order if the peer can still be told, else at once."""
    code = close_code(error)
    if code is None:
        transport.abort()
    else:
        await transport.aclose(code, "" if isinstance(error, ConnectionClosed) else str(error))


def close_code(error: RayforceWSError) -> int | None:
    """Return the code that a connection which failed with `error` is closed with; `None` if nobody can be told."""
    match error:
        case MessageTooLarge():
            return CloseCode.MESSAGE_TOO_BIG
        case ProtocolError(code=code) | ConnectionClosed(code=code):
            return code
        case ConnectionLost():
            return None
    return CloseCode.INTERNAL_ERROR


def check_size(max_message_size: int) -> None:
    """Raise `RayforceValueError` if `max_message_size` is no number of bytes."""
    if type(max_message_size) is not int or max_message_size < 1:
        raise RayforceValueError(f"Invalid max_message_size: {max_message_size!r}. Must be a number of bytes above 0")
