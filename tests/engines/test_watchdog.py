"""The state machine of the watchdog: every event in every state, and the rule that being busy never counts."""

import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._engines._watchdog import Watchdog, WatchdogState

OBEDIENT, STOPPING, BUSY, UNRESPONSIVE, REFUSING = WatchdogState
LIMIT = 30.0
NOW = 1000.0

Event = Callable[[Watchdog], None]


def reach(watchdog: Watchdog, state: WatchdogState) -> None:
    if state is REFUSING:
        watchdog.refused()
    elif state is not OBEDIENT:
        watchdog.stop_requested(NOW - LIMIT)
        if state is not STOPPING:
            watchdog.checked(NOW, is_busy=state is BUSY, stopped_at=NOW - LIMIT)


EVENTS: dict[str, Event] = {
    "stop requested": lambda w: w.stop_requested(NOW),
    "replied to the last stop": lambda w: w.replied(NOW, stops_left=False),
    "replied to somebody else": lambda w: w.replied(NOW, stops_left=True),
    "accepted": lambda w: w.accepted(NOW, stops_left=False),
    "accepted, stops left": lambda w: w.accepted(NOW, stops_left=True),
    "refused": lambda w: w.refused(),
    "checked: busy": lambda w: w.checked(NOW, is_busy=True, stopped_at=math.inf),
    "checked: not busy": lambda w: w.checked(NOW, is_busy=False, stopped_at=0.0),
    "checked: stopped a second ago": lambda w: w.checked(NOW, is_busy=False, stopped_at=NOW - 1),
}

AFTER: dict[str, tuple[WatchdogState, ...]] = {
    # the state before:          OBEDIENT  STOPPING  BUSY      UNRESPONSIVE  REFUSING
    "stop requested": (STOPPING, STOPPING, STOPPING, UNRESPONSIVE, REFUSING),
    "replied to the last stop": (OBEDIENT, OBEDIENT, OBEDIENT, OBEDIENT, REFUSING),
    "replied to somebody else": (STOPPING, STOPPING, STOPPING, STOPPING, REFUSING),
    "accepted": (OBEDIENT, OBEDIENT, OBEDIENT, OBEDIENT, OBEDIENT),
    "accepted, stops left": (STOPPING, STOPPING, STOPPING, STOPPING, STOPPING),
    "refused": (REFUSING, REFUSING, REFUSING, REFUSING, REFUSING),
    "checked: busy": (OBEDIENT, BUSY, BUSY, UNRESPONSIVE, REFUSING),
    "checked: not busy": (OBEDIENT, UNRESPONSIVE, BUSY, UNRESPONSIVE, REFUSING),
    "checked: stopped a second ago": (OBEDIENT, STOPPING, BUSY, UNRESPONSIVE, REFUSING),
}


def watchdog_in(state: WatchdogState) -> Watchdog:
    watchdog = Watchdog(LIMIT)
    reach(watchdog, state)
    assert watchdog.state is state
    return watchdog


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", WatchdogState)
def test_every_event_in_every_state(state: WatchdogState, event: str) -> None:
    watchdog = watchdog_in(state)
    EVENTS[event](watchdog)
    after = AFTER[event][list(WatchdogState).index(state)]
    assert watchdog.state is after
    assert watchdog.is_down == (after in (UNRESPONSIVE, REFUSING))
    assert watchdog.is_idle == (after is OBEDIENT)
    assert math.isfinite(watchdog.deadline) == (after is STOPPING)


@pytest.mark.parametrize(
    ("event", "deadline"),
    [
        ("stop requested", NOW),  # the first stop counts
        ("replied to somebody else", NOW + LIMIT),
        ("accepted, stops left", NOW + LIMIT),
        ("checked: stopped a second ago", NOW - 1 + LIMIT),
    ],
)
def test_the_time_begins_with_the_stop_that_the_server_can_have_ignored(event: str, deadline: float) -> None:
    watchdog = watchdog_in(STOPPING)
    EVENTS[event](watchdog)
    assert watchdog.deadline == deadline


def test_after_a_busy_time_the_time_begins_with_the_next_stop() -> None:
    watchdog = watchdog_in(BUSY)
    watchdog.stop_requested(NOW + 5)
    assert watchdog.deadline == NOW + 5 + LIMIT


@given(st.lists(st.tuples(st.sampled_from(["stop", "reply", "check"]), st.floats(0.0, 20.0)), max_size=40))
def test_a_server_is_never_down_before_the_limit_has_passed_since_it_last_did_something(
    events: list[tuple[str, float]],
) -> None:
    watchdog, now, last = Watchdog(LIMIT), 0.0, -math.inf
    first_stop = math.inf
    for event, passed in events:
        now += passed
        if event == "stop":
            watchdog.stop_requested(now)
            first_stop = min(first_stop, now)
        elif event == "reply":
            watchdog.replied(now, stops_left=first_stop < now)
            last = now
        elif watchdog.deadline <= now:
            watchdog.checked(now, is_busy=False, stopped_at=-math.inf)
        if watchdog.is_down:
            assert now - max(first_stop, last) >= LIMIT
