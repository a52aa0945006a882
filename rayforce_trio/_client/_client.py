"""`WSClient`: where to connect, and the three ways to do it."""

from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from ssl import SSLContext, create_default_context
from types import TracebackType
from typing import Any, Protocol, TypedDict, Unpack

import anyio
from anyio.abc import TaskGroup

from .._addresses import Endpoint, parse_url
from .._protocol import HELLO, SUBPROTOCOL, ProtocolViolation, check_hello_reply
from .._streams import check_tls_context
from .._tasks import collapse_groups
from .._transports import (
    KeepAlive,
    check_size,
    closed_by_us,
    connect,
    start_detached,
)
from ..errors import HandshakeError, RayforceValueError, RayforceWSError
from ._connection import WSClientConnection
from ._credentials import request_headers

OPEN_TIMEOUT = 5.0
"""Bound on opening a connection, the name look-up and the handshakes included; in seconds."""

DEFAULT_MAX_MESSAGE_SIZE = 1024**3


class Nursery(Protocol):
    """A `trio.Nursery` or an `anyio.abc.TaskGroup`, in which a connection's tasks run."""

    def start_soon(self, async_fn: Callable[[], Coroutine[Any, Any, None]], /) -> Any:
        """Start a task that runs until it ends or the nursery is cancelled."""


class ClientOptions(TypedDict, total=False):
    """The options of `WSClient.from_url`: those of `WSClient`, all of them optional."""

    ssl: bool | SSLContext
    user: str | None
    password: str | None
    token: str | None
    headers: Mapping[str, str] | None
    max_message_size: int
    ping_interval: float | None
    ping_timeout: float | None


class WSClient:
    """A client for a Rayforce WebSocket server, on trio and on asyncio (there with the extra `asyncio` installed).

    Args:
        host: the server's name or address.
        port: its port, 1-65535; `None` means 80, or with TLS 443.
        ssl: whether to speak TLS: `True`, trusting the certificates that the system trusts; or an `ssl.SSLContext`, for
            others, or with a certificate for this client.
        path: of the server's URL, for a proxy that goes by it.
        user: the user name to send with the password (HTTP Basic).
        password: the password; it can be without a user name, if the server wants none.
        token: a bearer token to send instead of both.
        headers: further headers for the opening request.
        max_message_size: the longest message accepted from the server, in bytes. Default: 1 GiB.
        ping_interval: seconds of silence after which the server is pinged; `None`: never. Default: 60.
        ping_timeout: seconds it then has before the connection counts as lost; `None`: for ever. Default: 30.

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
        ping_interval: float | None = 60.0,
        ping_timeout: float | None = 30.0,
    ) -> None:
        check_size(max_message_size)
        self._endpoint = Endpoint(host, port, path, _context(ssl))
        self._headers = request_headers(user, password, token, headers)
        self._max_message_size = max_message_size
        self._keepalive = KeepAlive(ping_interval, ping_timeout)
        self.uri = str(self._endpoint)
        """Where this client connects to, as in its repr."""

    @classmethod
    def from_url(cls, url: str, **options: Unpack[ClientOptions]) -> "WSClient":
        """Return a client for `wss://user@host:port/path`, or `ws://`; all but the host can be left out.

        Args:
            url: without a password, since URLs are shown and logged.
            options: as for `WSClient`; `ssl` can be a context, if the URL begins with `wss`.

        Raises:
            RayforceValueError: it is no such URL, or contradicts the options.
        """
        host, port, target, secure, user = parse_url(url)
        if twice := {"host", "port", "path"} & options.keys():
            raise RayforceValueError(f"{twice.pop()} is part of the URL; leave it out of the options")
        if user is not None and options.setdefault("user", user) != user:
            raise RayforceValueError("The user of the options contradicts the URL, which names another")
        if options.setdefault("ssl", secure) is not secure and not (secure and isinstance(options["ssl"], SSLContext)):
            raise RayforceValueError(f"ssl={options['ssl']!r} contradicts the URL, which begins with ws{'s' * secure}")
        return cls(host, port, path=target, **options)

    def connect(self, nursery: Nursery | None = None) -> "PendingConnection":
        """Connect to the server, within 5 seconds. Await what this returns, or enter it with `async with`.

        It is no coroutine, and each use of it makes a connection of its own.

        - `async with client.connect() as connection:` The connection's tasks live in the block. The form to prefer.
        - `connection = await client.connect(nursery)` They live in a nursery (trio) or task group (anyio) of yours.
        - `connection = await client.connect()` They live until `close()`, the connection's loss or the end of the run.

        Awaiting or entering is a checkpoint; if cancelled, no connection is left open.

        Args:
            nursery: what starts the connection's tasks; it has to be open as long as the connection is used.

        Raises:
            ConnectError: nobody answers there.
            ConnectionRejected: the server refused.
            HandshakeError: what answers is no Rayforce WebSocket server, or it took longer than 5 seconds.
            RayforceWSError: the running event loop is not supported, or lacks the library that the error names.
        """
        if nursery is not None and not hasattr(nursery, "start_soon"):
            raise RayforceValueError(f"Invalid nursery: {nursery!r}. Must be a trio.Nursery or an anyio TaskGroup")
        return PendingConnection(self._open, nursery)

    async def _open(self) -> "WSClientConnection":
        with anyio.move_on_after(OPEN_TIMEOUT):
            transport = await connect(
                self._endpoint,
                subprotocols=[SUBPROTOCOL],
                headers=self._headers,
                max_message_size=self._max_message_size,
                keepalive=self._keepalive,
            )
            try:
                await transport.send(HELLO)
                check_hello_reply(await transport.receive())
            except ProtocolViolation as error:
                transport.abort()
                raise HandshakeError(
                    f"Failed to connect to {self.uri}: the peer is not a Rayforce server: {error}"
                ) from None
            except RayforceWSError as error:
                transport.abort()
                raise HandshakeError(f"Failed to connect to {self.uri}: the handshake failed: {error}") from error
            except BaseException:
                transport.abort()
                raise
            return WSClientConnection(transport)
        raise HandshakeError(f"Failed to connect to {self.uri}: it took longer than {OPEN_TIMEOUT:g} seconds")

    def __repr__(self) -> str:
        return f"WSClient({self.uri})"


def _context(ssl: bool | SSLContext) -> SSLContext | None:
    if ssl is False:
        return None
    if ssl is True:
        return create_default_context()
    check_tls_context(ssl, server_side=False)
    return ssl


class PendingConnection:
    """A connection that is not open yet, from `WSClient.connect`. Await it, or enter it with `async with`.

    Each use makes a new connection. The errors are those of `WSClient.connect`.
    """

    def __init__(self, open_: Callable[[], Awaitable["WSClientConnection"]], nursery: Nursery | None) -> None:
        self._open = open_
        self._nursery = nursery
        self._connection: WSClientConnection | None = None
        self._task_group: TaskGroup | None = None

    def __await__(self) -> Generator[Any, Any, "WSClientConnection"]:
        return self._start().__await__()

    async def _start(self) -> "WSClientConnection":
        connection = await self._open()
        try:
            if self._nursery is None:
                start_detached(connection._exchange.run, connection._exchange.abandon)
            else:
                self._nursery.start_soon(connection._exchange.run)
        except BaseException:
            connection._exchange.abandon()
            raise
        return connection

    async def __aenter__(self) -> "WSClientConnection":
        if self._nursery is not None:
            self._connection = await self._start()
            return self._connection
        connection = self._connection = await self._open()
        try:
            self._task_group = await anyio.create_task_group().__aenter__()
        except BaseException:
            connection._exchange.abandon()
            raise
        self._task_group.start_soon(connection._exchange.run)
        return connection

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._connection is not None
        if self._task_group is None:
            await self._connection.close()
        else:
            self._connection._exchange.close_with(closed_by_us())
            # Not told of `exc`, which would come back wrapped in a group; Python raises it again by itself.
            with collapse_groups():
                await self._task_group.__aexit__(None, None, None)
