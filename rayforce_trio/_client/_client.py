"""`WSClient`, which knows where to connect, and `PendingConnection`, which connects."""

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from dataclasses import dataclass
from functools import partial
from ssl import SSLContext, create_default_context
from types import TracebackType
from typing import Any, Protocol, TypedDict, Unpack

import anyio

from .._addresses import Endpoint, parse_url
from .._protocol import HELLO, SUBPROTOCOL, ProtocolViolation, check_hello_reply
from .._streams import check_tls_context
from .._tasks import DetachedTask, enable_ki_protection, running_loop
from .._transports import KeepAlive, Transport, check_size, closed_by_us, connect
from ..errors import HandshakeError, RayforceValueError, RayforceWSError
from ._connection import WSClientConnection
from ._credentials import request_headers

OPEN_TIMEOUT = 5.0
"""How long opening a connection may take, in seconds: name look-up, TCP, TLS and both handshakes."""

DEFAULT_MAX_MESSAGE_SIZE = 1024**3

DEFAULT_KEEPALIVE = KeepAlive()


class Nursery(Protocol):
    """A `trio.Nursery` or an `anyio.abc.TaskGroup`, in which a connection's task runs."""

    def start_soon(self, async_fn: Callable[[], Coroutine[Any, Any, None]], /) -> Any:
        """Start a task that runs until it ends or the nursery is cancelled."""


class ClientOptions(TypedDict, total=False):
    """The options of `WSClient.from_url`, which are those of `WSClient`. All of them are optional."""

    ssl: bool | SSLContext
    user: str | None
    password: str | None
    token: str | None
    headers: Mapping[str, str] | None
    max_message_size: int
    ping_interval: float | None
    ping_timeout: float | None


class WSClient:
    """A client for a Rayforce WebSocket server, on trio and on asyncio.

    A client holds no connection, and can be used in any number of event loops.

    Args:
        host: the server's host name or IP address.
        port: the server's port, 1-65535; `None` means 80, or with TLS 443.
        ssl: `True` to use TLS and trust the certificates that the system trusts; an `ssl.SSLContext` to trust other
            certificates, or to show a certificate of this client's; `False` for no TLS.
        path: the path of the server's URL, for a proxy that needs it.
        user: the user name, which is sent with the password (HTTP Basic).
        password: the password. It can be sent without a user name, if the server expects none.
        token: a bearer token, which is sent instead of a user name and a password.
        headers: further headers for the opening request.
        max_message_size: the longest message accepted from the server, in bytes. Default: 1 GiB.
        ping_interval: how long the server may be silent before it is pinged, in seconds; `None`: it is never pinged.
            Default: 60.
        ping_timeout: how long the server may take to answer a ping before the connection is lost, in seconds; `None`:
            there is no limit. Default: 30.

    Raises:
        RayforceValueError: an argument is out of range, cannot be sent, or contradicts another.
    """

    def __init__(
        self,
        host: str,
        port: int | None = None,
        *,
        ssl: bool | SSLContext = False,
        path: str = "/",
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        ping_interval: float | None = DEFAULT_KEEPALIVE.interval,
        ping_timeout: float | None = DEFAULT_KEEPALIVE.timeout,
    ) -> None:
        check_size(max_message_size)
        self._endpoint = Endpoint(host, port, path, _context(ssl))
        self._headers = request_headers(user, password, token, headers)
        self._max_message_size = max_message_size
        self._keepalive = KeepAlive(ping_interval, ping_timeout)
        self.uri = str(self._endpoint)
        """The URL to which this client connects, without a query."""

    @classmethod
    def from_url(cls, url: str, **options: Unpack[ClientOptions]) -> "WSClient":
        """Return a client for a URL: `ws://` or `wss://`, then `user@host:port/path`. Only the host is required.

        Args:
            url: the URL, without a password, because URLs are shown and logged.
            options: as for `WSClient`; `ssl` can be an `ssl.SSLContext` if the URL begins with `wss`.

        Raises:
            RayforceValueError: the URL is not valid, or an option contradicts it.
        """
        host, port, target, secure, user = parse_url(url)
        if twice := {"host", "port", "path"} & options.keys():
            raise RayforceValueError(f"{twice.pop()} is part of the URL; leave it out of the options")
        if user is not None and options.setdefault("user", user) != user:
            raise RayforceValueError("The option user contradicts the URL, which has another user name")
        if options.setdefault("ssl", secure) is not secure and not (secure and isinstance(options["ssl"], SSLContext)):
            raise RayforceValueError(f"ssl={options['ssl']!r} contradicts the URL, which begins with ws{'s' * secure}")
        return cls(host, port, path=target, **options)

    def connect(self, nursery: Nursery | None = None) -> "PendingConnection":
        """Connect to the server, within 5 seconds. Await the object that this returns, or enter it with `async with`.

        - `async with client.connect() as connection:` closes the connection at the end of the block. Prefer this form.
        - `connection = await client.connect(nursery)` closes the connection when the nursery (trio) or task group
          (anyio) is cancelled, if `close` was not called before.
        - `connection = await client.connect()` closes the connection when the event loop ends, if `close` was not
          called before. A connection that nothing refers to any more is closed, with a `ResourceWarning`.

        Each use of the object makes a connection of its own. Use a connection in the event loop in which it was opened.
        A block can be left in any task of that loop, and in any order.

        Awaiting and entering are checkpoints; if cancelled, no connection is left open. Leaving a block is a
        checkpoint; if the block was cancelled, the connection is closed within 2 seconds, otherwise within 10. An
        exception of the block is raised as it is, never in a group.

        Args:
            nursery: the nursery or task group that runs the connection's task. It must stay open while the connection
                is used.

        Raises:
            ConnectError: no connection could be made to the server's address.
            ConnectionRejected: the server refused the connection.
            HandshakeError: the peer is not a Rayforce WebSocket server, or connecting took longer than 5 seconds.
                If the server speaks the extended protocol, connecting does not wait for its answer to the greeting: if
                that answer is wrong or late, requests raise this error instead.
            RayforceWSError: there is no event loop, or one that is not supported; or the nursery cannot run the
                connection's task.
            RayforceValueError: `nursery` is not a nursery. Raised by `connect` itself.
        """
        if nursery is not None and not hasattr(nursery, "start_soon"):
            raise RayforceValueError(f"Invalid nursery: {nursery!r}. Must be a trio.Nursery or an anyio TaskGroup")
        return PendingConnection(self._open, nursery)

    async def _open(self) -> WSClientConnection:
        """Open a connection, whose task is not started yet. A checkpoint; if cancelled, no connection is left open."""
        if running_loop() is None:
            raise RayforceWSError("no event loop is running; call this in trio.run or asyncio.run")
        with anyio.move_on_after(OPEN_TIMEOUT):
            transport = await connect(
                self._endpoint,
                subprotocols=[SUBPROTOCOL],
                headers=self._headers,
                max_message_size=self._max_message_size,
                keepalive=self._keepalive,
            )
            try:
                if not transport.send_now(HELLO):
                    await transport.send(HELLO)
                receive_answer = partial(self._receive_answer, transport)
                if transport.subprotocol is not None:
                    # The peer is a Rayforce server, so the first request need not wait for the answer.
                    return WSClientConnection(transport, receive_answer)
                await receive_answer()
                return WSClientConnection(transport)
            except BaseException as error:
                transport.abort()
                if isinstance(error, RayforceWSError) and not isinstance(error, HandshakeError):
                    raise HandshakeError(f"Failed to connect to {self.uri}: the handshake failed: {error}") from error
                raise
        raise self._timeout()

    async def _receive_answer(self, transport: Transport) -> None:
        """Receive and check the server's answer to the greeting. A checkpoint; if cancelled, no message is lost.

        Raises:
            HandshakeError: the answer is wrong, or does not arrive within `OPEN_TIMEOUT`.
            RayforceWSError: the connection ended.
        """
        with anyio.move_on_after(OPEN_TIMEOUT):
            try:
                check_hello_reply(await transport.receive())
            except ProtocolViolation as error:
                raise HandshakeError(
                    f"Failed to connect to {self.uri}: the peer is not a Rayforce server: {error}"
                ) from None
            return
        raise self._timeout()

    def _timeout(self) -> HandshakeError:
        return HandshakeError(f"Failed to connect to {self.uri}: it took longer than {OPEN_TIMEOUT:g} seconds")

    def __repr__(self) -> str:
        return f"WSClient({self.uri})"


def _context(ssl: bool | SSLContext) -> SSLContext | None:
    if ssl is False:
        return None
    if ssl is True:
        return create_default_context()
    check_tls_context(ssl, server_side=False)
    return ssl


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of `async with client.connect()` that was entered and not left yet.

    Attributes:
        entered_by: the id of the task that entered it.
        task: the connection's task; `None` if a nursery of the caller's holds it.
    """

    entered_by: int
    connection: WSClientConnection
    task: DetachedTask | None


class PendingConnection:
    """A connection that is not open yet, from `WSClient.connect`. Await it, or enter it with `async with`.

    Each use makes a new connection. The errors are those of `WSClient.connect`.
    """

    def __init__(self, open_: Callable[[], Awaitable[WSClientConnection]], nursery: Nursery | None) -> None:
        self._open = open_
        self._nursery = nursery
        self._blocks: list[_Block] = []

    @enable_ki_protection
    def __await__(self) -> Generator[Any, Any, WSClientConnection]:
        return self._connect().__await__()

    @enable_ki_protection
    async def _connect(self) -> WSClientConnection:
        """Open a connection and start its task. A checkpoint; if cancelled, no connection is left open."""
        connection, _ = await self._start()
        return connection

    async def _start(self) -> tuple[WSClientConnection, DetachedTask | None]:
        """Open a connection and start its task. A checkpoint; if cancelled, no connection is left open."""
        connection = await self._open()
        exchange = connection._exchange
        if self._nursery is None:
            connection._is_unclosed = True
            return connection, DetachedTask(exchange.run, exchange.abort)
        try:
            self._nursery.start_soon(exchange.run)
        except (RuntimeError, AttributeError) as error:  # it is closed; or it is trio's, and trio is not running
            exchange.abort()
            raise RayforceWSError(
                "the nursery cannot start the connection's task; it must be open, and belong to the running event loop"
            ) from error
        except BaseException:
            exchange.abort()
            raise
        return connection, None

    @enable_ki_protection
    async def __aenter__(self) -> WSClientConnection:
        """Connect, and return the connection. A checkpoint; if cancelled, no connection is left open."""
        connection, task = await self._start()
        self._blocks.append(_Block(anyio.get_current_task().id, connection, task))
        return connection

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection and wait for the end of its task, in any task of the connection's event loop.

        A checkpoint. If this or the block was cancelled, the connection is closed with code 1001 and within 2 seconds.
        The connection's task has ended when this returns or raises the cancellation. If a nursery of the caller's holds
        that task, the connection is closed as by `WSClientConnection.close` instead.
        """
        block = self._block_to_leave()
        exchange = block.connection._exchange
        exchange.check_closable()
        self._blocks.remove(block)
        block.connection._is_unclosed = False
        if block.task is None or running_loop() is not exchange.loop:
            await exchange.close()
        else:
            if isinstance(exc, anyio.get_cancelled_exc_class()):
                block.task.cancel()
            await block.task.join(partial(exchange.close_with, closed_by_us()))

    def _block_to_leave(self) -> _Block:
        """Return the latest block that the current task entered. If it entered none, return the latest of all.

        Raises:
            RayforceWSError: no block was entered, or several other tasks have entered one.
        """
        current = None if running_loop() is None else anyio.get_current_task().id
        blocks = [block for block in self._blocks if block.entered_by == current] or self._blocks
        if not blocks:
            raise RayforceWSError("the block of this connect() was not entered, or was left already")
        if len({block.entered_by for block in blocks}) > 1:
            raise RayforceWSError(
                "several other tasks have entered this connect() object, so it is not clear "
                "which connection to close; call connect() once for each block"
            )
        return blocks[-1]
