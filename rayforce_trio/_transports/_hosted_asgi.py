"""Requests and connections that an ASGI server has received: ASGI 3, with the scopes `websocket` and `http`."""

from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote

import trio

from .._addresses import UNIX, ClientAddress
from ..errors import ConnectionLost, HandshakeError, RayforceWSError
from ._accepting import Headers, HttpResponse, OpeningRequest, Refusal
from ._base import closed_by_peer
from ._hosted import (
    UNKNOWN_CLIENT,
    UNKNOWN_SERVER,
    HostedRequest,
    MessageChannel,
    checked_headers,
    client_address,
    server_address,
)

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]

_REFUSED = "websocket.http.response"
_LEFT = "the client has disconnected"
_LEFT_EARLY = "the client disconnected during the opening handshake"
_LOST = (1005, 1006)  # Hypercorn reports 1006 for every client that leaves


def opening_request(scope: Scope) -> tuple[OpeningRequest, str | None]:
    """Return the request that a scope describes, and why its headers are not valid, as in `HostedRequest`.

    The path of the request is relative to the one where the application is mounted.
    """
    path, root = scope["path"], scope.get("root_path", "")
    mounted_at = path.rpartition("/")[2] if path == root else ""
    if root and (path == root or path.startswith(f"{root}/")):
        path = path.removeprefix(root)
    query = scope.get("query_string", b"").decode("latin-1")
    pairs = [(name, value) for name, value in scope["headers"] if name.lower() != b"sec-websocket-protocol"]
    headers, problem = checked_headers(pairs)
    request = OpeningRequest(
        (path or "/") + (f"?{query}" if query else ""),
        headers,
        _client_of(scope),
        server_address(*server) if (server := scope.get("server")) else UNKNOWN_SERVER,
        tuple(scope.get("subprotocols", ())),
        link_prefix=f"{quote(mounted_at, safe='')}/" if mounted_at else "",
    )
    return request, problem


def _client_of(scope: Scope) -> ClientAddress:
    client, server = scope.get("client"), scope.get("server")
    if client and client[0]:
        return client_address(*client)
    is_unix = bool(server) and server is not None and server[1] is None
    return ClientAddress(UNIX) if is_unix else UNKNOWN_CLIENT


class AsgiRequest(HostedRequest):
    """A request for a WebSocket connection."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.opening, self.problem = opening_request(scope)
        self._can_answer = _REFUSED in (scope.get("extensions") or {})
        self._receive = receive
        self._send = send

    async def accept(self, subprotocol: str | None, headers: Headers) -> MessageChannel:
        await self._connected()
        event = {"type": "websocket.accept", "subprotocol": subprotocol, "headers": _packed(headers)}
        await _send(self._send, event, HandshakeError(_LEFT_EARLY))
        return _Channel(self._receive, self._send)

    async def refuse(self, refusal: Refusal) -> None:
        await self._connected()
        if self._can_answer:
            await _answer(self._send, _REFUSED, refusal)
        else:
            event = {"type": "websocket.close", "code": 1008, "reason": refusal.reason}
            await _send(self._send, event, HandshakeError(_LEFT_EARLY))

    async def _connected(self) -> None:
        """Receive the first event. A checkpoint; if cancelled, nothing is lost.

        Raises:
            HandshakeError: the client is gone.
        """
        if (await self._receive())["type"] != "websocket.connect":
            raise HandshakeError(_LEFT_EARLY)


class _Channel(MessageChannel):
    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._is_closed = False

    async def receive(self) -> bytes | str:
        event = await self._receive()
        if event["type"] != "websocket.receive":
            self._is_closed = True
            raise _ending(event)
        data = event.get("bytes")
        return bytes(data) if data is not None else str(event["text"])

    async def send(self, message: bytes | str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._is_closed:
            raise ConnectionLost(_LEFT)
        kind = "text" if isinstance(message, str) else "bytes"
        await _send(self._send, {"type": "websocket.send", kind: message}, ConnectionLost(_LEFT))

    async def close(self, code: int, reason: str) -> None:
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            return
        self._is_closed = True
        await _send(self._send, {"type": "websocket.close", "code": code, "reason": reason}, ConnectionLost(_LEFT))
        # The host disconnects when the application returns, and the client might then lose the last messages.
        while (await self._receive())["type"] != "websocket.disconnect":
            pass


def _ending(event: Event) -> RayforceWSError:
    code = event.get("code") or 1005
    if code in _LOST:
        return ConnectionLost(_LEFT)
    return closed_by_peer(code, event.get("reason") or "")


async def answer_http(send: Send, response: HttpResponse | Refusal, *, with_body: bool) -> None:
    """Answer a plain HTTP request, unless the client is gone.

    A checkpoint if the host's function is; if cancelled, the answer may be cut.
    """
    with suppress(HandshakeError):
        await _answer(send, "http.response", response, with_body=with_body)


async def _answer(send: Send, kind: str, response: HttpResponse | Refusal, *, with_body: bool = True) -> None:
    """Send an HTTP response. A checkpoint if the host's function is; if cancelled, it may be cut.

    Raises:
        HandshakeError: the client is gone.
    """
    # The host decides whether the connection continues.
    headers = [pair for pair in response.all_headers if pair[0] not in ("Connection", "Upgrade")]
    headers.append(("Content-Length", str(len(response.body))))
    start = {"type": f"{kind}.start", "status": response.status, "headers": _packed(headers)}
    body = {"type": f"{kind}.body", "body": response.body if with_body else b""}
    for event in (start, body):
        await _send(send, event, HandshakeError(_LEFT_EARLY))


async def _send(send: Send, event: Event, error: RayforceWSError) -> None:
    """Send an event, or raise this error if the client is gone. A checkpoint if `send`, the host's function, is.

    If cancelled, the host may have sent it.
    """
    try:
        await send(event)
    except OSError:  # so a host may report that the client is gone
        raise error from None


def _packed(headers: Headers | list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in headers]
