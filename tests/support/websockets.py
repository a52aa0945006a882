"""WebSocket transports for tests, without an opening handshake."""

import math

from rayforce_trio._streams import ByteStream
from rayforce_trio._transports._keepalive import KeepAlive
from rayforce_trio._transports._websocket import WebSocketTransport


def websocket(
    stream: ByteStream,
    *,
    client: bool,
    leftover: bytes = b"",
    max_message_size: int = 1024,
    subprotocol: str | None = None,
    write_timeout: float = math.inf,
) -> WebSocketTransport:
    """Return a transport over a connected stream, as after the opening handshake."""
    return WebSocketTransport(
        stream,
        client=client,
        leftover=leftover,
        subprotocol=subprotocol,
        peer="the peer",
        max_message_size=max_message_size,
        keepalive=KeepAlive(),
        write_timeout=write_timeout,
    )
