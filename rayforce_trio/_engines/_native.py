"""A native Rayforce server, reached over TCP: one connection of its protocol for each session."""

import socket

import trio

from .._addresses import authority_of, check_host, check_port, os_error_text
from .._protocol import dump_credentials
from .._streams import TcpStream, stream_of
from ..errors import EngineError, RayforceValueError
from ._base import Engine
from ._native_session import NativeSession, SessionGroup
from ._wakeup import WakeupConnection

CONNECT_TIMEOUT = 3.0
"""Bound on connecting, the name look-up included; in seconds."""

PATIENCE = 0.5
"""How long an engine is waited for until its session is opened although it has not answered; in seconds."""

BUSY_HANDSHAKE_TIMEOUT = 0.005
"""The same for one that is known to have something to do."""


class NativeEngine(Engine):
    """A Rayforce server of its own (`rayforce -p PORT`), on this machine or another.

    The event loop stays free while queries run, and cancelling one stops it in the engine. Frames are passed through
    undecoded, and replies as they arrive, so that one of any size costs the server little memory.

    Args:
        host: the native server's name or address.
        port: its port, 1-65535.
        user: the user name, if the server wants credentials (`-u`, `-U`).
        password: the password.

    Raises:
        RayforceValueError: an argument is out of range.
    """

    def __init__(self, host: str, port: int, *, user: str = "", password: str = "") -> None:
        check_host(host)
        check_port(port, lowest=1)
        try:
            self._credentials = dump_credentials(user, password)
        except ValueError as error:
            raise RayforceValueError(f"Invalid user or password: {error}") from None
        self.host = host
        self.port = port
        self.user = user
        self._line = SessionGroup(WakeupConnection(self._connect))

    def __repr__(self) -> str:
        return f"NativeEngine({self.host!r}, {self.port})"

    async def open_session(self) -> NativeSession:
        """Open a session. A checkpoint; if cancelled, nothing is left open.

        An engine answers only between two queries, so one that does not answer at once is taken to be busy. Its session
        is opened all the same, and is `settled` later.

        Raises:
            EngineError: nothing listens there, or what does is no Rayforce server, or it refuses the credentials.
        """
        busy = any(session.asked for session in self._line.sessions)
        session = NativeSession(await self._connect(), self._credentials, self._name, self._line)
        try:
            await self._line.enter(session)
            with trio.move_on_after(BUSY_HANDSHAKE_TIMEOUT if busy else PATIENCE):
                await session.handshake()
        except BaseException:
            await session.aclose()
            raise
        return session

    async def _connect(self) -> TcpStream:
        with trio.move_on_after(CONNECT_TIMEOUT):
            try:
                stream = await trio.open_tcp_stream(self.host, self.port)
            except (OSError, UnicodeError) as error:
                raise EngineError(f"{self._name} cannot be reached: {os_error_text(error)}") from None
            _watch_for_silence(stream)
            return stream_of(stream)
        raise EngineError(f"{self._name} cannot be reached within {CONNECT_TIMEOUT:g} seconds")

    @property
    def _name(self) -> str:
        return f"the engine at {authority_of(self.host, self.port)}"


def _watch_for_silence(stream: trio.SocketStream) -> None:
    """Have the system find out, within two minutes, that the engine's host has vanished."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, option):  # macOS has not all of them in every version
            stream.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
