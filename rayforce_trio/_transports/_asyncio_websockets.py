"""WebSocket under asyncio: the `websockets` library, client side."""

import asyncio
import ssl
from collections.abc import Iterator, Sequence
from typing import Any

import anyio
import anyio.lowlevel
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as websockets_connect
from websockets.asyncio.connection import broadcast
from websockets.exceptions import ConnectionClosed as WebsocketsClosed
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI
from websockets.protocol import State
from websockets.typing import Subprotocol

from .._addresses import Endpoint, os_error_text
from .._protocol import MESSAGE_LIMIT_HEADER, Frame, LazyFrame, parse_message_limit
from .._tasks import TimeSlice
from .._websocket import CloseCode, truncate_reason
from ..errors import (
    ConnectionLost,
    ConnectionRejected,
    HandshakeError,
    ProtocolError,
    RayforceWSError,
)
from ._base import (
    BODY_LIMIT,
    CLOSE_TIMEOUT,
    TEXT_LIMIT,
    Transport,
    closed_by_peer,
    closed_by_us,
    connect_failed,
    no_websocket_server,
    text_too_large,
    tls_failed,
    too_large,
)
from ._keepalive import KeepAlive

FRAGMENT_SIZE = 1024 * 1024
"""Longer messages are sent in fragments of so many bytes, so that pings and pongs pass between them."""

# While a message comes in fragments, websockets counts a control frame between them as part of it.
_CONTROL_FRAME = 125


async def connect(
    endpoint: Endpoint,
    *,
    subprotocols: Sequence[str],
    headers: Sequence[tuple[str, str]] = (),
    max_message_size: int,
    keepalive: KeepAlive,
) -> "AsyncioWebSocket":
    """Open a connection. If cancelled, nothing is left open.

    Args:
        headers: what the opening request has beside the headers of its own.

    Raises:
        ConnectError: nobody answers there.
        ConnectionRejected: the server refused, with an HTTP status.
        HandshakeError: what answers is no WebSocket server, or its TLS cannot be trusted.
    """
    authority = endpoint.authority
    try:
        websocket = await _Connect(
            f"{endpoint.scheme}://{authority}{endpoint.target}",
            ssl=endpoint.tls,
            subprotocols=[Subprotocol(name) for name in subprotocols],
            additional_headers=headers,
            compression=None,
            proxy=None,
            open_timeout=None,
            ping_interval=None,  # its pings know nothing of large messages under way; ours do
            close_timeout=CLOSE_TIMEOUT,
            max_size=max_message_size + _CONTROL_FRAME,
            create_connection=_ClientConnection,
        )
    except ssl.SSLError as error:
        raise tls_failed(endpoint, error) from None
    except (ConnectionResetError, ConnectionAbortedError) as error:
        if endpoint.tls is not None:
            reason = os_error_text(error) or "the peer hung up during the TLS handshake"
            raise tls_failed(endpoint, HandshakeError(reason)) from error
        raise connect_failed(endpoint, error) from error
    except (OSError, UnicodeError) as error:
        raise connect_failed(endpoint, error) from error
    except InvalidStatus as error:
        if error.response.status_code < 300:
            raise no_websocket_server(endpoint, f"HTTP status {error.response.status_code}") from None
        body = bytes(error.response.body or b"")[:BODY_LIMIT].decode("utf-8", "replace")
        raise ConnectionRejected(error.response.status_code, body) from None
    except (InvalidHandshake, InvalidURI, EOFError, ValueError) as error:
        raise no_websocket_server(endpoint, error) from error
    assert isinstance(websocket, _ClientConnection)
    return AsyncioWebSocket(websocket, authority, max_message_size, keepalive)


class _Connect(websockets_connect):
    """Goes where it is told, and nowhere else."""

    def process_redirect(self, exc: Exception) -> Exception:
        return exc


class _ClientConnection(ClientConnection):
    """Notes signs of life of the peer, and bounds the end the library leaves open.

    Once the library has failed a connection (a message too large, a protocol error), it waits for the peer to hang up.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.last_sign_of_life = self.loop.time()
        self.time_slice = TimeSlice()
        self._hang_up: asyncio.TimerHandle | None = None

    async def handshake(self, *args: Any, **kwargs: Any) -> None:
        logs, self.protocol.debug = self.protocol.debug, False  # the library would log the headers, secrets included
        try:
            await super().handshake(*args, **kwargs)
        finally:
            self.protocol.debug = logs

    def data_received(self, data: bytes) -> None:
        self.last_sign_of_life = self.loop.time()
        self.time_slice.start()
        super().data_received(data)
        if self._hang_up is None and self.protocol.close_expected():
            self._hang_up = self.loop.call_later(CLOSE_TIMEOUT, self.transport.abort)

    def resume_writing(self) -> None:
        self.last_sign_of_life = self.loop.time()
        super().resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._hang_up is not None:
            self._hang_up.cancel()
        super().connection_lost(exc)


class AsyncioWebSocket(Transport):
    """A WebSocket connection of the `websockets` library. See `Transport` for what its methods promise."""

    def __init__(self, websocket: _ClientConnection, peer: str, max_message_size: int, keepalive: KeepAlive) -> None:
        self.subprotocol = websocket.subprotocol
        self.peer = peer
        self.max_message_size = max_message_size
        self.peer_max_message_size = _message_limit(websocket)
        self._websocket = websocket
        self._keepalive = keepalive
        self._closed_by_us = False
        self._sending = False

    async def receive(self) -> bytes | str:
        await anyio.lowlevel.checkpoint_if_cancelled()  # recv is none while messages wait
        await self._websocket.time_slice.yield_if_due()
        try:
            message = await self._websocket.recv()
        except WebsocketsClosed as error:
            raise self._ended(error) from None
        if isinstance(message, str) and len(message) > TEXT_LIMIT:
            raise text_too_large()
        if len(message) > self.max_message_size:
            raise too_large(self.max_message_size)
        return message

    async def send(self, message: Frame | LazyFrame | str) -> None:
        assert not isinstance(message, LazyFrame)  # what a server sends
        await anyio.lowlevel.checkpoint()  # the library's send is none while the network takes everything
        self._sending = True
        try:
            if isinstance(message, str) or len(message) <= FRAGMENT_SIZE:
                await self._websocket.send(message)
            else:
                await self._websocket.send(_fragments(message))
        except WebsocketsClosed as error:
            raise self._ended(error) from None
        finally:
            self._sending = False

    def send_nowait(self, message: Frame | LazyFrame | str) -> bool:
        if isinstance(message, LazyFrame) or len(message) > FRAGMENT_SIZE or self._sending:
            return False
        if self._websocket.state is not State.OPEN or self._websocket.transport.get_write_buffer_size():
            return False
        broadcast([self._websocket], message)  # the library's way to send to one or many without waiting
        return True

    async def run(self) -> None:
        await self._keepalive.run(lambda: self._websocket.last_sign_of_life, self._ping, lambda: True)

    def _ping(self) -> None:
        if self._websocket.state is State.OPEN:
            self._websocket.protocol.send_ping(b"")
            self._websocket.send_data()

    async def aclose(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        self._closed_by_us |= self._websocket.state is State.OPEN
        try:
            await anyio.lowlevel.checkpoint()
            with anyio.move_on_after(CLOSE_TIMEOUT):  # the library bounds the wait for an answer, not the writing
                await self._websocket.close(code, truncate_reason(reason))
        finally:
            self.abort()

    def abort(self) -> None:
        self._websocket.transport.abort()

    def _ended(self, error: WebsocketsClosed) -> RayforceWSError:
        """Say in our terms how the connection ended."""
        if self._closed_by_us:
            return closed_by_us()
        if error.sent is not None and not error.rcvd_then_sent:
            if error.sent.code == CloseCode.MESSAGE_TOO_BIG:
                return too_large(self.max_message_size)
            if error.sent.code in (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA):
                return ProtocolError(f"the peer broke the WebSocket protocol: {error.sent.reason}", error.sent.code)
            return closed_by_us()
        if error.rcvd is not None:
            return closed_by_peer(error.rcvd.code, error.rcvd.reason)
        if error.__cause__ is None or isinstance(error.__cause__, EOFError):
            return ConnectionLost("the peer went away without closing the connection")
        return ConnectionLost(f"the connection broke: {os_error_text(error)}")


def _message_limit(websocket: ClientConnection) -> int | None:
    assert websocket.response is not None
    values = websocket.response.headers.get_all(MESSAGE_LIMIT_HEADER)
    return parse_message_limit(", ".join(values))


def _fragments(message: Frame) -> Iterator[memoryview]:
    view = memoryview(message)
    for start in range(0, len(view), FRAGMENT_SIZE):
        yield view[start : start + FRAGMENT_SIZE]
