"""Handle the connections of a server, from accepting them to their end, each isolated from the others."""

import itertools
import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

import trio

from .._addresses import ClientAddress, network_of
from .._protocol import HELLO_REPLY, JSON_SUBPROTOCOL, SUBPROTOCOL
from .._streams import peer_address
from .._tasks import enable_ki_protection
from .._text import counted
from .._traces import Tracing
from .._transports import (
    AcceptOptions,
    BadRequest,
    HostedRequest,
    HostedTransport,
    HttpRequestServed,
    HttpResponse,
    KeepAlive,
    OpeningRequest,
    Refusal,
    Transport,
    accept,
    aclose_shielded,
    refuse,
)
from ..errors import ConnectionRejected, RayforceWSError
from ._authorizer import Authorized, Authorizer
from ._byte_budget import Budgets, ByteBudget
from ._connection import WSServerConnection, receive_hello
from ._counters import CountedConnection, Counters
from ._http import HttpEndpoints
from ._hub import Hub
from ._json_transport import MAX_JSON_REPLY, JsonTransport
from ._json_updates import JsonUpdates
from ._limits import ConnectionLimits, too_many
from ._log import ConnectionLog, LogLimiter, logger
from ._opening_queue import OpeningQueue, PendingOpening
from ._options import ConnectionOptions, SubscriptionOptions
from ._proxies import NOT_A_PROXY, Proxies
from ._proxy_protocol import MalformedProxyHeader
from ._receiving_client import receive_client
from ._subscriptions import Subscriptions, topic_filter

_STOPPING = Refusal(503, "The server is shutting down.", (("Retry-After", "5"),))

_REFUSAL_TIMEOUT = 3.0
"""Seconds in which a host has to send a refusal."""

_TOO_LATE = Refusal(503, "The answer took too long (open_timeout). Try again later.", (("Retry-After", "1"),))

_END_TIMEOUT = 4.0
"""Seconds that hosted connections have to end after the time to drain. A host may shield a send for longer."""

_TOO_MANY_OPENINGS = too_many(
    "This server has reached its limit of connections that are still opening (max_unauthenticated).",
    retry_after=1,  # many clients at once, as after a restart, are let in within seconds
)


class ConnectionHandler:
    """Handle the connections of one server. The arguments are the server's; `start` calls `find_tracing`.

    Attributes:
        query_timeout: seconds that a query of a new connection may run; `None`: without limit.
    """

    def __init__(
        self,
        *,
        authorizer: Authorizer,
        proxies: Proxies,
        limits: ConnectionLimits,
        openings: OpeningQueue,
        options: ConnectionOptions,
        counters: Counters,
        endpoints: HttpEndpoints,
        tls: ssl.SSLContext | None,
        max_message_size: int,
        keepalive: KeepAlive,
        log_queries: bool,
        hub: Hub,
        subscriptions: SubscriptionOptions,
        find_tracing: Callable[[], Tracing | None],
    ) -> None:
        self._authorizer = authorizer
        self._proxies = proxies
        self._limits = limits
        self._openings = openings
        self._options = options
        self._counters = counters
        self._endpoints = endpoints
        self._accept_options = AcceptOptions(
            subprotocols=[SUBPROTOCOL, JSON_SUBPROTOCOL],
            max_message_size=max_message_size,
            keepalive=keepalive,
            tls=tls,
            write_timeout=options.write_timeout,
        )
        self._log_queries = log_queries
        self._hub = hub
        self._json_updates = JsonUpdates()
        self._subscriptions = subscriptions
        self._find_tracing = find_tracing
        self._tracing: Tracing | None = None
        self._log_limiter = LogLimiter()
        self.query_timeout: float | None = None
        self._stop_at: float | None = None  # on trio's clock, once the server stops
        self._ids = itertools.count(1)
        self._connections: set[WSServerConnection] = set()
        self._hosted: set[trio.CancelScope] = set()
        self._hosted_ended = trio.Event()  # set when there are none
        self._budgets = Budgets(
            messages=ByteBudget(options.max_buffered_bytes, always=max_message_size),
            replies=ByteBudget(options.max_spooled_bytes, always=options.max_reply_size or 0),
        )

    @property
    def queued(self) -> int:
        """The number of requests and posts that wait in all connections. Other threads may read this."""
        return sum(connection.queued for connection in self._connections.copy())

    def start(self) -> None:
        """Forget an earlier `stop`, and find out whether requests are traced."""
        self._stop_at = None
        self._tracing = self._find_tracing()
        self._accept_options = replace(self._accept_options, takes_traces=self._tracing is not None)

    def stop(self, grace: float) -> None:
        """Drain every connection within `grace` seconds. Calling it again can only shorten the time."""
        stop_at = trio.current_time() + grace
        self._stop_at = stop_at if self._stop_at is None else min(self._stop_at, stop_at)
        if self._connections:
            open_ = counted(len(self._connections), "open connection")
            logger.info("stopping: %s, %s to finish", open_, counted(grace, "second"))
        for connection in self._connections:
            connection.stop(self._stop_at)

    def cancel_handshakes(self) -> None:
        """Cancel the openings of all connections that are not open yet."""
        self._openings.cancel()

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the hub and all that connections share, until cancelled. A checkpoint.

        It has to run while connections are handled. If cancelled, call `report` when the last connection has ended.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._openings.run)
            nursery.start_soon(self._log_limiter.run)
            nursery.start_soon(self._json_updates.run)
            await nursery.start(self._hub.run)
            task_status.started()

    async def wait_for_hosted(self) -> None:
        """Wait until all hosted connections have ended, after `stop`. A checkpoint; cancelling it changes nothing."""
        assert self._stop_at is not None
        with trio.move_on_at(self._stop_at + _END_TIMEOUT):
            await self._no_hosted()

    async def end_hosted(self) -> None:
        """Cancel all hosted connections, and wait for at most `_END_TIMEOUT`, even if cancelled, until they have ended.

        A checkpoint if there are any.
        """
        for scope in self._hosted:
            scope.cancel()
        with trio.CancelScope(shield=True, deadline=trio.current_time() + _END_TIMEOUT):
            await self._no_hosted()

    async def _no_hosted(self) -> None:
        """Wait until there are no hosted connections. A checkpoint if there are any; cancelling it changes nothing."""
        while self._hosted:
            self._hosted_ended = trio.Event()
            await self._hosted_ended.wait()

    def report(self) -> None:
        """Log the summary of the lines that were left out since the last one."""
        self._log_limiter.report()

    @enable_ki_protection
    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end. A checkpoint; if cancelled, the client is told, and the socket is closed.

        Nothing that a peer does, and no bug, raises an exception into the nursery of the other connections.
        """
        try:
            peer = peer_address(stream.socket)
        except OSError:
            peer = None
        log = ConnectionLog(
            next(self._ids),
            "an unknown address" if peer is None else str(peer),
            queries=self._log_queries,
            limiter=self._log_limiter,
            network="an unknown address" if peer is None else peer.network,
        )
        with CountedConnection(self._counters) as counted:
            try:
                if peer is None:
                    log.not_opened("the client disconnected at once")
                else:
                    await self._open_and_serve(partial(self._open, stream, peer), peer, counted, log)
            except Exception:
                log.exception("internal error")
            finally:
                stream.socket.close()

    @enable_ki_protection
    async def handle_hosted(self, hosted: HostedRequest) -> None:
        """Serve a connection that another server has received, to its end. A checkpoint; if cancelled, as `handle`.

        A bug raises no exception into the other server.
        """
        peer = hosted.opening.peer
        log = self._log_of(peer)
        try:
            with self._hosted_scope(), CountedConnection(self._counters) as counted:
                try:
                    await self._open_and_serve(partial(self._open_hosted, hosted), peer, counted, log)
                except Exception:
                    log.exception("internal error")
        finally:
            await hosted.end()

    @contextmanager
    def _hosted_scope(self) -> Iterator[None]:
        """Cancel the block if the server is cancelled. The server waits for its end."""
        with trio.CancelScope() as scope:
            self._hosted.add(scope)
            try:
                yield
            finally:
                self._hosted.discard(scope)
                if not self._hosted:
                    self._hosted_ended.set()

    def _log_of(self, peer: ClientAddress) -> ConnectionLog:
        return ConnectionLog(
            next(self._ids), str(peer), queries=self._log_queries, limiter=self._log_limiter, network=peer.network
        )

    async def answer(self, request: OpeningRequest) -> HttpResponse | Refusal:
        """Return the answer to a plain HTTP request that another server has received.

        While it is answered, it counts as a connection that is being opened. A checkpoint if it has to wait for others,
        or if the endpoint is one. If cancelled, the request counts as failed.
        """
        log = self._log_of(request.peer)
        with CountedConnection(self._counters) as counted, self._opening(request.peer, counted, log) as opening:
            with opening.scope:
                if await opening.is_admitted():
                    return await self._answer(request, opening.scope, counted, log)
                refusal = _TOO_MANY_OPENINGS
            if opening.scope.cancelled_caught:
                refusal = _TOO_LATE if self._stop_at is None else _STOPPING
            _record_refusal(counted, log, refusal.status, refusal.reason)
            return refusal

    async def _answer(
        self, request: OpeningRequest, scope: trio.CancelScope, counted: CountedConnection, log: ConnectionLog
    ) -> HttpResponse | Refusal:
        """Answer a plain HTTP request. If cancelled, nothing was recorded. A checkpoint if the endpoint is one."""
        known = self._with_client(request, log)
        answer = known if isinstance(known, Refusal) else await self._endpoints.answer(known, scope, log)
        if isinstance(answer, Refusal):
            _record_refusal(counted, log, answer.status, answer.reason)
        else:
            counted.answered()
            log.debug("%s: %d", request.path.partition("?")[0], answer.status)
        return answer

    def _opening(
        self, peer: ClientAddress, counted: CountedConnection, log: ConnectionLog
    ) -> AbstractContextManager[PendingOpening]:
        """Return a context manager for the opening of a connection. See `OpeningQueue.opening`."""
        network = None if self._proxies.trusts(peer.address) else peer.network
        return self._openings.opening(network, partial(_record_refusal, counted, log))

    async def _open_and_serve(
        self, open_: "_Open", peer: ClientAddress, counted: CountedConnection, log: ConnectionLog
    ) -> None:
        """Open a connection and serve it to its end. A checkpoint; if cancelled, session and transport are closed."""
        opened = _Opened(self.query_timeout)
        try:
            with self._opening(peer, counted, log) as opening:
                with opening.scope:
                    await open_(opening, opened, counted, log)
                if opened.authorized is None or opened.transport is None or opening.scope.cancelled_caught:
                    if not counted.has_outcome:
                        log.not_opened(
                            "opening it took too long (open_timeout)"
                            if self._stop_at is None
                            else "the server is shutting down"
                        )
                    return
            if not isinstance(opened.transport, JsonTransport):
                await opened.transport.send(HELLO_REPLY)
            counted.opened()
            connection = WSServerConnection(
                log,
                opened.transport,
                opened.authorized.session,
                opened.authorized.principal,
                counters=self._counters,
                max_in_flight=self._options.max_in_flight,
                query_timeout=opened.query_timeout,
                max_reply_size=_max_reply_size(opened.transport, self._options.max_reply_size),
                budgets=self._budgets,
                network=opened.network,
                subscribe=partial(
                    Subscriptions,
                    self._hub,
                    opened.authorized.engine,
                    may_subscribe=topic_filter(opened.authorized.principal),
                    max_subscriptions=self._subscriptions.max_subscriptions,
                ),
                max_subscription_buffer=self._subscriptions.max_subscription_buffer,
                tracing=self._tracing,
            )
            opened.connection = connection
            await self._serve_connection(connection, log)
        except (HttpRequestServed, ConnectionRejected, BadRequest):
            pass  # counted and logged already
        except RayforceWSError as error:
            log.not_opened(str(error))
        except trio.Cancelled:
            if opened.transport is not None:
                await aclose_shielded(opened.transport)  # the client may be using the connection already
            raise
        finally:
            if opened.transport is not None:
                opened.transport.abort()  # has no effect if it was closed
            await opened.aclose()

    async def _open(
        self,
        stream: trio.SocketStream,
        peer: ClientAddress,
        opening: PendingOpening,
        opened: "_Opened",
        counted: CountedConnection,
        log: ConnectionLog,
    ) -> None:
        """Do the opening, and receive the client's hello. A checkpoint.

        The reply to the hello is not part of it: the client uses the connection once it has that, so from then on the
        connection must not be given up. If cancelled, `opened` has the resources to close.
        """

        async def decide(request: OpeningRequest) -> Refusal | None:
            """Admit the client. A checkpoint; if cancelled, as `_admit`."""
            decision = await self._admit(request, opening, opened, log)
            if isinstance(decision, Refusal):
                _record_refusal(counted, log, decision.status, decision.reason)
            return decision

        async def answer(request: OpeningRequest) -> HttpResponse | Refusal:
            """Answer a plain HTTP request. A checkpoint if the endpoint is one; if cancelled, as `_answer`."""
            return await self._answer(request, opening.scope, counted, log)

        admitted = await self._peer_of(stream, peer, opening)
        if isinstance(admitted, _EarlyRefusal):
            _record_refusal(counted, log, admitted.refusal.status, admitted.refusal.reason)
            opening.answering()
            await refuse(
                stream,
                admitted.refusal,
                self._accept_options if admitted.before_tls else None,
                receive_preface=partial(receive_client, stream, peer) if admitted.before_header else None,
            )
            return
        log.peer, log.network = str(admitted), admitted.network
        opened.transport = await accept(
            stream, self._accept_options, peer=admitted, decide=decide, answer=answer, progress=opening
        )
        await self._begin(opened.transport, opening, opened)

    async def _open_hosted(
        self,
        hosted: HostedRequest,
        opening: PendingOpening,
        opened: "_Opened",
        counted: CountedConnection,
        log: ConnectionLog,
    ) -> None:
        """Do for a request that another server has received what `_open` does for a socket. Also if cancelled."""
        request, options = hosted.opening, self._accept_options
        if hosted.problem is not None:
            decision: Refusal | None = Refusal(400, f"The request is not valid: {hosted.problem}.")
        elif self._stop_at is not None:
            decision = _STOPPING
        elif await opening.is_admitted():
            decision = await self._admit(request, opening, opened, log)
        else:
            decision = _TOO_MANY_OPENINGS
        if decision is not None:
            _record_refusal(counted, log, decision.status, decision.reason)
            opening.answering()
            with trio.move_on_after(_REFUSAL_TIMEOUT):
                await hosted.refuse(decision)
            raise ConnectionRejected(decision.status, decision.reason)
        subprotocol, headers = options.choose(request.subprotocols)
        channel = await hosted.accept(subprotocol, headers)
        opened.query_timeout = self._options.query_timeout_on([request.own_address[0]])
        opened.transport = HostedTransport(
            channel,
            subprotocol=subprotocol,
            peer=log.peer,
            max_message_size=options.max_message_size,
            write_timeout=options.write_timeout,
        )
        await self._begin(opened.transport, opening, opened)

    async def _begin(self, transport: Transport, opening: PendingOpening, opened: "_Opened") -> None:
        """Receive the client's hello, if the subprotocol has one. A checkpoint in that case; also if cancelled.

        The transport is then `opened.transport`, which the caller has to close.
        """
        if transport.subprotocol == JSON_SUBPROTOCOL:
            opened.transport = JsonTransport(transport, self._json_updates)
            return
        with opening.waiting_for_peer():
            await receive_hello(transport)

    async def _peer_of(
        self, stream: trio.SocketStream, peer: ClientAddress, opening: PendingOpening
    ) -> "ClientAddress | _EarlyRefusal":
        """Wait until the opening may continue; return the peer, the client named by the PROXY protocol, or a refusal.

        A checkpoint if it has to wait. If cancelled, a part of the header may have been received: close the connection.
        """
        if not await opening.is_admitted():
            return _EarlyRefusal(
                _TOO_MANY_OPENINGS, before_header=self._proxies.protocol and self._proxies.trusts(peer.address)
            )
        if not self._proxies.protocol:
            return peer
        if not self._proxies.trusts(peer.address):
            return _EarlyRefusal(NOT_A_PROXY)
        try:
            with opening.waiting_for_peer(count_queue_time=True):
                return await receive_client(stream, peer)
        except MalformedProxyHeader as error:
            return _EarlyRefusal(Refusal(400, str(error)), before_tls=False)

    async def _admit(
        self, request: OpeningRequest, opening: PendingOpening, opened: "_Opened", log: ConnectionLog
    ) -> Refusal | None:
        """Authorize a client, and count its connection; return the refusal, or `None`.

        If the limits are reached, clients are not even authenticated, because that can be expensive.

        A checkpoint unless the client is refused without being authenticated. If cancelled, `opened` has the session,
        if there is one.
        """
        known = self._with_client(request, log)
        if isinstance(known, Refusal):
            return known
        address = known.peer.address
        refusal = self._limits.refusal(address)
        if refusal is not None:
            return refusal
        decision = await self._authorizer.decide(known, opening.scope, log)
        if isinstance(decision, Refusal):
            return decision
        opened.authorized = decision
        refusal = self._limits.refusal(address)  # others may have been faster
        if refusal is None:
            opened.network = network_of(address)
            opened.places.enter_context(self._limits.connection(address))
        return refusal

    def _with_client(self, request: OpeningRequest, log: ConnectionLog) -> OpeningRequest | Refusal:
        """Return the request with the address of the client behind the proxies, or the refusal of the request."""
        client = self._proxies.client_of(request.peer, request.headers)
        if isinstance(client, Refusal):
            return client
        log.peer, log.network = str(client), client.network
        return replace(request, peer=client)

    async def _serve_connection(self, connection: WSServerConnection, log: ConnectionLog) -> None:
        """Serve an open connection to its end. A checkpoint; if cancelled, as `WSServerConnection.run`."""
        self._connections.add(connection)
        try:
            log.info("open")
            if self._stop_at is not None:
                connection.stop(self._stop_at)
            await connection.run()
        finally:
            self._connections.discard(connection)


def _max_reply_size(transport: Transport, limit: int | None) -> int | None:
    if not isinstance(transport, JsonTransport):
        return limit
    return MAX_JSON_REPLY if limit is None else min(limit, MAX_JSON_REPLY)


def _record_refusal(counted: CountedConnection, log: ConnectionLog, status: int, reason: str) -> None:
    counted.refused(status)
    log.refused(status, reason)


@dataclass(frozen=True, slots=True)
class _EarlyRefusal:
    """The refusal of a peer that has not sent a request.

    Attributes:
        before_tls: whether the peer can still perform the TLS handshake, if the server has TLS, to receive the refusal.
        before_header: whether the header of the PROXY protocol is still to come.
    """

    refusal: Refusal
    before_tls: bool = True
    before_header: bool = False


class _Opened:
    """The resources that the opening of a connection has acquired so far, so that they are released if it fails."""

    def __init__(self, query_timeout: float | None) -> None:
        self.query_timeout = query_timeout
        self.authorized: Authorized | None = None
        self.transport: Transport | None = None
        self.connection: WSServerConnection | None = None
        self.network = ""  # of the client
        self.places = ExitStack()  # while open, the connection counts towards the limits

    @enable_ki_protection
    async def aclose(self) -> None:
        """Close the session, and delete the variables that the client's streams have left in the engine.

        A checkpoint if there is a session. If cancelled, the session is closed, and the results of the streams are
        deleted within 2 seconds if the engine is free by then.
        """
        with self.places:
            if self.connection is None or not self.connection.has_variables:
                self.places.close()  # otherwise it counts until they are deleted
            try:
                if self.authorized is not None:
                    await self.authorized.session.aclose()
            finally:
                if self.connection is not None:
                    await self.connection.delete_variables()


_Open = Callable[[PendingOpening, _Opened, CountedConnection, ConnectionLog], Awaitable[None]]
