"""The header of the PROXY protocol, version 2, in which a proxy reports the address of its client. No I/O.

The header comes first on a connection, before TLS: 16 bytes with a signature, a command, the family of the addresses
and the length of the rest; then the addresses, and further fields, which this module skips.
"""

import struct
from ipaddress import IPv4Address, IPv6Address

from .._addresses import ClientAddress
from ..errors import HandshakeError

FIXED_SIZE = 16
"""The length of the part of the header that is always there, in bytes."""

MAX_REST = 4096
"""The longest rest of a header that is accepted, in bytes. The addresses and the usual fields take a few hundred."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED = struct.Struct("!12sBBH")
_LOCAL, _PROXY = 0x20, 0x21  # version and command
_TCP4, _TCP6 = 0x11, 0x21  # family and transport
_OTHERS = frozenset({0x00, 0x01, 0x02, 0x10, 0x12, 0x20, 0x22, 0x30, 0x31, 0x32})
"""The families without an IP address of a TCP client: unknown, UDP, and Unix sockets."""

_ADDRESSES = {_TCP4: (struct.Struct("!4s4sHH"), IPv4Address), _TCP6: (struct.Struct("!16s16sHH"), IPv6Address)}


class MalformedProxyHeader(HandshakeError):
    """A connection does not begin with a valid header. The text is a sentence."""


def may_begin(data: bytes | bytearray) -> bool:
    """Return whether a connection that begins with `data` may have a header of this version."""
    return data[: len(_SIGNATURE)] == _SIGNATURE[: len(data)]


def rest_size(fixed: bytes) -> int:
    """Return how many bytes of the header follow its first `FIXED_SIZE` bytes.

    Raises:
        MalformedProxyHeader: the bytes are not the beginning of a header.
    """
    if not may_begin(fixed):
        if fixed.startswith(b"PROXY "):
            raise MalformedProxyHeader(
                "The proxy uses version 1 of the PROXY protocol. Configure version 2; in HAProxy, use send-proxy-v2."
            )
        raise MalformedProxyHeader(
            "The connection does not begin with a header of the PROXY protocol, version 2. Configure the proxy to "
            "send one, or "
            "start the server without proxy_protocol."
        )
    _, command, family, size = _FIXED.unpack(fixed)
    if command not in (_LOCAL, _PROXY) or (family not in _ADDRESSES and family not in _OTHERS):
        raise MalformedProxyHeader(
            "The header of the PROXY protocol has an unknown version, command or address family."
        )
    if size > MAX_REST:
        raise MalformedProxyHeader(f"The header of the PROXY protocol is longer than {FIXED_SIZE + MAX_REST} bytes.")
    if command == _PROXY and family in _ADDRESSES and size < _ADDRESSES[family][0].size:
        raise MalformedProxyHeader("The header of the PROXY protocol is too short for its addresses.")
    return int(size)


def client_in(fixed: bytes, rest: bytes, proxy: ClientAddress) -> ClientAddress:
    """Return the client that a header names. If it names none, as for the proxy's own health check, return the proxy.

    Args:
        fixed: the first `FIXED_SIZE` bytes, which `rest_size` has accepted.
        rest: as many bytes as `rest_size` has returned.
        proxy: the peer that has sent the header.
    """
    _, command, family, _ = _FIXED.unpack(fixed)
    if command == _LOCAL or family not in _ADDRESSES:
        return ClientAddress(proxy.address, proxy.port, through_proxy=True)
    fields, kind = _ADDRESSES[family]
    source, _, port, _ = fields.unpack_from(rest)
    return ClientAddress(str(kind(source)), port, through_proxy=True)
