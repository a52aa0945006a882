"""The run itself, and what is made of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import trio
from support.children import Child
from support.usage import Held

from ._clients import Tally, run_client

_START_TIMEOUT = 60.0
_ANSWER_TIMEOUT = 60.0
_SETTLED_WITHIN = 30.0  # seconds after the last client is gone
_LOOK_AGAIN = 0.2  # seconds


@dataclass
class Soak:
    """What came of a run.

    Attributes:
        before: what the server held before the first client.
        samples: what it held meanwhile.
        after: what it held when the last client was gone.
    """

    before: Held
    tally: Tally = field(default_factory=Tally)
    samples: list[Held] = field(default_factory=list)
    after: Held | None = None

    @property
    def memory(self) -> tuple[float, float]:
        """The server's memory, in bytes: the median of the second quarter of the run, and of the last."""
        quarter = max(len(self.samples) // 4, 1)
        second, last = self.samples[quarter : 2 * quarter] or self.samples, self.samples[-quarter:]
        return median(held.memory for held in second), median(held.memory for held in last)

    @property
    def growth(self) -> float:
        """By how much memory has grown from one to the other, in bytes."""
        second, last = self.memory
        return last - second

    def complaints(self, growth: float) -> list[str]:
        """Return what is not as it should be, which more growth than so many bytes is not."""
        found = [f"wrong answer: {wrong}" for wrong in self.tally.wrong]
        found += [f"failed: {failed}" for failed in self.tally.failed]
        if self.after is None or (self.after.tasks, self.after.descriptors) != (
            self.before.tasks,
            self.before.descriptors,
        ):
            found.append(f"left behind: {self.before} before, {self.after} after")
        if self.growth > growth:
            found.append(f"memory grew by {self.growth / 1e6:.1f} MB")
        return found


async def soak(
    engine: str, clients: int, seconds: float, every: float, show: Callable[[Soak], None] = lambda _: None
) -> Soak:
    """Run so many clients for so long.

    Args:
        engine: of the server, one of `ENGINES`.
        clients: how many there are at the same time.
        seconds: how long, at least: until all that clients do was done.
        every: how often the server is asked what it holds, in seconds.
        show: called each time.
    """
    server = Child("soak._server", engine)
    try:
        port: int = server.answer(_START_TIMEOUT)["port"]
        result = Soak(await _held(server))
        end = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(run_client, port, number, result.tally)
            while trio.current_time() < end or not result.tally.has_all:
                await trio.sleep(every)
                result.samples.append(await _held(server))
                show(result)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(_SETTLED_WITHIN):
            while True:
                result.after = await _held(server)
                if (result.after.tasks, result.after.descriptors) == (result.before.tasks, result.before.descriptors):
                    break
                await trio.sleep(_LOOK_AGAIN)  # nobody tells when it is rid of the last one
        return result
    finally:
        server.stop()


async def _held(server: Child) -> Held:
    server.say(do="tell")
    return Held(**await trio.to_thread.run_sync(server.answer, _ANSWER_TIMEOUT))
