"""The server's part of the opening handshake, as a client reads it: RFC 6455, section 4.1."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import h11
from wsproto.utilities import generate_accept_token

from ._http_heads import HEAD_LIMIT, InvalidHead, complete_head, has_token, pack_head, parse_head, wrong_header

BODY_LIMIT = 64 * 1024
"""The number of bytes that are kept of the body of a rejection."""

_HTTP = b"HTTP/"
_TLS_ALERT = b"\x15\x03"  # the first bytes of a TLS server's answer to a request without TLS

_UPGRADE = h11.Request(
    method="GET", target="/", headers=[("Host", "localhost"), ("Connection", "Upgrade"), ("Upgrade", "websocket")]
)


@dataclass(frozen=True, slots=True)
class UpgradeAccepted:
    """A response that opens the WebSocket connection.

    Attributes:
        headers: the headers: names in lower case, and the values of a header that came several times joined by ", ".
        subprotocol: the subprotocol that the server chose, or `None`.
        leftover: the bytes received after the head.
    """

    headers: dict[str, str] = field(repr=False)
    subprotocol: str | None
    leftover: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class UpgradeRejected:
    """A response with which an HTTP server refuses the connection.

    Attributes:
        status: the HTTP status, 300 or above.
        body: the body, at most `BODY_LIMIT` bytes of it.
        retry_after: the value of Retry-After, in seconds; `None` if there is none, or if it is a date.
    """

    status: int
    body: bytes
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class InvalidResponse:
    """A response that no WebSocket server sends.

    Attributes:
        reason: the problem, as the end of a sentence.
        is_incomplete: whether the peer has only sent too little, as it does if it is being stopped.
    """

    reason: str
    is_incomplete: bool = False


class ResponseParser:
    """Parse the response to an upgrade request.

    Args:
        key: the value of `Sec-WebSocket-Key` in the request.
        subprotocols: the subprotocols that the request proposed.
    """

    def __init__(self, *, key: str, subprotocols: Sequence[str]) -> None:
        self._accept = generate_accept_token(key.encode()).decode()
        self._subprotocols = subprotocols
        self._received = bytearray()
        self._heads_size = 0  # bytes of the heads that were parsed
        self._http = h11.Connection(h11.CLIENT)
        self._http.send(_UPGRADE)  # h11 expects no response before it
        self._status: int | None = None  # once the head of a rejection was received
        self._retry_after: int | None = None
        self._body = bytearray()

    def receive_data(self, data: bytes) -> UpgradeAccepted | UpgradeRejected | InvalidResponse | None:
        """Take received bytes, or `b""` for the end of the stream.

        Returns:
            The response, or `None` if it is incomplete. The end of the stream completes it. Do not call this method
            again after that.
        """
        if self._status is not None:
            return self._receive_body(data, self._status)
        if not data:
            return InvalidResponse("the peer closed the connection during the opening handshake", is_incomplete=True)
        self._received += data
        try:
            while (head := self._complete_head()) is not None:
                response, headers = parse_head(self._http, head)
                assert isinstance(response, h11.Response | h11.InformationalResponse)
                del self._received[: len(head)]
                self._heads_size += len(head)
                if response.status_code == 101:
                    return UpgradeAccepted(headers, self._check_upgrade(response, headers), bytes(self._received))
                if response.status_code >= 300:
                    self._status = response.status_code
                    self._retry_after = _seconds(headers.get("retry-after", ""))
                    return self._receive_body(bytes(self._received) or None, self._status)
                if response.status_code >= 200:
                    raise InvalidHead(f"it answered with HTTP status {response.status_code}")
                # It is an interim response, which another one follows: RFC 9110, section 15.2.
                if self._heads_size > HEAD_LIMIT:  # parsing them without end would block the event loop
                    raise InvalidHead(f"its interim responses have more than {HEAD_LIMIT} bytes")
        except InvalidHead as error:
            return InvalidResponse(error.reason)
        return None

    def _complete_head(self) -> bytes | None:
        """Return the head at the beginning of the received bytes, or `None` if it is incomplete."""
        # A peer that speaks another protocol may never end its head.
        if _TLS_ALERT.startswith(self._received[:2]):
            if len(self._received) < 2:
                return None
            raise InvalidHead("it speaks TLS; connect to it with wss://")
        if not self._received.startswith(_HTTP[: len(self._received)]):
            raise InvalidHead("its answer is not HTTP")
        return complete_head(self._received)

    def _check_upgrade(self, response: h11.Response | h11.InformationalResponse, headers: dict[str, str]) -> str | None:
        """Check a response with status 101, and return the subprotocol."""
        if response.http_version != b"1.1":
            raise InvalidHead("the version of its response is not HTTP/1.1")
        if headers.get("upgrade", "").lower() != "websocket":
            raise wrong_header(headers, "Upgrade", "websocket")
        if not has_token(headers, "connection", "upgrade"):
            raise wrong_header(headers, "Connection", "Upgrade")
        if "sec-websocket-accept" not in headers:
            raise InvalidHead("the Sec-WebSocket-Accept header is missing")
        if headers["sec-websocket-accept"] != self._accept:
            raise InvalidHead("the Sec-WebSocket-Accept header does not match the key of the request")
        if extensions := headers.get("sec-websocket-extensions"):
            raise InvalidHead(f"it chose the extension {extensions!r}, which was not requested")
        subprotocol = headers.get("sec-websocket-protocol")
        if subprotocol is not None and subprotocol not in self._subprotocols:
            raise InvalidHead(f"it chose the subprotocol {subprotocol!r}, which was not requested")
        return subprotocol

    def _receive_body(self, data: bytes | None, status: int) -> UpgradeRejected | None:
        """Return the rejection if its body has ended, has reached `BODY_LIMIT`, or is malformed."""
        if data is not None:
            self._http.receive_data(data)
        try:
            while isinstance(event := self._http.next_event(), h11.Data):
                self._body += event.data
            complete = event is not h11.NEED_DATA
        except h11.RemoteProtocolError:
            complete = True
        if complete or len(self._body) >= BODY_LIMIT:
            return UpgradeRejected(status, bytes(self._body[:BODY_LIMIT]), self._retry_after)
        return None


def _seconds(value: str) -> int | None:
    """Return the value of a Retry-After header if it is a number of seconds."""
    return int(value) if re.fullmatch(r"[0-9]{1,9}", value) else None


def normalized_response(accepted: UpgradeAccepted, key: str) -> bytes:
    """Return the shortest head that accepts a request in the same way; `key` is that of the request."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {generate_accept_token(key.encode()).decode()}",
    ]
    if accepted.subprotocol is not None:
        lines.append(f"Sec-WebSocket-Protocol: {accepted.subprotocol}")
    return pack_head(lines)
