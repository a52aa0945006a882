"""When and where a connection is made again: every event in every state, without a socket."""

from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio import ClientConnectionState as State
from rayforce_trio import errors
from rayforce_trio._client._reconnection import (
    FIRST_DELAY,
    MAX_DELAY,
    MAX_RETRY_AFTER,
    STABLE_AFTER,
    FailureKind,
    Reconnection,
    failure_kind_of,
)
from rayforce_trio._client._states import Changes

TEMPORARY, UNEXPECTED, PERMANENT = FailureKind

EVENTS: dict[str, tuple[str, dict[str, Any]]] = {
    "connected": ("connected", {"now": 10.0}),
    "failed": ("failed", {"kind": TEMPORARY, "retry_after": None, "now": 10.0, "random": 0.5}),
    "refused for good": ("failed", {"kind": PERMANENT, "retry_after": None, "now": 10.0, "random": 0.5}),
    "lost": ("lost", {"drained": False, "now": 10.0, "random": 0.5}),
    "drained": ("lost", {"drained": True, "now": 10.0, "random": 0.5}),
    "waited": ("waited", {"now": 10.0}),
    "close": ("close", {}),
}

# Whatever is not in the table is not allowed.
TRANSITIONS = {
    (State.CONNECTING, "connected"): State.CONNECTED,
    (State.CONNECTING, "failed"): State.WAITING,
    (State.CONNECTING, "refused for good"): State.CLOSED,
    (State.CONNECTED, "lost"): State.WAITING,
    (State.CONNECTED, "drained"): State.CONNECTING,
    (State.WAITING, "waited"): State.CONNECTING,
    **{(state, "close"): State.CLOSED for state in State},
}


def reconnection_in(state: State, servers: int = 1) -> Reconnection:
    """Return one in a state, at the time 0."""
    reconnection = Reconnection(servers)
    if state in (State.CONNECTED, State.WAITING):
        reconnection.connected(0.0)
    if state is State.WAITING:
        reconnection.lost(drained=False, now=0.0, random=0.5)
    if state is State.CLOSED:
        reconnection.close()
    assert reconnection.state is state
    return reconnection


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", State)
def test_every_event_in_every_state(state: State, event: str) -> None:
    reconnection = reconnection_in(state)
    method, arguments = EVENTS[event]
    expected = TRANSITIONS.get((state, event))
    if expected is None:
        with pytest.raises(AssertionError):
            getattr(reconnection, method)(**arguments)
        expected = state
    else:
        getattr(reconnection, method)(**arguments)
    assert reconnection.state is expected


def state_of(reconnection: Reconnection) -> State:
    """Return the state, in such a way that mypy does not take it for unchanged afterwards."""
    return reconnection.state


def fail(reconnection: Reconnection, now: float, *, random: float = 1.0, retry_after: float | None = None) -> float:
    """Fail an attempt; returns the delay."""
    reconnection.failed(TEMPORARY, retry_after, now, random)
    assert reconnection.state is State.WAITING
    return reconnection.resume_at - now


def test_the_bound_of_the_delays_doubles_up_to_a_limit() -> None:
    reconnection, now, delays = Reconnection(1), 0.0, []
    for _ in range(100):
        delays.append(fail(reconnection, now))
        now = reconnection.resume_at
        reconnection.waited(now)
    assert delays[:6] == pytest.approx([FIRST_DELAY * 2**attempt for attempt in range(6)])
    assert delays[6:] == pytest.approx([MAX_DELAY] * 94)


def test_the_jitter_is_full() -> None:
    assert fail(Reconnection(1), 0.0, random=0.0) == 0.0
    assert fail(Reconnection(1), 0.0, random=0.25) == pytest.approx(FIRST_DELAY / 4)


def test_the_delays_begin_again_after_a_stable_connection() -> None:
    for lasted, delay in ((STABLE_AFTER, FIRST_DELAY), (STABLE_AFTER / 2, 4 * FIRST_DELAY)):
        reconnection, now = Reconnection(1), 0.0
        for _ in range(2):
            fail(reconnection, now)
            now = reconnection.resume_at
            reconnection.waited(now)
        reconnection.connected(now)
        reconnection.lost(drained=False, now=now + lasted, random=1.0)
        assert reconnection.resume_at - now - lasted == pytest.approx(delay)


def test_a_server_that_drains_each_connection_at_once_is_not_asked_without_a_pause() -> None:
    reconnection = reconnection_in(State.CONNECTED)
    reconnection.lost(drained=True, now=0.0, random=1.0)
    assert state_of(reconnection) is State.CONNECTING
    reconnection.connected(0.0)
    reconnection.lost(drained=True, now=0.0, random=1.0)
    assert state_of(reconnection) is State.WAITING
    reconnection.waited(1.0)
    reconnection.connected(1.0)
    reconnection.lost(drained=True, now=1.0 + STABLE_AFTER, random=1.0)
    assert state_of(reconnection) is State.CONNECTING


def test_the_jitter_comes_on_top_of_what_the_server_asks_for() -> None:
    assert fail(Reconnection(1), 7.0, retry_after=30.0, random=0.5) == pytest.approx(30.0 + FIRST_DELAY / 2)
    assert fail(Reconnection(1), 7.0, retry_after=10 * MAX_RETRY_AFTER, random=0.0) == pytest.approx(MAX_RETRY_AFTER)


def test_servers_are_tried_in_order_and_the_first_one_is_tried_first_again() -> None:
    reconnection = Reconnection(3)
    assert reconnection.server == 0
    reconnection.failed(TEMPORARY, None, 0.0, 0.5)
    assert (reconnection.state, reconnection.server) == (State.CONNECTING, 1)
    reconnection.connected(0.0)
    reconnection.lost(drained=True, now=1.0, random=0.5)
    assert (reconnection.state, reconnection.server) == (State.CONNECTING, 0)
    for _ in range(3):
        reconnection.failed(TEMPORARY, None, 1.0, 0.5)
    assert state_of(reconnection) is State.WAITING
    reconnection.waited(reconnection.resume_at)
    assert (reconnection.state, reconnection.server) == (State.CONNECTING, 0)


def test_a_server_that_asks_for_time_is_passed_over_until_then() -> None:
    reconnection = Reconnection(2)
    reconnection.failed(TEMPORARY, 60.0, 0.0, 0.5)
    reconnection.failed(TEMPORARY, None, 0.0, 0.5)
    assert reconnection.resume_at < 1.0
    reconnection.waited(1.0)
    assert reconnection.server == 1
    reconnection.failed(TEMPORARY, None, 59.9, 1.0)
    reconnection.waited(60.0)
    assert reconnection.server == 0


def test_it_ends_when_all_servers_have_refused_for_good() -> None:
    reconnection = Reconnection(2)
    reconnection.failed(PERMANENT, None, 0.0, 0.5)
    reconnection.failed(TEMPORARY, None, 0.0, 0.5)
    assert state_of(reconnection) is State.WAITING
    reconnection.waited(1.0)
    assert (reconnection.state, reconnection.server) == (State.CONNECTING, 1)
    reconnection.failed(PERMANENT, None, 1.0, 0.5)
    assert state_of(reconnection) is State.CLOSED


def test_a_connection_to_one_server_gives_the_others_another_chance() -> None:
    reconnection = Reconnection(2)
    reconnection.failed(PERMANENT, None, 0.0, 0.5)
    reconnection.connected(0.0)
    reconnection.lost(drained=True, now=1.0, random=0.5)
    assert reconnection.server == 0


def test_what_does_not_look_like_the_server_ends_it_only_before_the_first_connection() -> None:
    reconnection = Reconnection(1)
    reconnection.failed(UNEXPECTED, None, 0.0, 0.5)
    assert state_of(reconnection) is State.CLOSED
    reconnection = reconnection_in(State.WAITING)
    reconnection.waited(1.0)
    reconnection.failed(UNEXPECTED, None, 1.0, 0.5)
    assert state_of(reconnection) is State.WAITING


def wrong_peer() -> errors.HandshakeError:
    error = errors.HandshakeError("")
    error._wrong_peer = True
    return error


def untrusted() -> errors.HandshakeError:
    error = errors.HandshakeError("")
    error._untrusted = True
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ConnectError(""), TEMPORARY),
        (errors.HandshakeError(""), TEMPORARY),
        (errors.ConnectionLost(""), TEMPORARY),
        (wrong_peer(), UNEXPECTED),
        (untrusted(), PERMANENT),
        *[(errors.ConnectionRejected(status), TEMPORARY) for status in (408, 425, 429, 500, 502, 503, 504)],
        *[(errors.ConnectionRejected(status), UNEXPECTED) for status in (301, 302, 404)],
        *[(errors.ConnectionRejected(status), PERMANENT) for status in (400, 401, 403, 407, 426)],
    ],
)
def test_the_errors_of_attempts(error: errors.RayforceWSError, kind: FailureKind) -> None:
    assert failure_kind_of(error) is kind


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(
            st.sampled_from(["connected", "lost", "drained", *FailureKind]),
            st.none() | st.floats(0, 1e9),
            st.floats(0, 100),
            st.floats(0, 1),
        )
    ),
)
def test_any_course_of_events(servers: int, events: list[tuple[Any, float | None, float, float]]) -> None:
    reconnection, now = Reconnection(servers), 0.0
    tried: list[int] = []
    for event, retry_after, elapsed, random in events:
        if reconnection.state is State.CLOSED:
            break
        if reconnection.state is State.WAITING:
            assert now <= reconnection.resume_at <= now + MAX_RETRY_AFTER + MAX_DELAY
            now = reconnection.resume_at
            reconnection.waited(now)
            tried = []
        now += elapsed
        if reconnection.state is State.CONNECTED:
            reconnection.lost(drained=event == "drained", now=now, random=random)
            tried = []
        elif event == "connected":
            reconnection.connected(now)
        else:
            assert state_of(reconnection) is State.CONNECTING
            assert 0 <= reconnection.server < servers
            assert all(server < reconnection.server for server in tried), "out of order"
            tried.append(reconnection.server)
            kind = event if isinstance(event, FailureKind) else TEMPORARY
            reconnection.failed(kind, retry_after, now, random)
    assert reconnection.resume_at > -inf


# The changes that an iterator has not returned yet


@pytest.mark.parametrize(
    ("added", "returned"),
    [
        ([], []),
        ([State.WAITING, State.CONNECTING, State.WAITING], [State.WAITING]),
        ([State.WAITING, State.CONNECTING, State.CONNECTED], [State.CONNECTING, State.CONNECTED]),
        ([State.CONNECTING, State.CONNECTED, State.WAITING, State.CONNECTED], [State.CONNECTING, State.CONNECTED]),
        ([State.CONNECTED, State.WAITING, State.CONNECTED], [State.CONNECTED]),
        ([State.CONNECTED, State.WAITING], [State.CONNECTED, State.WAITING]),
        ([State.WAITING, State.CLOSED], [State.WAITING, State.CLOSED]),
        ([State.CLOSED], [State.CLOSED]),
    ],
)
def test_changes_that_are_left_out(added: list[State], returned: list[State]) -> None:
    changes = Changes()
    for state in added:
        changes.add(state)
    assert list(iter(changes.next, None)) == returned


@given(st.lists(st.sampled_from([State.CONNECTING, State.CONNECTED, State.WAITING]) | st.none()), st.booleans())
def test_the_changes_are_few_and_tell_every_loss_and_the_present_state(
    course: list[State | None], closed: bool
) -> None:
    changes, present, told = Changes(), State.CONNECTED, State.CONNECTED
    lost = False  # since the iterator was told last
    for state in [*course, *([State.CLOSED] if closed else [])]:
        if state is None:
            if (following := changes.next()) is not None:
                assert following is not told
                told = following
                lost = present is not told
        elif state is not present:
            lost = lost or state is not State.CONNECTED
            changes.add(state)
            present = state
        assert len(changes._pending) <= 4
    rest = list(iter(changes.next, None))
    assert ([told, *rest])[-1] is present
    assert not lost or told is not State.CONNECTED or any(state is not State.CONNECTED for state in rest)
