"""An exchange that comes back: it has one `Session` at a time, and connects again when that has ended."""

import copy
import logging
from collections.abc import Awaitable, Callable
from random import random
from typing import Protocol, TypeVar

import anyio

from .._protocol import CLOSING, ClientRequest, Failure, Reply
from .._tasks import Event, checkpoint_if_cancelled_function, enable_ki_protection, event_class, running_loop
from .._text import escape_controls
from .._transports import closed_by_us
from ..errors import ConnectionClosed, ConnectionLost, ConnectionRejected, RayforceWSError
from ._exchange import Exchange, check_loop
from ._reconnection import Reconnection, failure_kind_of
from ._states import ClientConnectionState, States
from ._traces import ClientTraces

MAX_SENDS = 4
"""The number of times that an idempotent request is sent. A request that ends the server must not do so forever."""

REFUSING_TIMEOUT = 5.0
"""The time that a server has to close the connection once it starts no more requests, in seconds."""

_ENDED_BY_ERROR = frozenset({1008, 1011})
"""Codes with which a server closes after an error of its own, which the request may have caused."""

_WAITING, _CLOSED = ClientConnectionState.WAITING, ClientConnectionState.CLOSED

T = TypeVar("T")

logger = logging.getLogger("rayforce_trio.client")


class Session(Exchange):
    """One connection of a `ReconnectingExchange`. If the server ends it, calls raise `ConnectionLost`."""

    async def refuses(self, reply: Reply) -> bool:
        """Return whether the server has not started a request because it is stopping. If so, wait until this has ended.

        A checkpoint in that case, bounded by `REFUSING_TIMEOUT`; if cancelled, this goes on until the server ends it.
        """
        if type(reply) is not Failure or reply.code != CLOSING:
            return False
        with anyio.move_on_after(REFUSING_TIMEOUT):
            await self.wait_ended()
        self.close_with(ConnectionLost("the server is shutting down, but did not close the connection in time"))
        return True

    def _failure(self, request: ClientRequest | None = None) -> RayforceWSError:
        error = super()._failure()
        if self.closed_here:
            return error
        if request is not None and (request.frame or self._protocol.is_refused(request)):
            return _unsent(error)
        if isinstance(error, ConnectionClosed):
            error = ConnectionLost(str(error))
        if request is None or not isinstance(error, ConnectionLost):
            return error
        return ConnectionLost(
            f"{error}; the query may or may not have been carried out, because its reply had not arrived"
        )

    def _refusal(self) -> RayforceWSError:
        return super()._refusal() if self.closed_here else _unsent(self._failure())


def _unsent(reason: RayforceWSError) -> ConnectionLost:
    error = ConnectionLost(str(reason))
    error._unsent = True
    return error


class Attempts:
    """Decides whether a request that one session has failed may be sent to the next one.

    Args:
        idempotent: whether it may be carried out several times.
    """

    def __init__(self, *, idempotent: bool) -> None:
        self._idempotent = idempotent
        self._sends = 0

    def check(self, error: ConnectionLost, session: Exchange) -> None:
        """Raise the error of a session if the request must not be sent again."""
        if error._unsent:
            return
        self._sends += 1
        if not self._idempotent or self._sends >= MAX_SENDS or _ended_by_error(session):
            raise error


class Subscriber(Protocol):
    """An object that continues on each new session."""

    def resume(self, exchange: Exchange, /) -> None:
        """Continue on this session. No checkpoint."""

    def wake(self) -> None:
        """Notice that there will be no more sessions. No checkpoint."""


class ReconnectingExchange:
    """Sends frames and returns their replies, like `Exchange`. While there is no connection, calls wait for one.

    Create it in the event loop in which it is used, and call `open` before anything else.

    Args:
        servers: make a connection to each server. If they raise `RayforceWSError`, the next one is tried.

    Attributes:
        loop: the event loop of the connections.
        peer: the address of the present or last server, for people to read.
        extended: whether that server speaks the extended protocol.
        max_request_size: the longest message that it accepts, in bytes; `None` if it did not say so.
        reason: why this has ended for good; `None` while it can be used.
        states: the state and its changes.
        traces: those of the present or last session, which make the spans of calls; `None`: there are none.
        subscribers: are told of each new session, and of the end.
    """

    def __init__(self, servers: list[Callable[[], Awaitable[Session]]]) -> None:
        loop = running_loop()
        assert loop is not None
        self.loop = loop
        self.peer = ""
        self.extended = False
        self.max_request_size: int | None = None
        self.reason: RayforceWSError | None = None
        self.states = States(ClientConnectionState.CONNECTING)
        self.traces: ClientTraces | None = None
        self.subscribers: set[Subscriber] = set()
        self._servers = servers
        self._reconnection = Reconnection(len(servers))
        self._new_event = event_class()
        self._checkpoint_if_cancelled = checkpoint_if_cancelled_function()
        self._session: Session | None = None  # the one that can be used
        self._running: Session | None = None  # the one whose tasks run, or have yet to
        self._available: Event = self._new_event()  # set when there is a session, and at the end
        self._scope: anyio.CancelScope | None = None  # around the attempts to connect
        self._closed = self._new_event()  # set when the last socket is closed
        self._says_hello = False
        self._was_connected = False
        self._stopped = 0  # in former sessions, and while there was none

    @property
    def stopped(self) -> int:
        """The number of cancelled requests that a server has stopped, or that were never sent."""
        return self._stopped + (0 if self._session is None else self._session.stopped)

    @property
    def stopped_output(self) -> str:
        """The text that the last one of these requests had printed in the present session, if it was verbose."""
        return "" if self._session is None else self._session.stopped_output

    @property
    def closed(self) -> bool:
        """Whether this has ended, and the socket is closed."""
        return self._closed.is_set()

    @property
    def closed_here(self) -> bool:
        """Whether this has ended because this side closed it: a call, or the end of its task."""
        return isinstance(self.reason, ConnectionClosed) and not self.reason.by_peer

    def check_loop(self) -> None:
        """Raise an error if another event loop than the connection's runs the calling code."""
        check_loop(self.loop)

    def check_usable(self) -> None:
        """Raise an error if this has ended, or belongs to another event loop. Every public call does this."""
        check_loop(self.loop)
        if self.reason is not None:
            raise self._refusal()

    def check_closable(self) -> None:
        """Raise an error if this is open, and belongs to another event loop."""
        if not self.closed:
            check_loop(self.loop)

    def check_open(self) -> None:
        """Raise the reason if this has ended for good."""
        if self.reason is not None:
            raise copy.copy(self.reason)

    # Calls

    async def connected(self) -> Session:
        """Return the present session; wait for one if there is none. A checkpoint in that case only.

        Cancelling it changes nothing.

        Raises:
            RayforceWSError: this has ended for good.
        """
        while (session := self._session) is None:
            if self.reason is not None:
                raise copy.copy(self.reason)
            await self._available.wait()
        return session

    @enable_ki_protection
    async def request(self, frame: bytes, *, idempotent: bool = False) -> Reply:
        """Send a request, whose message type is 1, and return its reply. A checkpoint.

        If the request was not sent, or the server says that it has not started it, it is sent again to the next
        connection. If cancelled, as `Exchange.request`; one that waits for a connection is never sent.

        Args:
            frame: the request.
            idempotent: send it again, too, if it was sent and not answered, `MAX_SENDS` times in total.

        Raises:
            ConnectionLost: the connection ended between the request and its reply.
            RayforceWSError: this has ended for good; or a message was too long, or broke the protocol.
        """
        await self._checkpoint_if_cancelled()
        if self.reason is not None:
            raise self._refusal()
        attempts: Attempts | None = None
        while True:
            session = self._session or await self._connected_for_request()
            try:
                reply = await session.request(frame)
            except ConnectionLost as error:
                attempts = attempts or Attempts(idempotent=idempotent)
                attempts.check(error, session)
            else:
                if type(reply) is not Failure or not await session.refuses(reply):
                    return reply
            self._note_retry()

    async def _connected_for_request(self) -> Session:
        """Return the present session, and count the request as never sent if this is cancelled. As `connected`."""
        try:
            return await self.connected()
        except anyio.get_cancelled_exc_class():
            self._stopped += 1
            raise

    @enable_ki_protection
    async def post(self, frame: bytes) -> None:
        """Send a post, whose message type is 0; return when the network has taken it. A checkpoint.

        If it was not sent, it is sent to the next connection. If cancelled, as `Exchange.post`. Raises as `request`.
        """
        await self._checkpoint_if_cancelled()
        if self.reason is not None:
            raise self._refusal()
        await self._until_sent(lambda session: session.post(frame))

    async def require(self, feature: str) -> Session:
        """Return a session whose server has a feature. From now on, every server is asked for its features at once.

        A stream belongs to this session and ends with it.

        A checkpoint if there is no session, or if its server has not answered yet; cancelling it changes nothing.

        Raises:
            UnsupportedByServer: the server lacks the feature, or does not answer in time.
            RayforceWSError: this has ended for good.
        """
        self._says_hello = True
        return await self._until_sent(lambda session: session.require(feature))

    async def request_in_session(self, feature: str, request: Callable[[Session], Awaitable[Reply]]) -> Reply:
        """Call a function that sends a request to a session whose server has a feature, and return the reply.

        If the request was not sent, or the server says that it has not started it, the function is called again with
        the next session. A checkpoint; if cancelled, as `require` and the function. Raises as `require` and `request`.
        """
        while True:
            session = await self.require(feature)
            try:
                reply = await request(session)
            except ConnectionLost as error:
                if not error._unsent:
                    raise
            else:
                if not await session.refuses(reply):
                    return reply
            self._note_retry()

    async def _until_sent(self, call: Callable[[Session], Awaitable[T]]) -> T:
        """Call a function with one session after the other until it raises no error that nothing was sent.

        A checkpoint if the function is one, or if there is no session; if cancelled, as the function.
        """
        while True:
            session = self._session or await self.connected()
            try:
                return await call(session)
            except ConnectionLost as error:
                if not error._unsent:
                    raise
            self._note_retry()

    def _note_retry(self) -> None:
        """Note in the span of the call, if there is one, that it continues on the next session."""
        if self.traces is not None:
            self.traces.retrying()

    # The connection's own task

    @enable_ki_protection
    async def open(self, *, keep_trying: bool) -> None:
        """Make the first connection, whose tasks `run` starts. A checkpoint; if cancelled, no connection is left open.

        Args:
            keep_trying: wait for a server that cannot be reached yet. Otherwise, each server is tried once.

        Raises:
            RayforceWSError: no server has accepted the connection.
        """
        await self._connect(keep_trying=keep_trying)

    @enable_ki_protection
    async def run(self) -> None:
        """Run one session after the other until this has ended for good. Raise nothing but cancellation.

        If cancelled, the connection is closed within `SHIELDED_CLOSE_TIMEOUT`. In any case the socket is closed when
        this returns, calls that waited have failed, and further calls raise an error.
        """
        if running_loop() is not self.loop:
            self.close_with(RayforceWSError("the nursery for the connection's task belongs to another event loop"))
            self.abort()
            return
        try:
            while self._running is not None or self.states.current is not _CLOSED:
                if self._running is not None:
                    await self._running.run()
                    self._running = None
                else:
                    with anyio.CancelScope() as self._scope:
                        await self._connect(keep_trying=True)
                    self._scope = None
        except RayforceWSError as error:
            logger.info("gave up reconnecting to %s: %s", self.peer, escape_controls(f"{error}"))
            self.close_with(error)
        except Exception as error:
            logger.exception("internal error in the connection to %s", self.peer)
            self.close_with(RayforceWSError(f"internal error in the client: {error!r}"))
        finally:
            self._scope = None
            self.abort()

    async def _connect(self, *, keep_trying: bool) -> None:
        """Connect to one of the servers. A checkpoint; if cancelled, no connection is left open.

        Args:
            keep_trying: wait between attempts until one succeeds. Otherwise, each server is tried once.

        Raises:
            RayforceWSError: all servers have refused for good; or, unless `keep_trying`, each attempt has failed. Of
                several errors, it is the last one, with the others in its notes.
        """
        errors: list[RayforceWSError] = []
        try:
            await self._try_servers(errors, keep_trying=keep_trying)
            if errors and self._running is None and self.reason is None:
                raise combined(errors)
        finally:
            errors.clear()  # the traceback of an error refers to this frame

    async def _try_servers(self, errors: list[RayforceWSError], *, keep_trying: bool) -> None:
        """Try the servers, in rounds if `keep_trying`, until one accepts a connection or none is left. A checkpoint.

        If cancelled, no connection is left open.

        Args:
            errors: receives those of the last round.
            keep_trying: as for `_connect`.
        """
        reconnection = self._reconnection
        while self.reason is None and reconnection.state is not _CLOSED:
            if reconnection.state is _WAITING:
                if not keep_trying:
                    return
                await anyio.sleep_until(reconnection.resume_at)
                if self.reason is None:
                    reconnection.waited(anyio.current_time())
                    errors.clear()
            else:
                try:
                    session = await self._servers[reconnection.server]()
                except RayforceWSError as error:
                    if self.reason is not None:
                        return
                    errors.append(error)
                    retry_after = error.retry_after if isinstance(error, ConnectionRejected) else None
                    reconnection.failed(failure_kind_of(error), retry_after, anyio.current_time(), random())
                else:
                    self._use(session)
                    return
            if reconnection.state is not _CLOSED:  # otherwise the caller sets the reason first
                self.states.change(reconnection.state)

    def _use(self, session: Session) -> None:
        """Use a new session, whose tasks do not run yet."""
        self._running = session
        session.on_end = self._session_ended
        if self.reason is not None:
            session.close_with(self.reason)
            return
        self._session = session
        self.peer, self.extended, self.max_request_size = session.peer, session.extended, session.max_request_size
        self.traces = session.traces
        if self._says_hello:
            session.say_hello()
        for subscriber in self.subscribers:
            subscriber.resume(session)
        if self._was_connected:
            logger.info("reconnected to %s", self.peer)
        self._was_connected = True
        self._reconnection.connected(anyio.current_time())
        self.states.change(self._reconnection.state)
        self._available.set()

    def _session_ended(self) -> None:
        """Handle the end of the present session. Its calls fail, or wait for the next one."""
        session, self._session = self._session, None
        if session is None or self.reason is not None:
            return
        self._stopped += session.stopped
        assert session.reason is not None
        if session.closed_here:  # its task was cancelled
            self.close_with(session.reason)
            return
        self._available = self._new_event()
        logger.info("lost the connection to %s; reconnecting: %s", self.peer, escape_controls(f"{session.reason}"))
        drained = isinstance(session.reason, ConnectionClosed) and session.reason.going_away
        self._reconnection.lost(drained=drained, now=anyio.current_time(), random=random())
        self.states.change(self._reconnection.state)

    # The end

    async def close(self) -> None:
        """Close the connection, and wait until the socket is closed. A checkpoint. Idempotent.

        The caller has checked that the connection is closable. If cancelled, the connection's task still closes it.
        """
        if not self.closed:
            self.close_with(closed_by_us())
            await self._closed.wait()
        elif running_loop() is not None:
            await anyio.lowlevel.checkpoint()

    def close_with(self, reason: RayforceWSError) -> None:
        """Refuse new calls, fail those that wait, and start to close the connection. Keeps the first reason."""
        if self.reason is not None:
            return
        self.reason = copy.copy(reason)  # without its traceback, which refers to this connection
        self._reconnection.close()
        if self._session is not None:
            self._stopped += self._session.stopped
            self._session = None
        if self._running is not None:
            self._running.close_with(reason)
        if self._scope is not None:
            self._scope.cancel()
        self._available.set()
        for subscriber in self.subscribers:
            subscriber.wake()
        self.states.change(_CLOSED)

    def abort(self) -> None:
        """Close the socket at once, without waiting for anything. Idempotent. No checkpoint."""
        self.close_with(closed_by_us())
        if self._running is not None:
            self._running.abort()
        self._closed.set()

    def _refusal(self) -> RayforceWSError:
        """Return the error for a new call after the end."""
        assert self.reason is not None
        error = copy.copy(self.reason)
        if isinstance(error, ConnectionClosed):
            error.message = "Cannot execute on closed connection"
        return error


AnyExchange = Exchange | ReconnectingExchange
"""An exchange of one connection, or one that comes back. Calls use both in the same way."""


def _ended_by_error(session: Exchange) -> bool:
    """Return whether the server has ended the session because of an error, which a request may have caused."""
    return isinstance(session.reason, ConnectionClosed) and session.reason.code in _ENDED_BY_ERROR


def combined(errors: list[RayforceWSError]) -> RayforceWSError:
    """Return the last error of several attempts to connect, with the others in its notes."""
    *others, last = errors
    for error in others:
        last.add_note(f"Before that: {error}")
    return last
