"""Hosts and ports: what is one, how it is written, and why it could not be reached."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address

from .errors import RayforceValueError


def check_host(host: object) -> None:
    """Raise `RayforceValueError` if `host` is neither a host name nor an IP address."""
    if not isinstance(host, str) or not host or any(c in "/?#@[]" or c <= " " or c == "\x7f" for c in host):
        raise RayforceValueError(f"Invalid host: {host!r}. Must be a host name or an IP address, without brackets")
    if ":" in host:
        try:
            IPv6Address(host)
        except ValueError:
            raise RayforceValueError(f"Invalid host: {host!r}. The port is an argument of its own") from None


def check_port(port: int, *, lowest: int) -> None:
    """Raise `RayforceValueError` if `port` is no port number from `lowest` to 65535."""
    if type(port) is not int or not lowest <= port <= 65535:
        raise RayforceValueError(f"Invalid port: {port!r}. Must be an int between {lowest} and 65535")


def authority_of(host: str, port: int | None) -> str:
    """Return `host:port`, or the host alone, as it stands in a URL."""
    bracketed = f"[{host}]" if ":" in host else host
    return bracketed if port is None else f"{bracketed}:{port}"


def ip_of(address: str) -> IPv4Address | IPv6Address:
    """Return an IP address as the system tells it: without its scope, and an IPv4 one mapped into IPv6 as itself.

    Raises:
        ValueError: it is none.
    """
    ip = ip_address(address.partition("%")[0])
    return (ip.ipv4_mapped or ip) if isinstance(ip, IPv6Address) else ip


def network_of(address: str) -> str:
    """Return what to count as one peer: an IPv4 address, or the /64 of an IPv6 one, all of which one host may have."""
    ip = ip_of(address)
    return str(ip if isinstance(ip, IPv4Address) else IPv6Network((ip, 64), strict=False))


def why(error: Exception) -> str:
    """Return what the system said; trio wraps it, or sums it up, and keeps it as the cause."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[-1]
    return str(cause or error)
