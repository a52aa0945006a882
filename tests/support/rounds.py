"""The rounds of trio's event loop."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Rounds(trio.abc.Instrument):
    """Counts the rounds of the event loop."""

    number = 0

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - as trio calls it
        self.number += 1


@contextmanager
def counted_rounds() -> Iterator[Rounds]:
    """Count the rounds of the event loop in the block."""
    rounds = Rounds()
    trio.lowlevel.add_instrument(rounds)
    yield rounds
    trio.lowlevel.remove_instrument(rounds)
