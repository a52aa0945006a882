"""The run itself, and its result."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import trio
from support.children import Child
from support.usage import Held

from ._attackers import ATTACKS, NATIVE_ATTACKS, attack_again_and_again
from ._clients import Tally, run_client
from ._server import Usage

_START_TIMEOUT = 60.0
_ANSWER_TIMEOUT = 60.0
_SETTLED_WITHIN = 30.0  # seconds after the last client is gone
_LOOK_AGAIN = 0.2  # seconds


@dataclass
class Soak:
    """The result of a run.

    Attributes:
        before: the resources of the server before the first client.
        attacks: the number of attacks of each kind.
        samples: its resources during the run.
        after: its resources after the last client.
    """

    before: Held
    tally: Tally = field(default_factory=Tally)
    attacks: Counter[str] = field(default_factory=Counter)
    samples: list[Usage] = field(default_factory=list)
    after: Held | None = None

    @property
    def memory(self) -> tuple[float, float]:
        """The server's memory, in bytes: the median of the second quarter of the run, and of the last."""
        return self._medians(lambda sample: sample.held.memory)

    @property
    def engine_heap(self) -> tuple[float, float]:
        """The part of the memory that belongs to the engine's heap, in the same way."""
        return self._medians(lambda sample: sample.engine_heap)

    @property
    def growth(self) -> float:
        """The growth of memory from the one to the other, in bytes, without the engine's heap."""
        (second, last), (second_heap, last_heap) = self.memory, self.engine_heap
        return (last - last_heap) - (second - second_heap)

    def _medians(self, quantity: Callable[[Usage], int]) -> tuple[float, float]:
        quarter = max(len(self.samples) // 4, 1)
        second, last = self.samples[quarter : 2 * quarter] or self.samples, self.samples[-quarter:]
        return median(map(quantity, second)), median(map(quantity, last))

    def complaints(self, growth: float) -> list[str]:
        """Return the problems of the run. One of them is a growth of memory by more than `growth` bytes."""
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
    """Run clients beside one attacker of each kind, and record what the server holds.

    Args:
        engine: of the server, one of `ENGINES`.
        clients: how many there are at the same time.
        seconds: for how long, at least. The run goes on until clients and attackers have done everything they can do.
        every: how often the server is asked what it holds, in seconds.
        show: called each time.
    """
    server = Child("soak._server", engine)
    try:
        port: int = server.answer(_START_TIMEOUT)["port"]
        result = Soak(await _held_when_ready(server))
        attacks = ATTACKS if engine == "in-process" else NATIVE_ATTACKS
        end = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(run_client, port, number, result.tally)
            for attack in attacks:
                nursery.start_soon(attack_again_and_again, attack, port, result.attacks)
            while trio.current_time() < end or not result.tally.has_all or len(result.attacks) < len(attacks):
                await trio.sleep(every)
                result.samples.append(await _usage(server))
                show(result)
            nursery.cancel_scope.cancel()
        with trio.move_on_after(_SETTLED_WITHIN):
            while True:
                result.after = (await _usage(server)).held
                if (result.after.tasks, result.after.descriptors) == (result.before.tasks, result.before.descriptors):
                    break
                await trio.sleep(_LOOK_AGAIN)  # the server does not report when it has dropped the last one
        return result
    finally:
        server.stop()


async def _held_when_ready(server: Child) -> Held:
    """Return the resources of a server that has just started, once it opens no more sessions in reserve."""
    before, now = None, (await _usage(server)).held
    while before is None or (before.tasks, before.descriptors) != (now.tasks, now.descriptors):
        await trio.sleep(_LOOK_AGAIN)
        before, now = now, (await _usage(server)).held
    return now


async def _usage(server: Child) -> Usage:
    server.say(do="tell")
    answer = await trio.to_thread.run_sync(server.answer, _ANSWER_TIMEOUT)
    return Usage(Held(**answer["held"]), answer["engine_heap"])
