"""The client's part of the opening handshake, as a server reads it: RFC 6455, section 4.2.1."""

import base64
import enum
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import h11

from ._http_heads import InvalidHead, complete_head, elements, has_token, pack_head, parse_head, wrong_header

_TLS_HANDSHAKE = b"\x16\x03"  # the first bytes that a TLS client sends, in all versions: RFC 8446, section 5.1
_SCHEMES = ("http", "https", "ws", "wss")
_KEY = re.compile(rb"\r\nSec-WebSocket-Key:[ \t]*([^\r]*)\r\n", re.IGNORECASE)


class HttpMethod(enum.Enum):
    """A method of plain HTTP requests."""

    GET = b"GET"
    HEAD = b"HEAD"


@dataclass(frozen=True, slots=True)
class UpgradeRequest:
    """A valid request for a WebSocket connection.

    Attributes:
        target: the path, and the query if there is one.
        headers: the headers without `Sec-WebSocket-Protocol`: names in lower case, and the values of a header that came
            several times joined by ", ".
        key: the value of `Sec-WebSocket-Key`.
        subprotocols: the subprotocols that the client proposes, in its order.
        leftover: the bytes received after the head.
    """

    target: str
    headers: dict[str, str] = field(repr=False)  # there are secrets among them
    key: str
    subprotocols: tuple[str, ...] = field(default=(), repr=False)
    leftover: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A valid request that asks for no upgrade.

    Attributes:
        method: the method.
        target: the path, and the query if there is one.
        headers: the headers, as in `UpgradeRequest`.
    """

    method: HttpMethod
    target: str
    headers: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class InvalidRequest:
    """A request that is not valid.

    Attributes:
        status: the HTTP status to answer it with, 400 to 599.
        reason: a sentence for the client's user.
        headers: further headers of the answer.
    """

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...] = ()


def parse_request(data: bytes | bytearray) -> UpgradeRequest | HttpRequest | InvalidRequest | None:
    """Parse the head of a request.

    Args:
        data: everything that was received so far.

    Returns:
        The request, or `None` if the head is incomplete and may still become valid.
    """
    if _TLS_HANDSHAKE.startswith(data[:2]):
        if len(data) < 2:
            return None
        return InvalidRequest(400, "This port does not speak TLS; connect to it with ws:// or http://.")
    try:
        head = complete_head(data)
        return None if head is None else _parse(head, leftover=bytes(data[len(head) :]))
    except InvalidHead as error:
        return InvalidRequest(error.status, f"The request is not valid: {error.reason}.", error.headers)


def normalized_request(request: UpgradeRequest) -> bytes:
    """Return the shortest head that asks for the same WebSocket connection."""
    lines = [
        "GET / HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {request.key}",
        "Sec-WebSocket-Version: 13",
    ]
    if request.subprotocols:
        lines.append(f"Sec-WebSocket-Protocol: {', '.join(request.subprotocols)}")
    return pack_head(lines)


def key_in(request: bytes) -> str:
    """Return the value of `Sec-WebSocket-Key` in a request that this side made."""
    found = _KEY.search(request)
    assert found is not None
    return found[1].decode("ascii")


def pack_request(
    host: str, target: str, key: str, subprotocols: Sequence[str], headers: Iterable[tuple[str, str]]
) -> bytes:
    """Return the head that asks for a WebSocket connection. All arguments must be ASCII, and are not checked."""
    lines = [
        f"GET {target} HTTP/1.1",
        f"Host: {host}",
        "Upgrade: WebSocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {key}",
        "Sec-WebSocket-Version: 13",
    ]
    if subprotocols:
        lines.append(f"Sec-WebSocket-Protocol: {', '.join(subprotocols)}")
    return pack_head([*lines, *(f"{name}: {value}" for name, value in headers)])


def _parse(head: bytes, *, leftover: bytes) -> UpgradeRequest | HttpRequest:
    request, headers = parse_head(h11.Connection(h11.SERVER), head)
    assert isinstance(request, h11.Request)
    if request.http_version not in (b"1.0", b"1.1"):
        raise InvalidHead("this server supports only HTTP/1.1", 505)
    target = _path_of(request.target.decode("ascii"), headers.get("host", ""))
    subprotocols = tuple(elements(headers.pop("sec-websocket-protocol", "")))
    if not elements(headers.get("upgrade", "")):
        try:
            return HttpRequest(HttpMethod(request.method), target, headers)
        except ValueError:
            raise InvalidHead("the method must be GET or HEAD") from None
    _check_upgrade(request, headers)
    return UpgradeRequest(target, headers, headers["sec-websocket-key"], subprotocols, leftover)


def _path_of(target: str, host: str) -> str:
    """Return the path and the query of a target, which may be a whole URL: RFC 9112, section 3.2.2."""
    scheme, separator, rest = target.partition("://")
    if separator and scheme.lower() in _SCHEMES:
        authority, _, path = rest.partition("/")
        if authority.lower() != host.lower():
            raise InvalidHead("the request target and the Host header name different servers")
        target = f"/{path}"
    if not target.startswith("/") or "#" in target:
        raise InvalidHead("the request target must be a path without a fragment")
    return target


def _check_upgrade(request: h11.Request, headers: dict[str, str]) -> None:
    """Check a request that has an Upgrade header, except for Host and Origin."""
    if not has_token(headers, "upgrade", "websocket"):
        raise InvalidHead("the Upgrade header does not ask for websocket", 426, (("Upgrade", "websocket"),))
    if request.method != b"GET":
        raise InvalidHead("the method of a WebSocket request must be GET")
    if request.http_version != b"1.1":
        raise InvalidHead("a WebSocket request must use HTTP/1.1")
    if not has_token(headers, "connection", "upgrade"):
        raise wrong_header(headers, "Connection", "Upgrade")
    if "transfer-encoding" in headers or int(headers.get("content-length", "0")):
        raise InvalidHead("a WebSocket request must not have a body")
    version = headers.get("sec-websocket-version")
    if version is None:
        raise InvalidHead("the Sec-WebSocket-Version header is missing")
    if version != "13":
        raise InvalidHead("the Sec-WebSocket-Version is not 13", 426, (("Sec-WebSocket-Version", "13"),))
    try:
        key = base64.b64decode(headers.get("sec-websocket-key", ""), validate=True)
    except ValueError:
        key = b""
    if len(key) != 16:
        raise InvalidHead("the Sec-WebSocket-Key is not 16 bytes in base64")
