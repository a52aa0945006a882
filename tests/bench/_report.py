"""The results as text: the table that fills while the benchmark runs, and the page of a run."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ._comparisons import COMPARISONS, Comparison
from ._contestants import (
    ASYNCIO,
    BROADCAST,
    CONTESTANTS,
    ENGINE,
    NATIVE,
    OURS,
    PEER,
    RAW,
    READ_ONLY,
    UVLOOP,
    Contestant,
)
from ._results import Figure, Results

NAME_WIDTH = 40
NOTHING = "\N{EN DASH}"


def _better_than(contestant: Contestant) -> str:
    return f"Times better than the {contestant.name}"


BETTER = _better_than(PEER)
NATIVE_TIME = "Time, native = 1\N{MULTIPLICATION SIGN}"
FASTER = "Times faster than the other"

_CELL_WIDTH = 12
_MB = 1e6
_TIMES = "\N{MULTIPLICATION SIGN}"


def formatted(value: float, unit: str) -> str:
    """Return a figure with its unit, in three digits."""
    if unit == "rate":
        return f"{float(f'{value:.3g}'):,.0f}/s"
    if unit == "memory":
        return f"{value / _MB:.1f} MB"
    if unit == "share":
        return f"{value:.0%}"
    for factor, name in ((1e6, "µs"), (1e3, "ms")):
        if value * factor < 1000:
            return f"{_digits(value * factor)} {name}"
    return f"{_digits(value)} s"


def times(ratio: float | None) -> str:
    """Return a ratio in three digits, with a multiplication sign."""
    return NOTHING if ratio is None else f"{_digits(ratio)}{_TIMES}"


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(results: Results, figure: Figure, contestant: Contestant) -> str:
    """Return the cell of a contestant: the median, "cannot" or "failed"."""
    failure = results.failure(figure.workload, contestant)
    if failure is not None:
        return failure.partition(":")[0]
    value = results.median(figure, contestant)
    return NOTHING if value is None else formatted(value, figure.unit)


def heading() -> str:
    """Return the head of the table that fills while the benchmark runs."""
    return " " * NAME_WIDTH + "".join(f"{contestant.short:>{_CELL_WIDTH}}" for contestant in CONTESTANTS)


def row(results: Results, figure: Figure) -> str:
    """Return a row of the table that fills while the benchmark runs."""
    cells = (f"{cell(results, figure, contestant):>{_CELL_WIDTH}}" for contestant in CONTESTANTS)
    return f"{figure.label:{NAME_WIDTH}}" + "".join(cells)


def comparison_row(comparison: Comparison, compared: Mapping[str, float] | str) -> str:
    """Return the row of a comparison in the table that fills while the benchmark runs."""
    if isinstance(compared, str):
        return f"{comparison.label:{NAME_WIDTH}} {compared}"
    ours, other = (formatted(compared[way], "time") for way in ("ours", "other"))
    speed = times(1 / compared["ratio"])
    return f"{comparison.label:{NAME_WIDTH}}{ours:>{_CELL_WIDTH}}{other:>{_CELL_WIDTH}}{speed:>{_CELL_WIDTH}}"


@dataclass(frozen=True)
class Row:
    """A row of a section: a figure of one of our contestants.

    Attributes:
        workload: the workload's name.
        subject: our contestant.
        metric: the figure of the workload.
        payload: the size of a reply in bytes; memory is also shown as a multiple of it.
    """

    workload: str
    subject: Contestant = OURS
    metric: str = "time"
    payload: int | None = None


@dataclass(frozen=True)
class Section:
    """A table of the page that compares our contestants with others.

    Attributes:
        title: the heading.
        rows: the rows. Those of workloads that were not run are left out.
        peer: the contestant of the column that says how many times better a figure is than its; `None`: no column.
        native: the heading of the column that divides a figure by that of `baseline`; `None`: no column.
        baseline: the contestant that stands for the native protocol.
    """

    title: str
    rows: tuple[Row, ...]
    peer: Contestant | None = PEER
    native: str | None = None
    baseline: Contestant = NATIVE


def _large(placement: str, *sizes: str) -> tuple[Row, ...]:
    return (
        *(Row(f"reply {size}, {placement}", subject) for size in sizes for subject in (OURS, ASYNCIO, UVLOOP, ENGINE)),
        *(
            Row(f"upload {size}, {placement}", subject)
            for size in ("0.8 MB", "8 MB")
            for subject in (OURS, ASYNCIO, ENGINE)
        ),
    )


SECTIONS = (
    Section(
        "One small request at a time",
        tuple(
            Row(workload, subject)
            for workload in ("round trip, one core", "round trip, free")
            for subject in (OURS, ASYNCIO, UVLOOP, ENGINE, READ_ONLY)
        ),
        native=NATIVE_TIME,
    ),
    Section(
        "Opening a connection", tuple(Row("opening a connection, one core", who) for who in (OURS, ASYNCIO, ENGINE))
    ),
    Section(
        "Many requests in flight",
        (
            *(Row("in flight, many tasks", subject, "rate") for subject in (OURS, ASYNCIO, UVLOOP, ENGINE, READ_ONLY)),
            *(Row("in flight, one task", subject, "rate") for subject in (OURS, ENGINE, READ_ONLY)),
        ),
        native=f"Speed, raw = 1{_TIMES}",
        baseline=RAW,
    ),
    Section("Large messages, one core", _large("one core", "8 KB", "0.8 MB", "8 MB", "80 MB"), native=NATIVE_TIME),
    Section("Large messages, two cores", _large("two cores", "0.8 MB", "8 MB", "80 MB"), peer=None, native=NATIVE_TIME),
    Section(
        "Many connections",
        (
            *(
                Row(f"{count} connections", subject, metric)
                for subject in (OURS, ENGINE)
                for count in (10, 100, 500)
                for metric in ("rate", "p99")
            ),
            *(Row("quiet client beside a flood", subject, "p99") for subject in (OURS, ENGINE)),
        ),
    ),
    Section(
        "Subscriptions",
        tuple(
            Row(workload, subject, metric)
            for workload, metric in (("fan-out to 1,000 subscribers", "rate"), ("fan-out to 100 subscribers", "p99"))
            for subject in (OURS, ENGINE)
        ),
        peer=BROADCAST,
    ),
    Section(
        "Memory",
        tuple(
            Row(f"memory {size}", subject, metric, payload)
            for size, payload in (("8 MB", 8_000_000), ("80 MB", 80_000_000))
            for metric, subjects in (("server", (OURS, ENGINE)), ("client", (OURS, ASYNCIO)))
            for subject in subjects
        ),
        peer=None,
        native=f"Memory, native = 1{_TIMES}",
    ),
)


def page(
    results: Results,
    figures: Sequence[Figure],
    facts: Mapping[str, str],
    compared: Mapping[str, Mapping[str, float] | str] = MappingProxyType({}),
    *,
    title: str = "Benchmark",
    plot: str | None = None,
) -> str:
    """Return the page of a run.

    Args:
        results: the results.
        figures: all figures. Those that were not measured are left out.
        facts: properties of the machine and the run, by name.
        compared: by label, the result of each comparison, or the text of its failure.
        title: the heading.
        plot: the path of the plot, relative to the page; `None`: no plot.
    """
    by_key = {(figure.workload, figure.metric): figure for figure in figures}
    parts = [
        f"# {title}",
        "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        *([f"![The main figures of all contestants]({plot})"] if plot is not None else []),
        *(part for section in SECTIONS for part in _section(results, section, by_key)),
        *_values(compared),
        *_all_figures(results, [figure for figure in figures if results.has(figure.workload)]),
    ]
    return "\n\n".join(parts) + "\n"


def _section(results: Results, section: Section, figures: Mapping[tuple[str, str], Figure]) -> list[str]:
    rows = [row for row in section.rows if results.has(row.workload)]
    if not rows:
        return []
    better = [] if section.peer is None else [_better_than(section.peer)]
    columns = [*better, *([section.native] if section.native is not None else [])]
    lines = [["Workload", "Contestant", "Result", *columns]]
    for row in rows:
        figure = figures[row.workload, row.metric]
        line = [figure.label, row.subject.name, _result(results, row, figure)]
        if section.peer is not None:
            line.append(_against(section.peer, results, row.subject, figure))
        if section.native is not None:
            line.append(times(results.ratio(figure, row.subject, section.baseline)))
        lines.append(line)
    return [f"## {section.title}", table(lines, texts={0, 1})]


def _result(results: Results, row: Row, figure: Figure) -> str:
    value = results.median(figure, row.subject)
    if value is None or row.payload is None:
        return cell(results, figure, row.subject)
    return f"{formatted(value, figure.unit)}, {times(value / row.payload)} the reply"


def _against(peer: Contestant, results: Results, subject: Contestant, figure: Figure) -> str:
    failure = results.failure(figure.workload, peer)
    return failure.partition(":")[0] if failure is not None else times(results.advantage(figure, subject, peer))


def _values(compared: Mapping[str, Mapping[str, float] | str]) -> list[str]:
    """Return the section on values, or nothing if no comparison was run."""
    rows = [["Task", "Ours", "Compared with", "Ours takes", "The other takes", FASTER]]
    for comparison in COMPARISONS:
        measured = compared.get(comparison.label)
        if measured is None:
            continue
        cells = (
            [measured, NOTHING, NOTHING]
            if isinstance(measured, str)
            else [*(formatted(measured[way], "time") for way in ("ours", "other")), times(1 / measured["ratio"])]
        )
        rows.append([comparison.label, comparison.ours, comparison.other, *cells])
    return ["## Values in, data out", table(rows, texts={0, 1, 2})] if len(rows) > 1 else []


def _all_figures(results: Results, measured: Sequence[Figure]) -> list[str]:
    if not measured:
        return []
    lines = [
        ["Workload", *(contestant.name for contestant in CONTESTANTS)],
        *([figure.label, *(cell(results, figure, contestant) for contestant in CONTESTANTS)] for figure in measured),
    ]
    labels = {figure.workload: figure.label for figure in reversed(measured)}
    failures = [
        [labels[workload], contestant.name, *failure.split(": ", 1)]
        for workload in dict.fromkeys(figure.workload for figure in measured)
        for contestant in CONTESTANTS
        if (failure := results.failure(workload, contestant)) is not None
    ]
    heads = ["Workload", "Contestant", "Outcome", "Reason"]
    reasons = ["These figures are missing:", table([heads, *failures], texts={0, 1, 2, 3})] if failures else []
    return ["## All figures", table(lines, texts={0}), *reasons]


def table(rows: Sequence[Sequence[str]], texts: Collection[int]) -> str:
    """Return a table. All columns except `texts` are aligned to the right."""
    head, *body = rows
    rule = ["---" if column in texts else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body])
