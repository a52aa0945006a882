"""A limit on the bytes that all connections of a server hold together, without I/O: decides which ones to close.

A connection reports in `grown` how many more bytes it holds. Connections are measured only when the limit may have been
reached, so they need not report the bytes that they give back.

A network may hold half of the limit. If one holds more, connections of that network are closed; if all together hold
more than the limit, connections of any network. Those with the longest unfinished messages come first, then those that
hold the most.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple


class Held(NamedTuple):
    """The bytes that a connection holds.

    Attributes:
        unfinished: the bytes of a message that is still arriving.
        total: all bytes, including these.
    """

    unfinished: int
    total: int


@dataclass(eq=False, frozen=True, slots=True)
class Holder:
    """A connection that counts towards a budget.

    Attributes:
        network: the network of its peer.
        measure: returns what it holds.
        close: closes it, and gives its bytes back at once. No checkpoint.
    """

    network: str
    measure: Callable[[], Held]
    close: Callable[[], None]


class Budgets(NamedTuple):
    """The budgets of a server.

    Attributes:
        messages: for messages of clients that are arriving or wait.
        replies: for replies that wait to be sent.
    """

    messages: "ByteBudget"
    replies: "ByteBudget"


class ByteBudget:
    """A limit on the bytes that the connections in it hold together.

    Args:
        limit: bytes; `None`: no limit.
        always: bytes that one connection may hold in any case if no other connection holds any: the longest message.
    """

    def __init__(self, limit: int | None, *, always: int = 0) -> None:
        self._limit = inf if limit is None else max(limit, always)
        self._share = inf if limit is None else max(limit // 2, always)
        self._holders: set[Holder] = set()
        self._room = min(self._limit, self._share)  # what may be taken before the connections have to be measured

    def add(self, holder: Holder) -> None:
        """Count a connection, which holds nothing yet."""
        self._holders.add(holder)

    def remove(self, holder: Holder) -> None:
        """Stop counting a connection. Idempotent."""
        self._holders.discard(holder)

    def grown(self, count: int) -> list[Holder]:
        """Report that a connection holds `count` bytes more; return the connections to close now.

        They do not count any more.
        """
        self._room -= count
        return self._measure() if self._room < 0 else []

    def _measure(self) -> list[Holder]:
        """Measure all connections, and remove and return those that must be closed."""
        held = {holder: holder.measure() for holder in self._holders}
        per_network: Counter[str] = Counter()
        for holder, bytes_held in held.items():
            per_network[holder.network] += bytes_held.total
        victims: list[Holder] = []
        while True:
            total = per_network.total()
            network, most = per_network.most_common(1)[0] if per_network else ("", 0)
            self._room = min(self._limit - total, self._share - most)
            if self._room >= 0:
                return victims
            suspects = held if most <= self._share else [one for one in held if one.network == network]
            victim = max(suspects, key=held.__getitem__)
            victims.append(victim)
            self._holders.discard(victim)
            per_network[victim.network] -= held.pop(victim).total


def close_beyond(budget: ByteBudget, count: int) -> None:
    """Report that a connection holds `count` bytes more, and close the connections that must be closed."""
    for holder in budget.grown(count):
        holder.close()
