"""Byte streams on trio and asyncio behind one interface, `ByteStream`: TCP, Unix sockets, and TLS over either."""

from anyio import BrokenResourceError, ClosedResourceError

from ._base import READ_SIZE, STREAM_ERRORS, ByteStream
from ._connecting import connect_tcp, connect_unix
from ._socket_addresses import own_address, peer_address
from ._tcp import TcpStream
from ._tls import TlsStream, check_tls_context, is_certificate_error, is_plaintext_error, tls_error_text
from ._trio_tcp import stream_of

__all__ = [
    "READ_SIZE",
    "STREAM_ERRORS",
    "BrokenResourceError",
    "ByteStream",
    "ClosedResourceError",
    "TcpStream",
    "TlsStream",
    "check_tls_context",
    "connect_tcp",
    "connect_unix",
    "is_certificate_error",
    "is_plaintext_error",
    "own_address",
    "peer_address",
    "stream_of",
    "tls_error_text",
]
