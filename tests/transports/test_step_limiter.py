"""The limit on steps of openings: how many go on in one round of the event loop."""

from collections import Counter

import pytest
import trio
import trio.testing
from support.rounds import counted_rounds

from rayforce_trio._transports._step_limiter import MAX_STEPS, ROUND_SHARE, StepLimiter


async def steps_in_rounds(limiter: StepLimiter, now: list[float], steps: list[float]) -> list[int]:
    """Let an opening take each of these steps, which take some seconds; return how many went on in each round."""
    counts: Counter[int] = Counter()

    async def take(seconds: float) -> None:
        async with limiter:
            counts[rounds.number] += 1
            now[0] += seconds

    with counted_rounds() as rounds:
        async with trio.open_nursery() as nursery:
            for seconds in steps:
                nursery.start_soon(take, seconds)
    return list(counts.values())


@pytest.mark.trio
@pytest.mark.parametrize(
    ("seconds", "most"),
    [(2 * ROUND_SHARE, 1), (ROUND_SHARE, 1), (ROUND_SHARE / 3.5, 3), (0.0, MAX_STEPS)],
    ids=["too long", "long", "short", "very short"],
)
async def test_as_many_steps_go_on_in_a_round_as_fit_and_one_at_least(seconds: float, most: int) -> None:
    now = [100.0]
    limiter = StepLimiter(lambda: now[0])
    await steps_in_rounds(limiter, now, [seconds])
    counts = await steps_in_rounds(limiter, now, [seconds] * 50)
    assert max(counts) == most
    assert sum(counts) == 50


@pytest.mark.trio
async def test_after_a_long_step_few_go_on_for_a_while() -> None:
    now = [100.0]
    limiter = StepLimiter(lambda: now[0])
    await steps_in_rounds(limiter, now, [0.0, ROUND_SHARE])
    counts = await steps_in_rounds(limiter, now, [0.0] * 200)
    assert max(counts[:3]) == 1
    assert max(counts) == MAX_STEPS


@pytest.mark.trio
async def test_one_that_is_cancelled_while_it_waits_has_no_turn() -> None:
    now = [100.0]
    limiter = StepLimiter(lambda: now[0])
    async with trio.open_nursery() as nursery, limiter:
        nursery.start_soon(limiter.__aenter__)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert sum(await steps_in_rounds(limiter, now, [0.0] * 3)) == 3
