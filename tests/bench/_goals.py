"""The figures that the developers aim at, for `python -m bench --goals`. They are not published."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ._comparisons import COMPARISONS
from ._contestants import ASYNCIO, BROADCAST, ENGINE, NATIVE, OURS, PEER, READ_ONLY, Contestant
from ._report import NAME_WIDTH, NOTHING, formatted, times
from ._results import Figure, Results


@dataclass(frozen=True)
class Goal:
    """A bound of a figure, or of its ratio to the figure of another contestant.

    Attributes:
        workload: the workload's name.
        contestant: the contestant that has the goal.
        metric: the figure of the workload.
        peer: the lowest number of times that the figure is better than the peer's.
        native: the highest ratio to native's figure.
        limit: the highest value of the figure itself.
        other: the contestant that `peer` refers to.
    """

    workload: str
    contestant: Contestant = OURS
    metric: str = "time"
    peer: float | None = None
    native: float | None = None
    limit: float | None = None
    other: Contestant = PEER


def _goals() -> Iterator[Goal]:
    yield Goal("round trip, one core", peer=3.1, native=1.85)
    yield Goal("round trip, free", peer=2.5)
    yield Goal("round trip, one core", ASYNCIO, peer=2.8)
    yield Goal("round trip, one core", ENGINE, peer=1.2)
    yield Goal("opening a connection, one core", peer=1.5)
    yield Goal("opening a connection, one core", ASYNCIO, peer=1.5)
    yield Goal("in flight, many tasks", metric="rate", peer=2.4)
    yield Goal("in flight, one task", metric="rate", peer=6.5)
    for workload in ("in flight, many tasks", "in flight, one task"):
        yield Goal(workload, ENGINE, "rate", peer=0.75)
        yield Goal(workload, READ_ONLY, "rate", peer=2)
    for size, ours, asyncio in (("0.8 MB", 1.2, 1.25), ("8 MB", 1.1, 1.15), ("80 MB", 1.15, 1.3)):
        yield Goal(f"reply {size}, one core", native=ours)
        yield Goal(f"reply {size}, one core", ASYNCIO, native=asyncio)
    for size in ("8 MB", "80 MB"):
        yield Goal(f"reply {size}, one core", ENGINE, native=1.8)
    yield Goal("upload 0.8 MB, one core", peer=250)
    for count, rate, p99 in ((10, 2.8, 1.6), (100, 2.8, 1.6), (500, 2.4, 1.3)):
        yield Goal(f"{count} connections", metric="rate", peer=rate)
        yield Goal(f"{count} connections", metric="p99", peer=p99)
    yield Goal("quiet client beside a flood", metric="p99", peer=100)


def _goals_of_all() -> Iterator[Goal]:
    yield Goal("quiet client beside a flood", metric="p99", limit=0.001)
    for contestant in (OURS, ENGINE):
        yield Goal("fan-out to 1,000 subscribers", contestant, "rate", peer=1.5, other=BROADCAST)
        yield Goal("fan-out to 100 subscribers", contestant, "p99", limit=0.01)
    for size, payload in (("8 MB", 8e6), ("80 MB", 80e6)):
        yield Goal(f"memory {size}", metric="server", limit=2.2 * payload)
        yield Goal(f"memory {size}", metric="client", limit=3 * payload)
        yield Goal(f"memory {size}", ENGINE, "server", limit=2e6)


GOALS: Mapping[str, tuple[Goal, ...]] = {"3.11": tuple(_goals()), "3.13": (Goal("round trip, one core", peer=1.95),)}
"""By Python version, because the peer gains more from newer versions."""

GOALS_OF_ALL = tuple(_goals_of_all())
"""For every Python version."""


def goal_lines(
    results: Results, figures: Sequence[Figure], compared: Mapping[str, Mapping[str, float] | str], python: str
) -> list[str]:
    """Return a line for each goal that was measured: workload, contestant, measured value, bound, "met" or "missed"."""
    by_key = {(figure.workload, figure.metric): figure for figure in figures}
    lines = []
    for goal in (*GOALS.get(python, ()), *GOALS_OF_ALL):
        if not results.has(goal.workload):
            continue
        figure = by_key[goal.workload, goal.metric]
        name = f"{figure.label}, {goal.contestant.short}"
        if goal.peer is not None:
            advantage = results.advantage(figure, goal.contestant, goal.other)
            met = advantage is not None and advantage >= goal.peer
            lines.append(_line(name, times(advantage), f"≥ {goal.peer:g} times the {goal.other.short}", met=met))
        if goal.native is not None:
            ratio = results.ratio(figure, goal.contestant, NATIVE)
            met = ratio is not None and ratio <= goal.native
            lines.append(_line(name, times(ratio), f"≤ {goal.native:g} times native", met=met))
        if goal.limit is not None:
            value = results.median(figure, goal.contestant)
            text = NOTHING if value is None else formatted(value, figure.unit)
            met = value is not None and value <= goal.limit
            lines.append(_line(name, text, f"≤ {formatted(goal.limit, figure.unit)}", met=met))
    for comparison in COMPARISONS:
        measured = compared.get(comparison.label)
        if measured is not None:
            ratio = None if isinstance(measured, str) else measured["ratio"]
            met = ratio is not None and ratio <= comparison.limit
            lines.append(_line(comparison.label, times(ratio), f"≤ {comparison.limit:.3g} times the other", met=met))
    return lines


def _line(name: str, value: str, bound: str, *, met: bool) -> str:
    return f"{name:{NAME_WIDTH + 10}}{value:>12}  {bound:28}{'met' if met else 'missed'}"
