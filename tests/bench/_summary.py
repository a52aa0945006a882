"""The table of docs/explanation/performance.md: the main ratios of the published runs, by Python version."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ._comparisons import COMPARISONS, Comparison
from ._contestants import ASYNCIO, ENGINE, OURS, READ_ONLY, UVLOOP
from ._report import BETTER, FASTER, NATIVE_TIME, NOTHING, table

BEGIN, END = "<!-- `nox -s bench` writes this table. -->", "<!-- End of the table. -->"

_SPEED = "speed of the peer"
_TIME = "time of native"


@dataclass(frozen=True)
class Line:
    """A line of the table, and the place of its ratio in a page.

    Attributes:
        text: the first cell.
        other: the second cell: the quantity that a ratio refers to.
        workload: the first cell of the row in the page.
        contestant: the second cell of the row in the page.
        column: the head of the column in the page.
    """

    text: str
    other: str
    workload: str
    contestant: str
    column: str


def _lines() -> Iterator[Line]:
    for who, where in ((OURS, "trio"), (ASYNCIO, "asyncio"), (UVLOOP, "uvloop"), (ENGINE, "trio, native engine")):
        yield Line(f"small query, {where}", _SPEED, "round trip, one core", who.name, BETTER)
    yield Line("small query, trio", _TIME, "round trip, one core", OURS.name, NATIVE_TIME)
    yield Line("opening a connection, trio", _SPEED, "opening a connection, one core", OURS.name, BETTER)
    for who, where in ((OURS, "trio"), (ENGINE, "native engine"), (READ_ONLY, "read-only native engine")):
        yield Line(f"1,000 tasks on a connection, {where}", _SPEED, "requests in flight, many tasks", who.name, BETTER)
    for who, where in ((OURS, "in process"), (ENGINE, "native engine")):
        yield Line(f"100 connections, {where}", _SPEED, "100 connections", who.name, BETTER)
    yield Line("reply of 0.8 MB, trio", _SPEED, "reply 0.8 MB, one core", OURS.name, BETTER)
    for who, where in ((OURS, "trio"), (ASYNCIO, "asyncio"), (UVLOOP, "uvloop"), (ENGINE, "trio, native engine")):
        yield Line(f"reply of 80 MB, {where}", _TIME, "reply 80 MB, one core", who.name, NATIVE_TIME)
    for text, other, comparison in (
        ("`fetch` to Arrow", "speed of `execute`, `to_dict`", _comparison("fetch to Arrow, 100,000 rows")),
        ("`insert` of a data frame", "speed of a query with lists", _comparison("insert 100,000 rows")),
    ):
        yield Line(text, other, comparison.label, comparison.ours, FASTER)


def _comparison(label: str) -> Comparison:
    return next(comparison for comparison in COMPARISONS if comparison.label == label)


LINES = tuple(_lines())


def update(performance: Path, pages: Path) -> None:
    """Replace the table in the file `performance` by the ratios of the pages in the directory `pages`."""
    text = performance.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    versions = {path.stem.removeprefix("python-"): path for path in pages.glob("python-*.md")}
    ordered = sorted(versions, key=lambda version: [int(part) for part in version.split(".")])
    lines = summary({version: versions[version].read_text(encoding="utf-8") for version in ordered})
    performance.write_text(f"{before}{BEGIN}\n\n{lines}\n\n{END}{after}", encoding="utf-8")


def summary(pages: Mapping[str, str]) -> str:
    """Return the table for pages by Python version."""
    cells = [dict(_cells(page)) for page in pages.values()]
    body = (
        [line.text, line.other, *(page.get((line.workload, line.contestant, line.column), NOTHING) for page in cells)]
        for line in LINES
    )
    head = ["Use", "Compared with", *(f"[{version}](benchmark/python-{version}.md)" for version in pages)]
    return table([head, *body], texts={0, 1})


def _cells(page: str) -> Iterator[tuple[tuple[str, str, str], str]]:
    """Yield the cells of all tables of a page, with the first two cells of the row and the head of the column."""
    for block in page.split("\n\n"):
        if block.startswith("| "):
            head, _, *rows = (line.removeprefix("| ").removesuffix(" |").split(" | ") for line in block.splitlines())
            for row in rows:
                yield from (((row[0], row[1], column), cell) for column, cell in zip(head, row, strict=True))
