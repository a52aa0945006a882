"""The turns of requests in an engine process while some of them must be alone."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._engines._request_turns import RequestTurns, TurnState

SHARED, DRAINING, ALONE = TurnState


def test_requests_that_need_not_be_alone_are_in_flight_together() -> None:
    turns = RequestTurns[str]()
    assert turns.enter("a", alone=False)
    assert turns.enter("b", alone=False)
    assert turns.leave("a") == []
    assert turns.leave("b") == []
    assert turns.state is SHARED


def test_a_request_that_must_be_alone_has_its_turn_at_once_if_nothing_is_in_flight() -> None:
    turns = RequestTurns[str]()
    assert turns.enter("x", alone=True)
    assert turns.state is ALONE
    assert not turns.enter("a", alone=False)
    assert not turns.enter("b", alone=False)
    assert turns.leave("x") == ["a", "b"]
    assert turns.state is SHARED


def test_it_waits_for_those_in_flight_and_those_that_come_later_wait_for_it() -> None:
    turns = RequestTurns[str]()
    assert turns.enter("a", alone=False)
    assert turns.enter("b", alone=False)
    assert not turns.enter("x", alone=True)
    assert turns.state is DRAINING
    assert not turns.enter("c", alone=False)
    assert turns.leave("a") == []
    assert turns.leave("b") == ["x"]
    assert turns.state is ALONE
    assert turns.leave("x") == ["c"]


def test_two_that_must_be_alone_take_turns_with_the_others() -> None:
    turns = RequestTurns[str]()
    assert turns.enter("x", alone=True)
    assert not turns.enter("y", alone=True)
    assert not turns.enter("a", alone=False)
    assert turns.leave("x") == ["a"]
    assert turns.state is DRAINING
    assert not turns.enter("b", alone=False)
    assert not turns.enter("x", alone=True)
    assert turns.leave("a") == ["y"]
    assert turns.leave("y") == ["b"]
    assert turns.leave("b") == ["x"]
    assert turns.leave("x") == []
    assert turns.state is SHARED


def test_one_that_gives_up_keeps_nobody_waiting() -> None:
    turns = RequestTurns[str]()
    assert turns.enter("a", alone=False)
    assert not turns.enter("x", alone=True)
    assert not turns.enter("b", alone=False)
    assert turns.has_waiting
    assert turns.leave("x") == ["b"]
    assert turns.state is SHARED
    assert not turns.has_waiting
    assert turns.leave("unknown") == []
    assert turns.leave("a") == turns.leave("b") == []
    assert turns.enter("y", alone=True)


@dataclass
class Sessions:
    """Does with `RequestTurns` what sessions do.

    Attributes:
        waiting: for each request that waits, whether it must be alone.
        in_flight: for each request in flight, whether it must be alone.
        passed_by: for each request that waits, how many that must be alone had their turns meanwhile.
    """

    turns: RequestTurns[int] = field(default_factory=RequestTurns[int])
    waiting: dict[int, bool] = field(default_factory=dict)
    in_flight: dict[int, bool] = field(default_factory=dict)
    passed_by: dict[int, int] = field(default_factory=dict)

    def enter(self, ticket: int, *, alone: bool) -> None:
        if self.turns.enter(ticket, alone=alone):
            self._begin(ticket, alone=alone)
        else:
            self.waiting[ticket] = alone
            self.passed_by[ticket] = 0

    def leave(self, ticket: int) -> None:
        self.in_flight.pop(ticket, None)
        self.waiting.pop(ticket, None)
        for other in self.turns.leave(ticket):
            self._begin(other, alone=self.waiting.pop(other))

    def _begin(self, ticket: int, *, alone: bool) -> None:
        self.in_flight[ticket] = alone
        for other, is_alone in self.waiting.items():
            if alone and not is_alone:
                self.passed_by[other] += 1

    def check(self) -> None:
        assert not any(self.in_flight.values()) or len(self.in_flight) == 1
        assert self.in_flight or not self.waiting, "somebody waits, although nothing is in flight"
        for ticket, alone in self.waiting.items():
            assert alone or self.passed_by[ticket] <= 1


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.booleans()), max_size=100))
def test_whatever_happens_one_that_must_be_alone_is_alone_and_nobody_waits_for_two_of_them(
    events: list[tuple[bool, int, bool]],
) -> None:
    sessions = Sessions()
    for enters, ticket, alone in events:
        if not enters:
            sessions.leave(ticket)
        elif ticket not in sessions.in_flight and ticket not in sessions.waiting:
            sessions.enter(ticket, alone=alone)
        sessions.check()
    for ticket in list(range(10)) * 10:
        if ticket in sessions.in_flight:
            sessions.leave(ticket)
            sessions.check()
    assert not sessions.in_flight
    assert not sessions.waiting
    assert sessions.turns.state is SHARED
