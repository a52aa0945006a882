"""The examples of the page about Rayfall have the results that the page shows."""

import re

import pytest
from support.commands import command, serving
from support.pages import DOCS, blocks

from rayforce_trio import NativeProcess, WSClient, WSServer, errors

PAGE = DOCS / "rayfall.md"
SHOWN = re.findall(
    r"^‣ (.*\n(?: {2,}.*\n)*)((?:(?!‣ ).*\n)*)",
    "".join(block.code for block in blocks(PAGE) if block.language == "text"),
    re.MULTILINE,
)
ROWS = re.findall(r"^\| `(.+?)` \| `(\w+)` \| .+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
MARK = '"the next example"\n'


def test_examples_have_the_results_that_the_page_shows_in_the_shell() -> None:
    with serving() as served:
        shell = command("repl", served.url, given=MARK.join(query for query, _ in SHOWN))
    assert (shell.returncode, shell.stderr) == (0, "")
    assert len(SHOWN) > 50
    assert shell.stdout.split(MARK) == [shown for _, shown in SHOWN]


@pytest.mark.trio
async def test_errors_have_the_codes_that_the_page_shows() -> None:
    async with (
        WSServer(port=0, host="127.0.0.1", engine=NativeProcess()) as server,
        WSClient("127.0.0.1", server.port).connect() as connection,
    ):
        await connection.execute("(set prices 1)")
        for query, code in ROWS:
            with pytest.raises(errors.RayforceError, match=f"^{code}: "):
                await connection.execute(query)
    assert len(ROWS) == 7
