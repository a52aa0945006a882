"""The console in a page of Chromium, as its user sees and operates it."""

import json
from typing import Any

from support.foreign.with_chromium import Page

_WATCH = """
    window.violations = [];
    window.hacked = [];
    window.alert = (text) => window.hacked.push(text);
    document.addEventListener("securitypolicyviolation", ({ violatedDirective, blockedURI }) =>
        window.violations.push(`${violatedDirective} ${blockedURI}`));
"""


class Console:
    """The console in a page.

    Attributes:
        page: the page.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    async def visit(self, url: str) -> None:
        """Load the page, and note what its policy forbids."""
        await self.page.call("Page.addScriptToEvaluateOnNewDocument", source=_WATCH)
        await self.page.visit(url)

    async def open(self, port: int, path: str = "console") -> None:
        """Open the console of a server on this machine, and wait until it is connected."""
        await self.visit(f"http://127.0.0.1:{port}/{path}")
        await self.connected()

    async def connected(self) -> None:
        await self.page.until("document.querySelector('#state')?.className === 'connected'")

    async def write(self, text: str, selector: str = "#query") -> None:
        """Replace the text of the editor, or of another field."""
        await self.page.evaluate(
            f"document.querySelector({json.dumps(selector)}).focus(); document.activeElement.select()"
        )
        await self.page.call("Input.insertText", text=text)

    async def begin(self, text: str) -> None:
        """Write a query, and run it by the keyboard."""
        await self.write(text)
        await self.page.press("Enter", control=True)

    async def run(self, text: str) -> str:
        """Write a query, run it, and return what is said of it."""
        await self.begin(text)
        await self.finished()
        return await self.text("#status")

    async def finished(self) -> None:
        await self.page.until("!document.querySelector('#run').disabled")

    async def text(self, selector: str) -> str:
        """Return the text of an element; nothing if it is hidden."""
        found = f"document.querySelector({json.dumps(selector)})"
        shown: str = await self.page.evaluate(f"{found}.checkVisibility() ? {found}.textContent : ''")
        return " ".join(shown.split())

    async def row(self, number: int, grid: str = "#grid") -> list[str]:
        """Wait until a row is shown, and return its cells."""
        line = f"document.querySelector('{grid} tr[aria-rowindex=\"{number + 2}\"]')"
        await self.page.until(f"{line} && !{line}.querySelector('.pending')")
        cells: list[str] = await self.page.evaluate(
            f"Array.from({line}.querySelectorAll('td'), (cell) => cell.textContent)"
        )
        return cells

    async def drawn(self, canvas: str) -> int:
        """Return how many pixels of a chart have the color of its first line."""
        pixels: int = await self.page.evaluate(f"""(() => {{
            const canvas = document.querySelector({json.dumps(canvas)});
            const wanted = getComputedStyle(canvas).getPropertyValue("--series-0")
                .match(/\\w\\w/g).map((hex) => parseInt(hex, 16));
            const {{ data }} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
            let count = 0;
            for (let at = 0; at < data.length; at += 4) {{
                if (data[at + 3] > 100 && wanted.every((part, place) => Math.abs(part - data[at + place]) < 8)) count++;
            }}
            return count;
        }})()""")
        return pixels

    async def until_drawn(self, canvas: str) -> None:
        while await self.drawn(canvas) < 20:
            await self.page.evaluate("new Promise(requestAnimationFrame)")

    async def check_unharmed(self, port: int) -> None:
        """Fail if a script of foreign origin has run, the policy has forbidden something, or another host was asked."""
        noted: Any = await self.page.evaluate("[window.hacked, window.violations]")
        assert noted == [[], []]
        others = [
            url for url in self.page.requested() if f"//127.0.0.1:{port}/" not in url and not url.startswith("data:")
        ]
        assert others == []
