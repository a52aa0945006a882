"""The interface between a WebSocket connection and its users: the client, the server and the tests."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import anyio

from .._protocol import Frame, LazyFrame
from .._websocket import MAX_PACKED, CloseCode, pack_message
from ..errors import (
    ConnectionClosed,
    ConnectionLost,
    EngineError,
    HandshakeError,
    MessageTooLarge,
    ProtocolError,
    RayforceValueError,
    RayforceWSError,
)

TEXT_LIMIT = 64 * 1024
"""The longest text message to accept, in characters. Text messages are control messages."""

CLOSE_TIMEOUT = 10.0
"""The longest time that a closing handshake takes, in seconds."""

SHIELDED_CLOSE_TIMEOUT = 2.0
"""The longest time that a closing handshake takes in a cancelled scope, in seconds."""

WRITE_STALL_TIMEOUT = 30.0
"""Over this many seconds of waiting, a server expects a peer to take its bytes at a minimum rate: see `WriteRate`."""


class TryAgainLater(RayforceWSError):
    """This side closes the connection because it holds too many bytes of its peers' messages."""


def _ignore(count: int) -> None:
    """Do nothing with a number of bytes."""


def _do_nothing() -> None:
    """Do nothing."""


class SharedMessage:
    """A binary message that a server sends to several clients. Its WebSocket frame is packed once.

    Args:
        data: the message.

    Attributes:
        data: the message.
        size: its length, in bytes. Like `packed`, it is read for each client, so it is no property.
        packed: the WebSocket frame of a server, which is not masked; `None` if the message is longer than `MAX_PACKED`.
    """

    __slots__ = ("data", "packed", "size")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.packed = pack_message(data, masked=False) if self.size <= MAX_PACKED else None


class Transport(ABC):
    """A WebSocket connection after its opening handshake. It carries whole messages, bytes or text, in order.

    At most one task may be in `receive` and one in `send` or `send_part` at a time, while `run` runs in a third. A
    transport starts no tasks. Its owner must end it with `aclose` or `abort`.

    Attributes:
        subprotocol: the negotiated subprotocol, or `None`.
        peer: the peer's address, for people to read.
        max_message_size: the longest message to accept, in bytes; may be changed at any time.
        peer_max_message_size: the longest message that the server accepts, in bytes; `None` if the server did not
            announce it, and always in a server.
        peer_takes_traces: whether the server has announced that it takes traces; false in a server.
        on_idle: called when `send_between` may succeed again, after it has returned False. The default does nothing.
        on_unfinished: called by `receive` with the number of bytes that have been added to an unfinished message, if it
            is long. It may call `begin_close`. The default does nothing.
        on_stored: called with the number of bytes by which `stored` has grown. It may call `abort`. The default does
            nothing.
    """

    on_idle: Callable[[], None] = staticmethod(_do_nothing)
    on_unfinished: Callable[[int], None] = staticmethod(_ignore)
    on_stored: Callable[[int], None] = staticmethod(_ignore)

    subprotocol: str | None
    peer: str
    max_message_size: int
    peer_max_message_size: int | None = None
    peer_takes_traces: bool = False

    @abstractmethod
    async def receive(self) -> Frame | str:
        """Return the next message; a long one is a view. If cancelled, nothing is lost.

        A checkpoint if no message has arrived yet. Otherwise it yields to other tasks when the task has used up its
        `TIME_SLICE`, and raises the cancellation if the scope is cancelled. Before it waits, it calls `flush`.

        Raises:
            ConnectionClosed: the peer closed the connection, or `aclose` did.
            ConnectionLost: the connection broke.
            MessageTooLarge: the message is longer than `max_message_size`; close with code 1009.
            ProtocolError: the peer broke the WebSocket protocol; close with the code of the error.
        """

    @abstractmethod
    def receive_nowait(self) -> Frame | str | None:
        """Return the next message that has arrived. No checkpoint: the caller yields often enough.

        `None` if no message has been read from the network, or if a control frame or a fragment comes first: then call
        `receive`.
        Raises the same errors as `receive`.
        """

    @property
    def unfinished(self) -> int:
        """The number of bytes of an unfinished message that have been received."""
        return 0

    @property
    def stored(self) -> int:
        """The number of bytes that the transport keeps of a message until it can be sent as a whole."""
        return 0

    def has_bytes(self) -> bool:
        """Return whether `receive_nowait` may return a message. No checkpoint."""
        return True

    def interrupt(self) -> None:  # noqa: B027 - for transports whose `aclose` waits for the peer
        """Have a `receive` that is in progress raise `ConnectionClosed`, or return a message. No checkpoint.

        Call `aclose` or `abort` afterwards: until then, nothing can be received.
        """

    def peer_is_gone(self) -> bool:
        """Return whether the peer has closed the network connection, or it broke. No checkpoint.

        `receive` may still return messages that the peer has sent before, until it raises an error.
        """
        return False

    @abstractmethod
    async def send(self, message: Frame | LazyFrame | str) -> None:
        """Send one message, and return when the network has taken it. A checkpoint.

        If cancelled, the message may have been cut. Then nothing more can be sent: end the connection.

        Raises:
            ConnectionClosed: the connection is closed or closing.
            ConnectionLost: the connection broke, or the peer took no bytes for too long.
            MessageTooLarge, ProtocolError: `receive` has raised it before.
        """

    def send_nowait(self, message: Frame | LazyFrame | str) -> bool:  # noqa: ARG002 - nothing is buffered by default
        """Buffer a short message for the next `flush`. If this returns False, call `send` instead. No checkpoint.

        Raises the same errors as `send`.
        """
        return False

    def send_now(self, message: Frame | LazyFrame | str) -> bool:
        """Send a message at once, like `send_nowait` and `flush` in one step. No checkpoint.

        The message may be longer than one to buffer, if the transport supports that. `run` sends the part that the
        network does not take at once. If this returns False, call `send` instead.

        Raises the same errors as `send`.
        """
        if not self.send_nowait(message):
            return False
        self.flush()
        return True

    def send_between(self, message: SharedMessage | str) -> bool:
        """Send a message of a server at once if nothing else is being sent or waits to be sent. No checkpoint.

        The message may have any length. `run` sends the part that the network does not take at once. If this returns
        False, nothing was sent, and `on_idle` will be called.

        Raises the same errors as `send`.
        """
        return self.send_now(message if isinstance(message, str) else message.data)

    def notify_when_idle(self) -> None:
        """Have `on_idle` called when other tasks have run, and nothing is being sent. No checkpoint."""
        self.on_idle()

    def flush(self) -> None:  # noqa: B027 - nothing to do unless send_nowait is overridden
        """Send the buffered messages. `run` sends the part that the network does not take at once. No checkpoint.

        Raises:
            ConnectionLost: the connection broke.
        """

    def ping(self) -> None:  # noqa: B027 - for transports that have pings
        """Send a ping without waiting for the pong. No checkpoint. A peer that is gone will reset the connection."""

    @abstractmethod
    async def send_part(self, data: Frame | LazyFrame, *, last: bool, text: bool = False) -> None:
        """Send the next part of a message. Between the parts, no other message may be sent.

        Args:
            data: the part; of a text message, a part of its UTF-8.
            last: whether this is the last part.
            text: whether it is a text message. All parts of a message have the same value.

        Otherwise like `send`, also if cancelled.
        """

    @abstractmethod
    async def run(self) -> None:
        """Send pings, pongs and what `flush` could not send, until cancelled, which cuts no frame. A checkpoint.

        Raises:
            ConnectionLost: the peer fell silent, or the connection broke.
        """

    def begin_close(self, code: int, reason: str) -> None:  # noqa: B027 - for transports that hold unfinished messages
        """Begin to close with the code of an error: drop what has arrived, and receive nothing more. No checkpoint.

        Call `aclose` afterwards, which sends this code.
        """

    @abstractmethod
    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        """Finish the frame that is being sent, perform the closing handshake, and close the socket. A checkpoint.

        Takes at most `CLOSE_TIMEOUT`, and less if the peer sends too much instead of its close frame. Other tasks run
        meanwhile. A code that reports an error drops everything that arrives, and an unfinished message. If cancelled,
        close the socket at once. Other tasks may be in `receive`, `send`, `run` and `aclose`. Raises no network errors.
        Idempotent.

        Args:
            code: the close code. If the peer has closed, or has broken the protocol, this is the answer.
            reason: truncated to `REASON_LIMIT` bytes.
        """

    @abstractmethod
    def abort(self) -> None:
        """Close the socket at once, without telling the peer. No checkpoint. Idempotent."""


def closed_by_peer(code: int, reason: str) -> ConnectionClosed | MessageTooLarge:
    """Return the error for a connection that the peer closed."""
    if code == CloseCode.MESSAGE_TOO_BIG:
        return MessageTooLarge(f"the peer refused a message as too large: {reason or 'it did not name its limit'}")
    return ConnectionClosed(code, reason)


def closed_by_us() -> ConnectionClosed:
    """Return the error for a connection that this side closed."""
    return ConnectionClosed(CloseCode.NORMAL_CLOSURE, by_peer=False)


async def aclose_shielded(transport: Transport) -> None:
    """Close the transport, even in a cancelled scope, within `SHIELDED_CLOSE_TIMEOUT`. A checkpoint. Idempotent.

    If cancelled, the close continues; the caller's next checkpoint raises the cancellation.
    """
    with anyio.CancelScope(shield=True, deadline=anyio.current_time() + SHIELDED_CLOSE_TIMEOUT):
        await transport.aclose(CloseCode.GOING_AWAY)


async def end(transport: Transport, error: RayforceWSError) -> None:
    """End a connection that failed with `error`: tell the peer if that is possible, else close the socket at once.

    A checkpoint if the peer is told. If cancelled, the socket is closed at once.
    """
    code = close_code(error)
    if code is None:
        transport.abort()
    else:
        await transport.aclose(code, "" if isinstance(error, ConnectionClosed) else str(error))


def close_code(error: RayforceWSError) -> int | None:
    """Return the code to close a connection with that failed with `error`; `None` if the peer cannot be told."""
    match error:
        case MessageTooLarge():
            return CloseCode.MESSAGE_TOO_BIG
        case ProtocolError(code=code) | ConnectionClosed(code=code):
            return code
        case TryAgainLater():
            return CloseCode.TRY_AGAIN_LATER
        case ConnectionLost() | HandshakeError():  # without the handshake, the peer may not speak this protocol
            return None
        case EngineError(_close_code=code):
            return code
    return CloseCode.INTERNAL_ERROR


def check_size(max_message_size: int) -> None:
    """Raise `RayforceValueError` if `max_message_size` is not a number of bytes."""
    if type(max_message_size) is not int or max_message_size < 1:
        raise RayforceValueError(
            f"Invalid max_message_size: {max_message_size!r}. Must be a number of bytes, an int above 0"
        )
