"""Byte streams: TCP, and TLS over it, behind one interface, `ByteStream`."""

from ._tcp import READ_SIZE, ByteStream, TcpStream
from ._tls import TlsStream, check_tls_context, is_plaintext_error, tls_error_text

__all__ = [
    "READ_SIZE",
    "ByteStream",
    "TcpStream",
    "TlsStream",
    "check_tls_context",
    "is_plaintext_error",
    "tls_error_text",
]
