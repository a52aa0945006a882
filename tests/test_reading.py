"""Who receives the messages of a client's connection: every event in every state, without a socket."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._client._reading import STANDBY, Reading, Receiver

READER, NOBODY, CALL = Receiver

# Each event at the time 100.0.
EVENTS: dict[str, Callable[[Reading], bool | None]] = {
    "joined": Reading.call_joined,
    "delivered": lambda reading: reading.reply_delivered(100.0),
    "started": Reading.call_started,
    "answered": lambda reading: reading.call_ended(answered=True),
    "failed": lambda reading: reading.call_ended(answered=False),
    "elapsed": Reading.standby_elapsed,
    "needed": Reading.need_reader,
    "released": Reading.release_reader,
}


def after(*events: str) -> Reading:
    reading = Reading()
    for event in events:
        EVENTS[event](reading)
    return reading


STEADY = ("delivered", "delivered")

# The events before, the event, who receives then, and whether the reader task has to be woken.
TRANSITIONS = [
    ((), "joined", READER, False),
    ((), "delivered", READER, None),
    ((), "elapsed", READER, None),
    (("delivered",), "delivered", NOBODY, None),
    (("delivered", "joined"), "delivered", READER, None),
    (STEADY, "joined", READER, True),
    (STEADY, "started", CALL, None),
    (STEADY, "elapsed", NOBODY, None),
    ((*STEADY, "elapsed"), "elapsed", READER, None),
    ((*STEADY, "elapsed", "started", "answered"), "elapsed", NOBODY, None),
    ((*STEADY, "started"), "joined", CALL, False),
    ((*STEADY, "started"), "answered", NOBODY, False),
    ((*STEADY, "started"), "failed", READER, True),
    ((*STEADY, "started", "joined"), "answered", READER, True),
    ((*STEADY, "started", "joined"), "failed", READER, True),
    ((*STEADY, "joined", *STEADY, "started"), "answered", NOBODY, False),
    ((*STEADY, "started"), "elapsed", CALL, None),
    ((*STEADY, "started", "elapsed"), "elapsed", CALL, None),
    ((*STEADY, "started", "failed"), "delivered", READER, None),
    ((*STEADY, "started", "failed", "delivered"), "delivered", NOBODY, None),
    ((*STEADY, "joined"), "delivered", READER, None),
    ((), "needed", READER, False),
    (STEADY, "needed", READER, True),
    ((*STEADY, "started"), "needed", CALL, False),
    ((*STEADY, "started", "needed"), "answered", READER, True),
    (("needed", "delivered"), "delivered", READER, None),
    (("needed", "needed", "released", "delivered"), "delivered", READER, None),
    (("needed", "released", "delivered"), "delivered", NOBODY, None),
    (("needed",), "released", READER, None),
]


@pytest.mark.parametrize(("before", "event", "receiver", "wake"), TRANSITIONS)
def test_an_event_in_a_state(before: tuple[str, ...], event: str, receiver: Receiver, wake: bool | None) -> None:
    reading = after(*before)
    assert EVENTS[event](reading) is wake
    assert reading.receiver is receiver


@pytest.mark.parametrize(("pause", "receiver"), [(0.0, NOBODY), (STANDBY, NOBODY), (STANDBY + 0.001, READER)])
def test_the_reader_task_stands_by_only_if_one_reply_soon_follows_another(pause: float, receiver: Receiver) -> None:
    reading = Reading()
    reading.reply_delivered(0.0)
    reading.reply_delivered(pause)
    assert reading.receiver is receiver


def test_a_call_cannot_receive_while_the_reader_task_does() -> None:
    with pytest.raises(AssertionError):
        Reading().call_started()


@given(st.lists(st.sampled_from(sorted(EVENTS))))
def test_the_reader_task_always_receives_again_if_no_call_does(events: list[str]) -> None:
    """And only an event that needs the reader task wakes it."""
    reading = Reading()
    for event in events:
        possible = {
            "started": reading.receiver is NOBODY,
            "delivered": reading.receiver is READER,
            "answered": reading.receiver is CALL,
            "failed": reading.receiver is CALL,
            "released": False,  # a program never releases what it does not need
        }
        if possible.get(event, True):
            before = reading.receiver
            if EVENTS[event](reading):
                assert (before is READER, reading.receiver) == (False, READER)
    if reading.receiver is CALL:
        reading.call_ended(answered=True)
    reading.standby_elapsed()
    reading.standby_elapsed()
    assert reading.receiver is READER
