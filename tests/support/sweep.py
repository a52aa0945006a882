"""Cancel a call at every scheduler step, on trio and on asyncio.

A step is counted, and the call cancelled, from outside the code under test: on trio by an instrument, on asyncio by
driving the call's coroutine by hand. Cancelling at step 1, 2, 3, ... until the call is over before its turn covers
every point at which cancellation can strike.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any

import trio


class _CancelAtSteps(trio.abc.Instrument):
    def __init__(self, scopes: list[tuple[int, trio.CancelScope]], only: trio.lowlevel.Task | None) -> None:
        self._scopes = scopes
        self._only = only
        self._steps = 0

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._only is None or task is self._only:
            self._steps += 1
            for step, scope in self._scopes:
                if step == self._steps:
                    scope.cancel()


@contextmanager
def cancelled_at(*steps: int, of_all_tasks: bool) -> Iterator[list[trio.CancelScope]]:
    """Cancel the body at the given steps, on trio: the first in an inner scope, the second in one around it, and so on.

    Args:
        steps: the steps to cancel at, counted from 1.
        of_all_tasks: count the steps of every task, not only of this one.

    Yields:
        the scopes, the innermost first.
    """
    scopes = [trio.CancelScope() for _ in steps]
    instrument = _CancelAtSteps(
        list(zip(steps, scopes, strict=True)), None if of_all_tasks else trio.lowlevel.current_task()
    )

    @contextmanager
    def nested(rest: list[trio.CancelScope]) -> Iterator[None]:
        if not rest:
            yield
            return
        with rest[-1], nested(rest[:-1]):
            yield

    trio.lowlevel.add_instrument(instrument)
    try:
        with nested(scopes):
            yield scopes
    finally:
        trio.lowlevel.remove_instrument(instrument)


class CancelAtSuspension:
    """Await a coroutine on asyncio, and cancel the task that does when it suspends for the n-th time.

    Args:
        call: the coroutine.
        suspensions: at which of its suspensions to cancel, counted from 1.

    Attributes:
        reached: how often it was cancelled.
    """

    def __init__(self, call: Coroutine[Any, Any, Any], *suspensions: int) -> None:
        self._call = call
        self._suspensions = suspensions
        self.reached = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        task = asyncio.current_task()
        assert task is not None
        resume: Callable[[], Any] = partial(self._call.send, None)
        for suspension in count(1):
            try:
                waiting_for = resume()
            except StopIteration as end:
                return end.value
            if suspension in self._suspensions:
                self.reached += 1
                task.cancel()
            try:
                yield waiting_for
            except BaseException as error:  # noqa: BLE001 - handed to the coroutine, like everything
                resume = partial(self._call.throw, error)
            else:
                resume = partial(self._call.send, None)
        raise AssertionError("unreachable")


async def swept(run: Callable[[int], Awaitable[bool]], *, at_most: int = 2000) -> int:
    """Call `run` with 1, 2, 3, ... until it returns that the call was over before it was cancelled.

    Returns:
        how many runs were cancelled.
    """
    for step in range(1, at_most):
        if not await run(step):
            return step - 1
    raise AssertionError(f"still not finished by step {at_most}")


async def cancellation_of(call: Coroutine[Any, Any, Any], *steps: int) -> BaseException | None:
    """Await a coroutine and cancel it at each of these steps, on either event loop.

    Returns:
        the cancellation that it raised; `None` if it was over before.
    """
    raised: BaseException | None = None

    async def watch() -> None:
        nonlocal raised
        try:
            await call
        except (trio.Cancelled, asyncio.CancelledError) as error:
            raised = error
            raise

    if trio.lowlevel.in_trio_run():
        with cancelled_at(*steps, of_all_tasks=False):
            await watch()
        return raised
    await run_driven(CancelAtSuspension(watch(), *steps))
    return raised


async def run_driven(driven: CancelAtSuspension) -> None:
    """Run a coroutine that is cancelled at its suspensions to its end. asyncio only."""

    async def drive() -> None:
        await driven

    task = asyncio.create_task(drive())
    await asyncio.wait([task], timeout=20)
    assert task.done(), "hangs although cancelled"
    if not task.cancelled():
        task.result()


def pairs(step: int) -> list[tuple[int, ...]]:
    """Return at which suspensions to cancel: at `step`, and at `step` and each of the next few."""
    return [(step,), (step, step + 1), (step, step + 2), (step, step + 3)]


async def cancelled_on_asyncio(call: Coroutine[Any, Any, Any], suspensions: tuple[int, ...]) -> bool:
    """Run a coroutine that is cancelled at its suspensions; return whether it was. asyncio only."""
    driven = CancelAtSuspension(call, *suspensions)
    await run_driven(driven)
    return driven.reached > 0
