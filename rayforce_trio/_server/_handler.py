"""Receives peers: each is let in or not, and kept apart from everything else."""

import itertools
import ssl

import trio

from .._addresses import authority_of
from .._protocol import SUBPROTOCOL
from .._transports import (
    BadRequest,
    HttpRequestServed,
    HttpResponse,
    KeepAlive,
    OpeningRequest,
    Refusal,
    Transport,
    accept,
)
from ..errors import ConnectionRejected, RayforceWSError
from ._authorizer import Authorized, Authorizer
from ._connection import WSServerConnection, server_handshake
from ._counters import CountedConnection, Counters
from ._http import HttpEndpoints
from ._limits import ConnectionLimits
from ._log import ConnectionLog, logger
from ._options import ConnectionOptions


class ConnectionHandler:
    """Serves the peers of one server, which brings them; its arguments are that server's.

    Attributes:
        query_timeout: how long a query of those who come from now on may run, in seconds; `None`: for ever.
    """

    def __init__(
        self,
        *,
        authorizer: Authorizer,
        limits: ConnectionLimits,
        bounds: ConnectionOptions,
        counters: Counters,
        endpoints: HttpEndpoints,
        tls: ssl.SSLContext | None,
        max_message_size: int,
        keepalive: KeepAlive,
        log_queries: bool,
    ) -> None:
        self._authorizer = authorizer
        self._limits = limits
        self._options = bounds
        self._counters = counters
        self._endpoints = endpoints
        self._tls = tls
        self._max_message_size = max_message_size
        self._keepalive = keepalive
        self._log_queries = log_queries
        self.query_timeout: float | None = None
        self._grace_end: float | None = None  # once it stops
        self._ids = itertools.count(1)
        self._connections: set[WSServerConnection] = set()
        self._openings: set[trio.CancelScope] = set()

    @property
    def queued(self) -> int:
        """How many requests and posts wait for those before them; other threads may ask."""
        return sum(connection.queued for connection in self._connections.copy())

    def begin(self) -> None:
        """Be ready for peers."""
        self._grace_end = None

    def stop(self, grace: float) -> None:
        """Have every connection end, within so many seconds; may be called again, to have it sooner."""
        end = trio.current_time() + grace
        self._grace_end = end if self._grace_end is None else min(self._grace_end, end)
        if self._connections:
            logger.info("stopping: %d connections have %g seconds to finish", len(self._connections), grace)
        for connection in self._connections:
            connection.stop(self._grace_end)

    def cancel_handshakes(self) -> None:
        """End what is not open yet."""
        for opening in self._openings:
            opening.cancel()

    async def handle(self, stream: trio.SocketStream) -> None:
        """Serve one peer, until it is gone. Whatever it does, and whatever goes wrong, ends here."""
        connection_id = next(self._ids)
        try:
            address, port, *_ = stream.socket.getpeername()
        except OSError:
            address, port = "", 0
        log = ConnectionLog(connection_id, authority_of(address, port), queries=self._log_queries)
        with CountedConnection(self._counters) as counted:
            try:
                if not address:
                    log.not_opened("the peer was gone before it was served")
                elif (refusal := self._limits.refusal(address)) is not None:
                    await self._turn_away(stream, refusal, counted, log)
                else:
                    with self._limits.connection(address):
                        await self._serve_peer(stream, address, counted, log)
            except Exception:
                log.exception("internal error")
            finally:
                stream.socket.close()

    async def _turn_away(
        self, stream: trio.SocketStream, refusal: Refusal, counted: CountedConnection, log: ConnectionLog
    ) -> None:
        _note_refusal(refusal.status, refusal.reason, counted, log)
        await self._limits.turn_away(stream, refusal, self._tls)

    async def _serve_peer(
        self, stream: trio.SocketStream, address: str, counted: CountedConnection, log: ConnectionLog
    ) -> None:
        opened = _Opened()
        try:
            with trio.move_on_after(self._options.open_timeout) as opening:
                self._openings.add(opening)
                try:
                    async with self._limits.opening(address) as refusal:
                        if refusal is None:
                            await self._open(stream, opening, opened, counted, log)
                finally:
                    self._openings.discard(opening)
                if refusal is not None:
                    await self._turn_away(stream, refusal, counted, log)
                    return
            if opened.admitted is None or opened.transport is None or opening.cancelled_caught:
                if not counted.ready:
                    log.not_opened("it took too long" if self._grace_end is None else "the server is shutting down")
                return
            counted.opened()
            connection = WSServerConnection(
                log,
                opened.transport,
                opened.admitted.session,
                opened.admitted.principal,
                counters=self._counters,
                max_in_flight=self._options.max_in_flight,
                query_timeout=self.query_timeout,
            )
            await self._converse(connection, log)
        except (HttpRequestServed, ConnectionRejected):
            pass  # it was counted and logged when that was decided
        except BadRequest as error:
            _note_refusal(error.status, str(error), counted, log)
        except RayforceWSError as error:
            log.not_opened(str(error))
        finally:
            if opened.transport is not None:
                opened.transport.abort()  # nothing, if it was closed
            if opened.admitted is not None:
                await opened.admitted.session.aclose()

    async def _open(
        self,
        stream: trio.SocketStream,
        opening: trio.CancelScope,
        opened: "_Opened",
        counted: CountedConnection,
        log: ConnectionLog,
    ) -> None:
        async def decide(request: OpeningRequest) -> Refusal | None:
            decision = await self._authorizer.decide(request, opening, log)
            if isinstance(decision, Refusal):
                _note_refusal(decision.status, decision.reason, counted, log)
                return decision
            opened.admitted = decision
            return None

        async def answer(request: OpeningRequest) -> HttpResponse | Refusal:
            answer = await self._endpoints.answer(request, opening, log)
            if isinstance(answer, Refusal):
                _note_refusal(answer.status, answer.reason, counted, log)
            else:
                counted.answered()
                log.debug("asked for %s: %d", request.path.partition("?")[0], answer.status)
            return answer

        opened.transport = await accept(
            stream,
            tls=self._tls,
            decide=decide,
            answer=answer,
            subprotocols=[SUBPROTOCOL],
            max_message_size=self._max_message_size,
            keepalive=self._keepalive,
            write_timeout=self._options.write_timeout,
        )
        await server_handshake(opened.transport)

    async def _converse(self, connection: WSServerConnection, log: ConnectionLog) -> None:
        self._connections.add(connection)
        try:
            log.info("open")
            if self._grace_end is not None:
                connection.stop(self._grace_end)
            await connection.run()
        finally:
            self._connections.discard(connection)


def _note_refusal(status: int, reason: str, counted: CountedConnection, log: ConnectionLog) -> None:
    counted.refused(status)
    log.refused(status, reason)


class _Opened:
    """What a peer's opening has come to so far, for whoever ends it."""

    def __init__(self) -> None:
        self.admitted: Authorized | None = None
        self.transport: Transport | None = None
