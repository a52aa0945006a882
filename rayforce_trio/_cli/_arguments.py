"""Arguments that several commands take: where a server is, sizes, seconds."""

import math
import re
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from urllib.parse import urlsplit

from .. import WSClient
from ..errors import RayforceValueError
from ._exits import UsageError

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8765

_UNITS = {"": 1, "K": 1024, "M": 1024**2, "G": 1024**3}


def add_url(parser: ArgumentParser) -> None:
    """Add the argument that says which server to connect to."""
    help_ = f"ws://host:port, host:port or :port; by default on this machine, and port {DEFAULT_PORT}"
    parser.add_argument("url", metavar="URL", type=address, help=help_)


def client_of(options: Namespace) -> WSClient:
    """Return a client for the server that the arguments name.

    Raises:
        UsageError: there can be no such server.
    """
    try:
        return WSClient(*options.url)
    except RayforceValueError as error:
        raise UsageError(error) from None


def address(text: str) -> tuple[str, int]:
    """Return the host and port in `ws://host:port`, `host:port`, `:port` or `host`.

    Raises:
        ArgumentTypeError: it is none of these.
    """
    scheme, _, rest = text.rpartition("://")
    if "@" in rest:
        raise ArgumentTypeError("a URL with credentials: other users could read them in the list of processes")
    try:
        parts = urlsplit(f"//{rest}")
        host, port = parts.hostname or DEFAULT_HOST, DEFAULT_PORT if parts.port is None else parts.port
    except ValueError as error:
        raise ArgumentTypeError(f"{text!r} is no URL: {error}") from None
    if scheme not in ("", "ws") or parts.path not in ("", "/") or parts.query or parts.fragment:
        raise ArgumentTypeError(f"{text!r} is no URL of a server; such look like ws://host:port, host:port or :port")
    return host, port


def size(text: str) -> int:
    """Return a number of bytes, given as `65536`, `64K`, `64M` or `1G`.

    Raises:
        ArgumentTypeError: it is none.
    """
    found = re.fullmatch(r"(\d+)([KMG]?)", text, re.ASCII | re.IGNORECASE)
    if found is None:
        raise ArgumentTypeError(f"{text!r} is no size; such look like 65536, 64K, 64M or 1G")
    return int(found[1]) * _UNITS[found[2].upper()]


def seconds(text: str) -> float:
    """Return a positive number of seconds.

    Raises:
        ArgumentTypeError: it is none.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ArgumentTypeError(f"{text!r} is no positive number of seconds")
    return value
