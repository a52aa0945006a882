"""Who may connect. Evaluation is remote code execution, so a server is open to strangers only on purpose."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from urllib.parse import urlsplit

from .._transports import OpeningRequest, Refusal
from ..errors import RayforceValueError


@dataclass(frozen=True, slots=True)
class AccessPolicy:
    """Protected mode and the check of Origins.

    Args:
        allow_unauthenticated: let in peers that are not on this machine, although nothing authenticates them.
        allowed_origins: the origins (`https://example.org`) whose browser pages may connect, the server's own aside.
    """

    allow_unauthenticated: bool
    allowed_origins: frozenset[str]

    def decide(self, request: OpeningRequest) -> Refusal | None:
        """Return why a request is refused, or `None`."""
        if not self.allow_unauthenticated and not is_loopback(request.peer):
            return Refusal(
                403,
                "This server runs in protected mode: it lets in only clients on its own machine, because clients can "
                "run any code in it and nothing authenticates them. To let in everybody who can reach its port, "
                "start it with allow_unauthenticated=True.",
            )
        origin = request.headers.get("origin")
        if origin is not None and not self._is_allowed(origin, request.own_address):
            return Refusal(
                403, "This server is not open to pages of this origin. To let them in, add it to allowed_origins."
            )
        return None

    def _is_allowed(self, origin: str, own_address: tuple[str, int]) -> bool:
        return _normalized(origin) in self.allowed_origins or _is_own(origin, own_address)


def make_policy(*, allow_unauthenticated: bool, allowed_origins: Iterable[str]) -> AccessPolicy:
    """Check the options and return the policy they make.

    Raises:
        RayforceValueError: an origin is not of the form `scheme://host[:port]`.
    """
    if not isinstance(allow_unauthenticated, bool):
        raise RayforceValueError(f"Invalid allow_unauthenticated: {allow_unauthenticated!r}. Must be True or False")
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
    return AccessPolicy(allow_unauthenticated, origins)


def is_loopback(address: str) -> bool:
    """Whether an IP address is of this machine's loopback; IPv4 addresses mapped into IPv6 included."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped.is_loopback
    return ip.is_loopback


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
