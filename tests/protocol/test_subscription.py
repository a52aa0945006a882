"""The client's state machine of a subscription: every event in every state, and that nothing is lost silently."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import (
    GAP,
    SLOW,
    ClientSubscription,
    Overflow,
    Position,
    SubscriptionState,
    Taken,
    Update,
)
from rayforce_trio._protocol._subscription import UPDATE_OVERHEAD

SUBSCRIBING, JOINING, ACTIVE, ENDED = SubscriptionState
START = Position("epoch", 10)


def update(sequence: int, lost: int = 0, size: int = 1) -> Update:
    return Update(1, sequence, lost, bytes(size))


def subscribing() -> ClientSubscription:
    return ClientSubscription(max_buffer=1000)


def joining(overflow: Overflow = Overflow.ERROR, max_buffer: int = 1000) -> ClientSubscription:
    subscription = ClientSubscription(max_buffer=max_buffer, overflow=overflow, joins=True)
    subscription.confirmed(START)
    return subscription


def active(overflow: Overflow = Overflow.ERROR, max_buffer: int = 1000) -> ClientSubscription:
    subscription = ClientSubscription(max_buffer=max_buffer, overflow=overflow)
    subscription.confirmed(START)
    return subscription


def ended() -> ClientSubscription:
    subscription = active()
    subscription.refused("limit", "too many")
    return subscription


Event = Callable[[ClientSubscription], object]
EVENTS: dict[str, Event] = {
    "confirmed": lambda one: one.confirmed(Position("other", 5)),
    "snapshot_taken": lambda one: one.snapshot_taken(13),
    "received": lambda one: one.received(update(11)),
    "refused": lambda one: one.refused("access", "no"),
    "close": lambda one: one.close(),
    "resume": lambda one: one.resume(),
}


@pytest.mark.parametrize(
    ("make", "event", "state"),
    [
        (subscribing, "confirmed", ACTIVE),
        (subscribing, "snapshot_taken", SUBSCRIBING),
        (subscribing, "received", ENDED),
        (subscribing, "refused", ENDED),
        (subscribing, "close", ENDED),
        (subscribing, "resume", SUBSCRIBING),
        (joining, "confirmed", JOINING),
        (joining, "snapshot_taken", ACTIVE),
        (joining, "received", JOINING),
        (joining, "refused", ENDED),
        (joining, "close", ENDED),
        (joining, "resume", SUBSCRIBING),
        (active, "confirmed", ACTIVE),
        (active, "snapshot_taken", ACTIVE),
        (active, "received", ACTIVE),
        (active, "refused", ENDED),
        (active, "close", ENDED),
        (active, "resume", SUBSCRIBING),
        (ended, "confirmed", ENDED),
        (ended, "snapshot_taken", ENDED),
        (ended, "received", ENDED),
        (ended, "refused", ENDED),
        (ended, "close", ENDED),
        (ended, "resume", ENDED),
    ],
)
def test_every_event_in_every_state(
    make: Callable[[], ClientSubscription], event: str, state: SubscriptionState
) -> None:
    subscription = make()
    EVENTS[event](subscription)
    assert subscription.state is state
    assert (subscription.end is not None) is (state is ENDED)


def test_a_subscription_with_a_snapshot_waits_for_it() -> None:
    subscription = ClientSubscription(max_buffer=1000, joins=True)
    subscription.confirmed(START)
    assert subscription.state is JOINING


@pytest.mark.parametrize(
    ("make", "event"),
    [(subscribing, "confirmed"), (joining, "snapshot_taken"), (active, "received"), (active, "refused")],
)
def test_changes_are_announced(make: Callable[[], ClientSubscription], event: str) -> None:
    subscription = make()
    told: list[SubscriptionState] = []
    subscription.on_change = lambda: told.append(subscription.state)
    EVENTS[event](subscription)
    assert told == [subscription.state]


def test_updates_are_taken_in_order() -> None:
    subscription = active()
    for sequence in (11, 12):
        subscription.received(update(sequence))
    assert [subscription.take(), subscription.take(), subscription.take()] == [
        Taken(11, 0, b"\0"),
        Taken(12, 0, b"\0"),
        None,
    ]
    assert subscription.position == Position("epoch", 12)


def test_updates_that_were_buffered_before_the_end_are_taken() -> None:
    subscription = active()
    subscription.received(update(11))
    subscription.refused(GAP, "a new epoch")
    assert subscription.take() == Taken(11, 0, b"\0")
    assert subscription.take() is None


@pytest.mark.parametrize("sequence", [10, 12, 13])
def test_a_break_in_the_sequence_ends_the_subscription(sequence: int) -> None:
    subscription = active()
    subscription.received(update(sequence))
    assert subscription.end is not None
    assert subscription.end.code == GAP
    assert str(sequence) in subscription.end.message


def test_a_number_of_lost_updates_that_does_not_fit_the_sequence_ends_the_subscription() -> None:
    subscription = active(Overflow.DROP_OLDEST)
    subscription.received(update(13, lost=1))
    assert subscription.end is not None
    assert subscription.end.code == GAP


@pytest.mark.parametrize("overflow", [Overflow.DROP_OLDEST, Overflow.LATEST])
def test_updates_that_the_server_dropped_are_counted(overflow: Overflow) -> None:
    subscription = active(overflow)
    subscription.received(update(14, lost=3))
    assert subscription.take() == Taken(14, 3, b"\0")


def test_updates_that_the_server_dropped_end_a_subscription_that_may_lose_none() -> None:
    subscription = active()
    subscription.received(update(11))
    subscription.received(update(14, lost=2))
    assert subscription.take() == Taken(11, 0, b"\0")
    assert subscription.take() is None
    assert subscription.end is not None
    assert subscription.end.code == SLOW


def test_without_room_the_subscription_ends_behind_the_buffer() -> None:
    subscription = active(max_buffer=2 * (UPDATE_OVERHEAD + 1))
    for sequence in (11, 12, 13):
        subscription.received(update(sequence))
    assert subscription.end is not None
    assert subscription.end.code == SLOW
    assert [subscription.take(), subscription.take(), subscription.take()] == [
        Taken(11, 0, b"\0"),
        Taken(12, 0, b"\0"),
        None,
    ]


def test_without_room_the_oldest_updates_are_dropped_and_counted() -> None:
    subscription = active(Overflow.DROP_OLDEST, max_buffer=2 * (UPDATE_OVERHEAD + 1))
    for sequence in range(11, 16):
        subscription.received(update(sequence))
    assert [subscription.take(), subscription.take()] == [Taken(14, 3, b"\0"), Taken(15, 0, b"\0")]


def test_only_the_latest_update_is_kept() -> None:
    subscription = active(Overflow.LATEST)
    for sequence in range(11, 14):
        subscription.received(update(sequence))
    assert subscription.buffered == 1
    assert subscription.take() == Taken(13, 2, b"\0")


@pytest.mark.parametrize("overflow", Overflow)
def test_one_update_always_fits(overflow: Overflow) -> None:
    subscription = active(overflow, max_buffer=1)
    subscription.received(update(11, size=5000))
    assert subscription.take() == Taken(11, 0, bytes(5000))


def test_nothing_is_taken_before_the_snapshot() -> None:
    subscription = joining()
    subscription.received(update(11))
    assert subscription.take() is None
    subscription.snapshot_taken(11)
    assert subscription.take() == Taken(11, 0, b"\0")


def test_updates_in_the_snapshot_are_not_lost() -> None:
    subscription = joining()
    for sequence in (11, 12, 13):
        subscription.received(update(sequence))
    subscription.snapshot_taken(13)
    assert subscription.position == Position("epoch", 12)
    assert subscription.take() == Taken(13, 0, b"\0")


def test_a_snapshot_may_overtake_updates_that_it_contains() -> None:
    subscription = joining()
    subscription.snapshot_taken(13)
    for sequence in (11, 12, 13):
        subscription.received(update(sequence))
    assert subscription.take() == Taken(13, 0, b"\0")


@pytest.mark.parametrize("first", ["update", "snapshot"])
def test_dropping_updates_in_the_snapshot_loses_nothing(first: str) -> None:
    subscription = joining()
    for event in ("update", "snapshot") if first == "update" else ("snapshot", "update"):
        if event == "update":
            subscription.received(update(14, lost=3))
        else:
            subscription.snapshot_taken(14)
    assert subscription.end is None
    assert subscription.take() == Taken(14, 0, b"\0")


@pytest.mark.parametrize("first", ["update", "snapshot"])
def test_dropping_updates_behind_the_snapshot_ends_a_subscription_that_may_lose_none(first: str) -> None:
    subscription = joining()
    for event in ("update", "snapshot") if first == "update" else ("snapshot", "update"):
        if event == "update":
            subscription.received(update(14, lost=3))
        else:
            subscription.snapshot_taken(13)
    assert subscription.end is not None
    assert subscription.end.code == SLOW


def test_while_joining_the_buffer_may_drop_updates_that_the_snapshot_contains() -> None:
    subscription = joining(max_buffer=UPDATE_OVERHEAD + 1)
    for sequence in (11, 12, 13):
        subscription.received(update(sequence))
    subscription.snapshot_taken(13)
    assert subscription.take() == Taken(13, 0, b"\0")


def test_a_position_continues_where_it_was_taken() -> None:
    subscription = ClientSubscription(max_buffer=1000, resume=START)
    assert subscription.resume_from == START
    subscription.confirmed(START)
    subscription.received(update(11))
    assert subscription.take() == Taken(11, 0, b"\0")


@pytest.mark.parametrize("position", [Position("epoch", 11), Position("other", 10)])
def test_another_position_than_the_one_asked_for_is_a_gap(position: Position) -> None:
    subscription = ClientSubscription(max_buffer=1000, resume=START)
    subscription.confirmed(position)
    assert subscription.end is not None
    assert subscription.end.code == GAP


def test_another_connection_continues_behind_the_last_update_that_arrived() -> None:
    subscription = active()
    subscription.received(update(11))
    subscription.received(update(12))
    assert subscription.take() == Taken(11, 0, b"\0")
    assert subscription.resume()
    assert subscription.resume_from == Position("epoch", 12)
    subscription.confirmed(Position("epoch", 12))
    subscription.received(update(13))
    assert [subscription.take(), subscription.take()] == [Taken(12, 0, b"\0"), Taken(13, 0, b"\0")]


def test_another_connection_continues_behind_a_snapshot_that_overtook_updates() -> None:
    subscription = joining()
    subscription.snapshot_taken(13)
    assert subscription.resume()
    assert subscription.resume_from == Position("epoch", 12)


def test_another_connection_takes_the_snapshot_again() -> None:
    subscription = joining()
    subscription.received(update(11))
    assert subscription.resume()
    assert subscription.resume_from is None
    subscription.confirmed(Position("other", 3))
    assert subscription.state is JOINING
    subscription.snapshot_taken(4)
    assert subscription.position == Position("other", 3)
    assert subscription.take() is None


@given(
    overflow=st.sampled_from(Overflow),
    joins=st.booleans(),
    capacity=st.integers(1, 5),
    steps=st.lists(st.sampled_from(["send", "drop", "take", "snapshot"]), max_size=60),
)
def test_nothing_is_lost_silently(overflow: Overflow, joins: bool, capacity: int, steps: list[str]) -> None:
    """What is taken, and what is counted as lost, is everything from the beginning."""
    subscription = ClientSubscription(max_buffer=capacity * (UPDATE_OVERHEAD + 1), overflow=overflow, joins=joins)
    subscription.confirmed(Position("epoch", 0))
    sequence = dropped = accounted = 0
    joined = not joins
    for step in [*steps, "snapshot", *["take"] * 60]:
        if step == "drop":
            sequence += 1
            dropped += 1
        elif step == "send":
            sequence += 1
            subscription.received(update(sequence, lost=dropped))
            dropped = 0
        elif step == "snapshot" and not joined:
            joined = True
            subscription.snapshot_taken(sequence + 1 - dropped)
            if subscription.position is not None:
                accounted = subscription.position.sequence
        elif step == "take" and (taken := subscription.take()) is not None:
            assert taken.sequence == accounted + taken.lost + 1
            assert not taken.lost or overflow is not Overflow.ERROR
            accounted = taken.sequence
    if subscription.end is None:
        assert accounted == sequence - dropped
    else:
        assert overflow is Overflow.ERROR
        assert subscription.end.code == SLOW
