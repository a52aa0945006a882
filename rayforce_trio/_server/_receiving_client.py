"""Receive the header of the PROXY protocol at the beginning of a connection."""

import trio

from .._addresses import ClientAddress
from ..errors import HandshakeError
from ._proxy_protocol import FIXED_SIZE, client_in, may_begin, rest_size


async def receive_client(stream: trio.SocketStream, proxy: ClientAddress) -> ClientAddress:
    """Receive the header and no byte more, and return the client that it names. A checkpoint.

    If cancelled, a part of the header may have been received: close the connection.

    Args:
        proxy: the peer.

    Raises:
        MalformedProxyHeader: the connection does not begin with a valid header.
        HandshakeError: the proxy closed the connection, or the connection broke.
    """
    fixed = bytearray()
    while len(fixed) < FIXED_SIZE:
        fixed += await _receive_some(stream, FIXED_SIZE - len(fixed))
        if not may_begin(fixed):
            break  # the request of a peer that sends no header may be shorter than a header
    size = rest_size(bytes(fixed))
    rest = bytearray()
    while len(rest) < size:
        rest += await _receive_some(stream, size - len(rest))
    return client_in(bytes(fixed), bytes(rest), proxy)


async def _receive_some(stream: trio.SocketStream, size: int) -> bytes:
    """Receive at least one byte and at most `size` bytes. A checkpoint; if cancelled, no bytes are lost.

    Raises:
        HandshakeError: the proxy closed the connection, or the connection broke.
    """
    try:
        data = await stream.receive_some(size)
    except trio.BrokenResourceError as error:
        raise HandshakeError("the connection broke before the header of the PROXY protocol was complete") from error
    if not data:
        raise HandshakeError("the proxy closed the connection before the header of the PROXY protocol was complete")
    return bytes(data)
