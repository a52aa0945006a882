"""`WSServer`: listens, and begins and ends whatever serves."""

import signal
import ssl
import threading
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from types import TracebackType
from typing import Literal

import trio

from .._addresses import authority_of, check_host, check_port
from .._engines import Engine, InProcessEngine
from .._streams import check_tls_context
from .._tasks import collapse_groups
from .._transports import KeepAlive, check_size
from ..errors import ListenError, RayforceValueError, RayforceWSError
from ..statistics import Statistics
from ._access import make_policy
from ._authorizer import Authenticate, Authorizer
from ._checks import check_flag, check_grace
from ._counters import Counters
from ._handler import ConnectionHandler
from ._http import HttpEndpoints
from ._limits import ConnectionLimits
from ._listening import open_listeners
from ._options import ConnectionOptions

DEFAULT_MAX_MESSAGE_SIZE = 64 * 1024 * 1024


class WSServer:
    """A Rayforce server over WebSocket.

    Args:
        port: 1-65535, or 0 for a free one, which `port` tells once the server listens.
        host: the name or address to listen on; the default is every IPv4 address of the machine.
        engine: what evaluates the queries: an `InProcessEngine`, which is the default, a `NativeEngine`, a
            `NativeProcess`, or several of them in a `RoundRobinEngine`.
        ssl_context: the certificate to show and how to speak TLS, from `ssl.create_default_context` with the purpose
            `CLIENT_AUTH`; if it asks clients for certificates, `authenticate` gets to see them. `None`: no TLS.
        authenticate: a function, async or not, that gets an `auth.Request` and returns who that is, an
            `auth.Principal` say, or something falsy: the client is refused with HTTP status 401. `auth` has some. By
            default nobody is asked.
        engines: further engines by name; `auth.Principal` can name one that evaluates for it.
        allow_unauthenticated: let in clients that are not on this machine although nobody is asked. Whoever can connect
            can run any code in the server, so without `authenticate` only clients on the loopback interface are let
            in, whatever `host` is.
        allowed_origins: origins (`https://example.org`) whose browser pages may connect; the server's own always may.
        allowed_hosts: names under which clients may ask for the server, without ports. On loopback addresses in
            addition to those addresses, `localhost` and `host`; on others by default any will do.
        max_connections: how many connections there may be, in all; `None`: no limit. Default: 128.
        max_connections_per_address: how many of them from one IPv4 address or /64 of IPv6. Default: 32.
        max_unauthenticated: how many of them may be opening. Default: 32.
        max_in_flight: how many requests of one connection may be unanswered; those beyond are answered with an error of
            code `busy`, in their turn. `None`: any number, but of some the server reads no more for a while. Default:
            1024, twice of what `WSClient` has.
        max_message_size: the longest message accepted from a client, in bytes. Default: 64 MiB.
        reuse_port: let other processes of the same user, that ask for it too, listen on the port (`SO_REUSEPORT`); the
            system spreads the connections over them.
        ping_interval: seconds of silence after which a client is pinged; `None`: never. Default: 60.
        ping_timeout: seconds it then has to show life before it is dropped; `None`: for ever. Default: 30.
        open_timeout: seconds for a client's opening, from the TCP connection to its greeting. Default: 5.
        write_timeout: seconds after which a client is dropped that takes nothing of what it is sent. Default: 30.
        query_timeout: seconds that a query may run in the engine, its waiting aside; then it is stopped, and answered
            with an error of code `timeout`. `None`: as long as it likes. Default, `"auto"`: 300, but `None` if all
            addresses that are listened on are of the loopback interface. An `InProcessEngine` cannot be interrupted.
        drain_timeout: seconds that queries have to finish when the server stops. Default: 10.
        log_queries: log what clients ask, the beginning of it, on one line.
        metrics: answer `GET /metrics` with the statistics, for Prometheus: to those whom `authenticate` knows or,
            without it, to clients on this machine. It needs the prometheus_client library.

    Raises:
        RayforceValueError: an argument is out of range.
        RayforceWSError: `metrics` is asked for, and the library is missing.
    """

    def __init__(
        self,
        port: int,
        *,
        host: str = "0.0.0.0",
        engine: Engine | None = None,
        ssl_context: ssl.SSLContext | None = None,
        authenticate: Authenticate | None = None,
        engines: Mapping[str, Engine] | None = None,
        allow_unauthenticated: bool = False,
        allowed_origins: Iterable[str] = (),
        allowed_hosts: Iterable[str] = (),
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
        log_queries: bool = False,
        metrics: bool = False,
    ) -> None:
        check_port(port, lowest=0)
        check_host(host)
        if engine is not None and not isinstance(engine, Engine):
            raise RayforceValueError(f"Invalid engine: {engine!r}. Must be an instance such as InProcessEngine()")
        if ssl_context is not None:
            check_tls_context(ssl_context, server_side=True)
        check_size(max_message_size)
        check_flag("reuse_port", reuse_port)
        check_flag("log_queries", log_queries)
        self.host = host
        """The name or address to listen on, as it was given."""
        self._asked_port = port
        self._bound_port: int | None = None
        policy = make_policy(
            authenticated=authenticate is not None,
            allow_unauthenticated=allow_unauthenticated,
            allowed_origins=allowed_origins,
            allowed_hosts=allowed_hosts,
            own_host=host,
        )
        self._authorizer = Authorizer(
            policy, authenticate, engine if engine is not None else InProcessEngine(), engines
        )
        self._tls = ssl_context
        self._reuse_port = reuse_port
        self._options = ConnectionOptions(open_timeout, write_timeout, query_timeout, max_in_flight, drain_timeout)
        self._counters = Counters()
        self._since: float | None = None
        self._handler = ConnectionHandler(
            authorizer=self._authorizer,
            limits=ConnectionLimits(max_connections, max_connections_per_address, max_unauthenticated),
            bounds=self._options,
            counters=self._counters,
            endpoints=HttpEndpoints(self, self._is_well, self._authorizer, metrics=metrics),
            tls=ssl_context,
            max_message_size=max_message_size,
            keepalive=KeepAlive(ping_interval, ping_timeout),
            log_queries=log_queries,
        )
        self._starting = trio.CancelScope()
        self._stopping: trio.Event | None = None
        self._stopped = trio.Event()
        self._nursery_manager: AbstractAsyncContextManager[trio.Nursery] | None = None

    @property
    def port(self) -> int:
        """The port the server listens on; before it does, the one it was given."""
        return self._asked_port if self._bound_port is None else self._bound_port

    @property
    def url(self) -> str:
        """The URL the server listens at: `ws://`, or with TLS `wss://`, the host and the port."""
        return f"{'ws' if self._tls is None else 'wss'}://{authority_of(self.host, self.port)}"

    def __repr__(self) -> str:
        return f"WSServer(port={self.port})"

    def statistics(self) -> Statistics:
        """Return the numbers of this moment: of connections, requests, posts, errors, bytes and latencies.

        It takes microseconds, is no checkpoint, and can be called whether the server serves or not, from other threads
        than the server's, too. Then, what belongs together may have come apart by what happened meanwhile.
        """
        return self._counters.take(since=self._since, queued=self._handler.queued)

    async def run(self) -> None:
        """Serve as a program of its own: until SIGINT or SIGTERM, with a line printed at either end.

        The first signal does what `stop` does, the second, or one before it listens, what cancelling does. A
        checkpoint. If cancelled, the server ends like with `serve`.

        Raises:
            ListenError: the server cannot listen on its address.
            RayforceWSError: it serves already, or this is not the main thread, which alone can receive signals; use
                `serve` there.
            RayforceError: the engine cannot start, or ended.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RayforceWSError("run() needs the main thread, to receive signals; elsewhere use serve()")
        _require_trio()
        stop_asked = trio.Event()
        patience = trio.CancelScope()

        async def heed(signals: AsyncIterator[int]) -> None:
            async for _ in signals:
                if stop_asked.is_set() or not self._is_listening:
                    patience.cancel()
                stop_asked.set()

        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals, collapse_groups():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(heed, signals)
                with patience:
                    async with self:
                        _announce(f"Rayforce WebSocket served on {self.url}")
                        await stop_asked.wait()
                _announce("\nRayforce WebSocket Server stopped.")
                nursery.cancel_scope.cancel()

    async def serve(self, *, task_status: trio.TaskStatus["WSServer"] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `stop` or cancellation. Meant for `server = await nursery.start(WSServer(port=0).serve)`.

        A checkpoint. If cancelled, queries are stopped, and connections are closed within 2 seconds, with code 1001
        unless a message to them was cut. When it has ended, every socket is closed and every task is done. A server can
        serve again afterwards.

        Raises:
            ListenError: the server cannot listen on its address.
            RayforceWSError: it serves already, or was stopped before it listened.
            RayforceError: the engine cannot start, or ended.
        """
        _require_trio()
        if self._stopping is not None:
            raise RayforceWSError("the server is serving already")
        self._starting, self._stopping, self._stopped = trio.CancelScope(), trio.Event(), trio.Event()
        self._handler.begin()
        try:
            with collapse_groups():
                async with trio.open_nursery() as nursery:
                    with self._starting:
                        for engine in self._authorizer.engines:
                            await nursery.start(engine.run)
                    if self._starting.cancelled_caught:
                        raise RayforceWSError("the server was stopped before it listened")
                    await self._serve(self._stopping, task_status)
                    nursery.cancel_scope.cancel()
        finally:
            self._stopping = self._bound_port = self._since = None
            self._stopped.set()

    async def start(self, nursery: trio.Nursery) -> None:
        """Serve in a nursery of the caller's; returns once the server listens. A checkpoint.

        Raises:
            ListenError, RayforceWSError, RayforceError: as for `serve`.
        """
        _require_trio()
        await nursery.start(self.serve)

    async def stop(self, grace: float | None = None) -> None:
        """Stop serving: no new connections, and each of the others is closed with code 1001 when its queries are done.

        What has not finished when the grace is over is stopped in the engine, and not answered. Requests that come
        after the stop are answered with an error of code `closing`, as long as there is something to wait for.

        A checkpoint; all is over within the grace and 5 seconds. If cancelled, the server stops all the same. It may be
        called again with a shorter grace.

        Args:
            grace: how long queries may take to finish, in seconds; default: `drain_timeout`.

        Raises:
            RayforceWSError: the server is not started.
            RayforceValueError: the grace is no number of seconds.
        """
        if grace is not None:
            check_grace("grace", grace)
        if self._stopping is None:
            raise RayforceWSError("Server not started")
        self._stop(self._stopping, grace)
        await self._stopped.wait()

    async def __aenter__(self) -> "WSServer":
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

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        manager, self._nursery_manager = self._nursery_manager, None
        assert manager is not None
        if self._stopping is not None:
            self._stop(self._stopping)
        with collapse_groups():
            # Not told of `exc`, which would come back wrapped in a group; Python raises it again by itself.
            await manager.__aexit__(None, None, None)

    # Inside

    def _stop(self, stopping: trio.Event, grace: float | None = None) -> None:
        self._starting.cancel()  # nothing, if it has started
        self._handler.stop(self._options.drain_timeout if grace is None else grace)
        stopping.set()

    async def _serve(self, stopping: trio.Event, task_status: trio.TaskStatus["WSServer"]) -> None:
        listeners = await self._listen()
        async with trio.open_nursery() as connections:
            async with trio.open_nursery() as accepting:
                await accepting.start(
                    partial(trio.serve_listeners, self._handler.handle, listeners, handler_nursery=connections)
                )
                self._since = time.time()
                task_status.started(self)
                await stopping.wait()
                accepting.cancel_scope.cancel()
            self._handler.cancel_handshakes()

    async def _listen(self) -> list[trio.SocketListener]:
        try:
            listeners = await open_listeners(self.host, self._asked_port, reuse_port=self._reuse_port)
        except (OSError, UnicodeError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or str(error)
            raise ListenError(f"cannot listen on {self.url}: {reason}") from error
        names = [listener.socket.getsockname() for listener in listeners]
        self._bound_port = int(names[0][1])
        self._handler.query_timeout = self._options.query_timeout_on(name[0] for name in names)
        return listeners

    @property
    def _is_listening(self) -> bool:
        return self._bound_port is not None

    @property
    def _is_serving(self) -> bool:
        return self._stopping is not None and not self._stopping.is_set()

    def _is_well(self) -> bool:
        """Whether clients can be sent here, as far as is known without asking an engine."""
        return self._is_serving and not all(engine.is_down for engine in self._authorizer.engines)


def _announce(text: str) -> None:
    """Print a line for the user. A server runs on if nobody reads its output, or if the output cannot be written."""
    with suppress(OSError, ValueError):
        print(text, flush=True)  # noqa: T201 - documented


def _require_trio() -> None:
    try:
        trio.lowlevel.current_root_task()
    except RuntimeError:
        raise RayforceWSError(
            "the server needs trio: use trio.run(server.run); only the client runs on asyncio"
        ) from None
