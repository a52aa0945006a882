"""`WSServer`: the options of a server, and its life from listening to the end of its last connection."""

import signal
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from math import inf
from types import TracebackType
from typing import Literal

import trio

from .._addresses import os_error_text
from .._checks import check_flag
from .._codec import check_topic, encode_update, engine_error
from .._engines import Engine, InProcessEngine
from .._protocol import Failure
from .._streams import check_tls_context, own_address
from .._tasks import EventLoop, collapse_groups, enable_ki_protection, in_trio, load_anyio, running_loop
from .._text import counted
from .._traces import TracerProvider, check_provider, find_tracing
from .._transports import KeepAlive, TrioWebSocketRequest, WebSocketRequest, check_size
from ..errors import ListenError, RayforceValueError, RayforceWSError
from ..statistics import Statistics
from ._access import make_policy
from ._asgi import AsgiApplication
from ._authorizer import Authenticate, Authorizer
from ._bindings import DEFAULT_HOST, DEFAULT_UNIX_MODE, NoBinding, TcpBinding, make_binding
from ._checks import check_grace
from ._counters import Counters
from ._expressions import integer_in, publish_request
from ._handler import ConnectionHandler
from ._http import HttpEndpoints
from ._hub import Hub
from ._limits import ConnectionLimits
from ._listening import accept_connections
from ._log import logger
from ._opening_queue import OpeningQueue
from ._options import ConnectionOptions, SubscriptionOptions
from ._proxies import Proxies
from ._systemd import notify_systemd

_MIB = 1024**2
_GIB = 1024**3

DEFAULT_MAX_MESSAGE_SIZE = 64 * _MIB
"""Bytes."""


class WSServer:
    """A Rayforce server over WebSocket, on trio.

    Creating a server opens nothing. Start it with `run`, `serve`, `start` or `async with`. It serves once at a time,
    and can serve again afterwards.

    Args:
        port: the port, 1 to 65535, or 0 for a free one. The attribute `port` has the number when the server listens. A
            Unix socket and `sockets` need no port.
        host: the name or address to listen on. The default is every IPv4 address of the machine. For a Unix socket,
            `unix:` and a path: the server creates the file, and removes it when it stops accepting connections. It
            replaces the file of a Unix socket on which no server listens.
        sockets: bound stream sockets of TCP or Unix to listen on instead. They may already listen. The server closes
            them when it ends, and when it cannot start. See also `systemd_sockets`.
        listen: `False`: the server listens nowhere, and needs no port. It serves only the connections that the program
            passes to `handle` or that an ASGI server passes to `asgi`.
        unix_mode: the permissions of the file of the Unix socket. To connect, a user needs the permission to write.
        engine: the engine that evaluates queries: an `InProcessEngine` (the default), a `NativeEngine`, a
            `NativeProcess`, or several of them in a `RoundRobinEngine`.
        ssl_context: the certificate and TLS settings of the server, from `ssl.create_default_context` with the purpose
            `CLIENT_AUTH`. If it requests client certificates, `authenticate` receives them. `None`: no TLS.
        authenticate: a function that takes an `auth.Request` and returns the client's principal, usually an
            `auth.Principal`, or something falsy to refuse the client with HTTP status 401. It may be async. The module
            `auth` has such functions. `None`: clients are not authenticated.
        engines: further engines by name. An `auth.Principal` can name the one that evaluates its queries.
        allow_unauthenticated: whether to accept clients on other machines without authentication. Every client can run
            any code in the engine, so by default a server without `authenticate` accepts only clients on the loopback
            interface or on a Unix socket, whatever `host` is.
        allowed_origins: origins (`https://example.org`) whose web pages may connect, in addition to the server's own.
        allowed_hosts: host names, without ports, by which clients may address the server. On loopback addresses and
            Unix sockets, these are allowed in addition to loopback addresses, `localhost` and `host`. On other
            addresses, an empty list allows any name.
        trusted_proxies: IP addresses and networks (`"127.0.0.1"`, `"10.0.0.0/8"`) of proxies in front of the server.
            `"unix:"` stands for all peers on Unix sockets. Clients of proxies never count as clients on this machine.
        proxy_header: the header in which the trusted proxies report client addresses: `"X-Forwarded-For"` or
            `"Forwarded"`. The client's address is the rightmost one that does not belong to a trusted proxy. `None`:
            the proxy's address counts as that of its clients.
        proxy_protocol: whether the trusted proxies report client addresses with version 2 of the PROXY protocol. The
            server then accepts no other connections.
        max_connections: the maximum number of open connections. `None`: no limit.
        max_connections_per_address: the maximum number of open connections from one IPv4 address, one /64 network
            of IPv6, or one user on Unix sockets. `None`: no limit.
        max_unauthenticated: the maximum number of connections that are being opened. Beyond it, new ones wait for a
            short time, or take the place of peers that keep the server waiting. `None`: no limit.
        max_in_flight: the maximum number of unanswered requests of one connection. Further requests are answered with
            an error of code `busy`, in their turn. The default is twice the number that `WSClient` sends. `None`: no
            limit, but the server stops reading while too many requests wait.
        max_message_size: the maximum length of a message from a client, in bytes.
        max_reply_size: the maximum length of a reply, in bytes, at least 1 MiB. A longer one becomes an error of code
            `toobig`. `None`: no limit.
        max_buffered_bytes: the maximum size of all messages that are arriving or wait, in bytes, of all connections
            together. One address can have half of it. Beyond it, the server closes connections with code 1013, those
            with the longest unfinished messages first. `None`: no limit.
        max_spooled_bytes: the maximum size of all long replies that wait to be read, in bytes, in files or in memory,
            of all connections together. One address can have half of it. Beyond it, the server disconnects clients,
            those with the longest replies first. `None`: no limit.
        reuse_port: whether to share the port with other processes of the same user that also set this option
            (`SO_REUSEPORT`). The system distributes the connections among them.
        ping_interval: the seconds of silence after which the server pings a client. `None`: never.
        ping_timeout: the seconds that the client then has to send something. `None`: no limit.
        open_timeout: the seconds that a client has to open a connection, from TCP to the Rayforce handshake. If more
            than half of `max_unauthenticated` connections are being opened, peers that keep the server waiting have
            less time.
        write_timeout: the seconds after which the server disconnects a client that does not read, or reads less than
            16 KiB a second on average.
        query_timeout: the seconds that a query may run in the engine, without its time in the queue. The server then
            stops it and answers with an error of code `timeout`. `"auto"`: 300, or no limit if the server listens only
            on loopback addresses and Unix sockets. `None`: no limit. An `InProcessEngine` cannot be interrupted.
        drain_timeout: the seconds to let running queries finish when the server stops.
        drain_delay: the seconds for which a stopping server continues to serve and to accept clients, while
            `GET /healthz` returns 503, so that load balancers send no more clients to it.
        resume_window: the seconds for which the server keeps a topic after its last subscriber has left, so that
            subscribers can resume.
        max_topic_history: the maximum size of the latest updates of each topic that the server keeps for subscribers
            that resume, in bytes.
        max_subscription_buffer: the maximum size of the updates that wait for one client to read them, in bytes. Beyond
            it, the oldest are dropped, and the client learns how many.
        max_subscriptions: the maximum number of subscriptions of one connection. `None`: no limit.
        max_topics: the maximum number of topics that the server keeps. `None`: no limit. Beyond it, topics without
            subscribers are dropped.
        log_queries: whether to log the beginning of each query, on one line.
        metrics: whether to answer `GET /metrics` with statistics for Prometheus. Authenticated clients receive them or,
            without `authenticate`, clients on this machine. This needs the library prometheus_client.
        serve_javascript: whether to answer `GET /rayforce.js` with the client for JavaScript, for pages that may
            connect.
        console: whether to answer `GET /console` with a page for queries. Authenticated clients receive it or, without
            `authenticate`, clients on this machine.
        tracer_provider: the OpenTelemetry `TracerProvider` that makes spans for each request. `None`: the provider that
            the program has set for all libraries when the server starts; without one, there are no spans.
        trace_queries: whether spans have the texts of queries, and messages of errors, which may quote them.

    Raises:
        RayforceValueError: an argument is out of range.
        RayforceWSError: `metrics` is true, but prometheus_client is not installed.
    """

    def __init__(
        self,
        port: int | None = None,
        *,
        host: str = DEFAULT_HOST,
        sockets: Iterable[socket.socket] | None = None,
        listen: bool = True,
        unix_mode: int = DEFAULT_UNIX_MODE,
        engine: Engine | None = None,
        ssl_context: ssl.SSLContext | None = None,
        authenticate: Authenticate | None = None,
        engines: Mapping[str, Engine] | None = None,
        allow_unauthenticated: bool = False,
        allowed_origins: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
        trusted_proxies: Iterable[str] = (),
        proxy_header: str | None = None,
        proxy_protocol: bool = False,
        max_connections: int | None = 128,
        max_connections_per_address: int | None = 32,
        max_unauthenticated: int | None = 32,
        max_message_size: int = DEFAULT_MAX_MESSAGE_SIZE,
        reuse_port: bool = False,
        ping_interval: float | None = 60.0,
        ping_timeout: float | None = 30.0,
        max_in_flight: int | None = 1024,
        open_timeout: float = 5.0,
        write_timeout: float = 30.0,
        query_timeout: float | Literal["auto"] | None = "auto",
        drain_timeout: float = 10.0,
        drain_delay: float = 0.0,
        max_reply_size: int | None = _GIB,
        max_buffered_bytes: int | None = _GIB,
        max_spooled_bytes: int | None = 4 * _GIB,
        resume_window: float = 60.0,
        max_topic_history: int = 8 * _MIB,
        max_subscription_buffer: int = 8 * _MIB,
        max_subscriptions: int | None = 1024,
        max_topics: int | None = 10_000,
        log_queries: bool = False,
        metrics: bool = False,
        serve_javascript: bool = False,
        console: bool = False,
        tracer_provider: TracerProvider | None = None,
        trace_queries: bool = False,
    ) -> None:
        self._binding = make_binding(
            port, host=host, sockets=sockets, unix_mode=unix_mode, reuse_port=reuse_port, listen=listen
        )
        if engine is not None and not isinstance(engine, Engine):
            raise RayforceValueError(f"Invalid engine: {engine!r}. Must be an engine, such as NativeProcess()")
        if ssl_context is not None:
            check_tls_context(ssl_context, server_side=True)
        if not listen and (ssl_context is not None or proxy_protocol):
            option = "proxy_protocol" if ssl_context is None else "ssl_context"
            raise RayforceValueError(f"listen=False contradicts {option}: the server that listens needs that option")
        check_size(max_message_size)
        check_flag("log_queries", log_queries)
        check_provider(tracer_provider)
        check_flag("trace_queries", trace_queries)
        self.host: str = self._binding.host
        """The name or address to listen on, as given. Of `sockets`, the address of the first one."""
        policy = make_policy(
            authenticated=authenticate is not None,
            allow_unauthenticated=allow_unauthenticated,
            allowed_origins=allowed_origins,
            allowed_hosts=allowed_hosts,
            own_host="localhost" if port is None else host,
        )
        self._authorizer = Authorizer(
            policy, authenticate, engine if engine is not None else InProcessEngine(), engines
        )
        self._tls = ssl_context
        self._options = ConnectionOptions(
            open_timeout,
            write_timeout,
            query_timeout,
            max_in_flight,
            drain_timeout,
            drain_delay,
            max_reply_size,
            max_buffered_bytes,
            max_spooled_bytes,
        )
        self._counters = Counters()
        self._since: float | None = None
        subscriptions = SubscriptionOptions(
            resume_window, max_topic_history, max_subscription_buffer, max_subscriptions, max_topics
        )
        self._hub = Hub(subscriptions, self._counters)
        self._handler = ConnectionHandler(
            authorizer=self._authorizer,
            proxies=Proxies(trusted_proxies, proxy_header, protocol=proxy_protocol),
            limits=ConnectionLimits(max_connections, max_connections_per_address),
            openings=OpeningQueue(max_unauthenticated, open_timeout),
            options=self._options,
            counters=self._counters,
            endpoints=HttpEndpoints(
                self,
                self._is_healthy,
                self._authorizer,
                metrics=metrics,
                javascript=serve_javascript,
                console=console,
            ),
            tls=ssl_context,
            max_message_size=max_message_size,
            keepalive=KeepAlive(ping_interval, ping_timeout),
            log_queries=log_queries,
            hub=self._hub,
            subscriptions=subscriptions,
            find_tracing=partial(find_tracing, tracer_provider, queries=trace_queries),
        )
        self._asgi = AsgiApplication(self, self._handler, self._check_running)
        self._starting = trio.CancelScope()
        self._stopping: trio.Event | None = None
        self._stopped = trio.Event()
        self._draining = False
        self._grace = inf  # the shortest grace period that was passed to `stop`, in seconds
        self._loop: EventLoop | None = None  # the trio run in which it serves
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None

    @property
    def port(self) -> int:
        """The TCP port on which the server listens; before it listens, the requested port. 0 if there is none."""
        return self._binding.port

    @property
    def url(self) -> str:
        """The URL of the server. Its scheme is `ws`, with TLS `wss`, and for a Unix socket `unix`."""
        return next(iter(self.urls), "")

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of all `sockets`, in their order. Without `sockets`, the only item is `url`."""
        return self._binding.urls("ws" if self._tls is None else "wss")

    def __repr__(self) -> str:
        if isinstance(self._binding, NoBinding):
            return "WSServer(listen=False)"
        is_tcp = isinstance(self._binding, TcpBinding)
        return f"WSServer(port={self.port})" if is_tcp else f"WSServer({', '.join(self.urls)})"

    def statistics(self) -> Statistics:
        """Return the current numbers of connections, requests, posts, errors, bytes, latencies, streams and topics.

        This takes microseconds and is no checkpoint. It works whether the server is running or not, and in any thread.
        In other threads, numbers that belong together may differ by the events in between.
        """
        return self._counters.take(since=self._since, queued=self._handler.queued)

    @enable_ki_protection
    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM, and print a line at the start and at the end. Meant for `trio.run`.

        systemd is told when the server is ready and when it stops (`Type=notify`).

        The first signal stops the server as `stop` does. The second signal, or one before the server listens, cancels
        it. A checkpoint. If cancelled, the server ends as with `serve`.

        Raises:
            ListenError: the server cannot listen on its address.
            RayforceWSError: the server is running already, or this is not the main thread, which alone receives
                signals. Use `serve` in other threads.
            RayforceError: the engine cannot start, or has ended.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RayforceWSError("run() needs the main thread to receive signals; use serve() in other threads")
        _require_trio()
        stop_requested = trio.Event()
        serving = trio.CancelScope()

        @enable_ki_protection
        async def handle_signals(signals: AsyncIterator[int]) -> None:
            """Stop the server at the first signal, cancel it at the second one. If cancelled, nothing changes."""
            async for _ in signals:
                if stop_requested.is_set() or not self._is_listening:
                    serving.cancel()
                stop_requested.set()

        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, collapse_groups():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(handle_signals, signals)
                with serving:
                    async with self:
                        _announce(f"Rayforce WebSocket served on {', '.join(self.urls) or 'no address (listen=False)'}")
                        notify_systemd("READY=1")
                        await stop_requested.wait()
                        notify_systemd("STOPPING=1")
                _announce("\nRayforce WebSocket Server stopped.")
                nursery.cancel_scope.cancel()

    @enable_ki_protection
    async def serve(self, *, task_status: trio.TaskStatus["WSServer"] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` or cancellation. Meant for `server = await nursery.start(WSServer(port=0).serve)`.

        A checkpoint. If cancelled, running queries are stopped, and connections are closed within 2 seconds, with code
        1001 unless a message to the client is incomplete. When this returns, every socket is closed and every task has
        ended.

        Raises:
            ListenError: the server cannot listen on its address.
            RayforceWSError: the server is running already, or was stopped before it listened.
            RayforceError: the engine cannot start, or has ended.
        """
        _require_trio()
        if self._stopping is not None:
            raise RayforceWSError(
                "the server is already running; create another WSServer, or wait until this one has stopped"
            )
        self._starting, self._stopping, self._stopped = trio.CancelScope(), trio.Event(), trio.Event()
        self._loop = running_loop()
        self._draining, self._grace = False, inf
        self._handler.start()
        try:
            with collapse_groups():
                async with trio.open_nursery() as nursery:
                    with self._starting:
                        await load_anyio()
                        for engine in self._authorizer.engines:
                            await nursery.start(engine.run)
                    if self._starting.cancelled_caught:
                        raise RayforceWSError("stop() was called before the server was listening")
                    await self._serve(self._stopping, task_status)
                    nursery.cancel_scope.cancel()
        finally:
            self._binding.close()
            self._stopping = self._since = None
            self._stopped.set()

    @enable_ki_protection
    async def start(self, nursery: trio.Nursery) -> None:
        """Serve in your nursery, and return when the server listens.

        A checkpoint. If cancelled, the server has ended.

        Args:
            nursery: the nursery in which the server runs. Cancelling it ends the server.

        Raises:
            RayforceValueError: `nursery` is not a `trio.Nursery`.
            RayforceError: the errors are those of `serve`; or the nursery is closed.
        """
        _require_trio()
        if not isinstance(nursery, trio.Nursery):
            raise RayforceValueError(f"Invalid nursery: {nursery!r}. Must be a trio.Nursery")
        has_begun = False

        @enable_ki_protection
        async def serve(*, task_status: trio.TaskStatus[WSServer]) -> None:
            """Serve, and note that the task has begun. A checkpoint; if cancelled, as `serve`."""
            nonlocal has_begun
            has_begun = True
            await self.serve(task_status=task_status)

        try:
            await nursery.start(serve)
        except RuntimeError as error:
            if has_begun:
                raise
            raise RayforceWSError("the nursery cannot start the server, because it is closed") from error

    @enable_ki_protection
    async def stop(self, grace: float | None = None) -> None:
        """Stop accepting connections, and close each open one with code 1001 when its queries have finished.

        For `drain_delay` seconds before that, the server continues to serve, and only `GET /healthz` shows that it is
        stopping. Queries that are still running after the grace period are stopped in the engine and not answered.
        Requests that arrive after the stop, while older ones are running, are answered with an error of code `closing`.

        A checkpoint. It returns when the server has ended, at most 5 seconds after the delay and the grace period. If
        cancelled, the server stops nevertheless. It may be called again with a shorter grace period.

        Args:
            grace: the seconds to let running queries finish, after `drain_delay`. Default: `drain_timeout`.

        Raises:
            RayforceWSError: the server is not running.
            RayforceValueError: `grace` is not a number of seconds.
        """
        if grace is not None:
            check_grace("grace", grace)
        _require_trio()
        if self._stopping is None:
            raise RayforceWSError("Server not started")
        if running_loop() is not self._loop:
            raise RayforceWSError(
                "call stop() in the trio run that serves; from another thread, use trio.from_thread.run"
            )
        self._stop(self._stopping, grace)
        await self._stopped.wait()

    @enable_ki_protection
    async def handle(self, request: WebSocketRequest) -> None:
        """Serve a client of the program's own trio-websocket server to the end of the connection.

        The client passes all checks and limits of this server. A client that is refused gets an HTTP status, and this
        returns. `stop` also waits for these connections.

        A checkpoint. If cancelled, running queries are stopped, and the connection is closed within 2 seconds, with
        code 1001 unless a message to the client is incomplete.

        Args:
            request: the request, which was neither accepted nor rejected.

        Raises:
            RayforceValueError: `request` is not a `trio_websocket.WebSocketRequest`.
            RayforceWSError: the server is not running, or runs in another trio run.
        """
        if not isinstance(request, WebSocketRequest):
            raise RayforceValueError(f"Invalid request: {request!r}. Must be a trio_websocket.WebSocketRequest")
        _require_trio()
        self._check_running()
        await self._handler.handle_hosted(TrioWebSocketRequest(request))

    @property
    def asgi(self) -> AsgiApplication:
        """The server as an ASGI application, for Hypercorn's trio worker, and for `mount` of Starlette and FastAPI.

        It serves WebSocket connections, and answers the plain HTTP requests that the server answers. As the application
        of Hypercorn, it starts the server in its lifespan. If it is mounted, the program starts the server.
        """
        return self._asgi

    @enable_ki_protection
    async def publish(self, topic: str, value: object) -> int:
        """Publish a value to the subscribers of a topic, and return the number of the update.

        With an `InProcessEngine`, the subscribers have the update, or it waits to be sent to them, before other tasks
        run. So if the program changes data directly before this call, a subscriber has the change in its snapshot or
        receives the update, never both. A native engine publishes the value itself.

        A checkpoint. If cancelled, the value may nevertheless be published.

        Args:
            topic: the name of the topic, of at most 1,024 bytes of UTF-8.
            value: a value that a parameter can have, but not null.

        Returns:
            The number of the update, or 0 if the topic has no subscribers.

        Raises:
            RayforceValueError: the topic or the value is invalid.
            RayforceConversionError: the value cannot be sent.
            RayforceUserError: the engine is read-only (code `access`).
            RayforceError: the engine reported another error.
            EngineError: the engine cannot be reached, or is lost. It may have published the value.
            RayforceWSError: the server is not running, or runs in another trio run.
        """
        check_topic(topic)
        payload = encode_update(value)
        _require_trio()
        if self._stopping is None:
            raise RayforceWSError("Server not started")
        if running_loop() is not self._loop:
            raise RayforceWSError(
                "call publish() in the trio run that serves; from another thread, use trio.from_thread.run"
            )
        engine = self._authorizer.engine
        if not engine.pushes:
            number = self._hub.publish(topic, bytes(payload))
            await trio.lowlevel.checkpoint()
            return number
        reply = await self._hub.request(engine, publish_request(topic, payload))
        if isinstance(reply, Failure):
            raise engine_error(
                Failure(reply.code, "the engine is read-only, so it cannot publish")
                if reply.code == "access"
                else reply
            )
        return integer_in(reply.frame) or 0

    @enable_ki_protection
    async def __aenter__(self) -> "WSServer":
        """Return the server when it listens. A checkpoint; if cancelled, the server has ended.

        Raises:
            RayforceError: the errors are those of `serve`.
        """
        _require_trio()
        with collapse_groups():
            manager = trio.open_nursery()
            nursery = await manager.__aenter__()
            try:
                await nursery.start(self.serve)
            except BaseException as error:
                if not await manager.__aexit__(type(error), error, error.__traceback__):
                    raise
        self._nursery_manager = manager
        return self

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop the server as `stop` does, and wait for its end. A checkpoint.

        If cancelled, running queries are stopped, and the server has ended when the cancellation is raised.
        """
        manager, self._nursery_manager = self._nursery_manager, None
        if manager is None:
            raise RayforceWSError("Server not started")
        if self._stopping is not None:
            self._stop(self._stopping)
        with collapse_groups():
            # The nursery would raise `exc` again in a group; Python raises it by itself.
            await manager.__aexit__(None, None, None)

    # Inside

    def _check_running(self) -> None:
        """Raise `RayforceWSError` unless the server runs in the trio run of the caller."""
        if self._since is None:
            raise RayforceWSError("the server is not running; start it first, for example with `async with server`")
        if running_loop() is not self._loop:
            raise RayforceWSError("the server runs in another trio run; start it in the run that receives the requests")

    def _stop(self, stopping: trio.Event, grace: float | None = None) -> None:
        self._starting.cancel()  # has no effect once it has started
        grace = self._options.drain_timeout if grace is None else grace
        self._grace = min(self._grace, grace)
        if not self._options.drain_delay or self._draining:
            self._drain()
        elif not stopping.is_set():
            delay = counted(self._options.drain_delay, "second")
            logger.info("stopping: connections are drained in %s (drain_delay)", delay)
        stopping.set()

    def _drain(self) -> None:
        self._draining = True
        self._handler.stop(self._grace)

    async def _serve(self, stopping: trio.Event, task_status: trio.TaskStatus["WSServer"]) -> None:
        """Accept and serve connections until `stopping` is set and the connections have ended.

        A checkpoint; if cancelled, all connections and listening sockets are closed.
        """
        try:
            async with trio.open_nursery() as background:
                await background.start(self._handler.run)
                try:
                    await self._accept_and_serve(stopping, task_status)
                    await self._handler.wait_for_hosted()
                finally:
                    await self._handler.end_hosted()
                background.cancel_scope.cancel()
        finally:
            self._handler.report()

    async def _accept_and_serve(self, stopping: trio.Event, task_status: trio.TaskStatus["WSServer"]) -> None:
        """Serve the connections that the server accepts itself. A checkpoint; if cancelled, as `_serve`."""
        listeners = await self._listen()
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                for listener in listeners:
                    accepting.start_soon(accept_connections, listener, self._handler.handle, connections)
                self._since = time.time()
                task_status.started(self)
                await stopping.wait()
                if not self._draining:
                    await trio.sleep(self._options.drain_delay)
                    self._drain()
                accepting.cancel_scope.cancel()
            self._binding.remove_file()
            self._handler.cancel_handshakes()

    async def _listen(self) -> list[trio.SocketListener]:
        """Open the listening sockets. A checkpoint; if cancelled, no socket is left open."""
        try:
            listeners = await self._binding.open()
        except (OSError, UnicodeError) as error:
            raise ListenError(f"cannot listen on {', '.join(self.urls)}: {os_error_text(error)}") from error
        addresses = [own_address(listener.socket)[0] for listener in listeners]
        self._handler.query_timeout = self._options.query_timeout_on(addresses)
        return listeners

    @property
    def _is_listening(self) -> bool:
        return self._since is not None

    @property
    def _is_serving(self) -> bool:
        return self._stopping is not None and not self._stopping.is_set()

    def _is_healthy(self) -> bool:
        """Return whether the server accepts clients and an engine is up, as far as is known without a query."""
        return self._is_serving and not all(engine.is_down for engine in self._authorizer.engines)


def _announce(text: str) -> None:
    """Print a line for the user. A server runs on if nobody reads its output, or if the output cannot be written."""
    with suppress(OSError, ValueError):
        print(text, flush=True)  # noqa: T201 - documented


def _require_trio() -> None:
    if not in_trio():
        raise RayforceWSError("the server needs trio: use trio.run(server.run); only the client also runs on asyncio")
