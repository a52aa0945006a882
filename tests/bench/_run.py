"""Rounds in which the contestants take turns."""

from collections.abc import Callable, Sequence

from support.children import Cannot, Child, Failed

from ._comparisons import COMPARISONS, Comparison
from ._contestants import Arena, Contestant
from ._results import Results
from ._workloads import Workload

_COMPARISON_TIMEOUT = 300.0  # seconds for all rounds of one


def run(
    workload: Workload, results: Results, arena: Arena, rounds: int, seconds: float, show: Callable[[str], None]
) -> None:
    """Measure one workload. A contestant that fails once is out of it; the others go on.

    Args:
        rounds: how many count; the one before them does not.
        seconds: what a turn measures, roughly.
        show: is told what happens now.
    """
    first = 1 if workload.is_fresh else 0
    if workload.is_fresh:
        rounds = max(1, rounds // 3)
    for round_ in range(first, rounds + 1):
        for contestant in _rotated(workload.contestants, round_):
            if results.failure(workload.name, contestant) is not None:
                continue
            show(f"{workload.name}, round {round_} of {rounds}: {contestant.name}")
            try:
                figures = workload.turn(arena, contestant, seconds)
            except Cannot as error:
                results.fail(workload.name, contestant, f"cannot: {error}")
            except Failed as error:
                results.fail(workload.name, contestant, f"failed: {error}")
                arena.forget(contestant)
            else:
                if round_ > 0:
                    results.add(workload.name, contestant, round_, figures)


def _rotated(contestants: Sequence[Contestant], by: int) -> list[Contestant]:
    """Return them in another order each round: nobody always comes after the same."""
    by %= len(contestants)
    return [*contestants[by:], *contestants[:by]]


def compare(comparison: Comparison, rounds: int) -> dict[str, float] | str:
    """Measure a comparison in a process of its own.

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
