"""The examples of the page about Rayfall have the results that the page shows."""

import re
from collections.abc import AsyncIterator

import pytest
from support.pages import DOCS, blocks

from rayforce_trio import NativeProcess, WSClient, WSClientConnection, WSServer, draw, errors

PAGE = DOCS / "rayfall.md"
SHOWN = re.findall(
    r"^‣ (.*\n(?: {2,}.*\n)*)((?:(?!‣ ).*\n)*)",
    "".join(block.code for block in blocks(PAGE) if block.language == "text"),
    re.MULTILINE,
)
ROWS = re.findall(r"^\| `(.+?)` \| `(\w+)` \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)

pytestmark = pytest.mark.trio


@pytest.fixture
async def connection() -> AsyncIterator[WSClientConnection]:
    async with (
        WSServer(port=0, host="127.0.0.1", engine=NativeProcess()) as server,
        WSClient("127.0.0.1", server.port).connect() as made,
    ):
        yield made


async def test_examples_have_the_results_that_the_page_shows(connection: WSClientConnection) -> None:
    assert len(SHOWN) > 50
    for query, shown in SHOWN:
        result = await connection.execute_verbose(query)
        assert result.error is None, query
        assert f"{result.output}{draw(result.value)}\n" == shown, query


async def test_errors_have_the_codes_that_the_page_shows(connection: WSClientConnection) -> None:
    await connection.execute("(set prices 1)")
    for query, code in ROWS:
        with pytest.raises(errors.RayforceError, match=f"^{code}: "):
            await connection.execute(query)
    assert len(ROWS) == 7
