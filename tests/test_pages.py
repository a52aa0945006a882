"""The form of every page: tables, lines, links of the README, and which test runs the commands."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.pages import PAGES, README, ROOT, blocks

LONGEST = 120
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
SEPARATOR = re.compile(r"\|[ :|-]*-[ :|-]*\|")
EXPLANATION = ROOT / "docs" / "explanation"
GENERATED = {EXPLANATION / "soak.md", EXPLANATION / "autobahn.md", *(EXPLANATION / "benchmark").glob("*.md")}

RUN_BY = {
    "README.md": "test_docs.py",
    "docs/contributing.md": "test_conventions.py",
    "docs/rayfall.md": "test_rayfall_page.py",
    "docs/tutorial.md": "test_tutorial.py",
    "docs/explanation/engines.md": "test_docs.py",
    "docs/reference/command_line.md": "cli/test_documented_commands.py",
    **{str(guide.relative_to(ROOT)): "test_how_to.py" for guide in (ROOT / "docs" / "how-to").glob("*.md")},
}
"""The tests that run the commands of a page."""

WRITTEN = [page for page in PAGES if page not in GENERATED and "_build" not in page.parts]


def text_lines(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the numbers and lines of a page that are not part of a fenced block."""
    code = {line for block in blocks(page) for line in range(block.line - 1, block.line + block.code.count("\n") + 1)}
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
        if number not in code:
            yield number, line


def cells(row: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row.strip())[1:-1]]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_column_of_a_table_has_a_heading(page: Path) -> None:
    lines = dict(text_lines(page))
    headings = {number - 1: cells(lines[number - 1]) for number, line in lines.items() if SEPARATOR.fullmatch(line)}
    assert {number: row for number, row in headings.items() if "" in row} == {}


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_cell_of_a_table_points_to_another_cell(page: Path) -> None:
    vague = {"the same", "same", "same as above", "as above", "ditto", "dito"}
    rows = [(number, cells(line)) for number, line in text_lines(page) if line.startswith("|")]
    assert [(number, row) for number, row in rows if vague & {cell.lower().rstrip(".") for cell in row}] == []


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: str(page.relative_to(ROOT)))
def test_lines_are_short_enough_to_read_in_a_terminal(page: Path) -> None:
    long = [(number, line) for number, line in text_lines(page) if len(line) > LONGEST]
    assert [(number, line) for number, line in long if not line.startswith("|") and " " in line.strip()] == []


def test_pictures_have_a_description() -> None:
    assert [page for page in PAGES if "![](" in page.read_text(encoding="utf-8")] == []


def test_pages_begin_with_a_title() -> None:
    title = re.compile(r"(\([\w-]+\)=\n\n)*# ")
    untitled = [page for page in WRITTEN if not title.match(page.read_text(encoding="utf-8"))]
    assert untitled == []
    assert README in WRITTEN


def test_a_test_runs_the_commands_of_every_page() -> None:
    installs = re.compile(rf'pip install "\.\[({"|".join(EXTRAS)})]"\n')
    with_commands = {
        page
        for page in WRITTEN
        for block in blocks(page)
        if block.language == "console" and not installs.fullmatch(block.code)
    }
    assert {str(page.relative_to(ROOT)) for page in with_commands} - RUN_BY.keys() == set()
    assert [test for test in RUN_BY.values() if not (ROOT / "tests" / test).exists()] == []
