"""WebSocket connections that another server has received, which hands over whole messages. On trio only."""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress

import trio

from .._addresses import ClientAddress, ip_of
from .._protocol import Frame, LazyFrame
from .._tasks import race
from .._websocket import CloseCode, InvalidHead, joined_headers, message_too_long, text_too_long, truncate_reason
from ..errors import ConnectionLost, MessageTooLarge, RayforceWSError
from ._accepting import Headers, OpeningRequest, Refusal
from ._base import CLOSE_TIMEOUT, TEXT_LIMIT, SharedMessage, Transport, closed_by_us

UNKNOWN_CLIENT = ClientAddress("0.0.0.0", through_proxy=True)
"""The client that a host does not name. It counts as a client on another machine."""

SLOWEST_RATE = 256 * 1024
"""Bytes a second at which a peer has to take a long message."""

UNKNOWN_SERVER = ("127.0.0.1", 0)
"""The address that a client connected to, if the host does not report it. The strictest check of `Host` applies."""


class MessageChannel(ABC):
    """An open WebSocket connection of another server, the host."""

    @abstractmethod
    async def receive(self) -> bytes | str:
        """Return the next message. A checkpoint; if cancelled, nothing is lost.

        Raises:
            ConnectionClosed: the peer closed the connection.
            ConnectionLost: the connection broke.
            MessageTooLarge: the host has refused a message.
        """

    @abstractmethod
    async def send(self, message: bytes | str) -> None:
        """Send a message. A checkpoint; if cancelled, end the connection. Raises the same errors as `receive`."""

    @abstractmethod
    async def close(self, code: int, reason: str) -> None:
        """Send a close frame, and wait until the peer has answered it. A checkpoint. Idempotent.

        The caller limits the time. If cancelled, call `HostedRequest.end`.

        Raises:
            ConnectionLost: the connection broke.
        """


class HostedRequest(ABC):
    """A request for a WebSocket connection that another server, the host, has received.

    Attributes:
        opening: the request.
        problem: why its headers are not valid, as the end of a sentence; `None` if they are. `opening` then has none.
    """

    opening: OpeningRequest
    problem: str | None = None

    @abstractmethod
    async def accept(self, subprotocol: str | None, headers: Headers) -> MessageChannel:
        """Open the connection. A checkpoint; if cancelled, call `end`.

        Raises:
            HandshakeError: the client is gone.
        """

    @abstractmethod
    async def refuse(self, refusal: Refusal) -> None:
        """Answer that the client is refused. A checkpoint; the caller limits the time. If cancelled, call `end`.

        Raises:
            HandshakeError: the client is gone.
        """

    async def end(self) -> None:  # noqa: B027 - some hosts disconnect by themselves
        """Disconnect at once, as far as the host can. A checkpoint if it can; even if cancelled, that is done."""


class HostedTransport(Transport):
    """A WebSocket connection that a host has received.

    `abort` makes all calls return; the host disconnects the peer when `HostedRequest.end` is called.

    Args:
        channel: the connection.
        subprotocol: the negotiated subprotocol.
        peer: the peer's address, for people to read.
        max_message_size: the longest message to accept, in bytes.
        write_timeout: the seconds that sending a message may take, besides one second for each `SLOWEST_RATE` bytes
            of it, since a host does not report its progress.
    """

    def __init__(
        self,
        channel: MessageChannel,
        *,
        subprotocol: str | None,
        peer: str,
        max_message_size: int,
        write_timeout: float,
    ) -> None:
        self.subprotocol = subprotocol
        self.peer = peer
        self.max_message_size = max_message_size
        self._channel = channel
        self._write_timeout = write_timeout
        self._write_lock = trio.Lock()
        self._write_scope: trio.CancelScope | None = None  # around a send
        self._write_deadline = math.inf
        self._timer = trio.CancelScope()  # around the wait of `run` for the deadline of a send
        self._parts = bytearray()  # of a message whose last part is still to come
        self._waiting: bytes | str | None = None  # the message of `send_between` that `run` sends
        self._flush_due = trio.Event()
        self._receive_scope: trio.CancelScope | None = None
        self._receive_left: trio.Event | None = None  # `aclose` waits for a `receive` to return
        self._ending: RayforceWSError | None = None
        self._closing: tuple[int, str] | None = None  # code and reason
        self._is_closed = False

    # Receiving

    async def receive(self) -> Frame | str:
        if self._ending is not None or self._closing is not None:
            await trio.lowlevel.checkpoint()
            raise self._end(closed_by_us())
        try:
            with trio.CancelScope() as self._receive_scope:
                return self._checked(await self._channel.receive())
        except RayforceWSError as error:
            raise self._end(error) from None
        finally:
            self._receive_scope = None
            if self._receive_left is not None:
                self._receive_left.set()
        raise self._end(closed_by_us())

    def _checked(self, message: bytes | str) -> bytes | str:
        if isinstance(message, str) and len(message) > TEXT_LIMIT:
            raise MessageTooLarge(text_too_long(TEXT_LIMIT))
        if len(message) > self.max_message_size:
            raise MessageTooLarge(message_too_long(self.max_message_size))
        return message

    def receive_nowait(self) -> Frame | str | None:
        return None  # a host offers no such function

    def has_bytes(self) -> bool:
        return False

    def interrupt(self) -> None:
        if self._receive_scope is not None:
            self._receive_scope.cancel()

    # Sending

    async def send(self, message: Frame | LazyFrame | str) -> None:
        await self._send(message if isinstance(message, str) else bytes(message[:]))

    async def send_part(self, data: Frame | LazyFrame, *, last: bool, text: bool = False) -> None:
        if self._ending is not None:
            await trio.lowlevel.checkpoint()
            raise self._end(self._ending)
        self._parts += data[:]
        self.on_stored(len(data))
        if not last:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._send(self._parts.decode() if text else bytes(self._parts))
        finally:
            self._parts = bytearray()

    @property
    def stored(self) -> int:
        return len(self._parts)

    async def _send(self, message: bytes | str) -> None:
        """Send a message after the one that waits. A checkpoint; if cancelled, end the connection."""
        async with self._write_lock:
            await self._write_waiting()
            await self._write(message)
        self.on_idle()

    async def _write_waiting(self) -> None:
        """Send the message that waits, if there is one. The caller holds the lock. If cancelled, as `_write`."""
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            await self._write(waiting)

    async def _write(self, message: bytes | str) -> None:
        """Send a message. A checkpoint. The caller holds the lock. If cancelled, end the connection.

        Raises:
            RayforceWSError: the connection is closed or closing, broke, or took too long to take the message.
        """
        if self._ending is not None:
            raise self._end(self._ending)
        deadline = trio.current_time() + self._write_timeout + len(message) / SLOWEST_RATE
        self._write_deadline = deadline
        self._timer.deadline = min(self._timer.deadline, deadline)
        try:
            with trio.CancelScope(deadline=deadline) as self._write_scope:
                await self._channel.send(message)
                return
        except RayforceWSError as error:
            raise self._end(error) from None
        finally:
            self._write_scope = None
            self._write_deadline = math.inf
        raise self._end(_too_slow())

    def send_between(self, message: SharedMessage | str) -> bool:
        if self._ending is not None:
            raise self._end(self._ending)
        if self._waiting is not None or self._write_lock.locked():
            return False
        self._waiting = message if isinstance(message, str) else message.data
        self._flush_due.set()
        return True

    def notify_when_idle(self) -> None:
        self._flush_due.set()

    async def run(self) -> None:
        await race(self._flush_when_due, self._limit_writes)

    async def _flush_when_due(self) -> None:
        """Send the messages of `send_between`, until cancelled, which may cut one. A checkpoint."""
        while True:
            await self._flush_due.wait()
            self._flush_due = trio.Event()
            async with self._write_lock:
                await self._write_waiting()
            self.on_idle()

    async def _limit_writes(self) -> None:
        """Wait until a send has taken too long, since the host may shield it. A checkpoint; cancelling changes nothing.

        Raises:
            ConnectionLost: a send has taken too long.
        """
        while self._write_deadline > trio.current_time():
            with trio.CancelScope(deadline=self._write_deadline) as self._timer:
                await trio.sleep_forever()
        raise self._end(_too_slow())

    # Ending

    def peer_is_gone(self) -> bool:
        return isinstance(self._ending, ConnectionLost)

    def begin_close(self, code: int, reason: str) -> None:
        self._closing = self._closing or (code, reason)
        self._waiting = None
        self.interrupt()

    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            return
        code, reason = self._closing = self._closing or (code, reason)
        self._end(closed_by_us())
        self._waiting = None
        try:
            with trio.move_on_after(CLOSE_TIMEOUT), suppress(RayforceWSError):
                while self._receive_scope is not None:
                    self._receive_left = trio.Event()
                    self._receive_scope.cancel()
                    await self._receive_left.wait()
                async with self._write_lock:  # a message that is being sent comes first
                    await self._channel.close(code, truncate_reason(reason))
        finally:
            self.abort()

    def abort(self) -> None:
        self._is_closed = True
        self._end(closed_by_us())
        self._waiting = None
        self.interrupt()
        if self._write_scope is not None:
            self._write_scope.cancel()

    def _end(self, error: RayforceWSError) -> RayforceWSError:
        """Record why the connection ended, unless that is known, and return a new error that says why."""
        if self._ending is None:
            self._ending = copy.copy(error)  # without the traceback, whose frames refer to this transport
        return copy.copy(self._ending)


def _too_slow() -> ConnectionLost:
    return ConnectionLost("the peer has not read a message in time (write_timeout)")


def checked_headers(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[dict[str, str], str | None]:
    """Return headers as in `OpeningRequest`, and why they are not valid; there are none in that case."""
    try:
        return joined_headers(pairs), None
    except InvalidHead as error:
        return {}, error.reason


def client_address(address: object, port: object) -> ClientAddress:
    """Return the address of a client that a host reports; `UNKNOWN_CLIENT` if it is no IP address."""
    try:
        return ClientAddress(str(ip_of(str(address))), port if isinstance(port, int) else None)
    except ValueError:
        return UNKNOWN_CLIENT


def server_address(address: object, port: object) -> tuple[str, int]:
    """Return the address of a server that a host reports; `UNKNOWN_SERVER` if it is no IP address."""
    try:
        return str(ip_of(str(address))), port if isinstance(port, int) else 0
    except ValueError:
        return UNKNOWN_SERVER
