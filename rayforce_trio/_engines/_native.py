"""The engine that is a native Rayforce server, reached over TCP: each session has a connection of its own."""

import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import trio

from .._addresses import authority_of, check_host, check_port, os_error_text
from .._protocol import dump_credentials
from .._streams import TcpStream, connect_tcp
from .._tasks import enable_ki_protection, race
from ..errors import EngineError, RayforceValueError
from ._base import Client, Engine, Feed, Session
from ._monitor import EngineMonitor
from ._native_feed import NativeFeed
from ._native_session import NativeSession
from ._parallel_session import ParallelSession
from ._session_group import SessionGroup
from ._unread import unread_bytes
from ._wakeup import WakeupConnection
from ._watchdog import Watchdog

CONNECT_TIMEOUT = 3.0
"""The time limit for connecting, including the name lookup, in seconds."""

HANDSHAKE_TIMEOUT = 0.5
"""The time that `open_session` waits for the handshake of an engine that may be idle, in seconds."""

BUSY_HANDSHAKE_TIMEOUT = 0.005
"""The time that `open_session` waits for the handshake of an engine that is known to be busy, in seconds."""

STOP_TIMEOUT = 30.0
"""The time that an engine may ignore a stop before it counts as down, in seconds."""

MAX_IN_FLIGHT = 8
"""The highest `in_flight` of an engine, and that of a read-only `NativeProcess`."""

MAX_CONNECTIONS = 128
"""With this many connections to one engine, no further ones are opened for clients that have one already."""


class NativeEngine(Engine):
    """A separate Rayforce server (`rayforce -p PORT`), on this machine or another.

    The event loop stays free while queries run, and cancelling a query stops it in the engine. Frames are passed on
    without decoding, and replies as they arrive, so a reply of any size needs little memory in the server.

    Args:
        host: the name or address of the Rayforce server.
        port: the port of the Rayforce server, 1 to 65535.
        user: the user name, if the Rayforce server requires credentials (`-u`, `-U`).
        password: the password.
        in_flight: the number of requests of one client that the engine receives at a time, 1 to 8, each on its own
            connection. With more than one, a client that does not wait for each reply is faster, but the engine may
            evaluate the requests in another order. Use that only if clients cannot write.

    Raises:
        RayforceValueError: an argument is out of range.
    """

    _has_journal: bool | None = None
    """Whether the server records requests in a journal; `None`: sessions ask it."""

    def __init__(self, host: str, port: int, *, user: str = "", password: str = "", in_flight: int = 1) -> None:
        check_host(host)
        check_port(port, lowest=1)
        if type(in_flight) is not int or not 1 <= in_flight <= MAX_IN_FLIGHT:
            raise RayforceValueError(f"Invalid in_flight: {in_flight!r}. Must be an int between 1 and {MAX_IN_FLIGHT}")
        try:
            self._credentials = dump_credentials(user, password)
        except ValueError as error:
            raise RayforceValueError(f"Invalid user or password. {error}") from None
        self.host = host
        self.port = port
        self.user = user
        self.in_flight = in_flight
        self._group = SessionGroup(WakeupConnection(self._connect), Watchdog(STOP_TIMEOUT))
        self._monitor = EngineMonitor(self._group, self._name, self._open_ready_session, self._unread_bytes)

    def __repr__(self) -> str:
        return f"NativeEngine({self.host!r}, {self.port})"

    @property
    def pushes(self) -> bool:
        return True

    @property
    def is_down(self) -> bool:
        return self._group.watchdog.is_down

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch whether the server obeys stops, until cancelled. A checkpoint; if cancelled, nothing is left open."""
        task_status.started()
        await race(self._monitor.run, self._monitor.log_problems)

    async def open_session(self) -> Session:
        """Open a session. A checkpoint; if cancelled, nothing is left open.

        An engine performs handshakes only between two queries. If it does not answer in time, it is taken to be busy:
        the session is returned although its `ready` is still false.

        Raises:
            EngineError: nothing listens there, or the server there is not a Rayforce server or rejects the credentials.
        """
        return self._parallel(await self._open_waiting_session())

    async def open_session_for(self, client: Client) -> Session:
        return self._parallel(await self._open_waiting_session(client))

    async def _open_waiting_session(self, client: Client | None = None, *, is_alone: bool = False) -> NativeSession:
        """Open a session as `open_session` does, but regardless of `in_flight`.

        A checkpoint; if cancelled, nothing is left open.

        Raises:
            EngineError: as for `open_session`.
        """
        is_busy = self._group.is_busy
        session = await self._open_session(client, is_alone=is_alone)
        try:
            with trio.move_on_after(BUSY_HANDSHAKE_TIMEOUT if is_busy else HANDSHAKE_TIMEOUT):
                await session.handshake()
        except BaseException:
            await session.aclose()
            raise
        return session

    def _parallel(self, session: NativeSession) -> Session:
        """Return a session that begins with this one, and has several requests in flight if `in_flight` allows that."""
        if self.in_flight == 1:
            return session
        return ParallelSession(session, partial(self._open_another_session, session.client), self.in_flight)

    async def wait_until_ready(self) -> None:
        """Wait until the server has accepted a session. A checkpoint; even if cancelled, no session is left open.

        Raises:
            EngineError: as for `open_session`.
        """
        session = await self._open_ready_session()
        await session.aclose()

    def open_feed(self) -> Feed:
        return NativeFeed(self._open_session, self._name)

    async def _open_session(
        self,
        client: Client | None = None,
        *,
        is_alone: bool = False,
        on_push: Callable[[bytes], None] | None = None,
    ) -> NativeSession:
        """Open a session before the handshake. A checkpoint; if cancelled, nothing is left open.

        Raises:
            EngineError: the server cannot be reached.
        """
        stream = await self._connect()
        session = NativeSession(
            stream,
            self._credentials,
            self._name,
            self._group,
            self._open_ready_session,
            client=client,
            is_alone=is_alone,
            has_journal=self._has_journal,
            on_push=on_push,
        )
        session.source = self
        try:
            await self._group.add(session)
        except BaseException:
            await session.aclose()
            raise
        return session

    async def _open_ready_session(self, client: Client | None = None) -> NativeSession:
        """Open a session, and wait until the server has accepted it. A checkpoint; if cancelled, nothing is left open.

        Raises:
            EngineError: as for `open_session`.
        """
        session = await self._open_session(client)
        try:
            await session.handshake()
        except BaseException:
            await session.aclose()
            raise
        return session

    async def _open_another_session(self, client: Client | None) -> NativeSession | None:
        """Like `_open_ready_session`, but return `None` without a checkpoint if there are many connections already.

        If cancelled, nothing is left open.
        """
        return await self._open_ready_session(client) if len(self._group) < MAX_CONNECTIONS else None

    async def _connect(self) -> TcpStream:
        """Connect to the server. A checkpoint; if cancelled, nothing is left open.

        Raises:
            EngineError: the server cannot be reached.
        """
        with trio.move_on_after(CONNECT_TIMEOUT):
            try:
                stream = await connect_tcp(self.host, self.port)
            except (OSError, UnicodeError) as error:
                raise EngineError(f"{self._name} cannot be reached: {os_error_text(error)}") from None
            with suppress(OSError):  # some systems refuse options if the peer has already reset the connection
                _enable_keepalive(stream)
            return stream
        raise EngineError(f"{self._name} did not accept a connection within {CONNECT_TIMEOUT:g} seconds")

    def _unread_bytes(self) -> Mapping[int, int]:
        """Return, for each of our ports, how many bytes the server has not read; empty unless it is on this machine."""
        return unread_bytes(self.port) if self.host in ("127.0.0.1", "localhost") else {}

    @property
    def _name(self) -> str:
        return f"the engine at {authority_of(self.host, self.port)}"


def _enable_keepalive(stream: TcpStream) -> None:
    """Make the operating system detect within two minutes that the engine's host is gone."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # some versions of macOS lack some of them
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
