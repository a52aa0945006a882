"""Who may connect, by where they come from. Evaluation is remote code execution: a server is open only on purpose."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from .._addresses import authority_of, check_host, ip_of
from .._transports import OpeningRequest, Refusal
from ..errors import RayforceValueError
from ._checks import check_flag


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Protected mode, and the checks of Host and Origin.

    Args:
        protected: let in only peers on this machine.
        allowed_origins: the origins (`https://example.org`) whose browser pages may connect, the server's own aside.
        allowed_hosts: the names under which the server may be asked for; none: any, but on loopback addresses.
        own_host: the name that it has by itself.
    """

    protected: bool
    allowed_origins: frozenset[str]
    allowed_hosts: frozenset[str] = frozenset()
    own_host: str = "localhost"

    def decide(self, request: OpeningRequest) -> Refusal | None:
        """Return why a request is refused, or `None`."""
        if self.protected and not is_loopback(request.peer):
            return Refusal(
                403,
                "This server runs in protected mode: it lets in only clients on its own machine, because clients can "
                "run any code in it and nothing authenticates them. To let in those who authenticate themselves, "
                "start it with authenticate; to let in everybody who can reach its port, "
                "start it with allow_unauthenticated=True.",
            )
        if not self._is_asked_for(request.headers.get("host", ""), request.own_address[0]):
            return Refusal(
                421,
                "This server is not to be asked for by this name. To have it answer, add the name to allowed_hosts.",
            )
        origin = request.headers.get("origin")
        if origin is not None and not self._is_allowed(origin, request.own_address):
            return Refusal(
                403, "This server is not open to pages of this origin. To let them in, add it to allowed_origins."
            )
        return None

    def _is_asked_for(self, host: str, own_address: str) -> bool:
        """Whether a Host is not some name that was pointed here, so that its pages may ask this server."""
        name = _name_in(host)
        if name in self.allowed_hosts:
            return True
        if not is_loopback(own_address):
            return not self.allowed_hosts
        if name in ("localhost", self.own_host):
            return True
        try:
            return ip_of(name).is_loopback
        except ValueError:
            return False

    def _is_allowed(self, origin: str, own_address: tuple[str, int]) -> bool:
        return _normalized(origin) in self.allowed_origins or _is_own(origin, own_address)


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
        RayforceValueError: an origin is not of the form `scheme://host[:port]`, a host is none, or who authenticates
            its clients lets in others.
    """
    check_flag("allow_unauthenticated", allow_unauthenticated)
    if authenticated and allow_unauthenticated:
        raise RayforceValueError("authenticate and allow_unauthenticated=True contradict each other; leave out one")
    if isinstance(allowed_origins, str):
        raise RayforceValueError(f"allowed_origins is a list of origins, not one string; write [{allowed_origins!r}]")
    allowed_origins = list(allowed_origins)
    if not all(isinstance(origin, str) for origin in allowed_origins):
        raise RayforceValueError(f"Invalid allowed_origins: {allowed_origins!r}. Must be a list of strings")
    origins = frozenset(_normalized(origin) for origin in allowed_origins)
    for origin in origins:
        parts = urlsplit(origin)
        if origin != "null" and (not parts.scheme or not parts.netloc or parts.path or parts.query):
            raise RayforceValueError(
                f"{origin!r} is not an origin; an origin looks like https://example.org or http://host:8080"
            )
    protected = not authenticated and not allow_unauthenticated
    return AccessPolicy(protected, origins, _checked_hosts(allowed_hosts), _name_in(authority_of(own_host, None)))


def is_loopback(address: str) -> bool:
    """Whether an IP address is of this machine's loopback; IPv4 addresses mapped into IPv6 included."""
    return ip_of(address).is_loopback


def _checked_hosts(hosts: Iterable[str]) -> frozenset[str]:
    if isinstance(hosts, str):
        raise RayforceValueError(f"allowed_hosts is a list of names, not one string; write [{hosts!r}]")
    hosts = list(hosts)
    for host in hosts:
        check_host(host)
        if "*" in host:
            raise RayforceValueError(f"Invalid allowed_hosts: {host!r}. Must be names as they are, without patterns")
    return frozenset(_name_in(authority_of(host, None)) for host in hosts)


def _name_in(host: str) -> str:
    """Return the name or address in a Host header, without port and brackets; what makes no sense stays what it is."""
    name, _, port = host.rpartition(":")
    if not name or "]" in port:
        name = host
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    return name.lower().removesuffix(".")


def _is_own(origin: str, own_address: tuple[str, int]) -> bool:
    """Whether an origin is this very server, under a name that nobody else's DNS can give to it.

    Comparing with the Host header would not do: a page of a name that was rebound to this address has both the same.
    """
    try:
        parts = urlsplit(origin)
        host, port = parts.hostname, parts.port
        port = port or {"http": 80, "https": 443}[parts.scheme]
        if host is None or port != own_address[1]:
            return False
        if host == "localhost":
            return is_loopback(own_address[0])
        return ip_address(host) == ip_address(own_address[0].partition("%")[0])
    except (ValueError, KeyError):
        return False


def _normalized(origin: str) -> str:
    return origin.lower().rstrip("/")
