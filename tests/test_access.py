"""Who may connect: protected mode, and the checks of hosts and origins."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.opening import answer_to, try_to_connect
from support.raw import open_raw

from rayforce_trio import WSClient, WSServer, auth
from rayforce_trio._addresses import ClientAddress, is_on_this_machine
from rayforce_trio._server._access import AccessPolicy, make_policy
from rayforce_trio._transports import OpeningRequest, Refusal
from rayforce_trio.errors import ConnectionRejected, RayforceValueError

OWN = ("127.0.0.1", 8765)
LOOPBACK = ["127.0.0.1", "127.0.0.53", "127.255.255.255", "::1", "::ffff:127.0.0.1", "::ffff:7f00:1"]
FOREIGN = ["192.0.2.7", "10.0.0.1", "0.0.0.0", "126.255.255.255", "128.0.0.1", "2001:db8::7", "fe80::1%eth0", "::"]
FOREIGN += ["::ffff:192.0.2.7", "::2"]


def decide(
    *,
    peer: str = "127.0.0.1",
    headers: Mapping[str, str] | None = None,
    own: tuple[str, int] = OWN,
    open_to_all: bool = False,
    allowed: list[str] | None = None,
) -> Refusal | None:
    policy = make_policy(allow_unauthenticated=open_to_all, allowed_origins=allowed or [])
    return policy.decide(OpeningRequest("/", {"host": "localhost", **(headers or {})}, ClientAddress(peer), own))


def allows_host(
    host: str, *, own: tuple[str, int] = OWN, allowed: Sequence[str] = (), own_host: str = "0.0.0.0"
) -> bool:
    policy = make_policy(allow_unauthenticated=True, allowed_origins=[], allowed_hosts=allowed, own_host=own_host)
    refusal = policy.decide(OpeningRequest("/", {"host": host}, ClientAddress("192.0.2.7"), own))
    malformed = host in MALFORMED_HOSTS
    assert refusal is None or refusal.status == (400 if malformed else 421)
    assert refusal is None or malformed or "allowed_hosts" in refusal.reason
    return refusal is None


def allows_origin(origin: str, *, own: tuple[str, int] = OWN, allowed: list[str] | None = None) -> bool:
    refusal = decide(headers={"origin": origin}, own=own, allowed=allowed)
    assert refusal is None or refusal.status == 403
    return refusal is None


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_let_in(address: str) -> None:
    assert is_on_this_machine(address)
    assert decide(peer=address) is None


@pytest.mark.parametrize("address", FOREIGN)
def test_protected_mode_refuses_everybody_else_and_says_how_to_allow_them(address: str) -> None:
    assert not is_on_this_machine(address)
    refusal = decide(peer=address)
    assert refusal is not None
    assert refusal.status == 403
    assert "protected mode" in refusal.reason
    assert "allow_unauthenticated=True" in refusal.reason


@pytest.mark.parametrize("address", LOOPBACK + FOREIGN)
def test_allow_unauthenticated_lets_everybody_in(address: str) -> None:
    assert decide(peer=address, open_to_all=True) is None


def test_allow_unauthenticated_does_not_open_to_pages_of_other_origins() -> None:
    refusal = decide(peer="192.0.2.7", headers={"origin": "https://example.org"}, open_to_all=True)
    assert refusal is not None
    assert refusal.status == 403
    assert "allowed_origins" in refusal.reason


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://127.0.0.1:8765", OWN),
        ("https://127.0.0.1:8765", OWN),
        ("http://localhost:8765", OWN),
        ("HTTP://LocalHost:8765", OWN),
        ("http://localhost:8765", ("::1", 8765)),
        ("http://[::1]:8765", ("::1", 8765)),
        ("http://[0:0::1]:8765", ("::1", 8765)),
        ("http://127.0.0.1", ("127.0.0.1", 80)),
        ("https://127.0.0.1", ("127.0.0.1", 443)),
        ("http://192.0.2.1:8765", ("192.0.2.1", 8765)),
    ],
)
def test_a_page_of_the_server_itself_is_let_in(origin: str, own: tuple[str, int]) -> None:
    assert allows_origin(origin, own=own)


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("https://example.org", OWN),
        ("http://example.org:8765", OWN),
        ("null", OWN),
        ("", OWN),
        ("nonsense", OWN),
        ("http://", OWN),
        ("file://", OWN),
        ("http://127.0.0.1:8766", OWN),
        ("http://127.0.0.1", OWN),
        ("http://127.0.0.1:port", OWN),
        ("http://127.0.0.1:99999", OWN),
        ("http://127.0.0.2:8765", OWN),
        ("http://[::1]:8765", OWN),
        ("http://127.0.0.1.example.org:8765", OWN),
        ("http://localhost.example.org:8765", OWN),
        ("http://[::1:8765", OWN),
        ("http://localhost:8765", ("192.0.2.1", 8765)),
        ("http://evil.example@127.0.0.1:8765", OWN),
        ("http://evil:secret@127.0.0.1:8765", OWN),
        ("http://@127.0.0.1:8765", OWN),
        ("http://127.0.0.1:8765/", OWN),
        ("http://127.0.0.1:8765/evil.example", OWN),
        ("http://127.0.0.1:8765?evil.example", OWN),
        ("http://127.0.0.1:8765#evil.example", OWN),
        ("http://127.0.0.1:8765\\@evil.example", OWN),
        ("http://127.0.0.1:08765", OWN),
        ("http://127.0.0.1:8765 http://evil.example", OWN),
        ("http://[::1%25evil.example]:8765", ("::1", 8765)),
        ("http://[::1%evil.example]:8765", ("::1", 8765)),
        ("//127.0.0.1:8765", OWN),
        ("ftp://127.0.0.1:8765", OWN),
    ],
)
def test_a_page_of_anything_else_is_refused(origin: str, own: tuple[str, int]) -> None:
    assert not allows_origin(origin, own=own)


def test_a_name_that_was_rebound_to_the_server_is_not_its_own() -> None:
    headers = {"host": "example.org:8765", "origin": "http://example.org:8765"}
    assert decide(headers=headers) is not None
    assert decide(headers=headers, own=("192.0.2.1", 8765)) is not None


@pytest.mark.parametrize("listed", ["https://example.org", "https://EXAMPLE.org/", "HTTPS://Example.Org"])
@pytest.mark.parametrize("origin", ["https://example.org", "https://Example.ORG"])
def test_a_listed_origin_is_let_in_whatever_its_case(listed: str, origin: str) -> None:
    assert allows_origin(origin, allowed=["http://other.example", listed])


@pytest.mark.parametrize(
    "origin", ["http://example.org", "https://example.org:8443", "https://www.example.org", "null"]
)
def test_a_listed_origin_lets_in_no_other(origin: str) -> None:
    assert not allows_origin(origin, allowed=["https://example.org"])


def test_null_is_let_in_only_if_listed() -> None:
    assert allows_origin("null", allowed=["null"])


@pytest.mark.parametrize(
    "origin",
    [
        *("example.org", "", "*", "https://", "https://example.org/path", "https://a.org?q", "https://ann@example.org"),
        *("https://example.org:99999", "https://example.org:port", "https://[::1", "https://a b"),
    ],
)
def test_an_allowed_origin_that_is_none_is_an_error(origin: str) -> None:
    with pytest.raises(RayforceValueError, match="Must be origins such as"):
        make_policy(allow_unauthenticated=False, allowed_origins=[origin])


def test_one_string_of_allowed_origins_is_an_error() -> None:
    with pytest.raises(RayforceValueError, match=r"Must be a list; write \['https://example.org'\]"):
        WSServer(8765, allowed_origins="https://example.org")


# Under which name


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LocalHost:8765",
        "localhost.",
        "localhost.:8765",
        "127.0.0.1",
        "127.0.0.1:8765",
        "127.0.0.1:1",
        "127.0.0.53:8765",
        "[::1]",
        "[::1]:8765",
        "[0:0::1]:8765",
        "[::ffff:127.0.0.1]:8765",
    ],
)
@pytest.mark.parametrize("own", [OWN, ("::1", 8765), ("127.0.0.53", 8765), ("::ffff:127.0.0.1", 8765)])
def test_on_loopback_the_server_is_asked_for_as_what_it_is(host: str, own: tuple[str, int]) -> None:
    assert allows_host(host, own=own)
    assert allows_host(host, own=own, allowed=["example.org"])


STRANGE_HOSTS = [
    "",
    ":",
    ":8765",
    "example.org",
    "example.org:8765",
    "localhost.example.org",
    "127.0.0.1.example.org",
    "127.1",
    "2130706433",
    "0177.0.0.1",
    "192.0.2.1:8765",
    "0.0.0.1",
    "xn--localhost-",
]

MALFORMED_HOSTS = [
    "localhost@example.org",
    "example.org localhost",
    "localhost, example.org",
    "[localhost",
    "[::1",
    "::1]",
    "[]",
    "[::1]example.org",
    "[fe80::1%25eth0]:8765",
    "127.0.0.1%.evil.example",
    "127.0.0.1%25.evil.example:8765",
    "[::1%.evil.example]:8765",
    "[::1%25lo]",
    "127.0.0.1:evil.example",
    "localhost:8765.evil.example",
    "localhost:8765:8765",
    "localhost:99999",
    "localhost:+1",
    "evil.example@127.0.0.1",
    "127.0.0.1/evil.example",
    "127.0.0.1#evil.example",
    "127.0.0.1?evil.example",
    "127.0.0.1\\evil.example",
    "127.0.0.1 evil.example",
    "http://127.0.0.1",
    "::1",
]


@pytest.mark.parametrize("host", STRANGE_HOSTS)
def test_on_loopback_any_other_name_is_refused(host: str) -> None:
    assert not allows_host(host)
    assert not allows_host(host, allowed=["prices.example"])


@pytest.mark.parametrize("host", [*STRANGE_HOSTS, "localhost", "192.0.2.1"])
def test_elsewhere_any_name_will_do_unless_some_are_listed(host: str) -> None:
    assert allows_host(host, own=("192.0.2.1", 8765))
    assert not allows_host(host, own=("192.0.2.1", 8765), allowed=["prices.example"])


@pytest.mark.parametrize("host", MALFORMED_HOSTS)
@pytest.mark.parametrize("own", [OWN, ("::1", 8765)])
def test_on_loopback_a_host_that_only_begins_with_its_name_is_refused(host: str, own: tuple[str, int]) -> None:
    assert not allows_host(host, own=own)
    assert not allows_host(host, own=own, allowed=["prices.example", "localhost", "127.0.0.1", "::1"])


@pytest.mark.parametrize("own", [OWN, ("192.0.2.1", 8765)])
@pytest.mark.parametrize("listed", ["Prices.Example", "prices.example."])
@pytest.mark.parametrize("host", ["prices.example", "PRICES.example:443", "prices.example.:8765"])
def test_a_listed_name_is_let_in_whatever_its_case_and_port(host: str, listed: str, own: tuple[str, int]) -> None:
    assert allows_host(host, own=own, allowed=["other.example", listed])


def test_addresses_may_be_listed() -> None:
    elsewhere = ("192.0.2.1", 8765)
    assert allows_host("192.0.2.1:8765", own=elsewhere, allowed=["192.0.2.1"])
    assert allows_host("[2001:db8::1]:8765", own=elsewhere, allowed=["2001:db8::1"])


@pytest.mark.parametrize(("own_host", "host"), [("prices", "Prices:8765"), ("0.0.0.0", "0.0.0.0:8765"), ("::", "[::]")])
def test_the_name_the_server_listens_on_is_its_own(own_host: str, host: str) -> None:
    assert allows_host(host, own_host=own_host)
    assert not allows_host(host, own_host="localhost")


@pytest.mark.parametrize("host", MALFORMED_HOSTS)
def test_elsewhere_a_malformed_host_is_refused_even_if_no_names_are_listed(host: str) -> None:
    assert not allows_host(host, own=("192.0.2.1", 8765))


@given(st.text(st.characters(codec="ascii")))
def test_every_host_is_decided_about(host: str) -> None:
    policy = make_policy(allow_unauthenticated=True, allowed_origins=[])
    for own in (OWN, ("192.0.2.1", 8765)):
        refusal = policy.decide(OpeningRequest("/", {"host": host}, ClientAddress("192.0.2.7"), own))
        assert refusal is None or refusal.status in (400, 421)


@pytest.mark.parametrize("host", ["", "prices.example:8765", "http://prices.example", "[::1]", "two words", None, 7])
def test_an_allowed_host_that_is_none_is_an_error(host: Any) -> None:
    with pytest.raises(RayforceValueError, match="Invalid host"):
        WSServer(8765, allowed_hosts=[host])


@pytest.mark.parametrize("host", ["*", "*.example"])
def test_a_pattern_of_allowed_hosts_is_an_error(host: str) -> None:
    with pytest.raises(RayforceValueError, match=r"Invalid allowed_hosts: .* without \*"):
        WSServer(8765, allowed_hosts=[host])


def test_one_string_of_allowed_hosts_is_an_error() -> None:
    with pytest.raises(
        RayforceValueError, match=r"Invalid allowed_hosts: 'prices.example'. Must be a list; write \['prices.example'\]"
    ):
        WSServer(8765, allowed_hosts="prices.example")


# End to end


@pytest.fixture
def from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every peer appear to come from another machine."""
    decide = AccessPolicy.decide

    def decide_about_foreigner(self: AccessPolicy, request: OpeningRequest) -> Refusal | None:
        assert request.peer.is_local
        return decide(self, replace(request, peer=ClientAddress("192.0.2.7")))

    monkeypatch.setattr(AccessPolicy, "decide", decide_about_foreigner)


@pytest.mark.trio
@pytest.mark.usefixtures("from_elsewhere")
async def test_a_client_elsewhere_is_told_why_it_is_refused() -> None:
    async with WSServer(0, host="127.0.0.1") as server:
        answer = await answer_to(server.port)
        status, body = answer.status, answer.body
        assert status == 403
        assert body.startswith("This server runs in protected mode")
        assert body.endswith("start it with allow_unauthenticated=True.\n")
        with pytest.raises(ConnectionRejected, match="HTTP status 403: This server runs in protected mode") as caught:
            await WSClient("127.0.0.1", server.port).connect()
    assert type(caught.value) is ConnectionRejected
    assert (caught.value.status, caught.value.body) == (403, body)


@pytest.mark.trio
@pytest.mark.usefixtures("from_elsewhere")
async def test_a_client_elsewhere_is_served_if_the_server_allows_it() -> None:
    async with (
        WSServer(0, host="127.0.0.1", allow_unauthenticated=True) as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
    ):
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.trio
@pytest.mark.usefixtures("from_elsewhere")
async def test_a_client_elsewhere_is_served_if_the_server_knows_it() -> None:
    async with WSServer(0, host="127.0.0.1", authenticate=auth.token("t0ken")) as server:
        async with WSClient("127.0.0.1", server.port, token="t0ken").connect() as connection:
            assert await connection.execute("(+ 1 2)") == 3
        rejected = await try_to_connect("trio", server.port)
        assert rejected is not None
        assert rejected.status == 401


@pytest.mark.trio
@pytest.mark.parametrize("loop", ["trio", "asyncio"])
async def test_a_client_that_asks_for_another_name_is_refused_until_it_is_listed(loop: str) -> None:
    another = "127.1"  # which leads to 127.0.0.1, and is no address
    async with WSServer(0, host="127.0.0.1") as server:
        rejected = await try_to_connect(loop, server.port, host=another)
        assert rejected is not None
        assert rejected.status == 421
        assert rejected.body == (
            "This server does not accept the name in the Host header. To accept it, add the name to allowed_hosts.\n"
        )
        assert await try_to_connect(loop, server.port, host="localhost") is None
    async with WSServer(0, host="127.0.0.1", allowed_hosts=[another]) as server:
        assert await try_to_connect(loop, server.port, host=another) is None


@pytest.mark.trio
@pytest.mark.parametrize("loop", ["trio", "asyncio"])
async def test_a_client_that_names_a_foreign_origin_is_refused_on_either_loop(loop: str) -> None:
    async with WSServer(0, host="127.0.0.1") as server:
        rejected = await try_to_connect(loop, server.port, headers={"Origin": "https://example.org"})
        assert rejected is not None
        assert rejected.status == 403


@pytest.mark.trio
async def test_pages_cannot_guess() -> None:
    def authenticate(request: auth.Request) -> None:
        pytest.fail("a page of another site was asked who it is")

    async with WSServer(0, host="127.0.0.1", authenticate=authenticate) as server:
        for headers in ({"Origin": "https://example.org"}, {"Host": "example.org"}):
            for _ in range(7):
                answer = await answer_to(server.port, headers)
                assert answer.status in (403, 421)


@pytest.mark.trio
async def test_a_name_that_was_pointed_here_is_refused_in_any_form() -> None:
    async with WSServer(0, host="127.0.0.1") as server:
        for host in STRANGE_HOSTS:
            answer = await answer_to(server.port, {"Host": host})
            assert answer.status in (400, 421), host
        with await open_raw(server.port):
            """It lives."""


@pytest.mark.trio
async def test_a_client_on_this_machine_is_served_on_the_default_address() -> None:
    async with WSServer(0) as server, WSClient("127.0.0.1", server.port).connect() as connection:
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.trio
async def test_pages_are_let_in_by_their_origin() -> None:
    async with WSServer(0, host="127.0.0.1", allowed_origins=["https://example.org"]) as server:
        own = f"127.0.0.1:{server.port}"
        for origin in (f"http://{own}", f"http://localhost:{server.port}", "https://example.org"):
            assert (await answer_to(server.port, {"Origin": origin})).status == 101
        for origin in ("null", "https://example.com"):
            answer = await answer_to(server.port, {"Origin": origin})
            assert answer.status == 403
            assert answer.body == (
                "This server does not accept web pages of this origin. To accept them, add the origin to "
                "allowed_origins.\n"
            )
        with await open_raw(server.port):
            """Without an Origin, it is no page."""
