"""Headless Chromium: pages on our server."""

from base64 import urlsafe_b64encode
from functools import partial
from typing import Any

import pytest
from support.foreign import clients
from support.foreign.clients import ask, served, server_handshake
from support.foreign.connection import Dial, Refused
from support.foreign.with_chromium import POINTED_HERE, Page, dial_from
from support.raw import SUBPROTOCOL

from rayforce_trio import WSServer, auth

pytestmark = pytest.mark.trio


@pytest.fixture
def dial(page: Page, origins: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> Dial:
    """Connect from a page that the servers of the checks let in."""
    monkeypatch.setattr(clients, "WSServer", partial(WSServer, allowed_origins=[origins[0]]))
    return partial(dial_from, page, origins[0])


@pytest.mark.parametrize("check", clients.EACH_ENGINE, ids=lambda check: check.__name__)
@pytest.mark.usefixtures("each_engine")
async def test_pages_are_served_by_every_engine(check: clients.Check, dial: Dial) -> None:
    await check(dial)


@pytest.mark.parametrize("check", clients.OTHERS, ids=lambda check: check.__name__)
async def test_pages_are_served(check: clients.Check, dial: Dial) -> None:
    await check(dial)


async def test_a_page_shows_what_its_user_asks_for(page: Page, origins: tuple[str, str]) -> None:
    async with served(allowed_origins=[origins[0]]) as server:
        await page.visit(f"{origins[0]}/query.html?server=ws://127.0.0.1:{server.port}")
        await page.until_shown("output", "ready")
        for query, result in (
            ("(+ 1 2)", "3"),
            ("(til 5)", "0 1 2 3 4"),
            ('"þ€xt 𝄞"', "þ€xt 𝄞"),
            ('(+ 1 "a")', "type: cannot add i64 and str"),
            ("null", "null"),
            ("(+ 2 2)", "4"),
        ):
            await page.type(query)
            await page.until_shown("output", result)


async def test_a_page_of_another_origin_is_refused(page: Page, origins: tuple[str, str]) -> None:
    allowed, other = origins
    async with served(allowed_origins=[allowed]) as server:
        await refused_with(403, page, other, server.port)
        async with dial_from(page, allowed, server.port) as client:
            await server_handshake(client)
            assert await ask(client, "(+ 1 2)") == 3


async def refused_with(status: int, page: Page, origin: str, port: int, **options: Any) -> None:
    """Fail if a page gets in, or is refused otherwise."""
    with pytest.raises(Refused):
        async with dial_from(page, origin, port, **options):
            pytest.fail("the server was to refuse")
    failure = await page.event("Network.webSocketFrameError")
    says = "HTTP Authentication failed" if status == 401 else f"Unexpected response code: {status}"
    assert says in failure["errorMessage"]


async def test_a_page_whose_name_was_pointed_here_is_refused(page: Page, origins: tuple[str, str]) -> None:
    foreign = origins[0].replace("localhost", POINTED_HERE)
    async with served() as server:
        await refused_with(421, page, foreign, server.port, host=POINTED_HERE)
        await refused_with(403, page, foreign, server.port)
    async with served(allowed_origins=[foreign]) as server:
        await refused_with(421, page, foreign, server.port, host=POINTED_HERE)
    async with served(allowed_hosts=[POINTED_HERE]) as server:
        await refused_with(403, page, foreign, server.port, host=POINTED_HERE)
    async with (
        served(allowed_origins=[foreign], allowed_hosts=[POINTED_HERE]) as server,
        dial_from(page, foreign, server.port, host=POINTED_HERE) as client,
    ):
        await server_handshake(client)
        assert await ask(client, "(+ 1 2)") == 3


async def test_a_page_says_who_it_is_by_a_token(page: Page, origins: tuple[str, str]) -> None:
    allowed, other = origins
    token = "rayforce.token." + urlsafe_b64encode(b"~?~?>>").decode().rstrip("=")
    async with served(allowed_origins=[allowed], authenticate=auth.token("~?~?>>")) as server:
        await refused_with(401, page, allowed, server.port)
        await refused_with(401, page, allowed, server.port, others=[token + "w"])
        await refused_with(403, page, other, server.port, others=[token])
        for offered in ([SUBPROTOCOL, token], [token, SUBPROTOCOL]):
            async with dial_from(page, allowed, server.port, subprotocol=None, others=offered) as client:
                assert client.subprotocol == SUBPROTOCOL
                await server_handshake(client)
                assert await ask(client, "(+ 1 2)") == 3


async def test_a_page_that_is_left_says_so(page: Page, origins: tuple[str, str]) -> None:
    async with served(allowed_origins=[origins[0]]) as server, dial_from(page, origins[0], server.port) as client:
        await server_handshake(client)
        await page.visit(f"{origins[0]}/peer.html")
    assert "closed by the client with code 1001" in server.logged_of(1)
