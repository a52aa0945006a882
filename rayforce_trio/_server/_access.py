"""Decide which clients may connect, by their address, Host and Origin.

Clients can run any code in the engine, so a server is open to other machines only if its operator says so.
"""

import string
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from .._addresses import check_host, ip_of, is_on_this_machine
from .._checks import check_flag, list_argument
from .._transports import OpeningRequest, Refusal
from ..errors import RayforceValueError

_HOST_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-._~!$&'()*+,;=")
"""The characters of a host name: RFC 3986, section 3.2.2, without percent-encoding, which no client needs."""

_SCHEME_CHARACTERS = frozenset(string.ascii_lowercase + string.digits + "+-.")

_SCHEMES = {"http": 80, "https": 443}
"""The schemes whose pages can be of this very server, and their default ports."""

_PROTECTED_FROM_PROXIES = Refusal(
    403,
    "This server runs in protected mode: it accepts only clients on its own machine, and this request came through a "
    "proxy, whose clients may be anywhere. To accept them, start the server with authenticate, and name the proxy in "
    "trusted_proxies.",
)


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Protected mode, and the checks of Host and Origin.

    Args:
        protected: refuse peers on other machines.
        allowed_origins: the origins (`https://example.org`) whose browser pages may connect. Those of the server itself
            always may.
        allowed_hosts: the names that clients may use for the server. If empty, any name is fine on addresses that are
            not loopback addresses.
        own_host: the name that the server listens on.
    """

    protected: bool
    allowed_origins: frozenset[str]
    allowed_hosts: frozenset[str] = frozenset()
    own_host: str = "localhost"

    def decide(self, request: OpeningRequest) -> Refusal | None:
        """Return the refusal of a request, or `None` if it is allowed."""
        if self.protected and request.peer.through_proxy:
            return _PROTECTED_FROM_PROXIES
        if self.protected and not request.peer.is_local:
            return Refusal(
                403,
                "This server runs in protected mode: it accepts only clients on its own machine, because clients can "
                "run any code in it and it does not authenticate them. To accept clients that authenticate, start it "
                "with authenticate; to accept every client that can reach its port, "
                "start it with allow_unauthenticated=True.",
            )
        host = parse_host(request.headers.get("host", ""))
        if host is None:
            return Refusal(400, "The Host header is not a host name or an IP address, with or without a port.")
        if not self._allows_host(host, request.own_address[0]):
            return Refusal(
                421,
                "This server does not accept the name in the Host header. To accept it, add the name to allowed_hosts.",
            )
        origin = request.headers.get("origin")
        if origin is not None and not self._is_allowed(origin, request.own_address):
            return Refusal(
                403,
                "This server does not accept web pages of this origin. To accept them, add the origin to "
                "allowed_origins.",
            )
        return None

    def _allows_host(self, name: str, own_address: str) -> bool:
        """Return False for a foreign name, which may have been pointed here so that its pages can reach the server."""
        if name in self.allowed_hosts:
            return True
        if not is_on_this_machine(own_address):
            return not self.allowed_hosts
        if name in ("localhost", self.own_host):
            return True
        try:
            return ip_of(name).is_loopback
        except ValueError:
            return False

    def _is_allowed(self, origin: str, own_address: tuple[str, int]) -> bool:
        return origin.lower() in self.allowed_origins or _is_own(origin, own_address)


def make_policy(
    *,
    authenticated: bool = False,
    allow_unauthenticated: bool,
    allowed_origins: Iterable[str],
    allowed_hosts: Iterable[str] = (),
    own_host: str = "localhost",
) -> AccessPolicy:
    """Check the options and return the policy they make.

    Raises:
        RayforceValueError: an origin is not of the form `scheme://host[:port]`, a host is not valid, or the server
            both authenticates clients and accepts clients without authentication.
    """
    check_flag("allow_unauthenticated", allow_unauthenticated)
    if authenticated and allow_unauthenticated:
        raise RayforceValueError("authenticate and allow_unauthenticated=True contradict each other; leave out one")
    allowed_origins = list_argument("allowed_origins", allowed_origins, "origins such as 'https://example.org'")
    if not all(isinstance(origin, str) for origin in allowed_origins):
        raise RayforceValueError(
            f"Invalid allowed_origins: {allowed_origins!r}. Must be a list of origins such as 'https://example.org'"
        )
    origins = frozenset(origin.lower().rstrip("/") for origin in allowed_origins)
    for origin in origins:
        if origin != "null" and _parse_origin(origin) is None:
            raise RayforceValueError(
                f"Invalid allowed_origins: {origin!r}. Must be origins such as 'https://example.org' or 'http://host:8080'"
            )
    protected = not authenticated and not allow_unauthenticated
    return AccessPolicy(protected, origins, _checked_hosts(allowed_hosts), _normalized(own_host))


def _checked_hosts(hosts: Iterable[str]) -> frozenset[str]:
    hosts = list_argument("allowed_hosts", hosts, "host names")
    for host in hosts:
        check_host(host)
        if "*" in host:
            raise RayforceValueError(f"Invalid allowed_hosts: {host!r}. Must be complete host names, without *")
    return frozenset(map(_normalized, hosts))


def parse_host(header: str) -> str | None:
    """Return the name or address in a Host header, in lower case, without port and brackets; `None` if malformed.

    An empty header, which HTTP allows, is an empty name.
    """
    parsed = _parse_authority(header)
    return None if parsed is None else parsed[0]


def _parse_authority(text: str) -> tuple[str, int | None] | None:
    """Return the host and the port of `host:port`; `None` if malformed, for example with a user or a zone in it."""
    if text.startswith("["):
        name, bracket, rest = text[1:].partition("]")
        is_host = bracket == "]" and _is_ipv6(name)
    else:
        name, colon, port = text.partition(":")
        rest = colon + port
        is_host = _HOST_CHARACTERS.issuperset(name)
    if not is_host or rest[:1] not in ("", ":"):
        return None
    if rest in ("", ":"):
        return _normalized(name), None
    return (_normalized(name), int(rest[1:])) if _is_port(rest[1:]) else None


def _parse_origin(origin: str) -> tuple[str, str, int | None] | None:
    """Return the scheme, host and port of an origin, RFC 6454, section 6.1; `None` if malformed."""
    scheme, separator, rest = origin.lower().partition("://")
    authority = _parse_authority(rest)
    if (
        not separator
        or not scheme
        or not _SCHEME_CHARACTERS.issuperset(scheme)
        or authority is None
        or not authority[0]
    ):
        return None
    return scheme, *authority


def _is_own(origin: str, own_address: tuple[str, int]) -> bool:
    """Return whether an origin is this very server, by a name that no foreign DNS can point here.

    Comparing it with the Host header would not be enough: a page whose name was rebound to this address has both.
    """
    parsed = _parse_origin(origin)
    if parsed is None or parsed[0] not in _SCHEMES:
        return False
    scheme, host, port = parsed
    if (port or _SCHEMES[scheme]) != own_address[1]:
        return False
    if host == "localhost":
        return is_on_this_machine(own_address[0])
    try:
        return ip_address(host) == ip_address(own_address[0].partition("%")[0])
    except ValueError:
        return False


def _is_ipv6(text: str) -> bool:
    try:
        return IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and not text.startswith("0") and len(text) <= 5 and int(text) <= 65535


def _normalized(name: str) -> str:
    return name.lower().removesuffix(".")
