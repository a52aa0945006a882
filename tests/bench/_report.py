"""Figures as people read them: the table while it fills, and the report."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from ._client import IN_FLIGHT
from ._comparisons import COMPARISONS, Comparison
from ._contestants import ASYNCIO, CONTESTANTS, ENGINE, NATIVE, OURS, PEER, RAW, READ_ONLY, Contestant
from ._results import Figure, Results

NAME_WIDTH = 40
_CELL_WIDTH = 12
_MB = 1e6
_NOTHING = "\N{EN DASH}"
_TIMES = "\N{MULTIPLICATION SIGN}"

_INTRODUCTION = """\
# Benchmark

How fast rayforce_trio is, beside what rayforce-py has itself. Written by `nox -s bench`, all of it measured in one run.

- **ours**: our client on trio or on asyncio, and our server, which evaluates in its own process; or, as "native
  engine", in a `NativeProcess`.
- **the peer**: `WSServer` and `WSClient` of `rayforce.network.websocket`.
- **native**: rayforce-py's `TCPClient` and a `rayforce -p`: no WebSocket, one request at a time, a client that blocks.
- **raw**: a blocking socket and a `rayforce -p`; nothing is decoded.

Of this run:"""

_HOW_TO_READ = """\
How many times better than the peer: of times, how many times shorter; of rates, how many times as many. Against native,
the figure is divided by native's: of times and memory less is better. Of requests in flight, where more is better, it
is raw that stands for native. No goal is enforced."""

_VALUES = """\
Two ways to do one thing, in turns in one process; a ratio is the median of the ratios of all rounds. The table has one
million rows unless the row says otherwise: integers, floats, timestamps half of which are null, strings, and symbols of
1,000 kinds. The slow ways take half a minute for a million rows, so both ways get 100,000 there. `de_obj` and `ser_obj`
are rayforce-py's functions that read and write a frame."""

_METHOD = f"""\
## How it is measured

Clients and servers are processes of their own on one machine, connected by the loopback interface. Within a round the
contestants take turns, so that whatever else the machine does hits all of them. The first round does not count. A time
is the median of its turn; a figure in the tables is the median of all rounds, and a ratio the median of the rounds' own
ratios. Another machine has other times, but much the same ratios.

- **round trip**: `(+ 1 2)`, one request after the other. *One core*: client, server and engine are kept on the same
  core; that leaves out how long the system takes to wake another one up, and is the most repeatable. *Free*: they are
  not.
- **requests in flight**: the same, {IN_FLIGHT:,} requests at once on one connection. With our client as many tasks
  call `execute`, each of which gets its own value. The peer's `execute` cannot be called twice at once, so what is
  measured are messages on the `websockets` connection below it, and nothing is decoded. `TCPClient` has no such thing.
  *From one task*: the same from the load generator, which decodes nothing and has no tasks: what the servers can do.
- **reply**: `(til n)`, n integers of 8 bytes, until the vector is there. **upload**: the count of such a vector, which
  goes with the query.
- **connections**: one request in flight on each, from one load generator, the same for all servers: plain WebSocket,
  nothing decoded. *Busy* is its share of a core; near 100% it is what is measured.
- **quiet client beside a flood**: one connection keeps {IN_FLIGHT:,} requests in flight, another asks every 2 ms.
- **memory**: of new processes, which have answered small queries before; the highest of three replies, over what they
  had then. This is known on Linux only."""


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


def _digits(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def cell(results: Results, figure: Figure, contestant: Contestant) -> str:
    """Return what to show for a contestant: its median, or that there is none."""
    failure = results.failure(figure.workload, contestant)
    if failure is not None:
        return failure.partition(":")[0]
    value = results.median(figure, contestant)
    return _NOTHING if value is None else formatted(value, figure.unit)


def heading() -> str:
    """Return the heading of the table that fills while the benchmark runs."""
    return " " * NAME_WIDTH + "".join(f"{_short(contestant):>{_CELL_WIDTH}}" for contestant in CONTESTANTS)


def row(results: Results, figure: Figure) -> str:
    """Return a row of that table."""
    cells = (f"{cell(results, figure, contestant):>{_CELL_WIDTH}}" for contestant in CONTESTANTS)
    return f"{figure.label:{NAME_WIDTH}}" + "".join(cells)


def _short(contestant: Contestant) -> str:
    return {
        OURS: "trio",
        ASYNCIO: "asyncio",
        ENGINE: "engine",
        READ_ONLY: "read-only",
        PEER: "peer",
        NATIVE: "native",
        RAW: "raw",
    }[contestant]


@dataclass(frozen=True)
class Row:
    """A row of the report's first table: one of our contestants beside the others.

    Attributes:
        workload: the workload's name.
        metric: which figure of it.
        subject: which of ours.
        native: what stands for the native protocol; `None`: nothing does.
        peer_goal: how many times better than the peer it is meant to be.
        native_goal: how many times native's figure it is meant to be, at most; of a rate, at least.
        goal: what else it is meant to reach.
        payload: of a reply, in bytes: memory is told as so many times that.
    """

    workload: str
    metric: str = "time"
    subject: Contestant = OURS
    native: Contestant | None = NATIVE
    peer_goal: float | None = None
    native_goal: float | None = None
    goal: str | None = None
    payload: int | None = None


def _rows() -> Iterator[Row]:
    yield Row("round trip, one core", peer_goal=2.8, native_goal=2.0)
    yield Row("round trip, free", peer_goal=2.2, native_goal=2.2)
    yield Row("opening a connection", native=None, peer_goal=1.5)
    yield Row("in flight", "rate", native=RAW, peer_goal=6, native_goal=1.5)
    yield Row("in flight, from one task", "rate", native=RAW, peer_goal=6, native_goal=1.5)
    yield Row("reply 8 KB")
    yield Row("reply 0.8 MB", peer_goal=300, native_goal=1.3)
    yield Row("reply 8 MB", native_goal=1.3)
    yield Row("reply 80 MB", native_goal=1.6)
    yield Row("upload 0.8 MB", peer_goal=250)
    yield Row("upload 8 MB")
    for count, rate, p99 in ((10, 2.5, 1.7), (100, 2.8, 1.7), (500, 2.3, 1.2)):
        yield Row(f"{count} connections", "rate", native=None, peer_goal=rate)
        yield Row(f"{count} connections", "p99", native=None, peer_goal=p99)
    yield Row("quiet beside a flood", "p99", native=None, peer_goal=100, goal="≤ 1 ms")
    yield Row("round trip, one core", subject=ASYNCIO, peer_goal=1.8)
    yield Row("round trip, free", subject=ASYNCIO, peer_goal=1.8)
    yield Row("in flight", "rate", ASYNCIO, RAW)
    yield Row("reply 8 MB", subject=ASYNCIO, native_goal=2.0)
    yield Row("reply 80 MB", subject=ASYNCIO)
    yield Row("upload 8 MB", subject=ASYNCIO)
    yield Row("round trip, one core", subject=ENGINE, peer_goal=1.1, native_goal=4.5)
    yield Row("round trip, free", subject=ENGINE, peer_goal=1.1, native_goal=4.5)
    yield Row("in flight", "rate", ENGINE, RAW, peer_goal=2.2, native_goal=1)
    yield Row("in flight, from one task", "rate", ENGINE, RAW, peer_goal=2.2, native_goal=1)
    yield Row("in flight", "rate", READ_ONLY, RAW, peer_goal=2)
    yield Row("in flight, from one task", "rate", READ_ONLY, RAW, peer_goal=2)
    yield Row("reply 8 MB", subject=ENGINE, native_goal=2.1)
    yield Row("reply 80 MB", subject=ENGINE, native_goal=2.3)
    yield Row("upload 8 MB", subject=ENGINE)
    for count in (10, 100, 500):
        yield Row(f"{count} connections", "rate", ENGINE, native=None)
        yield Row(f"{count} connections", "p99", ENGINE, native=None)
    yield Row("quiet beside a flood", "p99", ENGINE, native=None)
    for size, payload in (("8 MB", 8_000_000), ("80 MB", 80_000_000)):
        yield Row(f"memory {size}", "server", goal=f"≤ 2.2{_TIMES} the payload", payload=payload)
        yield Row(f"memory {size}", "client", goal=f"≤ 3{_TIMES} the payload", payload=payload)
        yield Row(f"memory {size}", "server", ENGINE, goal="< 2 MB", payload=payload)


ROWS = tuple(_rows())


def against_peer(results: Results, row: Row, figure: Figure) -> str:
    """Return how many times better than rayforce-py's WebSocket pair it is."""
    failure = results.failure(row.workload, PEER)
    if failure is not None:
        return failure.partition(":")[0]
    if figure.more_is_better:
        return _times(results.ratio(figure, row.subject, PEER))
    return _times(results.ratio(figure, PEER, row.subject))


def against_native(results: Results, row: Row, figure: Figure) -> str:
    """Return how many times native's figure its own is."""
    return _NOTHING if row.native is None else _times(results.ratio(figure, row.subject, row.native))


def _times(ratio: float | None) -> str:
    return _NOTHING if ratio is None else f"{_digits(ratio)}{_TIMES}"


def _goals(row: Row, figure: Figure) -> str:
    goals = []
    if row.peer_goal is not None:
        goals.append(f"≥ {row.peer_goal:g}{_TIMES} the peer")
    if row.native_goal is not None:
        assert row.native is not None
        goals.append(f"{'≥' if figure.more_is_better else '≤'} {row.native_goal:g}{_TIMES} {_short(row.native)}")
    if row.goal is not None:
        goals.append(row.goal)
    return ", ".join(goals)


def _value(results: Results, row: Row, figure: Figure) -> str:
    value = results.median(figure, row.subject)
    if value is None or row.payload is None:
        return cell(results, figure, row.subject)
    return f"{formatted(value, figure.unit)}, {_digits(value / row.payload)}{_TIMES} the payload"


def comparison_row(comparison: Comparison, compared: Mapping[str, float] | str) -> str:
    """Return a row of the table that fills while the benchmark runs, for a comparison."""
    if isinstance(compared, str):
        return f"{comparison.label:{NAME_WIDTH}} {compared}"
    ours, other = (formatted(compared[way], "time") for way in ("ours", "other"))
    ratio = _faster(compared["ratio"], comparison)
    return (
        f"{comparison.label:{NAME_WIDTH}}{ours:>{_CELL_WIDTH}}{other:>{_CELL_WIDTH}}  {ratio}, goal {comparison.goal}"
    )


def _faster(ratio: float, comparison: Comparison) -> str:
    return f"{_digits(1 / ratio)} times faster" if comparison.limit < 1 else f"{_digits(ratio)} times its time"


def _values(compared: Mapping[str, Mapping[str, float] | str]) -> list[str]:
    """Return the section on values; nothing if no comparison was run."""
    rows = [["What", "Ours", "Compared with", "Ours takes", "It takes", "Ratio", "Goal"]]
    for comparison in COMPARISONS:
        figures = compared.get(comparison.label)
        if figures is None:
            continue
        measured = (
            [figures, _NOTHING, _NOTHING]
            if isinstance(figures, str)
            else [
                *(formatted(figures[way], "time") for way in ("ours", "other")),
                _faster(figures["ratio"], comparison),
            ]
        )
        rows.append([comparison.label, comparison.ours, comparison.other, *measured, comparison.goal])
    return ["## Values in, data out", _VALUES, _table(rows, texts={0, 1, 2, 6})] if len(rows) > 1 else []


def markdown(
    results: Results,
    figures: Sequence[Figure],
    facts: Mapping[str, str],
    compared: Mapping[str, Mapping[str, float] | str] = MappingProxyType({}),
) -> str:
    """Return the report.

    Args:
        figures: all there can be; those that were not measured are left out.
        facts: about machine and run.
        compared: what each comparison measured, or why it did not, by its label.
    """
    by_key = {(figure.workload, figure.metric): figure for figure in figures}
    measured = [figure for figure in figures if results.has(figure.workload)]
    rows = [row for row in ROWS if results.has(row.workload)]
    first = [
        ["Workload", "Whose", "Measured", "Times better than the peer", "Times native's figure", "Goal"],
        *(
            [
                figure.label,
                row.subject.name,
                _value(results, row, figure),
                against_peer(results, row, figure),
                against_native(results, row, figure),
                _goals(row, figure),
            ]
            for row in rows
            for figure in [by_key[row.workload, row.metric]]
        ),
    ]
    second = [
        ["Workload", *(contestant.name for contestant in CONTESTANTS)],
        *([figure.label, *(cell(results, figure, contestant) for contestant in CONTESTANTS)] for figure in measured),
    ]
    failures = [
        f"- {contestant.name}, {workload}: {failure}"
        for workload in dict.fromkeys(figure.workload for figure in measured)
        for contestant in CONTESTANTS
        if (failure := results.failure(workload, contestant)) is not None
    ]
    parts = [
        _INTRODUCTION,
        "\n".join(f"- {name}: {fact}" for name, fact in facts.items()),
        "![Figures of all contestants](_static/benchmark.svg)",
        "## Ours beside the others",
        _HOW_TO_READ,
        _table(first, texts={0, 1, 5}),
        *_values(compared),
        "## All figures",
        _table(second, texts={0}),
        *(["Where there is none:", "\n".join(failures)] if failures else []),
        _METHOD,
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Sequence[str]], texts: Collection[int]) -> str:
    """Return a table; all columns but `texts` are aligned to the right."""
    head, *body = rows
    rule = ["---" if column in texts else "---:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *body])
