"""`WSClient`, which knows where to connect."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from ssl import SSLContext, create_default_context
from typing import TypedDict, TypeVar, Unpack

import anyio

from .._addresses import Endpoint, parse_url, unix_path
from .._protocol import HELLO, SUBPROTOCOL, ProtocolViolation, check_hello_reply
from .._streams import check_tls_context
from .._tasks import running_loop
from .._transports import KeepAlive, Transport, check_size, connect
from ..errors import HandshakeError, RayforceValueError, RayforceWSError
from ._connection import WSClientConnection
from ._credentials import request_headers
from ._exchange import Exchange
from ._pending import Nursery, PendingConnection
from ._reconnecting import ReconnectingExchange, Session, combined

OPEN_TIMEOUT = 5.0
"""How long opening a connection may take, in seconds: name look-up, TCP, TLS and both handshakes."""

DEFAULT_MAX_MESSAGE_SIZE = 1024**3

DEFAULT_KEEPALIVE = KeepAlive()

E = TypeVar("E", bound=Exchange)

_Make = Callable[[Transport, Callable[[], Awaitable[None]] | None], E]
"""Makes an exchange with an open transport: `Exchange` or a subclass."""


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


@dataclass(frozen=True, slots=True)
class _Server:
    """A server, and the headers of the opening request, which may be secret."""

    endpoint: Endpoint
    headers: list[tuple[str, str]]


class WSClient:
    """A client for a Rayforce WebSocket server, on trio and on asyncio.

    A client holds no connection, and can be used in any number of event loops.

    Args:
        host: the server's host name or IP address; `unix:` and the path of a Unix socket (`unix:/run/rayforce.sock`).
        port: the server's port, 1-65535; `None` means 80, or with TLS 443. A Unix socket has none.
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
        endpoint = Endpoint(host, port, path, _context(ssl))
        self._servers = [_Server(endpoint, request_headers(user, password, token, headers))]
        self._max_message_size = max_message_size
        self._keepalive = KeepAlive(ping_interval, ping_timeout)
        self.uri = str(endpoint)
        """The URL to which this client connects, without a query. Of several servers, it is that of the first one."""

    @classmethod
    def from_url(cls, url: str, **options: Unpack[ClientOptions]) -> "WSClient":
        """Return a client for a URL: `ws://` or `wss://`, then `user@host:port/path`. Only the host is required.

        The URL of a Unix socket is `unix:` and its path (`unix:/run/rayforce.sock`).

        Args:
            url: the URL, without a password, because URLs are shown and logged.
            options: as for `WSClient`; `ssl` can be an `ssl.SSLContext` if the URL begins with `wss` or `unix`.

        Raises:
            RayforceValueError: the URL is not valid, or an option contradicts it.
        """
        host, port, target, secure, user = parse_url(url)
        if twice := {"host", "port", "path"} & options.keys():
            raise RayforceValueError(f"{twice.pop()} is part of the URL; leave it out of the options")
        if user is not None and options.setdefault("user", user) != user:
            raise RayforceValueError("The option user contradicts the URL, which has another user name")
        if unix_path(host) is None:
            _check_ssl_option(options, secure=secure)
        return cls(host, port, path=target, **options)

    @classmethod
    def from_urls(cls, urls: Iterable[str], **options: Unpack[ClientOptions]) -> "WSClient":
        """Return a client for several servers, for example the replicas of one. It connects to the first one it can.

        Each time that it connects, it tries them in this order. A server that refuses the client or cannot be reached
        within 5 seconds is passed over. If all fail, the error is that of the last one, and its notes have the others.

        Args:
            urls: the URL of each server, as for `from_url`.
            options: the options for all servers, as for `from_url`.

        Raises:
            RayforceValueError: there is no URL, one is not valid, or an option contradicts one.
        """
        if isinstance(urls, str):
            raise RayforceValueError("from_urls takes a list of URLs; use from_url for one")
        clients = [cls.from_url(url, **options.copy()) for url in urls]
        if not clients:
            raise RayforceValueError("from_urls needs at least one URL")
        client = clients[0]
        client._servers = [server for each in clients for server in each._servers]
        return client

    def connect(
        self, nursery: Nursery | None = None, *, reconnect: bool = False, wait_for_server: bool = False
    ) -> "PendingConnection":
        """Connect to the server, within 5 seconds. Await the object that this returns, or enter it with `async with`.

        - `async with client.connect() as connection:` closes the connection at the end of the block. Prefer this form.
        - `connection = await client.connect(nursery)` closes the connection when the nursery (trio) or task group
          (anyio) is cancelled, if `close` was not called before.
        - `connection = await client.connect()` closes the connection when the event loop ends, if `close` was not
          called before. A connection that nothing refers to any more is closed, with a `ResourceWarning`.

        Each use of the object makes a connection of its own. Use a connection in the event loop in which it was opened.
        A block can be left in any task of that loop, and in any order.

        With `reconnect=True`, a connection that is lost is made again, at once if the server has stopped properly,
        otherwise after a random delay that grows up to 5 seconds, or as long as the server says. While there is no
        connection, calls wait for one: use a cancel scope to limit that. It ends for good when it is closed, and when
        all servers refuse the client: because of its credentials, for example.

        Awaiting and entering are checkpoints; if cancelled, no connection is left open. Leaving a block is a
        checkpoint; if the block was cancelled, the connection is closed within 2 seconds, otherwise within 10. An
        exception of the block is raised as it is, never in a group.

        Args:
            nursery: the nursery or task group that runs the connection's task. It must stay open while the connection
                is used.
            reconnect: whether to connect again when the connection is lost.
            wait_for_server: with `reconnect`, wait for the first connection, too. Otherwise the errors below are raised
                if the first attempt fails. If True, only those that would also end the connection later are.

        Raises:
            ConnectError: no connection could be made to the server's address.
            ConnectionRejected: the server refused the connection.
            HandshakeError: the peer is not a Rayforce WebSocket server, or connecting took longer than 5 seconds.
                If the server speaks the extended protocol, connecting without `reconnect` does not wait for its answer
                to the greeting: if that answer is wrong or late, requests raise this error instead.
            RayforceWSError: there is no event loop, or one that is not supported; or the nursery cannot run the
                connection's task.
            RayforceValueError: `nursery` is not a nursery, or `wait_for_server` is given without `reconnect`. Raised by
                `connect` itself.
        """
        if nursery is not None and not hasattr(nursery, "start_soon"):
            raise RayforceValueError(f"Invalid nursery: {nursery!r}. Must be a trio.Nursery or an anyio TaskGroup")
        if wait_for_server and not reconnect:
            raise RayforceValueError("wait_for_server needs reconnect=True")
        open_ = partial(self._open_reconnecting, patiently=wait_for_server) if reconnect else self._open
        return PendingConnection(open_, nursery)

    async def _open(self) -> WSClientConnection:
        """Open a connection, whose task is not started yet. A checkpoint; if cancelled, no connection is left open."""
        _check_running()
        errors: list[RayforceWSError] = []
        try:
            for server in self._servers:
                try:
                    return WSClientConnection(await self._open_exchange(server, Exchange))
                except RayforceWSError as error:
                    errors.append(error)
            raise combined(errors)
        finally:
            errors.clear()  # the traceback of an error refers to this frame

    async def _open_reconnecting(self, *, patiently: bool) -> WSClientConnection:
        """Open a connection that comes back, whose task is not started yet. A checkpoint.

        If cancelled, no connection is left open.
        """
        _check_running()
        exchange = ReconnectingExchange([partial(self._open_exchange, server, Session) for server in self._servers])
        await exchange.open(patiently=patiently)
        return WSClientConnection(exchange)

    async def _open_exchange(self, server: _Server, make: _Make[E]) -> E:
        """Connect to one server. A checkpoint; if cancelled, no connection is left open.

        A `Session` has the answer to the greeting. Otherwise, a server that cannot open the connection in time, because
        many come at once, would seem to have lost it, and calls with it.
        """
        with anyio.move_on_after(OPEN_TIMEOUT):
            transport = await connect(
                server.endpoint,
                subprotocols=[SUBPROTOCOL],
                headers=server.headers,
                max_message_size=self._max_message_size,
                keepalive=self._keepalive,
            )
            try:
                if not transport.send_now(HELLO):
                    await transport.send(HELLO)
                receive_answer = partial(_receive_answer, transport, str(server.endpoint))
                if transport.subprotocol is not None and make is not Session:
                    # The peer is a Rayforce server, so the first request need not wait for the answer.
                    return make(transport, receive_answer)
                await receive_answer()
                return make(transport, None)
            except BaseException as error:
                transport.abort()
                if isinstance(error, RayforceWSError) and not isinstance(error, HandshakeError):
                    raise HandshakeError(
                        f"Failed to connect to {server.endpoint}: the handshake failed: {error}"
                    ) from error
                raise
        raise _timeout(str(server.endpoint))

    def __repr__(self) -> str:
        return f"WSClient({', '.join(str(server.endpoint) for server in self._servers)})"


def _check_running() -> None:
    if running_loop() is None:
        raise RayforceWSError("no event loop is running; call this in trio.run or asyncio.run")


async def _receive_answer(transport: Transport, uri: str) -> None:
    """Receive and check the server's answer to the greeting. A checkpoint; if cancelled, no message is lost.

    Raises:
        HandshakeError: the answer is wrong, or does not arrive within `OPEN_TIMEOUT`.
        RayforceWSError: the connection ended.
    """
    with anyio.move_on_after(OPEN_TIMEOUT):
        try:
            check_hello_reply(await transport.receive())
        except ProtocolViolation as error:
            failed = HandshakeError(f"Failed to connect to {uri}: the peer is not a Rayforce server: {error}")
            failed._wrong_peer = True
            raise failed from None
        return
    raise _timeout(uri)


def _timeout(uri: str) -> HandshakeError:
    return HandshakeError(f"Failed to connect to {uri}: it took longer than {OPEN_TIMEOUT:g} seconds")


def _check_ssl_option(options: ClientOptions, *, secure: bool) -> None:
    """Set the option `ssl` if it is missing; raise `RayforceValueError` if it contradicts a `ws://` or `wss://` URL."""
    if options.setdefault("ssl", secure) is not secure and not (secure and isinstance(options["ssl"], SSLContext)):
        raise RayforceValueError(f"ssl={options['ssl']!r} contradicts the URL, which begins with ws{'s' * secure}")


def _context(ssl: bool | SSLContext) -> SSLContext | None:
    if ssl is False:
        return None
    if ssl is True:
        return create_default_context()
    check_tls_context(ssl, server_side=False)
    return ssl
