"""Requests and connections that a program's own trio-websocket server has received."""

import trio
import trio_websocket
from trio_websocket import WebSocketRequest as WebSocketRequest

from .._websocket import CloseCode
from ..errors import ConnectionLost, HandshakeError, MessageTooLarge, RayforceWSError
from ._accepting import Headers, OpeningRequest, Refusal
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

_TOO_LARGE = "Exceeded maximum message size"  # the beginning of trio-websocket's reason
_LOST = 1006


class TrioWebSocketRequest(HostedRequest):
    """A request that a trio-websocket server has received."""

    def __init__(self, request: WebSocketRequest) -> None:
        self._request = request
        self._connection: trio_websocket.WebSocketConnection | None = None
        peer, own = request.remote, request.local
        # The public interface does not have the Host header. Without it, the server would refuse every request.
        host = str(getattr(request._event, "host", "")).encode("latin-1", "replace")
        headers, self.problem = checked_headers([(b"host", host), *request.headers])
        self.opening = OpeningRequest(
            request.path,
            headers,
            UNKNOWN_CLIENT if isinstance(peer, str) else client_address(peer.address, peer.port),
            UNKNOWN_SERVER if isinstance(own, str) else server_address(own.address, own.port),
            request.proposed_subprotocols,
        )

    async def accept(self, subprotocol: str | None, headers: Headers) -> MessageChannel:
        pairs = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers]
        try:
            self._connection = await self._request.accept(subprotocol=subprotocol, extra_headers=pairs)
        except trio_websocket.ConnectionClosed:
            raise HandshakeError("the client disconnected during the opening handshake") from None
        return _Channel(self._connection)

    async def refuse(self, refusal: Refusal) -> None:
        headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in refusal.all_headers]
        try:
            await self._request.reject(refusal.status, extra_headers=headers, body=refusal.body)
        except trio_websocket.ConnectionClosed:
            await trio.lowlevel.checkpoint()

    async def end(self) -> None:
        if self._connection is not None:
            with trio.CancelScope() as scope:
                scope.cancel()  # then it closes the socket without a closing handshake
                await self._connection.aclose()


class _Channel(MessageChannel):
    def __init__(self, connection: trio_websocket.WebSocketConnection) -> None:
        self._connection = connection
        self._is_cut = False  # a message was not sent to its end, so no close frame can follow

    async def receive(self) -> bytes | str:
        try:
            return await self._connection.get_message()
        except trio_websocket.ConnectionClosed as error:
            raise _ending(error) from None

    async def send(self, message: bytes | str) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        self._is_cut = True
        try:
            await self._connection.send_message(message)
        except trio_websocket.ConnectionClosed as error:
            raise _ending(error) from None
        self._is_cut = False

    async def close(self, code: int, reason: str) -> None:
        if self._is_cut:
            await trio.lowlevel.checkpoint()
        else:
            await self._connection.aclose(code, reason)


def _ending(error: trio_websocket.ConnectionClosed) -> RayforceWSError:
    reason = error.reason
    if reason is None or reason.code == _LOST:
        return ConnectionLost("the client has disconnected without a closing handshake")
    text = reason.reason or ""
    if reason.code == CloseCode.MESSAGE_TOO_BIG and text.startswith(_TOO_LARGE):
        return MessageTooLarge("a message is longer than the max_message_size of the trio-websocket server")
    return closed_by_peer(reason.code, text)
