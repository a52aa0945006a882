"""Every log line that docs/reference/monitoring.md shows is one that the package writes."""

import ast
import re
from pathlib import Path

import pytest

import rayforce_trio

PACKAGE = Path(rayforce_trio.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "reference" / "monitoring.md"

PLACEHOLDER = re.compile(r"%[-+ #0]*\d*(?:\.\d+)?[dsgrf]")
MIN_LITERAL = 8
"""Characters. Shorter texts match too much."""

PREFIX = re.compile(
    r"(?:lost|not opened|refused with \d+|closed with code \d+|closed by the client with code \d+|a post failed"
    r"|(?:request|engine process) \d+|post|/healthz): "
)
"""The beginnings of lines, which a reason or an example follows."""

EXAMPLES = {"open", "bye", "hello", "200", "(+ 1 2)", "(set answer 42)", "type: cannot add i64 and str", "error: ..."}
"""A text that is too short to search for, and the texts that clients, queries and the engine write."""


def patterns() -> set[str]:
    """Return regular expressions for the texts in the package. Their parts that vary match anything."""
    found = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            literals = literals_of(node)
            if sum(map(len, literals)) >= MIN_LITERAL:
                found.add(".*".join(map(re.escape, literals)))
    return found


def literals_of(node: ast.AST) -> list[str]:
    """Return the parts of a string between its placeholders; nothing if the node is no string."""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
        return "".join(map(str, parts)).split("\0")
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return PLACEHOLDER.split(node.value)
    return []


PATTERNS = re.compile("|".join(sorted(patterns())), re.DOTALL)
EVENTS = re.compile(r"^\| .* \| (?:INFO|WARNING|ERROR|DEBUG).*? \| (?P<texts>.*) \|$", re.MULTILINE)


def documented() -> list[str]:
    """Return the lines that the tables of events show, without their prefixes."""
    cells = [found["texts"] for found in EVENTS.finditer(PAGE.read_text(encoding="utf-8"))]
    return [PREFIX.sub("", text) for cell in cells for text in re.findall(r"`([^`]+)`", cell)]


@pytest.mark.parametrize("text", [text for text in documented() if text not in EXAMPLES])
def test_the_package_writes_the_line(text: str) -> None:
    if text.endswith(" ..."):
        assert any(pattern.startswith(re.escape(text.removesuffix(" ..."))) for pattern in patterns())
    else:
        assert PATTERNS.fullmatch(text)


def test_the_page_has_all_events() -> None:
    assert len(documented()) > 30
