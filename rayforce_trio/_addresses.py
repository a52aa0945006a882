"""Host names, IP addresses, ports, Unix sockets and URLs: check them, write them, and say why one cannot be reached."""

import os
import re
import socket
import ssl
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from .errors import RayforceValueError

_TARGET = re.compile(r"/[!-\"$-~]*")

UNIX = "unix:"
"""The address of a Unix socket begins with this. For a socket on this side, its path follows."""


def check_host(host: object) -> None:
    """Raise `RayforceValueError` if `host` is neither a host name nor an IP address."""
    if not isinstance(host, str) or not host or not host.isprintable() or any(c in "/?#@[] " for c in host):
        raise RayforceValueError(f"Invalid host: {host!r}. Must be a host name or an IP address, without brackets")
    if ":" in host:
        try:
            IPv6Address(host)
        except ValueError:
            raise RayforceValueError(f"Invalid host: {host!r}. The port is a separate argument") from None


def unix_path(host: object) -> str | None:
    """Return the path in a host like `unix:/run/x.sock`, or `None` for a host of TCP.

    Raises:
        RayforceValueError: the path is empty, or has a NUL.
    """
    if not isinstance(host, str) or not host.startswith(UNIX):
        return None
    path = host.removeprefix(UNIX)
    if not path or "\0" in path:
        raise RayforceValueError(f"Invalid path of a Unix socket: {host!r}. Must look like unix:/run/rayforce.sock")
    return path


def check_port(port: int, *, lowest: int) -> None:
    """Raise `RayforceValueError` if `port` is not an int from `lowest` to 65535."""
    if type(port) is not int or not lowest <= port <= 65535:
        raise RayforceValueError(f"Invalid port: {port!r}. Must be an int between {lowest} and 65535")


def check_server(host: object, port: int | None, *, lowest_port: int) -> None:
    """Raise `RayforceValueError` if there can be no server at a host and a port, which are as for `Endpoint`."""
    if unix_path(host) is None:
        check_host(host)
        if port is not None:
            check_port(port, lowest=lowest_port)
    elif port is not None:
        raise RayforceValueError(f"Invalid port: {port!r}. A Unix socket has no port; leave it out")


def authority_of(host: str, port: int | None) -> str:
    """Return `host:port` as written in a URL, or the host alone if `port` is `None`."""
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port is None else f"{bracketed}:{port}"


@lru_cache(maxsize=1024)  # parsing an address takes as long as ten cached calls, and each connection needs several
def ip_of(address: str) -> IPv4Address | IPv6Address:
    """Return the IP address that a socket reports, without its scope. An IPv4 address mapped into IPv6 becomes IPv4.

    Raises:
        ValueError: `address` is not an IP address.
    """
    ip = ip_address(address.partition("%")[0])
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


@lru_cache(maxsize=1024)
def network_of(address: str) -> str:
    """Return the network that counts as one peer: an IPv4 address, or the /64 of an IPv6 address.

    One host may use all addresses of a /64. The peers of a Unix socket count as one for each user.
    """
    if address.startswith(UNIX):
        return address
    ip = ip_of(address)
    return str(ip if isinstance(ip, IPv4Address) else IPv6Network((ip, 64), strict=False))


def is_on_this_machine(address: str) -> bool:
    """Return whether only this machine can use an address: a loopback address, or that of a Unix socket.

    It may be an IPv4 address mapped into IPv6.
    """
    return address.startswith(UNIX) or ip_of(address).is_loopback


@dataclass(frozen=True, slots=True)
class UnixPeer:
    """The process that has connected to a Unix socket, as the system reports it. A client cannot choose these values.

    Attributes:
        uid: the id of its user.
        gid: the id of its primary group.
        pid: its process id. The process may have ended, and its id may belong to another one. 0 if the process is not
            visible to the server, for example because it is outside of the server's container.
    """

    uid: int
    gid: int
    pid: int


@dataclass(frozen=True, slots=True)
class ClientAddress:
    """The address of a server's client. `str` returns it with the port, as written in a URL.

    Attributes:
        address: the IP address; `unix:uid=` and the id of the user if the client uses a Unix socket, or only `unix:` if
            the system does not report the user.
        port: the port; `None` if a proxy has not reported it, or for a Unix socket.
        through_proxy: whether the client comes through a proxy. The address is then that of the proxy's client, as far
            as it is known.
        unix_peer: the process at the other end of a Unix socket; `None` if the client comes through a proxy.
    """

    address: str
    port: int | None = None
    through_proxy: bool = False
    unix_peer: UnixPeer | None = None

    @property
    def is_local(self) -> bool:
        """Whether the client is on the server's machine. False for the client of a proxy, which can be anywhere."""
        return not self.through_proxy and is_on_this_machine(self.address)

    @property
    def network(self) -> str:
        """The network that counts as one client: see `network_of`."""
        return network_of(self.address)

    def __str__(self) -> str:
        return self.address if self.address.startswith(UNIX) else authority_of(self.address, self.port)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The address of a server. `str` returns its URL without the query, which may contain secrets.

    Attributes:
        host: the host name or IP address, or `unix:` and the path of a Unix socket.
        port: 1-65535; `None` means 80, or with TLS 443. A Unix socket has none.
        target: the path, and the query if there is one.
        tls: the TLS context; `None` means no TLS.

    Raises:
        RayforceValueError: an attribute is out of range.
    """

    host: str
    port: int | None = None
    target: str = "/"
    tls: ssl.SSLContext | None = None

    def __post_init__(self) -> None:
        check_server(self.host, self.port, lowest_port=1)
        _check_target(self.target)

    @property
    def socket_path(self) -> str | None:
        """The path of the Unix socket; `None` for TCP."""
        return unix_path(self.host)

    @property
    def host_name(self) -> str:
        """The name of the server in the Host header and in its TLS certificate, without a port."""
        return self.host if self.socket_path is None else "localhost"

    @property
    def scheme(self) -> str:
        return "ws" if self.tls is None else "wss"

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port. A port of `None` is replaced by the default port."""
        return self.host, self.port or (80 if self.tls is None else 443)

    @property
    def authority(self) -> str:
        """The host and the port as written in a URL; the URL of a Unix socket."""
        return authority_of(*self.address) if self.socket_path is None else self.host

    def __str__(self) -> str:
        if self.socket_path is not None:
            return self.host
        path = self.target.partition("?")[0]
        return f"{self.scheme}://{authority_of(self.host, self.port)}{'' if path == '/' else path}"


def _check_target(target: object) -> None:
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        raise RayforceValueError("Invalid path. Must begin with / and consist of visible ASCII characters other than #")


class ParsedUrl(NamedTuple):
    """The parts of a server's URL.

    Attributes:
        host: the host name or address, without brackets; `unix:` and the path of a Unix socket.
        port: 1-65535; `None` means the scheme's default port.
        target: the path with the query.
        is_secure: whether the scheme is `wss`.
        user: the user name, decoded, if there is one.
    """

    host: str
    port: int | None
    target: str
    is_secure: bool
    user: str | None


def parse_url(url: object) -> ParsedUrl:
    """Parse the URL of a server. The errors do not show the URL, which may contain a password.

    Raises:
        RayforceValueError: the URL is not a `ws://`, `wss://` or `unix:` URL, or contains a password.
    """
    if unix_path(url) is not None:
        return ParsedUrl(str(url), None, "/", is_secure=False, user=None)
    try:
        if not isinstance(url, str) or not url.isprintable():  # `urlsplit` drops line breaks
            raise TypeError
        parts = urlsplit(url)
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.fragment:
            raise ValueError
    except (TypeError, ValueError):
        raise RayforceValueError(
            "Invalid URL. Must look like ws://host:port, wss://user@host:port/path or unix:/path; write an IPv6 "
            "address in brackets"
        ) from None
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise RayforceValueError("Invalid port in the URL. Must be a number between 1 and 65535")
    if parts.password is not None:
        raise RayforceValueError(
            "Invalid URL. Must not contain a password, because URLs are shown and logged; give the password separately"
        )
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    user = unquote(parts.username) if parts.username else None
    return ParsedUrl(parts.hostname, port, target, parts.scheme == "wss", user)


def os_error_text(error: BaseException) -> str:
    """Return the system's own words for an error, without the numbers and addresses that event loops add to them.

    The words are the same on every event loop, for example "connection refused".
    """
    cause = error.__cause__ or error
    if isinstance(cause, UnicodeError):
        return "the host name is not valid"
    if isinstance(cause, socket.gaierror):  # its numbers are not those of other errors
        return _uncapitalized(cause.strerror or str(cause))
    number = cause.errno if isinstance(cause, OSError) else None
    return _uncapitalized(os.strerror(number) if number else str(cause))


def _uncapitalized(text: str) -> str:
    return text[:1].lower() + text[1:] if text[1:2].islower() else text
