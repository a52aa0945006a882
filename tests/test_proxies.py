"""Proxies in front of a server: whom it trusts, and which client it finds behind them."""

import ipaddress
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio import WSServer
from rayforce_trio._addresses import ClientAddress
from rayforce_trio._server._forwarding import ForwardingHeader, Hop, MalformedElement, hops_of
from rayforce_trio._server._proxies import Proxies
from rayforce_trio._server._proxy_protocol import (
    FIXED_SIZE,
    MAX_REST,
    MalformedProxyHeader,
    client_in,
    may_begin,
    rest_size,
)
from rayforce_trio._transports import Refusal
from rayforce_trio.errors import RayforceValueError

X, F = ForwardingHeader.X_FORWARDED_FOR, ForwardingHeader.FORWARDED
V6 = "2001:db8::7"


def read(header: ForwardingHeader, value: str) -> list[Hop | str | None]:
    """Return the hops from the right; the last item is "malformed" if reading ended with that."""
    hops: list[Hop | str | None] = []
    try:
        hops.extend(hops_of(header, value))  # keeps those before an error
    except MalformedElement:
        hops.append("malformed")
    return hops


# The headers


@pytest.mark.parametrize(
    ("header", "node", "hop"),
    [
        (X, "192.0.2.7", Hop("192.0.2.7")),
        (X, "192.0.2.7:4711", Hop("192.0.2.7", 4711)),
        (X, V6, Hop(V6)),
        (X, f"[{V6}]", Hop(V6)),
        (X, f"[{V6}]:4711", Hop(V6, 4711)),
        (X, "2001:DB8:0::7", Hop(V6)),
        (X, "::ffff:192.0.2.7", Hop(str(ipaddress.ip_address("::ffff:192.0.2.7")))),
        (X, "unknown", None),
        (X, "_hidden", None),
        (F, "for=192.0.2.7", Hop("192.0.2.7")),
        (F, "For=192.0.2.7", Hop("192.0.2.7")),
        (F, 'for="192.0.2.7:4711"', Hop("192.0.2.7", 4711)),
        (F, f'for="[{V6}]"', Hop(V6)),
        (F, f'for="[{V6}]:4711"', Hop(V6, 4711)),
        (F, f'for="{V6}"', Hop(V6)),
        (F, r'for="192.0.2\.7"', Hop("192.0.2.7")),
        (F, "for=192.0.2.7;proto=https;by=203.0.113.43", Hop("192.0.2.7")),
        (F, "by=203.0.113.43 ; for=192.0.2.7 ;", Hop("192.0.2.7")),
        (F, ';;for=192.0.2.7;host="a,b;for=1.2.3.4"', Hop("192.0.2.7")),
        (F, r'for=192.0.2.7;host="a\"b, for=1.2.3.4"', Hop("192.0.2.7")),
        (F, r'for=192.0.2.7;host="a\\"', Hop("192.0.2.7")),
        (F, "for=unknown", None),
        (F, "for=UNKNOWN", None),
        (F, "for=_hidden", None),
        (F, 'for="_SEVKISEK:_port"', None),
        (F, 'for="192.0.2.7:_port"', Hop("192.0.2.7")),
        (F, "proto=https", None),
    ],
)
def test_a_hop(header: ForwardingHeader, node: str, hop: Hop | None) -> None:
    assert read(header, node) == [hop]
    assert read(header, f" \t{node} ,, ") == [hop]
    other = "for=198.51.100.1" if header is F else "198.51.100.1"
    assert read(header, f"{other},{node}") == [hop, Hop("198.51.100.1")]
    for left in ('for="', '"', "\\", 'for=1.2.3.4;by="', 'for="\\', "for=", ";", "=", '"' * 50):
        assert read(header, f"{left}, {node}")[0] == hop, "a client can change how the hop is read"


@pytest.mark.parametrize(
    ("header", "node"),
    [
        (X, "client"),
        (X, "192.0.2"),
        (X, "192.0.2.256"),
        (X, "192.0.02.7"),
        (X, "192.0.2.7:65536"),
        (X, "192.0.2.7:"),
        (X, "192.0.2.7:x"),
        (X, "[192.0.2.7]"),
        (X, "[]"),
        (X, "[]:80"),
        (X, f"[{V6}"),
        (X, f"[{V6}]4711"),
        (X, f"{V6}%eth0"),
        (X, f"[{V6}%1]"),
        (X, '"192.0.2.7"'),
        (X, "for=192.0.2.7"),
        (X, "192.0.2.7 198.51.100.1"),
        (X, "192.0.2.7;"),
        (X, "_"),
        (X, "\u0661\u0669\u0662.0.2.7"),
        (F, "192.0.2.7"),
        (F, "for"),
        (F, "for="),
        (F, 'for=""'),
        (F, "=192.0.2.7"),
        (F, "for=192.0.2.7;for=192.0.2.7"),
        (F, "for=192.0.2.7:4711"),
        (F, f"for=[{V6}]"),
        (F, "for =192.0.2.7"),
        (F, 'for="192.0.2.7"x'),
        (F, 'for="192.0.2.7'),
        (F, 'for=192.0.2.7"'),
        (F, "for=192.0.2.7 proto=https"),
    ],
)
def test_what_is_not_a_hop(header: ForwardingHeader, node: str) -> None:
    assert read(header, node) == ["malformed"]


@pytest.mark.parametrize("header", ForwardingHeader)
def test_an_empty_header_has_no_hops(header: ForwardingHeader) -> None:
    for value in ("", " ", ",", " , ,\t"):
        assert read(header, value) == []


NODES = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.tuples(st.ip_addresses(v=4), st.integers(0, 65535)).map(lambda both: f"{both[0]}:{both[1]}"),
    st.tuples(st.ip_addresses(v=6), st.integers(0, 65535)).map(lambda both: f"[{both[0]}]:{both[1]}"),
)


@given(st.lists(NODES), st.text(st.characters(codec="latin-1")))
def test_nothing_that_a_client_sends_changes_what_proxies_append(nodes: list[str], sent: str) -> None:
    for header, written in ((X, nodes), (F, [f'proto=http;for="{node}"' for node in nodes])):
        proper = read(header, ", ".join(written))
        assert len(proper) == len(nodes)
        assert None not in proper
        assert read(header, ", ".join([sent, *written]))[: len(nodes)] == proper


@given(st.sampled_from(ForwardingHeader), st.text(st.sampled_from('for=by;,"\\ []:._1a\t')))
def test_any_value_is_read_to_its_end_or_to_an_error(header: ForwardingHeader, value: str) -> None:
    read(header, value)


def test_an_error_shows_the_element_without_its_control_characters_and_not_all_of_a_long_one() -> None:
    with pytest.raises(MalformedElement, match=r"^'\\x1b\[31m' is not an IP address$"):
        next(hops_of(X, "\x1b[31m"))
    with pytest.raises(MalformedElement, match=r"^'x{100}\.\.\.' is not"):
        next(hops_of(X, "x" * 10_000))


# The client

PEER = "10.0.0.1"
TRUSTED = ["10.0.0.0/8", "127.0.0.1", "fd00::/8", "::1"]


def client(
    headers: Mapping[str, str], *, peer: str = PEER, header: str | None = "X-Forwarded-For"
) -> tuple[str, bool] | int:
    """Return the address and whether it comes through a proxy, or the status of the refusal."""
    found = Proxies(TRUSTED, header).client_of(ClientAddress(peer, 4711), headers)
    return found.status if isinstance(found, Refusal) else (found.address, found.through_proxy)


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("198.51.100.1, 192.0.2.7", "192.0.2.7"),
        ("192.0.2.7, 10.0.0.2, 127.0.0.1", "192.0.2.7"),
        ("198.51.100.1, 192.0.2.7, 10.0.0.2", "192.0.2.7"),
        ("nonsense, 192.0.2.7", "192.0.2.7"),
        ("127.0.0.1, 192.0.2.7", "192.0.2.7"),
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.2", "::ffff:10.0.0.2"),
        ("unknown", PEER),
        ("192.0.2.7, unknown", PEER),
        ("192.0.2.7, _hidden, 10.0.0.2", "10.0.0.2"),
        ("", PEER),
        ("127.0.0.2", "127.0.0.2"),
    ],
)
def test_the_client_is_the_rightmost_hop_that_is_not_trusted_and_never_this_machine(value: str, address: str) -> None:
    found = Proxies(TRUSTED, "x-forwarded-for").client_of(ClientAddress(PEER, 4711), {"x-forwarded-for": value})
    assert isinstance(found, ClientAddress)
    assert ipaddress.ip_address(found.address) == ipaddress.ip_address(address)
    assert found.through_proxy
    assert not found.is_local


@pytest.mark.parametrize("value", ["nonsense", "192.0.2.7, nonsense", "nonsense, 10.0.0.2", "192.0.2.7, [10.0.0.2"])
def test_a_request_with_a_malformed_header_is_refused(value: str) -> None:
    found = Proxies(TRUSTED, "X-Forwarded-For").client_of(ClientAddress(PEER), {"x-forwarded-for": value})
    assert isinstance(found, Refusal)
    assert found.status == 400
    assert found.reason.startswith("The proxy sent an invalid X-Forwarded-For header: '")


@pytest.mark.parametrize("peer", ["10.0.0.1", "127.0.0.1", "::1", "::ffff:127.0.0.1", "fd00::5%eth0"])
def test_a_trusted_proxy_is_never_this_machine_whatever_its_header_says_or_lacks(peer: str) -> None:
    for headers in ({}, {"x-forwarded-for": ""}, {"x-forwarded-for": "127.0.0.1"}, {"x-forwarded-for": "::1"}):
        for header in (None, "Forwarded", "X-Forwarded-For"):
            found = Proxies(TRUSTED, header).client_of(ClientAddress(peer), headers)
            assert isinstance(found, ClientAddress)
            assert not found.is_local


def test_only_the_header_that_was_chosen_is_read() -> None:
    both = {"x-forwarded-for": "192.0.2.7", "forwarded": "for=192.0.2.8"}
    assert client(both) == ("192.0.2.7", True)
    assert client(both, header="Forwarded") == ("192.0.2.8", True)
    assert client(both, header=None) == (PEER, True)
    assert client({"x-forwarded-for": "192.0.2.7", "forwarded": "nonsense"}) == ("192.0.2.7", True)


@pytest.mark.parametrize("trusted", [TRUSTED, []])
def test_the_header_of_an_untrusted_peer_is_only_a_trace_of_a_proxy(trusted: list[str]) -> None:
    proxies = Proxies(trusted, "X-Forwarded-For" if trusted else None)
    for peer in ("127.0.0.2", "192.0.2.1"):
        for headers, traced in (
            ({}, False),
            ({"host": "localhost", "user-agent": "x"}, False),
            ({"x-forwarded-for": "127.0.0.1"}, True),
            ({"x-forwarded-for": "nonsense"}, True),
            ({"forwarded": ""}, True),
            ({"via": "1.1 proxy"}, True),
            ({"x-real-ip": "127.0.0.1"}, True),
        ):
            found = proxies.client_of(ClientAddress(peer, 4711), headers)
            assert found == ClientAddress(peer, 4711, through_proxy=traced)
            assert isinstance(found, ClientAddress)
            assert found.is_local is (peer == "127.0.0.2" and not traced)


def test_the_address_of_a_client_names_its_port_if_that_is_known() -> None:
    assert [str(ClientAddress(*one)) for one in (("192.0.2.7", 1), ("192.0.2.7",), (V6, 1), (V6,))] == [
        "192.0.2.7:1",
        "192.0.2.7",
        f"[{V6}]:1",
        f"[{V6}]",
    ]
    assert ClientAddress(V6).network == "2001:db8::/64"


# The PROXY protocol

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
TCP4 = bytes([192, 0, 2, 7, 127, 0, 0, 1]) + struct.pack("!HH", 4711, 443)
TCP6 = ipaddress.IPv6Address(V6).packed + bytes(16) + struct.pack("!HH", 4711, 443)
TLVS = b"\x04\x00\x03abc" + b"\x20\x00\x01\x00"
PROXY = ClientAddress("127.0.0.1", 5000)


def proxy_header(command: int, family: int, rest: bytes = b"", *, size: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest) if size is None else size) + rest


def parse(data: bytes) -> ClientAddress:
    fixed = data[:FIXED_SIZE]
    size = rest_size(fixed)
    assert len(data) == FIXED_SIZE + size
    return client_in(fixed, data[FIXED_SIZE:], PROXY)


ITSELF = ClientAddress("127.0.0.1", 5000, through_proxy=True)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (proxy_header(0x21, 0x11, TCP4), ClientAddress("192.0.2.7", 4711, through_proxy=True)),
        (proxy_header(0x21, 0x21, TCP6), ClientAddress(V6, 4711, through_proxy=True)),
        (proxy_header(0x21, 0x11, TCP4 + TLVS), ClientAddress("192.0.2.7", 4711, through_proxy=True)),
        (proxy_header(0x21, 0x21, TCP6 + bytes(MAX_REST - 36)), ClientAddress(V6, 4711, through_proxy=True)),
        (proxy_header(0x20, 0x00), ITSELF),
        (proxy_header(0x20, 0x11, TCP4), ITSELF),
        (proxy_header(0x20, 0x11, b"?"), ITSELF),
        (proxy_header(0x20, 0x21, TLVS), ITSELF),
        (proxy_header(0x21, 0x00), ITSELF),
        (proxy_header(0x21, 0x00, TLVS), ITSELF),
        (proxy_header(0x21, 0x12, TCP4), ITSELF),
        (proxy_header(0x21, 0x22, TCP6), ITSELF),
        (proxy_header(0x21, 0x31, bytes(216)), ITSELF),
    ],
)
def test_the_header_of_the_proxy_protocol_names_the_client_or_nobody(data: bytes, expected: ClientAddress) -> None:
    assert parse(data) == expected
    assert not expected.is_local


@pytest.mark.parametrize(
    ("fixed", "says"),
    [
        (b"PROXY TCP4 192.0", "The proxy uses version 1 of the PROXY protocol"),
        (b"GET / HTTP/1.1\r\n", "does not begin with a header of the PROXY protocol"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03abcde", "does not begin with a header"),
        (b"\r\n\r\n\0\r\nQUIT\r!\x11\0\x0c", "does not begin with a header"),
        (proxy_header(0x11, 0x11, size=12), "unknown version, command or address family"),
        (proxy_header(0x31, 0x11, size=12), "unknown version, command or address family"),
        (proxy_header(0x22, 0x11, size=12), "unknown version, command or address family"),
        (proxy_header(0x21, 0x13, size=12), "unknown version, command or address family"),
        (proxy_header(0x21, 0x41, size=12), "unknown version, command or address family"),
        (proxy_header(0x20, 0xFF, size=0), "unknown version, command or address family"),
        (proxy_header(0x21, 0x11, size=MAX_REST + 1), "longer than 4112 bytes"),
        (proxy_header(0x20, 0x00, size=65535), "longer than 4112 bytes"),
        (proxy_header(0x21, 0x11, size=11), "too short for its addresses"),
        (proxy_header(0x21, 0x21, size=35), "too short for its addresses"),
    ],
)
def test_what_is_not_a_header_of_the_proxy_protocol(fixed: bytes, says: str) -> None:
    with pytest.raises(MalformedProxyHeader, match=says):
        rest_size(fixed)


def test_a_header_is_recognized_as_wrong_as_soon_as_it_is() -> None:
    whole = proxy_header(0x21, 0x11, TCP4)
    assert all(may_begin(whole[:size]) for size in range(len(whole)))
    assert not any(may_begin(data) for data in (b"G", b"PROXY", b"\x16\x03", b"\r\n\r\n\0\r\nQUIT\r"))


@given(st.binary(min_size=FIXED_SIZE, max_size=FIXED_SIZE), st.binary(max_size=300))
def test_whatever_comes_is_a_header_or_an_error(fixed: bytes, rest: bytes) -> None:
    for start in (fixed, SIGNATURE + fixed[12:], SIGNATURE + b"\x21" + fixed[13:14] + struct.pack("!H", len(rest))):
        try:
            size = rest_size(start)
        except MalformedProxyHeader:
            continue
        assert client_in(start, rest.ljust(size, b"\0"), PROXY).through_proxy


# The options


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"trusted_proxies": "127.0.0.1"}, r"Invalid trusted_proxies: '127.0.0.1'. Must be a list; write \['127.0.0"),
        ({"trusted_proxies": 7}, r"Invalid trusted_proxies: 7\. Must be a list"),
        ({"trusted_proxies": ["localhost"]}, r"Invalid trusted_proxies: 'localhost'\. Must be IP addresses and netw"),
        ({"trusted_proxies": [""]}, r"Invalid trusted_proxies: ''\. Must be IP addresses and networks"),
        ({"trusted_proxies": [2130706433]}, r"Invalid trusted_proxies: 2130706433\. Must be IP addresses and networks"),
        ({"trusted_proxies": ["10.0.0.0/33"]}, r"Invalid trusted_proxies: '10.0.0.0/33'\. Must be IP addresses"),
        ({"trusted_proxies": ["fe80::1%eth0"]}, r"Invalid trusted_proxies: 'fe80::1%eth0'\. Must be IP addresses"),
        ({"trusted_proxies": ["::ffff:10.0.0.1"]}, r"Invalid trusted_proxies: '::ffff:10.0.0.1'\. Must be IP addresse"),
        ({"trusted_proxies": ["10.0.0.1/8"]}, r"'10.0.0.1/8' has host bits set\. Write '10.0.0.0/8'"),
        ({"trusted_proxies": ["2001:db8::1/64"]}, r"'2001:db8::1/64' has host bits set\. Write '2001:db8::/64'"),
        ({"trusted_proxies": ["0.0.0.0/0"]}, "trusts every address, so any client could claim any address"),
        ({"trusted_proxies": ["::/0"]}, "trusts every address"),
        ({"proxy_header": "Forwarded"}, "proxy_header needs trusted_proxies"),
        ({"proxy_header": "Forwarded", "trusted_proxies": []}, "proxy_header needs trusted_proxies"),
        ({"proxy_protocol": True}, "proxy_protocol needs trusted_proxies"),
        ({"proxy_protocol": "yes"}, r"Invalid proxy_protocol: 'yes'\. Must be True or False"),
        (
            {"trusted_proxies": ["::1"], "proxy_header": "Via"},
            r"Invalid proxy_header: 'Via'\. Must be 'X-Forwarded-For' or",
        ),
        (
            {"trusted_proxies": ["::1"], "proxy_header": ["Forwarded"]},
            r"Invalid proxy_header: \['Forwarded'\]\. Must be",
        ),
        (
            {"trusted_proxies": ["::1"], "proxy_header": "Forwarded", "proxy_protocol": True},
            "proxy_header and proxy_protocol contradict each other; leave out one",
        ),
    ],
)
def test_options_that_make_no_sense_are_errors_at_once(options: dict[str, Any], says: str) -> None:
    with pytest.raises(RayforceValueError, match=says):
        WSServer(0, **options)


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x-forwarded-for", "FORWARDED", None])
def test_the_name_of_the_header_may_be_in_any_case(name: str | None) -> None:
    WSServer(0, trusted_proxies=("127.0.0.1", "10.0.0.0/8", "::1"), proxy_header=name)
