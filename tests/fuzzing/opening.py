"""HTTP heads of the opening handshake, parsed whole and in pieces, by this package and by `websockets`."""

from random import Random

from support.raw import KEY, upgrade, upgraded
from websockets.client import ClientProtocol
from websockets.datastructures import Headers
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol
from websockets.uri import parse_uri
from wsproto import ConnectionType, WSConnection
from wsproto.events import Request as WsprotoRequest

from fuzzing.receiving import cut
from rayforce_trio import _websocket as ours

_SETTINGS = 3  # bytes: a request or a response; a seed for the cuts
_SUBPROTOCOLS = ["rayforce.v1", "other"]

_START_LINES = [
    "GET / HTTP/1.0",
    "GET /path?query HTTP/1.1",
    "GET http://127.0.0.1/ HTTP/1.1",
    "HEAD / HTTP/1.1",
    "POST / HTTP/1.1",
    "GET  / HTTP/1.1",
    "GET / HTTP/2.0",
    "HTTP/1.1 101",
    "HTTP/1.1 200 OK",
    "HTTP/1.1 403 Forbidden",
    "HTTP/1.0 101 X",
    "",
]
_LINES = [
    "Host: 127.0.0.1",
    "Host: other",
    "Upgrade: h2c",
    "Upgrade: h2c, websocket",
    "upgrade:websocket",
    "Connection: keep-alive",
    "connection: keep-alive, UPGRADE",
    f"Sec-WebSocket-Key: {KEY}",
    "Sec-WebSocket-Key: short",
    "Sec-WebSocket-Version: 8",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Protocol: rayforce.v1, other",
    "Sec-WebSocket-Protocol: unknown",
    "Sec-WebSocket-Extensions: permessage-deflate",
    "Sec-WebSocket-Accept: short",
    "Content-Length: 0",
    "Content-Length: 5",
    "Transfer-Encoding: chunked",
    "Origin: http://127.0.0.1",
    "Authorization: Basic eDp5",
    "Cookie: caf\xe9",
    "X-Empty:",
    "X-Tab:\ta\tb\t",
    "X-Space : a",
    " folded",
    "\tfolded",
    "X-Control: \x01",
    "X-No-Colon",
    ": no name",
    "X-Long: " + 9000 * "x",
]
_BREAKS = [b"\n", b"\r", b"\r\r\n", b"\0", b"\x7f", b"\xff", b" ", b"\t", b":", b"\r\n\r\n"]

_STRICTER = (
    "is not ASCII",
    "there is more than one",
    "multiple Host",
    "missing mandatory Host",
    "the target",
    "illegal request line",
    "illegal header line",
    "Content-Length",
    "Transfer-Encoding",
    "the first line",
    "control character",
    "CR LF",
)
"""The reasons for which this package refuses heads that `websockets` accepts."""

_THEIR_LIMITS = (
    "expected no more than",
    "invalid HTTP status line",
    "transfer codings",
    "invalid Connection header",
    "invalid Upgrade header",
    "invalid Sec-WebSocket-",
)
"""The reasons for which `websockets` refuses heads that this package accepts."""


def make(random: Random) -> bytes:
    """Return an input: settings, and a head, valid or not."""
    settings = random.randbytes(_SETTINGS)
    head = upgraded(upgrade()) if settings[0] & 1 else upgrade({"Sec-WebSocket-Protocol": "rayforce.v1"})
    lines = head.split(b"\r\n")[:-2]
    for _ in range(random.choice([0, 1, 1, 2, 3, 8])):
        at = random.randint(1, len(lines))
        match random.randint(0, 3):
            case 0:
                lines.insert(at, random.choice(_LINES).encode("latin-1"))
            case 1:
                del lines[at : at + 1]
            case 2:
                lines[at : at + 1] = [random.choice(_LINES).encode("latin-1")]
            case 3:
                lines[0] = random.choice(_START_LINES).encode("latin-1")
    head = b"\r\n".join([*lines, b"", b""])
    for _ in range(random.choice([0, 0, 0, 1, 2])):
        at = random.randint(0, len(head))
        head = head[:at] + random.choice([*_BREAKS, random.randbytes(1)]) + head[at + random.randint(0, 1) :]
    return settings + head + random.choice([b"", b"", b"5\r\nhello\r\n0\r\n\r\n", random.randbytes(30)])


def check(data: bytes) -> None:
    """Raise an `AssertionError` if parsing depends on how the head arrives, or differs from what `websockets` reads."""
    settings, head = data[:_SETTINGS].ljust(_SETTINGS, b"\0"), data[_SETTINGS:]
    pieces = [piece for piece in cut(head, int.from_bytes(settings[1:3], "little")) if piece]
    if settings[0] & 1:
        _check_response(head, pieces)
    else:
        _check_request(head, pieces)


# Requests


def _check_request(head: bytes, pieces: list[bytes]) -> None:
    whole = ours.parse_request(head)
    received, in_pieces = b"", None
    for piece in pieces:
        received += piece
        if in_pieces is None:
            in_pieces = ours.parse_request(received)
    assert _without_leftover(in_pieces) == _without_leftover(whole), f"in pieces: {in_pieces}; whole: {whole}"
    theirs = ServerProtocol()
    theirs.receive_data(head)
    request = next((event for event in theirs.events_received() if isinstance(event, Request)), None)
    accepted = request is not None and theirs.accept(request).status_code == 101
    if isinstance(whole, ours.UpgradeRequest):
        assert _wsproto_accepts(whole), f"wsproto refuses what this package made of it: {whole}"
        assert accepted or _is_limit(theirs.handshake_exc), f"ours: {whole}; websockets: {theirs.handshake_exc}"
        if request is not None:
            assert request.path.endswith(whole.target)
            headers = {name: value for name, value in whole.headers.items() if name != "content-length"}
            assert _joined(request.headers) == headers, f"ours: {headers}; websockets: {request.headers}"
    else:
        assert not accepted or _is_stricter(whole), f"ours: {whole}; websockets accepts"


def _without_leftover(request: object) -> object:
    if isinstance(request, ours.UpgradeRequest):
        return request.target, request.headers, request.subprotocols, request.key
    return request


def _joined(headers: Headers) -> dict[str, str]:
    # h11 joins equal values of Content-Length.
    names = {name.lower() for name, _ in headers.raw_items()} - {"sec-websocket-protocol", "content-length"}
    return {name: ", ".join(headers.get_all(name)) for name in names}


def _wsproto_accepts(request: ours.UpgradeRequest) -> bool:
    server = WSConnection(ConnectionType.SERVER)
    server.receive_data(ours.normalized_request(request))
    [event] = server.events()
    return isinstance(event, WsprotoRequest) and tuple(event.subprotocols) == request.subprotocols


# Responses


def _check_response(head: bytes, pieces: list[bytes]) -> None:
    whole, in_pieces = _parse_response([head] if head else []), _parse_response(pieces)
    if isinstance(whole, ours.UpgradeAccepted) and isinstance(in_pieces, ours.UpgradeAccepted):
        assert (whole.headers, whole.subprotocol) == (in_pieces.headers, in_pieces.subprotocol)
    else:
        assert whole == in_pieces, f"in pieces: {in_pieces}; whole: {whole}"
    theirs = ClientProtocol(parse_uri("ws://127.0.0.1/"), subprotocols=[Subprotocol(name) for name in _SUBPROTOCOLS])
    theirs.key = KEY
    theirs.state = State.CONNECTING
    theirs.receive_data(head)
    received = any(isinstance(event, Response) for event in theirs.events_received())
    accepted = received and theirs.handshake_exc is None
    if isinstance(whole, ours.UpgradeAccepted):
        assert accepted or _is_limit(theirs.handshake_exc), f"ours: {whole}; websockets: {theirs.handshake_exc}"
        if accepted:
            assert theirs.subprotocol == whole.subprotocol
    else:
        assert not accepted or _is_stricter(whole), f"ours: {whole}; websockets accepts"


def _parse_response(pieces: list[bytes]) -> object:
    parser = ours.ResponseParser(key=KEY, subprotocols=_SUBPROTOCOLS)
    for piece in pieces:
        response = parser.receive_data(piece)
        if response is not None:
            return response
    return parser.receive_data(b"")


# What may differ


def _is_stricter(result: object) -> bool:
    """Return whether this package refuses a head for a reason that `websockets` does not look for."""
    return isinstance(result, ours.InvalidRequest | ours.InvalidResponse) and any(
        reason in result.reason for reason in _STRICTER
    )


def _is_limit(error: BaseException | None) -> bool:
    """Return whether `websockets` refuses a head for a reason that this package does not look for."""
    while error is not None:
        if any(reason in str(error) for reason in _THEIR_LIMITS):
            return True
        error = error.__cause__
    return False
