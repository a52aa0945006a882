"""Where a server listens: on a TCP port, on a Unix socket, or on sockets that the program passes."""

import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import suppress

import trio

from .._addresses import authority_of, check_host, check_port, unix_path
from .._checks import check_flag
from .._streams import own_address
from ..errors import RayforceValueError
from ._listening import BACKLOG, open_listeners
from ._unix_files import FileIdentity, bind_unix, remove_unix

DEFAULT_HOST = "0.0.0.0"
DEFAULT_UNIX_MODE = 0o600


class Binding(ABC):
    """Where a server listens.

    Attributes:
        host: the name or address; `unix:` with a path for a Unix socket. Of several sockets, that of the first one.
    """

    host: str

    @property
    @abstractmethod
    def port(self) -> int:
        """The TCP port, the requested one before it is bound; 0 if there is none."""

    @abstractmethod
    def urls(self, scheme: str) -> tuple[str, ...]:
        """Return the URL of each socket. `scheme` is that of TCP."""

    @abstractmethod
    async def open(self) -> list[trio.SocketListener]:
        """Listen. A checkpoint; if it raises or is cancelled, call `close`.

        Raises:
            OSError, UnicodeError: the server cannot listen here.
        """

    def remove_file(self) -> None:  # noqa: B027 - most have none
        """Remove the file of the socket, if there is one, when no more connections are accepted. Idempotent."""

    @abstractmethod
    def close(self) -> None:
        """Release everything when the server has ended or could not start. Idempotent."""


class TcpBinding(Binding):
    """A TCP port. The arguments are as for `open_listeners`."""

    def __init__(self, host: str, port: int, *, reuse_port: bool) -> None:
        check_port(port, lowest=0)
        check_host(host)
        self.host = host
        self._requested_port = port
        self._reuse_port = reuse_port
        self._bound_port: int | None = None

    @property
    def port(self) -> int:
        return self._requested_port if self._bound_port is None else self._bound_port

    def urls(self, scheme: str) -> tuple[str, ...]:
        return (f"{scheme}://{authority_of(self.host, self.port)}",)

    async def open(self) -> list[trio.SocketListener]:
        listeners = await open_listeners(self.host, self._requested_port, reuse_port=self._reuse_port)
        _, self._bound_port = own_address(listeners[0].socket)
        return listeners

    def close(self) -> None:
        self._bound_port = None


class UnixBinding(Binding):
    """A Unix socket, whose file exists while the server listens.

    Args:
        path: the path of the file.
        mode: the permissions of the file. To connect, a user needs the permission to write.
    """

    port = 0

    def __init__(self, path: str, mode: int) -> None:
        self.host = f"unix:{path}"
        self._path = self._absolute_path = path
        self._mode = mode
        self._file: FileIdentity | None = None

    def urls(self, scheme: str) -> tuple[str, ...]:  # noqa: ARG002 - the URL of a Unix socket has only one form
        return (self.host,)

    async def open(self) -> list[trio.SocketListener]:
        await trio.lowlevel.checkpoint()
        return [trio.SocketListener(trio.socket.from_stdlib_socket(self._bind()))]

    def _bind(self) -> socket.socket:
        self._absolute_path = os.path.abspath(self._path)  # noqa: PTH100 - the directory may change while it serves
        listening, self._file = bind_unix(self._path, self._mode)
        return listening

    def remove_file(self) -> None:
        """Remove the file, unless another server has replaced it."""
        if self._file is not None:
            with suppress(OSError):
                remove_unix(self._absolute_path, self._file)
        self._file = None

    def close(self) -> None:
        self.remove_file()


class ExistingSockets(Binding):
    """Sockets that the program has bound. The server owns them once it starts.

    Args:
        sockets: stream sockets of TCP or Unix, each bound to an address, listening or not.

    Raises:
        RayforceValueError: one of them is of another kind.
    """

    def __init__(self, sockets: Iterable[socket.socket]) -> None:
        self._sockets = _checked(sockets)
        self._addresses = [own_address(one) for one in self._sockets]
        self.host = self._addresses[0][0]

    @property
    def port(self) -> int:
        return next((port for _, port in self._addresses if port), 0)

    def urls(self, scheme: str) -> tuple[str, ...]:
        return tuple(
            f"{scheme}://{authority_of(address, port)}" if port else address for address, port in self._addresses
        )

    async def open(self) -> list[trio.SocketListener]:
        await trio.lowlevel.checkpoint()
        if any(one.fileno() < 0 for one in self._sockets):
            raise OSError("a socket is closed; a server closes its sockets when it ends")
        listeners = []
        for one in self._sockets:
            if not _is_listening(one):
                one.listen(BACKLOG)
            listeners.append(trio.SocketListener(trio.socket.from_stdlib_socket(one)))
        return listeners

    def close(self) -> None:
        for one in self._sockets:
            one.close()


class NoBinding(Binding):
    """The server listens nowhere."""

    host = ""
    port = 0

    def urls(self, scheme: str) -> tuple[str, ...]:  # noqa: ARG002 - there are no URLs
        return ()

    async def open(self) -> list[trio.SocketListener]:
        await trio.lowlevel.checkpoint()
        return []

    def close(self) -> None:
        pass


def make_binding(
    port: int | None,
    *,
    host: str,
    sockets: Iterable[socket.socket] | None,
    unix_mode: int,
    reuse_port: bool,
    listen: bool = True,
) -> Binding:
    """Check the arguments of `WSServer` of the same names, and return where it listens.

    Raises:
        RayforceValueError: an argument is out of range, missing, or contradicts another.
    """
    check_flag("reuse_port", reuse_port)
    check_flag("listen", listen)
    if not listen:
        if port is not None or host != DEFAULT_HOST or sockets is not None or unix_mode != DEFAULT_UNIX_MODE:
            raise RayforceValueError("listen=False contradicts port, host, sockets and unix_mode; leave them out")
        if reuse_port:
            raise RayforceValueError("reuse_port needs a port; leave it out with listen=False")
        return NoBinding()
    if type(unix_mode) is not int or not 0 <= unix_mode <= 0o777 or not unix_mode & 0o200:
        raise RayforceValueError(
            f"Invalid unix_mode: {unix_mode!r}. Must be permissions up to 0o777 that let the owner write, such as 0o660"
        )
    path = None if sockets is not None else unix_path(host)
    if path is None and unix_mode != DEFAULT_UNIX_MODE:
        raise RayforceValueError("unix_mode needs host='unix:/path', since only that creates a file")
    if sockets is None and path is None:
        if port is None:
            raise RayforceValueError("The server needs a port, host='unix:/path', sockets, or listen=False")
        return TcpBinding(host, port, reuse_port=reuse_port)
    if port is not None:
        raise RayforceValueError(
            "sockets and port contradict each other; leave out one"
            if path is None
            else f"Invalid port: {port!r}. A Unix socket has no port; leave it out"
        )
    if reuse_port:
        raise RayforceValueError("reuse_port needs a port; it cannot be set for Unix sockets and existing sockets")
    if path is not None:
        return UnixBinding(path, unix_mode)
    if host != DEFAULT_HOST:
        raise RayforceValueError("sockets and host contradict each other; leave out one")
    assert sockets is not None
    return ExistingSockets(sockets)


def _checked(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    try:
        found = list(sockets)
    except TypeError:
        found = []
    if not found:
        raise RayforceValueError(f"Invalid sockets: {sockets!r}. Must be a list of at least one socket.socket")
    for one in found:
        if problem := _problem_of(one):
            raise RayforceValueError(f"Invalid sockets: {one!r} {problem}")
    if len({one.fileno() for one in found}) < len(found):
        raise RayforceValueError("Invalid sockets: one of them occurs twice")
    return found


def _problem_of(one: object) -> str:
    """Return why a server cannot listen on a socket, or an empty text."""
    if type(one) is not socket.socket:  # trio takes no subclasses
        return (
            "is not a socket.socket; pass ssl_context for TLS"
            if isinstance(one, socket.socket)
            else "is not a socket.socket"
        )
    if one.fileno() < 0:
        return "is closed"
    if one.family not in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX) or one.type != socket.SOCK_STREAM:
        return "is not a stream socket of TCP or Unix"
    with suppress(OSError):
        one.getpeername()
        return "is a connection; pass a socket that listens"
    name = one.getsockname()
    if not (name if one.family == socket.AF_UNIX else name[1]):
        return "is not bound to an address"
    return ""


def _is_listening(bound: socket.socket) -> bool:
    """Return whether a socket listens. False if the system does not tell; listening again is harmless."""
    try:
        return bool(bound.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False
