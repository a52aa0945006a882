"""Which peers are trusted proxies, and which client is behind a request that came through one. No I/O."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network

from .._addresses import UNIX, ClientAddress, ip_of
from .._checks import check_flag, list_argument
from .._transports import Refusal
from ..errors import RayforceValueError
from ._forwarding import ForwardingHeader, MalformedElement, hops_of

_PROXY_HEADERS = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
"""The headers that show that a request came through a proxy, in lower case."""

NOT_A_PROXY = Refusal(
    403,
    "This server accepts connections only from its proxies, because it was started with proxy_protocol, and your "
    "address is not in trusted_proxies.",
)


class Proxies:
    """The proxies of a server.

    Args:
        trusted: the addresses and networks of proxies that tell the truth about their clients. `unix:` stands for all
            peers on Unix sockets.
        header: the header in which they report the addresses of their clients, in any case; `None`: they do not.
        protocol: whether they report these addresses with the PROXY protocol instead.

    Attributes:
        protocol: whether every connection begins with a header of the PROXY protocol.

    Raises:
        RayforceValueError: an argument is not valid, or the arguments contradict each other.
    """

    def __init__(self, trusted: Iterable[str] = (), header: str | None = None, *, protocol: bool = False) -> None:
        networks = _checked_networks(trusted)
        self._trusts_unix = None in networks
        self._networks = tuple(network for network in networks if network is not None)
        self._header = _checked_header(header)
        check_flag("proxy_protocol", protocol)
        self.protocol = protocol
        if not networks and (protocol or header is not None):
            option = "proxy_protocol" if protocol else "proxy_header"
            raise RayforceValueError(f"{option} needs trusted_proxies; without it, any client could claim any address")
        if protocol and header is not None:
            raise RayforceValueError("proxy_header and proxy_protocol contradict each other; leave out one")

    def trusts(self, address: str) -> bool:
        """Return whether the address of a peer belongs to a trusted proxy."""
        if address.startswith(UNIX):
            return self._trusts_unix
        ip = ip_of(address)
        return any(ip in network for network in self._networks)

    def client_of(self, peer: ClientAddress, headers: Mapping[str, str]) -> ClientAddress | Refusal:
        """Return the client that has sent a request, or the refusal of the request.

        Args:
            peer: the peer of the connection, or the client that the PROXY protocol has named.
            headers: the headers of the request, with names in lower case.

        Returns:
            The rightmost hop that is not a trusted proxy; if all are trusted, the leftmost one. If a proxy does not
            report its client, the proxy itself. The client of a proxy never counts as on this machine. An untrusted
            peer is the client itself; it counts as the client of a proxy if a header shows that there is one.
        """
        if peer.through_proxy:
            return peer
        if not self.trusts(peer.address):
            through_proxy = any(name in headers for name in _PROXY_HEADERS)
            return ClientAddress(peer.address, peer.port, through_proxy) if through_proxy else peer
        client = ClientAddress(peer.address, peer.port, through_proxy=True)
        if self._header is None:
            return client
        try:
            for hop in hops_of(self._header, headers.get(self._header.value.lower(), "")):
                if hop is None:
                    break
                client = ClientAddress(hop.address, hop.port, through_proxy=True)
                if not self.trusts(hop.address):
                    break
        except MalformedElement as error:
            return Refusal(400, f"The proxy sent an invalid {self._header.value} header: {error}.")
        return client


def _checked_networks(trusted: Iterable[str]) -> tuple[IPv4Network | IPv6Network | None, ...]:
    """Return the networks. `None` stands for all peers on Unix sockets."""
    networks = list_argument("trusted_proxies", trusted, "IP addresses and networks")
    return tuple(None if one == UNIX else _checked_network(one) for one in networks)


def _checked_network(text: object) -> IPv4Network | IPv6Network:
    network = _parse_network(text)
    if network is None:
        raise RayforceValueError(
            f"Invalid trusted_proxies: {text!r}. Must be IP addresses and networks such as '127.0.0.1' or "
            "'10.0.0.0/8', or 'unix:' for Unix sockets"
        )
    if network.prefixlen == 0:
        raise RayforceValueError(
            f"Invalid trusted_proxies: {text!r}. This trusts every address, so any client could claim any address"
        )
    if isinstance(text, str) and "/" in text and network.network_address != ip_of(text.partition("/")[0]):
        raise RayforceValueError(f"Invalid trusted_proxies: {text!r} has host bits set. Write {str(network)!r}")
    return network


def _parse_network(text: object) -> IPv4Network | IPv6Network | None:
    """Return the network of an IP address or a network, which may have host bits; `None` if it is not one."""
    if not isinstance(text, str) or "%" in text:
        return None
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    is_mapped = isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None
    return None if is_mapped else network


def _checked_header(name: object) -> ForwardingHeader | None:
    if name is None:
        return None
    for header in ForwardingHeader:
        if isinstance(name, str) and name.lower() == header.value.lower():
            return header
    names = " or ".join(repr(header.value) for header in ForwardingHeader)
    raise RayforceValueError(
        f"Invalid proxy_header: {name!r}. Must be {names}, depending on the header that the proxies set"
    )
