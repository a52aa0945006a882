"""The turns of requests to an engine process in which the requests of some clients must be alone, without I/O.

Other requests are in flight together. A request that must be alone waits until no request is in flight, and others wait
until it is answered. After it, all others that wait have their turn before the next request that must be alone. So
neither kind of request can keep the other one waiting for long.
"""

import enum
from typing import Generic, TypeVar

Ticket = TypeVar("Ticket")  # hashable


class TurnState(enum.Enum):
    """The kind of the requests whose turn it is."""

    SHARED = enum.auto()
    """Requests that need not be alone, any number of them."""

    DRAINING = enum.auto()
    """Requests that need not be alone, but no further ones: a request that must be alone waits for their replies."""

    ALONE = enum.auto()
    """One request that must be alone."""


class RequestTurns(Generic[Ticket]):
    """Decide whose turn it is. A ticket stands for a session, which has one request at a time.

    Attributes:
        state: the kind of the requests whose turn it is.
    """

    def __init__(self) -> None:
        self.state = TurnState.SHARED
        self._in_flight: set[Ticket] = set()
        self._shared: dict[Ticket, None] = {}  # those that wait, in the order in which they came
        self._alone: dict[Ticket, None] = {}

    @property
    def has_waiting(self) -> bool:
        """Whether a request waits for its turn."""
        return bool(self._shared or self._alone)

    def enter_at_once(self, ticket: Ticket, *, alone: bool) -> bool:
        """Take a turn, if there is no need to wait for it; return whether it was taken."""
        if self.state is not TurnState.SHARED or (alone and self._in_flight):
            return False
        self._in_flight.add(ticket)
        if alone:
            self.state = TurnState.ALONE
        return True

    def enter(self, ticket: Ticket, *, alone: bool) -> bool:
        """Ask for a turn; return whether it has come already. Otherwise `leave` returns the ticket later."""
        if self.enter_at_once(ticket, alone=alone):
            return True
        if alone:
            self._alone[ticket] = None
            if self.state is TurnState.SHARED:
                self.state = TurnState.DRAINING
        else:
            self._shared[ticket] = None
        return False

    def leave(self, ticket: Ticket) -> list[Ticket]:
        """End a turn, or the wait for it; return the tickets whose turn has come. Others are ignored."""
        self._in_flight.discard(ticket)
        self._shared.pop(ticket, None)
        self._alone.pop(ticket, None)
        if self.state is TurnState.DRAINING and not self._alone:
            return self._admit_shared()
        if self._in_flight or self.state is TurnState.SHARED:
            return []
        if self.state is TurnState.ALONE and self._shared:
            return self._admit_shared()
        return self._admit_alone()

    def _admit_shared(self) -> list[Ticket]:
        admitted = list(self._shared)
        self._shared.clear()
        self._in_flight.update(admitted)
        self.state = TurnState.DRAINING if self._alone else TurnState.SHARED
        return admitted

    def _admit_alone(self) -> list[Ticket]:
        if not self._alone:
            self.state = TurnState.SHARED
            return []
        ticket = next(iter(self._alone))
        del self._alone[ticket]
        self._in_flight.add(ticket)
        self.state = TurnState.ALONE
        return [ticket]
