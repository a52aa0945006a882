"""What is fuzzed: by name, how an input is made, and how it is tried."""

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from fuzzing import announcing, columns, messages, opening, proxying, receiving, sending


@dataclass(frozen=True, slots=True)
class Target:
    """Something to try inputs on.

    Attributes:
        make: returns an input.
        check: tries one; any exception is a find.
    """

    make: Callable[[Random], bytes]
    check: Callable[[bytes], None]


TARGETS = {
    "announcing": Target(announcing.make, announcing.check),
    "columns": Target(columns.make, columns.check),
    "messages": Target(messages.make, messages.check),
    "opening": Target(opening.make, opening.check),
    "proxying": Target(proxying.make, proxying.check),
    "receiving": Target(receiving.make, receiving.check),
    "sending": Target(sending.make, sending.check),
}
