"""Chromium, and the pages that it shows."""

from collections.abc import AsyncIterator, Iterator

import pytest
from support.foreign.with_chromium import Page, chromium, pages, window


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
