"""Open a client's connection, on both event loops: TCP or a Unix socket, TLS, and the opening handshake of WebSocket.

`ResponseParser` checks the server's response. On trio, trio-websocket makes the request, and receives the response
reduced to the headers that it needs. So the errors are the same on both event loops.
"""

import base64
import os
import ssl
from collections.abc import Sequence
from contextlib import suppress

import trio_websocket

from .._addresses import Endpoint, authority_of, os_error_text
from .._protocol import MESSAGE_LIMIT_HEADER, TRACES_HEADER, parse_message_limit
from .._streams import (
    BrokenResourceError,
    ByteStream,
    ClosedResourceError,
    TlsStream,
    connect_tcp,
    connect_unix,
    is_certificate_error,
    is_plaintext_error,
    tls_error_text,
)
from .._tasks import in_trio
from .._websocket import (
    InvalidResponse,
    ResponseParser,
    UpgradeAccepted,
    UpgradeRejected,
    key_in,
    normalized_response,
    pack_request,
)
from ..errors import ConnectError, ConnectionRejected, HandshakeError
from ._head_stream import ClientNursery, HeadRead, HeadStream, ReaderStarted, send_head
from ._keepalive import KeepAlive
from ._websocket import WebSocketTransport


async def connect(
    endpoint: Endpoint,
    *,
    subprotocols: Sequence[str],
    headers: Sequence[tuple[str, str]] = (),
    max_message_size: int,
    keepalive: KeepAlive,
) -> WebSocketTransport:
    """Open a WebSocket connection on the running event loop. A checkpoint; if cancelled, nothing is left open.

    Args:
        endpoint: the server.
        subprotocols: the subprotocols to propose, the preferred one first.
        headers: further headers of the request; they may be secret.
        max_message_size: the longest message accepted, in bytes.
        keepalive: when to ping the server.

    Raises:
        ConnectError: the server cannot be reached.
        ConnectionRejected: the server refused the connection with an HTTP status.
        HandshakeError: the peer is not a WebSocket server, or its TLS certificate cannot be trusted.
    """
    try:
        host = _host_header(endpoint)
        path = endpoint.socket_path
        stream: ByteStream = await (connect_tcp(*endpoint.address) if path is None else connect_unix(path))
    except (OSError, UnicodeError) as error:
        raise ConnectError(f"Failed to connect to {endpoint}: {os_error_text(error)}") from error
    try:
        if endpoint.tls is not None:
            stream = await _start_tls(stream, endpoint, endpoint.tls)
        handshake = _handshake_on_trio if in_trio() else _handshake_on_asyncio
        accepted = await handshake(_Opening(stream, endpoint, host, subprotocols, headers))
    except BaseException:
        stream.close()
        raise
    return WebSocketTransport(
        stream,
        client=True,
        leftover=accepted.leftover,
        subprotocol=accepted.subprotocol,
        peer=endpoint.authority,
        max_message_size=max_message_size,
        keepalive=keepalive,
        peer_max_message_size=parse_message_limit(accepted.headers.get(MESSAGE_LIMIT_HEADER.lower())),
        peer_takes_traces=accepted.headers.get(TRACES_HEADER.lower()) == "1",
    )


def _host_header(endpoint: Endpoint) -> str:
    """Return the value of the Host header. Raises `UnicodeError` if the host cannot be a name."""
    if endpoint.socket_path is not None:
        return endpoint.host_name
    host, port = endpoint.address
    # The zone of an IPv6 address means something on this machine only.
    return authority_of(host.partition("%")[0], port).encode("idna").decode()


async def _start_tls(stream: ByteStream, endpoint: Endpoint, context: ssl.SSLContext) -> TlsStream:
    """Do the TLS handshake. A checkpoint; if cancelled, close the stream."""
    try:
        secure = TlsStream(stream, context, server_hostname=endpoint.host_name)
        await secure.do_handshake()
    except (HandshakeError, ValueError) as error:
        raise _tls_failed(endpoint, error.__cause__ or error) from None
    return secure


class _Opening:
    """The exchange of the two HTTP heads with a server."""

    def __init__(
        self,
        stream: ByteStream,
        endpoint: Endpoint,
        host: str,
        subprotocols: Sequence[str],
        headers: Sequence[tuple[str, str]],
    ) -> None:
        self._stream = stream
        self._endpoint = endpoint
        self.host = host
        self.target = endpoint.target
        self.subprotocols = list(subprotocols)
        self.headers = headers

    async def exchange(self, request: bytes, key: str) -> UpgradeAccepted:
        """Send the request, whose `Sec-WebSocket-Key` is `key`, and return the response.

        A checkpoint. If this raises or is cancelled, close the stream.

        Raises:
            ConnectionRejected: the server refused the connection with an HTTP status.
            HandshakeError: the peer is not a WebSocket server, or the connection broke.
        """
        parser = ResponseParser(key=key, subprotocols=self.subprotocols)
        response = None
        try:
            await send_head(self._stream, request)
            while response is None:
                response = parser.receive_data(await self._stream.receive_some())
        except (BrokenResourceError, ClosedResourceError) as error:
            if isinstance(error.__cause__, ssl.SSLError):  # in TLS 1.3, a server refuses a certificate as late as this
                raise _tls_failed(self._endpoint, error.__cause__) from None
            reason = "the connection broke during the opening handshake"
            raise _handshake_failed(self._endpoint, reason) from error.__cause__
        match response:
            case UpgradeRejected(status, body, retry_after):
                raise ConnectionRejected(status, body.decode("utf-8", "replace"), retry_after)
            case InvalidResponse(reason, is_incomplete=True):
                raise _handshake_failed(self._endpoint, reason)
            case InvalidResponse(reason):
                failed = _handshake_failed(self._endpoint, f"the peer is not a WebSocket server: {reason}")
                failed._wrong_peer = True
                raise failed
            case UpgradeAccepted():
                return response


async def _handshake_on_trio(opening: _Opening) -> UpgradeAccepted:
    """Do the opening handshake with trio-websocket. A checkpoint; if cancelled, close the stream."""
    accepted: UpgradeAccepted | None = None

    async def receive_head() -> bytes:
        """Exchange the heads, and return the response for trio-websocket. If cancelled, close the stream."""
        nonlocal accepted
        key = key_in(stream.sent)
        accepted = await opening.exchange(stream.sent, key)
        return normalized_response(accepted, key)

    stream = HeadStream(receive_head)
    try:
        await trio_websocket.wrap_client_stream(
            ClientNursery(),  # type: ignore[arg-type]  # it needs start_soon only
            stream,  # type: ignore[arg-type]  # any trio.abc.Stream will do
            opening.host,
            opening.target,
            subprotocols=opening.subprotocols,
            extra_headers=[(name.encode(), value.encode()) for name, value in opening.headers],
        )
    except ReaderStarted as started:
        with suppress(HeadRead):
            await started.reader()
    assert accepted is not None
    return accepted


async def _handshake_on_asyncio(opening: _Opening) -> UpgradeAccepted:
    """Do the opening handshake. A checkpoint; if cancelled, close the stream."""
    key = base64.b64encode(os.urandom(16)).decode()
    request = pack_request(opening.host, opening.target, key, opening.subprotocols, opening.headers)
    return await opening.exchange(request, key)


def _handshake_failed(endpoint: Endpoint, reason: str) -> HandshakeError:
    return HandshakeError(f"Failed to connect to {endpoint}: {reason}")


def _tls_failed(endpoint: Endpoint, error: BaseException) -> HandshakeError:
    hint = "; to connect without TLS, use ws:// or ssl=False" if is_plaintext_error(error) else ""
    failed = HandshakeError(f"Failed to connect to {endpoint}: the TLS handshake failed: {tls_error_text(error)}{hint}")
    failed._wrong_peer = is_plaintext_error(error)
    failed._untrusted = is_certificate_error(error)
    return failed
