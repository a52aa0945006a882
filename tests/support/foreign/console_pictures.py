"""Take the pictures of docs/how-to/console.md: `python -m support.foreign.console_pictures` in tests.

They are taken with the script of that page, so rows and prices change whenever they are taken again.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import trio

from rayforce_trio import NativeProcess, WSClient, WSServer
from support.foreign.console import Console
from support.foreign.with_chromium import chromium, window
from support.page_commands import ROOT, files_of, page_of

FOLDER = ROOT / "docs" / "how-to"
_PAGE = "how-to/console.md"
_SIZE = (1100, 720)  # pixels
_QUERY = """; the trades of one symbol, above a price
(set low 189.5)
(select {from: trades where: (and (== symbol 'GOOG) (> price low))})"""


async def take(devtools: str, script: Path) -> dict[str, bytes]:
    """Return all pictures by their file names.

    Args:
        devtools: the URL of Chromium's DevTools.
        script: a file with the script of the guide.
    """
    with trio.fail_after(60):
        async with (
            WSServer(0, host="127.0.0.1", engine=NativeProcess(script), console=True) as server,
            window(devtools) as page,
        ):
            return await _take(Console(page), server.port)


def write_script(folder: Path) -> Path:
    """Write the script of the guide into a folder."""
    script = folder / "trades.rfl"
    script.write_text(files_of(page_of(_PAGE))[script.name], encoding="utf-8")
    return script


async def _take(console: Console, port: int) -> dict[str, bytes]:
    pictures = {}
    page = console.page
    await page.resize(*_SIZE)
    await console.open(port)
    await page.until("document.querySelector('#tables summary') !== null")
    await page.click("#tables summary")
    await console.run("(select {from: trades by: symbol trades: (count price) highest: (max price)})")
    await console.run(_QUERY)
    await console.row(0)
    pictures["console.png"] = await page.picture()
    await console.run("trades")
    await page.click("#chart-tab")
    await page.until_shown("#chart .message", "1,000,000 rows")
    await console.until_drawn("#chart canvas")
    await page.resize(*_SIZE, dark=True)
    await page.evaluate("new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)))")
    pictures["console-chart.png"] = await page.picture()
    await page.resize(*_SIZE)
    await page.click("#live-tab")
    await console.write("ticks", "#topic")
    await page.press("Enter", text="\r")
    await page.until_shown("#live-message", "Subscribed to ticks. No update yet.")
    async with WSClient("127.0.0.1", port).connect() as publisher:
        for number in range(60):
            price = 190 + 0.5 * ((number * 7919) % 13) + number / 10
            await publisher.publish("ticks", {"symbol": ["AAPL"], "price": [price], "amount": [(number * 31) % 97]})
    await page.until_shown("#live-message", "60 updates, 0 lost.")
    await console.until_drawn("#live-chart canvas")
    pictures["console-live.png"] = await page.picture()
    return pictures


def main() -> None:
    with TemporaryDirectory() as folder, chromium() as devtools:
        for name, data in trio.run(take, devtools, write_script(Path(folder))).items():
            (FOLDER / name).write_bytes(data)


if __name__ == "__main__":
    main()
