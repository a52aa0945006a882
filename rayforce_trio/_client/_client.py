"""`WSClient`, which knows where to connect."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from ssl import SSLContext, create_default_context
from typing import TypedDict, TypeVar, Unpack

import anyio

from .._addresses import Endpoint, parse_url, unix_path
from .._checks import check_flag, list_argument
from .._protocol import HELLO, SUBPROTOCOL, ProtocolViolation, check_hello_reply
from .._streams import check_tls_context
from .._tasks import running_loop
from .._traces import TracerProvider, Tracing, check_provider, find_tracing
from .._transports import KeepAlive, Transport, check_size, connect
from ..errors import HandshakeError, RayforceValueError, RayforceWSError
from ._connection import WSClientConnection
from ._credentials import request_headers
from ._exchange import Exchange
from ._pending import Nursery, PendingConnection
from ._reconnecting import AnyExchange, ReconnectingExchange, Session, combined
from ._traced import TracedConnection
from ._traces import ClientTraces

OPEN_TIMEOUT = 5.0
"""How long opening a connection may take, in seconds: name look-up, TCP, TLS and both handshakes."""

DEFAULT_MAX_MESSAGE_SIZE = 1024**3

DEFAULT_KEEPALIVE = KeepAlive()

E = TypeVar("E", bound=Exchange)

_Make = Callable[[Transport, Callable[[], Awaitable[None]] | None, ClientTraces | None], E]
"""Makes an exchange with an open transport: `Exchange` or a subclass."""


class ClientOptions(TypedDict, total=False):
    """The options of `WSClient.from_url`: those of `WSClient` that are not in the URL. All are optional."""

    ssl: bool | SSLContext
    user: str | None
    password: str | None
    token: str | None
    headers: Mapping[str, str] | None
    max_message_size: int
    ping_interval: float | None
    ping_timeout: float | None
    tracer_provider: TracerProvider | None
    trace_queries: bool


@dataclass(frozen=True, slots=True)
class _Server:
    """A server, and the headers of the opening request, which may be secret."""

    endpoint: Endpoint
    headers: list[tuple[str, str]]


class WSClient:
    """A client for a Rayforce WebSocket server, on trio and on asyncio.

    Creating a client opens no connection. A client can be used in any number of event loops.

    Args:
        host: the host name or IP address of the server, or `unix:` and the path of a Unix socket
            (`unix:/run/rayforce.sock`).
        port: the port of the server, 1 to 65535. `None`: 443 with TLS, otherwise 80. A Unix socket has no port.
        ssl: `False`: no TLS. `True`: TLS that trusts the certificate authorities that the system trusts. An
            `ssl.SSLContext`: TLS that trusts other authorities, or that sends a client certificate.
        path: the path of the URL, for proxies that route by path.
        user: the user name, sent with the password (HTTP Basic).
        password: the password. Without a user name, it is sent with an empty one.
        token: a bearer token, sent instead of a user name and password.
        headers: additional headers of the opening HTTP request.
        max_message_size: the maximum length of a message from the server, in bytes. Default: 1 GiB.
        ping_interval: the seconds of silence after which the client pings the server. `None`: never. Default: 60.
        ping_timeout: the seconds that the server has to react to a ping before the connection counts as lost. `None`:
            no limit. Default: 30.
        tracer_provider: the OpenTelemetry `TracerProvider` that makes a span for each call. `None`: the provider that
            the program has set for all libraries before it connects; without one, there are no spans.
        trace_queries: whether spans have the texts of queries, and messages of errors, which may quote them.

    Raises:
        RayforceValueError: an argument is out of range, cannot be sent, or contradicts another argument.
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
        tracer_provider: TracerProvider | None = None,
        trace_queries: bool = False,
    ) -> None:
        check_size(max_message_size)
        endpoint = Endpoint(host, port, path, _context(ssl))
        self._servers = [_Server(endpoint, request_headers(user, password, token, headers))]
        self._max_message_size = max_message_size
        self._keepalive = KeepAlive(ping_interval, ping_timeout)
        check_provider(tracer_provider)
        check_flag("trace_queries", trace_queries)
        self._find_tracing = partial(find_tracing, tracer_provider, queries=trace_queries)
        self.uri: str = str(endpoint)
        """The URL of the server, without a query. With several servers, the URL of the first one."""

    @classmethod
    def from_url(cls, url: str, **options: Unpack[ClientOptions]) -> "WSClient":
        """Return a client for a URL such as `wss://user@host:port/path`. Only the scheme and the host are required.

        The URL of a Unix socket is `unix:` and its path (`unix:/run/rayforce.sock`).

        Args:
            url: the URL, beginning with `ws://`, `wss://` or `unix:`. It must not contain a password, because URLs are
                shown and logged.
            options: as for `WSClient`. `ssl` can be an `ssl.SSLContext` if the URL begins with `wss://` or `unix:`.

        Raises:
            RayforceValueError: the URL is invalid, or an option contradicts it.
        """
        host, port, target, secure, user = parse_url(url)
        if twice := {"host", "port", "path"} & options.keys():
            raise RayforceValueError(f"{twice.pop()} is part of the URL; leave it out of the options")
        if user is not None and options.setdefault("user", user) != user:
            raise RayforceValueError(f"user={options['user']!r} contradicts the URL, which has the user name {user!r}")
        if unix_path(host) is None:
            _check_ssl_option(options, secure=secure)
        return cls(host, port, path=target, **options)

    @classmethod
    def from_urls(cls, urls: Iterable[str], **options: Unpack[ClientOptions]) -> "WSClient":
        """Return a client for several servers that can replace each other, such as replicas.

        Each time that it connects, the client tries the servers in this order, and skips a server that refuses it or
        cannot be reached within 5 seconds. If all fail, `connect` raises the error of the last one, and the notes of
        the error have the others.

        Args:
            urls: the URL of each server, as for `from_url`.
            options: the options for all servers, as for `from_url`.

        Raises:
            RayforceValueError: there is no URL, a URL is invalid, or an option contradicts one.
        """
        clients = [cls.from_url(url, **options.copy()) for url in list_argument("urls", urls, "URLs")]
        if not clients:
            raise RayforceValueError("Invalid urls: []. Must be a list of one or more URLs")
        client = clients[0]
        client._servers = [server for each in clients for server in each._servers]
        return client

    def connect(
        self, nursery: Nursery | None = None, *, reconnect: bool = False, wait_for_server: bool = False
    ) -> "PendingConnection":
        """Connect to the server within 5 seconds. Enter the object that this returns with `async with`, or await it.

        - `async with client.connect() as connection:` closes the connection at the end of the block. Prefer this form.
        - `connection = await client.connect(nursery)` closes the connection when the nursery (trio) or task group
          (anyio) is cancelled, unless you call `close` before.
        - `connection = await client.connect()` closes the connection when the event loop ends, unless you call `close`
          before. A connection to which nothing refers any more is closed with a `ResourceWarning`.

        Each use of the object opens a new connection. Use a connection in the event loop in which it was opened. Any
        task of that loop may leave a block, in any order.

        With `reconnect=True`, the client connects again when the connection is lost: immediately if the server was shut
        down properly, otherwise after a random delay of up to 5 seconds, or after the time that the server demands.
        Meanwhile, calls wait; use a cancel scope to limit that. The connection ends for good when it is closed, and
        when all servers refuse the client, for example because of its credentials.

        Awaiting and entering are checkpoints; if cancelled, no connection is left open. Leaving a block is a
        checkpoint; if the block was cancelled, the connection is closed within 2 seconds, otherwise within 10. An
        exception of the block is raised unchanged, never in a group.

        Args:
            nursery: the nursery or task group that runs the connection's task. It must stay open while the connection
                is used.
            reconnect: whether to connect again when the connection is lost.
            wait_for_server: with `reconnect`, also wait for the first connection. If `False`, the errors below are
                raised if the first attempt fails. If `True`, only those are raised that would also end a connection
                later.

        Raises:
            ConnectError: no connection could be made to the server's address.
            ConnectionRejected: the server refused the connection.
            HandshakeError: the peer is not a Rayforce WebSocket server, or connecting took longer than 5 seconds. With
                a server that speaks the extended protocol, and without `reconnect`, `connect` does not wait for the
                answer to the greeting; if that answer is wrong or late, requests raise this error.
            RayforceWSError: no event loop is running, or it is not supported; or the nursery cannot run the
                connection's task.
            RayforceValueError: `nursery` is not a nursery, a flag is not a bool, or `wait_for_server` is given without
                `reconnect`. Raised by `connect` itself.
        """
        if nursery is not None and not hasattr(nursery, "start_soon"):
            raise RayforceValueError(f"Invalid nursery: {nursery!r}. Must be a trio.Nursery or an anyio TaskGroup")
        check_flag("reconnect", reconnect)
        check_flag("wait_for_server", wait_for_server)
        if wait_for_server and not reconnect:
            raise RayforceValueError("wait_for_server needs reconnect=True")
        open_ = partial(self._open_reconnecting, keep_trying=wait_for_server) if reconnect else self._open
        return PendingConnection(open_, nursery)

    async def _open(self) -> WSClientConnection:
        """Open a connection, whose task is not started yet. A checkpoint; if cancelled, no connection is left open."""
        _check_running()
        tracing = self._find_tracing()
        errors: list[RayforceWSError] = []
        try:
            for server in self._servers:
                try:
                    return _connection(await self._open_exchange(server, Exchange, tracing))
                except RayforceWSError as error:
                    errors.append(error)
            raise combined(errors)
        finally:
            errors.clear()  # the traceback of an error refers to this frame

    async def _open_reconnecting(self, *, keep_trying: bool) -> WSClientConnection:
        """Open a connection that comes back, whose task is not started yet. A checkpoint.

        If cancelled, no connection is left open.
        """
        _check_running()
        tracing = self._find_tracing()
        exchange = ReconnectingExchange(
            [partial(self._open_exchange, server, Session, tracing) for server in self._servers]
        )
        await exchange.open(keep_trying=keep_trying)
        return _connection(exchange)

    async def _open_exchange(self, server: _Server, make: _Make[E], tracing: Tracing | None) -> E:
        """Connect to one server. A checkpoint; if cancelled, no connection is left open.

        A `Session` has the answer to the greeting. Otherwise, a server that cannot open the connection in time, because
        many come at once, would seem to have lost it, and calls with it.
        """
        traces = None if tracing is None else ClientTraces(tracing, server.endpoint)
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
                    return make(transport, receive_answer, traces)
                await receive_answer()
                return make(transport, None, traces)
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


def _connection(exchange: AnyExchange) -> WSClientConnection:
    return WSClientConnection(exchange) if exchange.traces is None else TracedConnection(exchange)


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
