"""Hosts and ports: what is one, how it is written, and why it could not be reached."""

from ipaddress import IPv6Address

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


def why(error: Exception) -> str:
    """Return what the system said; trio wraps it, or sums it up, and keeps it as the cause."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[-1]
    return str(cause or error)
