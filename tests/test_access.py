"""Who may connect: protected mode, and the check of origins."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import trio
from support.raw import connect_raw, open_raw, upgrade

from rayforce_trio import WSClient, WSServer
from rayforce_trio._server._access import AccessPolicy, is_loopback, make_policy
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
    return policy.decide(OpeningRequest("/", {"host": "localhost", **(headers or {})}, peer, own))


def allows_origin(origin: str, *, own: tuple[str, int] = OWN, allowed: list[str] | None = None) -> bool:
    refusal = decide(headers={"origin": origin}, own=own, allowed=allowed)
    assert refusal is None or refusal.status == 403
    return refusal is None


@pytest.mark.parametrize("address", LOOPBACK)
def test_loopback_is_let_in(address: str) -> None:
    assert is_loopback(address)
    assert decide(peer=address) is None


@pytest.mark.parametrize("address", FOREIGN)
def test_protected_mode_refuses_everybody_else_and_says_how_to_allow_them(address: str) -> None:
    assert not is_loopback(address)
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


@pytest.mark.parametrize("origin", ["example.org", "", "*", "https://", "https://example.org/path", "https://a.org?q"])
def test_an_allowed_origin_that_is_none_is_an_error(origin: str) -> None:
    with pytest.raises(RayforceValueError, match="is not an origin; an origin looks like https"):
        make_policy(allow_unauthenticated=False, allowed_origins=[origin])


def test_one_string_of_allowed_origins_is_an_error() -> None:
    with pytest.raises(
        RayforceValueError, match=r"is a list of origins, not one string; write \['https://example.org'\]"
    ):
        WSServer(8765, allowed_origins="https://example.org")


# End to end


@pytest.fixture
def from_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every peer appear to come from another machine."""
    decide = AccessPolicy.decide

    def decide_about_foreigner(self: AccessPolicy, request: OpeningRequest) -> Refusal | None:
        assert is_loopback(request.peer)
        return decide(self, replace(request, peer="192.0.2.7"))

    monkeypatch.setattr(AccessPolicy, "decide", decide_about_foreigner)


async def answer_to(port: int, headers: Mapping[str, str]) -> tuple[int, str]:
    """Return status and body of the answer to an opening request."""
    with trio.fail_after(5), connect_raw(port) as peer:
        await peer.send(upgrade(headers))
        head = await peer.receive_head()
        status = int(head.split()[1])
        return status, "" if status == 101 else (await peer.receive_rest()).decode()


@pytest.mark.trio
@pytest.mark.usefixtures("from_elsewhere")
async def test_a_client_elsewhere_is_told_why_it_is_refused() -> None:
    async with WSServer(0, host="127.0.0.1") as server:
        status, body = await answer_to(server.port, {})
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
async def test_a_client_on_this_machine_is_served_on_the_default_address() -> None:
    async with WSServer(0) as server, WSClient("127.0.0.1", server.port).connect() as connection:
        assert await connection.execute("(+ 1 2)") == 3


@pytest.mark.trio
async def test_pages_are_let_in_by_their_origin() -> None:
    async with WSServer(0, host="127.0.0.1", allowed_origins=["https://example.org"]) as server:
        own = f"127.0.0.1:{server.port}"
        assert await answer_to(server.port, {"Origin": f"http://{own}"}) == (101, "")
        assert await answer_to(server.port, {"Origin": f"http://localhost:{server.port}"}) == (101, "")
        assert await answer_to(server.port, {"Origin": "https://example.org"}) == (101, "")
        refused = 403, "This server is not open to pages of this origin. To let them in, add it to allowed_origins.\n"
        assert await answer_to(server.port, {"Origin": "null"}) == refused
        assert await answer_to(server.port, {"Origin": "https://example.com"}) == refused
        with await open_raw(server.port):
            """Without an Origin, it is no page."""
