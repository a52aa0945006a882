"""What proxies report about their clients: headers with anything a client may have sent, and the PROXY protocol."""

from contextlib import suppress
from ipaddress import ip_address
from random import Random

from rayforce_trio._addresses import ClientAddress
from rayforce_trio._server._forwarding import ForwardingHeader, Hop, MalformedElement, hops_of
from rayforce_trio._server._proxy_protocol import FIXED_SIZE, MalformedProxyHeader, client_in, rest_size

_PROXY = ClientAddress("127.0.0.1", 5000)
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_PIECES = [
    "for=",
    "by=",
    "proto=http",
    ";",
    ",",
    ", ",
    '"',
    "\\",
    "[",
    "]",
    ":",
    "=",
    " ",
    "unknown",
    "_x",
    "192.0.2.7",
]
_PIECES += ["[2001:db8::7]", "2001:db8::7", "127.0.0.1:80", "%eth0", "\t", "\xff", "0"]
_HEADER = 255  # the first byte of an input that is a header of the PROXY protocol


def make(random: Random) -> bytes:
    """Return an input: its kind in the first byte, then what a client has sent, or a header of the PROXY protocol."""
    if random.random() < 0.5:
        size = random.choice([0, 11, 12, 35, 36, random.randrange(65536)])
        command, family = random.choice([0x20, 0x21, random.randrange(256)]), random.choice([0x11, 0x21, 0, 0x31])
        rest = random.randbytes(random.choice([0, 12, 36, 60]))
        return bytes([_HEADER]) + _SIGNATURE + bytes([command, family]) + size.to_bytes(2) + rest
    sent = "".join(random.choices(_PIECES, k=random.randrange(12)))
    return bytes([random.randrange(_HEADER)]) + sent.encode("latin-1")


def check(data: bytes) -> None:
    if data[:1] == bytes([_HEADER]):
        _check_protocol(data[1:])
    elif data:
        _check_header(data[0], data[1:].decode("latin-1"))


def _check_protocol(data: bytes) -> None:
    """A client is found or an error is raised, and the client is never one on this machine."""
    fixed, rest = data[:FIXED_SIZE], data[FIXED_SIZE:]
    with suppress(MalformedProxyHeader):
        size = rest_size(fixed)
        client = client_in(fixed, rest[:size].ljust(size, b"\0"), _PROXY)
        assert not client.is_local
        ip_address(client.address)


def _check_header(kind: int, sent: str) -> None:
    """What a client has sent does not change how the address that a proxy appends is read."""
    for header, appended in (
        (ForwardingHeader.X_FORWARDED_FOR, f"198.51.100.{kind}"),
        (ForwardingHeader.FORWARDED, f"for=198.51.100.{kind}"),
        (ForwardingHeader.FORWARDED, f'proto=https;for="198.51.100.{kind}:{kind}";host="a, b"'),
    ):
        hops = hops_of(header, f"{sent}, {appended}")
        first = next(hops)
        assert first is not None
        assert first.address == f"198.51.100.{kind}"
        with suppress(MalformedElement):
            for hop in hops:
                assert hop is None or isinstance(hop, Hop)
                if hop is not None:
                    ip_address(hop.address)
