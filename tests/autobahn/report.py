"""The results: the suite's own report, read, judged and written as Markdown."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

SECTIONS = {
    1: "framing",
    2: "pings and pongs",
    3: "reserved bits",
    4: "opcodes",
    5: "fragmentation",
    6: "UTF-8",
    7: "closing",
    9: "large messages, many messages",
    10: "fragments of our choice",
}

_PASSED = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED")  # the suite's words, the best first


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of one case.

    Attributes:
        behavior: the suite's word for what was received.
        closing: the suite's word for how the connection ended.
    """

    case: str
    behavior: str
    closing: str

    @property
    def section(self) -> int:
        return int(self.case.partition(".")[0])

    @property
    def verdict(self) -> str:
        """The worse of the two; informational cases are not held to the closing."""
        if self.behavior == "INFORMATIONAL" and self.closing in ("OK", "INFORMATIONAL"):
            return self.behavior
        return max(self.behavior, self.closing, key=_badness)

    @property
    def passed(self) -> bool:
        return self.verdict in _PASSED


@dataclass(frozen=True, slots=True)
class Report:
    """The outcomes of one side of the connection; `missing` is the number of cases without an outcome."""

    outcomes: tuple[Outcome, ...]
    missing: int = 0

    @classmethod
    def read(cls, directory: Path, expected: int) -> Self:
        """Read the suite's report on one agent; `expected` is the number of cases that it should have run."""
        agents = json.loads((directory / "index.json").read_text(encoding="utf-8"))
        outcomes = [
            Outcome(case, found["behavior"], found["behaviorClose"])
            for cases in agents.values()
            for case, found in cases.items()
        ]
        outcomes.sort(key=lambda outcome: [int(number) for number in outcome.case.split(".")])
        return cls(tuple(outcomes), expected - len(outcomes))

    @property
    def passed(self) -> bool:
        return not self.missing and all(outcome.passed for outcome in self.outcomes)

    def summary(self, section: int | None = None) -> str:
        """Return the number of cases with each verdict, the best first: `44 OK, 2 NON-STRICT`."""
        verdicts = Counter(
            outcome.verdict for outcome in self.outcomes if section is None or outcome.section == section
        )
        counts = [
            f"{count} {verdict}" for verdict, count in sorted(verdicts.items(), key=lambda item: _badness(item[0]))
        ]
        if section is None and self.missing:
            counts.append(f"{self.missing} NOT RUN")
        return ", ".join(counts) or "-"


def table(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield the lines of a Markdown table: the sections of the suite, and the verdicts of each side."""
    yield f"| section | topic | {' | '.join(reports)} |"
    yield f"| --- | --- |{' --- |' * len(reports)}"
    run = {outcome.section for report in reports.values() for outcome in report.outcomes}
    for section in sorted(run):
        cells = (report.summary(section) for report in reports.values())
        yield f"| {section} | {SECTIONS.get(section, '')} | {' | '.join(cells)} |"
    yield f"| all | all topics | {' | '.join(report.summary() for report in reports.values())} |"


def remarkable(reports: Mapping[str, Report]) -> Iterator[str]:
    """Yield the lines of a Markdown table of the outcomes that are not simply OK, or nothing if there are none."""
    rows = [
        f"| {outcome.case} | {side} | {outcome.behavior} | {outcome.closing} |"
        for side, report in reports.items()
        for outcome in report.outcomes
        if outcome.verdict != "OK"
    ]
    if rows:
        yield "| case | tested side | behavior | closing |"
        yield "| --- | --- | --- | --- |"
        yield from rows


def _badness(verdict: str) -> int:
    return _PASSED.index(verdict) if verdict in _PASSED else len(_PASSED)
