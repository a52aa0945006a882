"""Which openings go on, wait or end: the state machine, without sockets."""

from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._server import _openings
from rayforce_trio._server._openings import (
    EVICTION_DELAY,
    MIN_OPEN_TIMEOUT,
    QUEUE_TIMEOUT,
    Action,
    Actions,
    Opening,
    Openings,
    OpeningState,
)

OPEN_TIMEOUT = 5.0

QUEUED, SERVER, PEER = OpeningState.QUEUED, OpeningState.WAITING_FOR_SERVER, OpeningState.WAITING_FOR_PEER
EVICTED, LINGERING, ENDED = OpeningState.EVICTED, OpeningState.LINGERING, OpeningState.ENDED


class Arena:
    """A state machine, its clock, and everything that it has decided."""

    def __init__(self, max_slots: int | None = 2) -> None:
        self.openings = Openings(max_slots, OPEN_TIMEOUT)
        self.now = 100.0
        self.done: Actions = []

    def arrive(self, network: str | None = "a") -> Opening:
        opening, actions = self.openings.arrived(network, self.now)
        self.done += actions
        return opening

    def wait_for_peer(self, opening: Opening, *, count_queue_time: bool = True) -> Opening:
        self.openings.waits_for_peer(opening, self.now, count_queue_time=count_queue_time)
        return opening

    def wait_for_server(self, opening: Opening) -> None:
        self.openings.waits_for_server(opening, self.now)

    def answer(self, opening: Opening) -> None:
        self.done += self.openings.answering(opening, self.now)

    def end(self, opening: Opening) -> None:
        self.done += self.openings.ended(opening, self.now)

    def take(self) -> Actions:
        """Return the actions since the last call."""
        done, self.done = self.done, []
        return done

    def pass_time(self, seconds: float) -> Actions:
        """Let time pass, calling the machine whenever it is due; return the actions."""
        end = self.now + seconds
        while self.openings.deadline <= end:
            self.now = max(self.now, self.openings.deadline)
            self.done += self.openings.time_passed(self.now)
        self.now = end
        return self.take()


def put_into(state: OpeningState) -> tuple[Arena, Opening]:
    """Return an opening in a state; the other slot of its machine belongs to another network."""
    arena = Arena()
    if state is QUEUED:
        arena.arrive()
    other = arena.arrive("b")
    opening = arena.arrive()
    if state in (PEER, EVICTED):
        arena.wait_for_peer(opening)
    if state is EVICTED:
        newcomer = arena.arrive()
        assert (Action.EVICT, opening) in arena.pass_time(EVICTION_DELAY)
        arena.end(newcomer)
    elif state is LINGERING:
        arena.answer(opening)
    elif state is ENDED:
        arena.end(opening)
    assert opening.state is state
    assert other.state is SERVER
    arena.take()
    return arena, opening


EVENTS: dict[str, Callable[[Arena, Opening], object]] = {
    "waits_for_peer": Arena.wait_for_peer,
    "waits_for_server": Arena.wait_for_server,
    "answering": Arena.answer,
    "ended": Arena.end,
    "time_passed": lambda arena, _: arena.pass_time(0.1),
}

# The next state for each state and event, in the order of EVENTS.
TABLE = {
    QUEUED: (QUEUED, QUEUED, LINGERING, ENDED, QUEUED),
    SERVER: (PEER, SERVER, LINGERING, ENDED, SERVER),
    PEER: (PEER, SERVER, LINGERING, ENDED, PEER),
    EVICTED: (EVICTED, EVICTED, LINGERING, ENDED, EVICTED),
    LINGERING: (LINGERING, LINGERING, LINGERING, ENDED, LINGERING),
    ENDED: (ENDED, ENDED, ENDED, ENDED, ENDED),
}


@pytest.mark.parametrize("state", OpeningState)
@pytest.mark.parametrize("event", EVENTS)
def test_every_event_in_every_state(state: OpeningState, event: str) -> None:
    arena, opening = put_into(state)
    EVENTS[event](arena, opening)
    assert opening.state is TABLE[state][list(EVENTS).index(event)]
    assert arena.take() == []


@pytest.mark.parametrize("state", OpeningState)
@pytest.mark.parametrize("event", ["answering", "ended"])
def test_a_slot_is_given_to_the_next_one_once(state: OpeningState, event: str) -> None:
    arena, opening = put_into(state)
    newcomers = [arena.arrive() for _ in range(3)]
    arena.take()
    EVENTS[event](arena, opening)
    assert arena.take() == ([(Action.ADMIT, newcomers[0])] if state in (SERVER, PEER) else [])


# Admission


def test_one_network_has_half_of_the_slots_and_a_proxy_all_of_them() -> None:
    arena = Arena(3)
    assert [arena.arrive("a").state for _ in range(3)] == [SERVER, SERVER, QUEUED]
    assert [arena.arrive("b").state for _ in range(2)] == [SERVER, QUEUED]
    proxied = Arena(3)
    assert [proxied.arrive(None).state for _ in range(4)] == [SERVER, SERVER, SERVER, QUEUED]


def test_without_a_limit_everyone_is_admitted() -> None:
    arena = Arena(None)
    assert {arena.wait_for_peer(arena.arrive()).state for _ in range(1000)} == {PEER}
    assert arena.openings.deadline == float("inf")


def test_the_queue_serves_networks_in_turn_and_each_in_order() -> None:
    arena = Arena(4)
    held = [arena.arrive(network) for network in "xxyy"]
    queued = [arena.arrive(network) for network in "aaabc"]
    arena.take()
    for opening in (*held, queued[0]):
        arena.end(opening)
    assert arena.take() == [(Action.ADMIT, queued[number]) for number in (0, 3, 4, 1, 2)]


def test_a_full_queue_loses_the_newest_of_the_network_that_has_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_openings, "MAX_QUEUED", 3)
    arena = Arena(1)
    arena.arrive("x")
    flood = [arena.arrive("a") for _ in range(3)]
    arena.take()
    newcomer = arena.arrive("b")
    assert arena.take() == [(Action.REFUSE, flood[2])]
    assert (newcomer.state, flood[2].state) == (QUEUED, LINGERING)
    another = arena.arrive("a")
    assert arena.take() == [(Action.REFUSE, another)]


def test_a_newcomer_that_waits_too_long_is_refused() -> None:
    arena = Arena(2)
    arena.arrive("a")
    first = arena.arrive("a")
    arena.take()
    assert arena.pass_time(QUEUE_TIMEOUT / 2) == []
    second = arena.arrive("a")
    assert arena.pass_time(QUEUE_TIMEOUT / 2) == [(Action.REFUSE, first)]
    assert arena.pass_time(QUEUE_TIMEOUT / 2) == [(Action.REFUSE, second)]


# Eviction


def test_the_oldest_of_the_same_network_makes_way_after_the_delay() -> None:
    arena = Arena(4)
    other = arena.wait_for_peer(arena.arrive("b"))
    first, second = (arena.wait_for_peer(arena.arrive()) for _ in range(2))
    arena.take()
    assert arena.pass_time(EVICTION_DELAY) == []
    newcomer = arena.arrive()
    assert arena.pass_time(0) == [(Action.EVICT, first), (Action.ADMIT, newcomer)]
    assert {other.state, second.state} == {PEER}


def test_a_newcomer_waits_until_the_delay_is_over() -> None:
    arena = Arena(2)
    opening = arena.wait_for_peer(arena.arrive())
    newcomer = arena.arrive()
    arena.take()
    assert arena.pass_time(EVICTION_DELAY - 0.01) == []
    assert arena.pass_time(0.01) == [(Action.EVICT, opening), (Action.ADMIT, newcomer)]


def test_one_that_waits_for_the_server_never_makes_way() -> None:
    arena = Arena(1)
    opening = arena.wait_for_peer(arena.arrive())
    arena.pass_time(0.4)
    arena.wait_for_server(opening)
    newcomer = arena.arrive()
    arena.take()
    assert arena.pass_time(100) == [(Action.REFUSE, newcomer)]
    assert opening.state is SERVER


def test_the_network_with_most_slots_makes_way_for_another_network() -> None:
    arena = Arena(4)
    single = arena.wait_for_peer(arena.arrive("b"))
    first, _ = (arena.wait_for_peer(arena.arrive("a")) for _ in range(2))
    arena.wait_for_peer(arena.arrive("c"))
    newcomer = arena.arrive("d")
    arena.take()
    assert arena.pass_time(EVICTION_DELAY) == [(Action.EVICT, first), (Action.ADMIT, newcomer)]
    assert single.state is PEER


def test_nobody_else_makes_way_for_a_network_that_has_its_share() -> None:
    arena = Arena(2)
    arena.arrive("a")
    other = arena.wait_for_peer(arena.arrive("b"))
    newcomer = arena.arrive("a")
    arena.take()
    assert arena.pass_time(MIN_OPEN_TIMEOUT - 0.01) == []
    assert (newcomer.state, other.state) == (QUEUED, PEER)


def test_waits_are_added_up_however_short_each_of_them_is() -> None:
    arena = Arena(1)
    opening = arena.arrive()
    newcomer = arena.arrive()
    arena.take()
    for _ in range(4):
        arena.wait_for_peer(opening)
        assert arena.pass_time(0.12) == []
        arena.wait_for_server(opening)
    arena.wait_for_peer(opening)
    assert arena.pass_time(0.03) == [(Action.EVICT, opening), (Action.ADMIT, newcomer)]


@pytest.mark.parametrize("count_queue_time", [False, True])
def test_time_in_the_queue_counts_if_the_peer_could_have_sent_the_bytes_in_it(count_queue_time: bool) -> None:
    arena = Arena(1)
    busy = arena.arrive()
    opening, newcomer = arena.arrive(), arena.arrive()
    arena.pass_time(EVICTION_DELAY)
    arena.end(busy)
    arena.take()
    arena.wait_for_peer(opening, count_queue_time=count_queue_time)
    made_way = [(Action.EVICT, opening), (Action.ADMIT, newcomer)]
    assert arena.pass_time(0) == (made_way if count_queue_time else [])
    assert arena.pass_time(EVICTION_DELAY) == ([] if count_queue_time else made_way)


@pytest.mark.parametrize(
    ("taken", "timeout"), [(4, None), (5, 4.0), (6, 3.0), (7, 2.0), (8, MIN_OPEN_TIMEOUT)], ids=lambda value: str(value)
)
def test_the_timeout_shrinks_when_more_than_half_of_the_slots_are_taken(taken: int, timeout: float | None) -> None:
    arena = Arena(8)
    first, *_ = (arena.wait_for_peer(arena.arrive(str(number))) for number in range(taken))
    arena.take()
    if timeout is None:
        assert arena.pass_time(100) == []
    else:
        assert arena.pass_time(timeout - 0.01) == []
        assert arena.pass_time(0.02)[0] == (Action.EVICT, first)
        assert first.state is EVICTED


# After the answer


def test_the_oldest_of_too_many_that_linger_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_openings, "MAX_LINGERING", 2)
    arena = Arena(8)
    answered = [arena.arrive() for _ in range(4)]
    arena.take()
    for opening in answered:
        arena.answer(opening)
    assert arena.take() == [(Action.DROP, opening) for opening in answered[:2]]
    arena.end(answered[2])
    arena.answer(arena.arrive())
    assert (Action.DROP, answered[3]) not in arena.take()


# Anything


@given(
    st.integers(1, 6),
    st.lists(st.tuples(st.sampled_from(["arrive", *EVENTS]), st.integers(0, 30), st.sampled_from([0, 0.1, 0.3, 1.0]))),
)
def test_limits_hold_and_nobody_waits_without_a_reason(max_slots: int, steps: list[tuple[str, int, float]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_openings, "MAX_QUEUED", 5)
        patch.setattr(_openings, "MAX_LINGERING", 3)
        arena = Arena(max_slots)
        known: list[Opening] = []
        for event, number, seconds in steps:
            before = {opening: opening.state for opening in known}
            if event == "arrive":
                known.append(arena.arrive("aaabc"[number % 5]))
                before[known[-1]] = QUEUED
            elif known:
                EVENTS[event](arena, known[number % len(known)])
            check_actions(arena, before)
            check_limits(known, max_slots)
            before = {opening: opening.state for opening in known}
            arena.now += seconds
            if arena.openings.deadline <= arena.now:
                arena.done += arena.openings.time_passed(arena.now)
                check_nobody_is_evictable_in_vain(arena, known, max_slots)
            check_actions(arena, before)
            check_limits(known, max_slots)


def share_of(max_slots: int) -> int:
    return (max_slots + 1) // 2


def evictable(arena: Arena, opening: Opening) -> bool:
    return opening.state is PEER and opening.late_since + EVICTION_DELAY <= arena.now


def check_limits(known: list[Opening], max_slots: int) -> None:
    """Check the numbers of openings, and that a free slot is not left free."""
    taken = Counter(opening.network for opening in known if opening.state in (SERVER, PEER))
    states = Counter(opening.state for opening in known)
    assert taken.total() <= max_slots
    assert all(number <= share_of(max_slots) for number in taken.values())
    assert states[QUEUED] <= 5
    assert states[LINGERING] <= 3
    if taken.total() < max_slots:
        assert all(taken[opening.network] == share_of(max_slots) for opening in known if opening.state is QUEUED)
    for network in taken:  # the queue of a network is in order
        arrived = [opening for opening in known if opening.network == network]
        admitted = [opening.admitted_at for opening in arrived if opening.state in (SERVER, PEER)]
        assert admitted == sorted(admitted)


def check_actions(arena: Arena, before: dict[Opening, OpeningState]) -> None:
    """Check that each action was possible, and that only openings that waited for their peers were evicted."""
    expected = {
        Action.ADMIT: ({QUEUED}, {SERVER, PEER}),
        Action.REFUSE: ({QUEUED}, {LINGERING, ENDED}),
        Action.EVICT: ({PEER}, {EVICTED}),
        Action.DROP: ({QUEUED, SERVER, PEER, EVICTED, LINGERING}, {ENDED}),
    }
    for action, opening in arena.take():
        was, becomes = expected[action]
        assert before[opening] in was
        assert opening.state in becomes
        if action is Action.EVICT:
            assert opening.late_since + EVICTION_DELAY <= arena.now


def check_nobody_is_evictable_in_vain(arena: Arena, known: list[Opening], max_slots: int) -> None:
    """Check that no opening is queued that could have the slot of another one."""
    taken = Counter(opening.network for opening in known if opening.state in (SERVER, PEER))
    could_go = [opening for opening in known if evictable(arena, opening)]
    for newcomer in known:
        if newcomer.state is QUEUED:
            assert all(other.network != newcomer.network for other in could_go)
            assert not could_go or taken[newcomer.network] == share_of(max_slots)


def test_a_wait_that_begins_during_the_check_for_bytes_counts_the_next_time() -> None:
    arena = Arena(1)
    busy = arena.arrive()
    opening, newcomer = arena.arrive(), arena.arrive()
    arena.pass_time(EVICTION_DELAY)
    arena.end(busy)
    woken_at = arena.now
    arena.now += 0.01
    arena.wait_for_peer(opening)
    arena.take()
    assert arena.openings.time_passed(woken_at) == []
    assert arena.openings.deadline == arena.now
    assert arena.pass_time(0) == [(Action.EVICT, opening), (Action.ADMIT, newcomer)]
