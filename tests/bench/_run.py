"""Rounds of turns."""

from collections.abc import Callable, Sequence

from support.children import Cannot, Child, Failed

from ._comparisons import COMPARISONS, Comparison
from ._contestants import Contestant
from ._processes import Processes
from ._results import Results
from ._workloads import Workload

_COMPARISON_TIMEOUT = 300.0  # seconds for all rounds of one comparison


def run(
    workload: Workload,
    results: Results,
    processes: Processes,
    rounds: int,
    seconds: float,
    show: Callable[[str], None],
) -> None:
    """Measure a workload. A contestant that fails takes no more turns; the others go on.

    Args:
        workload: the workload.
        results: receives the figures and failures.
        processes: the processes of all contestants.
        rounds: the number of rounds that count. One round before them does not count.
        seconds: the approximate duration of a turn.
        show: receives a text at the start of each turn.
    """
    first = 1 if workload.fresh else 0
    if workload.fresh:
        rounds = max(1, rounds // 3)
    for round_ in range(first, rounds + 1):
        for contestant in _rotated(workload.contestants, round_):
            if results.failure(workload.name, contestant) is not None:
                continue
            show(f"{workload.name}, round {round_} of {rounds}: {contestant.name}")
            try:
                figures = workload.turn(processes, contestant, seconds)
            except Cannot as error:
                results.fail(workload.name, contestant, f"cannot: {error}")
            except Failed as error:
                results.fail(workload.name, contestant, f"failed: {error}")
                processes.discard(contestant)
            else:
                if round_ > 0:
                    results.add(workload.name, contestant, round_, figures)


def _rotated(contestants: Sequence[Contestant], by: int) -> list[Contestant]:
    """Return the contestants in a different order for each round."""
    by %= len(contestants)
    return [*contestants[by:], *contestants[:by]]


def compare(comparison: Comparison, rounds: int) -> dict[str, float] | str:
    """Measure a comparison in its own process.

    Returns:
        The medians of all rounds: the seconds of both ways, and their ratio. Or the reason why there are none.
    """
    child = Child(f"{__package__}._comparisons")
    try:
        child.say(comparison=COMPARISONS.index(comparison), rounds=rounds)
        return child.answer(_COMPARISON_TIMEOUT)
    except Failed as error:
        return str(error)
    finally:
        child.kill()
