"""Headless Chromium: pages on our server."""

from collections.abc import AsyncIterator, Iterator
from functools import partial

import pytest
from support.foreign import clients
from support.foreign.clients import ask, greet, served
from support.foreign.connection import Dial, Refused
from support.foreign.with_chromium import Page, chromium, dial_from, pages, window

from rayforce_trio import WSServer

pytestmark = pytest.mark.trio


@pytest.fixture(scope="session")
def devtools() -> Iterator[str]:
    with chromium() as url:
        yield url


@pytest.fixture(scope="session")
def origins() -> Iterator[tuple[str, str]]:
    """Two origins that have the same pages."""
    with pages() as port:
        yield f"http://localhost:{port}", f"http://127.0.0.1:{port}"


@pytest.fixture
async def page(devtools: str) -> AsyncIterator[Page]:
    async with window(devtools) as opened:
        yield opened


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
        with pytest.raises(Refused):
            async with dial_from(page, other, server.port):
                pytest.fail("the server was to refuse")
        failure = await page.event("Network.webSocketFrameError")
        assert failure["errorMessage"].endswith("Unexpected response code: 403")
        async with dial_from(page, allowed, server.port) as client:
            await greet(client)
            assert await ask(client, "(+ 1 2)") == 3


async def test_a_page_that_is_left_says_so(page: Page, origins: tuple[str, str]) -> None:
    async with served(allowed_origins=[origins[0]]) as server, dial_from(page, origins[0], server.port) as client:
        await greet(client)
        await page.visit(f"{origins[0]}/peer.html")
    assert "the peer closed the connection with code 1001" in server.logged_of(1)
