"""Measured figures and their statistics."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from ._contestants import Contestant


@dataclass(frozen=True)
class Figure:
    """A quantity that a workload measures.

    Attributes:
        workload: the workload's name.
        metric: the key of the figure in the result of a turn.
        label: the name in tables.
        unit: `"time"` (seconds), `"rate"` (queries per second), `"memory"` (bytes) or `"share"`.
    """

    workload: str
    metric: str
    label: str
    unit: str

    @property
    def more_is_better(self) -> bool:
        return self.unit == "rate"


class Results:
    """The figures of all turns by workload and contestant, and the reasons for missing ones."""

    def __init__(self) -> None:
        self._rounds: dict[tuple[str, str], dict[int, Mapping[str, float]]] = defaultdict(dict)
        self._failures: dict[tuple[str, str], str] = {}

    def add(self, workload: str, contestant: Contestant, round_: int, figures: Mapping[str, float]) -> None:
        """Record the figures of a turn."""
        self._rounds[workload, contestant.name][round_] = figures

    def fail(self, workload: str, contestant: Contestant, reason: str) -> None:
        """Record why a turn failed. The contestant's other turns of the workload no longer count."""
        self._failures[workload, contestant.name] = reason

    def failure(self, workload: str, contestant: Contestant) -> str | None:
        """Return why the contestant has no figures, or `None` if no turn failed."""
        return self._failures.get((workload, contestant.name))

    def failures(self) -> list[str]:
        """Return the failures as workload and contestant, except workloads that a contestant does not support."""
        return [
            f"{workload} ({contestant})"
            for (workload, contestant), reason in self._failures.items()
            if not reason.startswith("cannot")
        ]

    def has(self, workload: str) -> bool:
        """Return whether the workload was run."""
        return any(name == workload for name, _ in [*self._rounds, *self._failures])

    def shows(self, figure: Figure, contestant: Contestant) -> bool:
        """Return whether the contestant was measured, or is known to have failed."""
        return self.median(figure, contestant) is not None or self.failure(figure.workload, contestant) is not None

    def median(self, figure: Figure, contestant: Contestant) -> float | None:
        """Return the median of all rounds, or `None` without rounds."""
        values = self._values(figure, contestant)
        return median(values.values()) if values else None

    def ratio(self, figure: Figure, contestant: Contestant, other: Contestant) -> float | None:
        """Return the median of the ratios, contestant to other, of the rounds that have both; `None` without rounds."""
        ours, theirs = self._values(figure, contestant), self._values(figure, other)
        ratios = [ours[round_] / theirs[round_] for round_ in ours if theirs.get(round_)]
        return median(ratios) if ratios else None

    def advantage(self, figure: Figure, contestant: Contestant, other: Contestant) -> float | None:
        """Return how many times better than the other the contestant is, as `ratio` does."""
        if figure.more_is_better:
            return self.ratio(figure, contestant, other)
        return self.ratio(figure, other, contestant)

    def _values(self, figure: Figure, contestant: Contestant) -> dict[int, float]:
        if self.failure(figure.workload, contestant) is not None:
            return {}
        rounds = self._rounds.get((figure.workload, contestant.name), {})
        return {round_: figures[figure.metric] for round_, figures in rounds.items() if figure.metric in figures}
