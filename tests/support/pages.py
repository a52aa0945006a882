"""The documentation's pages, and the fenced blocks in them."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.rglob("*.md"))]

_FENCE = re.compile(r"(?P<fence>`{3,}|~{3,}|:{3,})(?P<language>.*)")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
        page: the file.
        line: the number of its first line of code.
        language: what the fence names.
        code: its lines.
        before: the last line of text before it.
        output: the text block right after it.
    """

    page: Path
    line: int
    language: str
    code: str
    before: str = ""
    output: str | None = None

    @property
    def serves_until_signalled(self) -> bool:
        return ".run)" in self.code

    @property
    def serves_until_interrupted(self) -> bool:
        return "sleep_forever" in self.code

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page. Fails on code that is not fenced."""
    found: list[Block] = []
    lines = page.read_text(encoding="utf-8").splitlines()
    at = after_last = 0
    before = ""
    while at < len(lines):
        opening = _FENCE.fullmatch(lines[at])
        if opening is None:
            assert not lines[at].startswith("    "), f"{page.name}:{at + 1}: code that is not fenced"
            before = lines[at] or before
            at += 1
            continue
        end = lines.index(opening["fence"], at + 1)
        code = "\n".join([*lines[at + 1 : end], ""])
        block = Block(page, at + 2, opening["language"].strip(), code, before)
        if block.language == "text" and found[-1:] and found[-1].language == "python" and at == after_last + 1:
            found[-1] = replace(found[-1], output=block.code)
        found.append(block)
        at = after_last = end + 1
    return found
