"""The clients that may have ended an engine process: who must be alone, and who must wait."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._engines import Client
from rayforce_trio._engines import _suspects as module
from rayforce_trio._engines._suspects import (
    CRASH_RECORD_LIFETIME,
    FIRST_WAIT,
    MAX_CLIENTS,
    MAX_WAIT,
    SUSPICION_LIFETIME,
    Suspects,
)

ANN, BOB, EVE = (Client("192.0.2.1", name) for name in ("ann", "bob", "eve"))


def test_a_client_is_alone_once_it_is_a_suspect_twice() -> None:
    suspects = Suspects()
    assert not suspects.must_be_alone(EVE, 0)
    suspects.process_ended([ANN, EVE, EVE], 0)
    assert not suspects.must_be_alone(EVE, 0)
    suspects.process_ended([BOB, EVE], 1)
    assert suspects.must_be_alone(EVE, 1)
    assert not suspects.must_be_alone(ANN, 1)
    assert not suspects.must_be_alone(BOB, 1)
    assert suspects.wait_of(EVE, 1) == 0


def test_clients_with_another_name_or_another_address_are_other_clients() -> None:
    suspects = Suspects()
    for now in range(3):
        suspects.process_ended([EVE], now)
    suspects.process_ended_by(EVE, 3)
    for client in (ANN, Client("192.0.2.2", "eve"), Client("192.0.2.1", "")):
        assert not suspects.must_be_alone(client, 3)
        assert suspects.wait_of(client, 3) == 0


def test_one_that_ended_a_process_alone_waits_and_is_alone_from_then_on() -> None:
    suspects = Suspects()
    assert suspects.process_ended_by(EVE, 10) == FIRST_WAIT
    assert suspects.wait_of(EVE, 10) == FIRST_WAIT
    assert suspects.wait_of(EVE, 11) == FIRST_WAIT - 1
    assert suspects.wait_of(EVE, 10 + FIRST_WAIT) == 0
    assert suspects.must_be_alone(EVE, 10 + FIRST_WAIT)


def test_each_wait_is_longer_up_to_a_limit() -> None:
    suspects, now = Suspects(), 0.0
    waits = []
    for _ in range(2000):
        waits.append(suspects.process_ended_by(EVE, now))
        now += waits[-1]
    assert waits[:4] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT, 8 * FIRST_WAIT]
    assert waits[-1] == MAX_WAIT


def test_when_the_client_is_found_the_others_are_no_suspects_any_more() -> None:
    suspects = Suspects()
    for now in range(2):
        suspects.process_ended([ANN, BOB, EVE], now)
    suspects.process_ended_by(BOB, 2)
    suspects.process_ended_by(EVE, 2)
    assert not suspects.must_be_alone(ANN, 2)
    assert suspects.must_be_alone(BOB, 2)


def test_suspicion_and_proof_expire() -> None:
    suspects = Suspects()
    for now in range(2):
        suspects.process_ended([EVE], now)
    assert suspects.must_be_alone(EVE, SUSPICION_LIFETIME)
    assert not suspects.must_be_alone(EVE, 1 + SUSPICION_LIFETIME)
    assert len(suspects) == 0
    suspects.process_ended_by(EVE, 0)
    suspects.process_ended([EVE], 1)
    assert suspects.must_be_alone(EVE, CRASH_RECORD_LIFETIME)
    assert not suspects.must_be_alone(EVE, FIRST_WAIT + CRASH_RECORD_LIFETIME)


def test_the_memory_is_bounded_and_the_oldest_suspect_is_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CLIENTS", 3)
    suspects = Suspects()
    suspects.process_ended([EVE], 0)
    for number in range(3):
        suspects.process_ended([EVE, Client("192.0.2.9", str(number))], number)
    assert len(suspects) == 3
    assert suspects.must_be_alone(EVE, 3)
    suspects.process_ended([Client("192.0.2.9", name) for name in "xyz"], 4)
    assert not suspects.must_be_alone(EVE, 4)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3000), st.floats(0, 1000)), max_size=60))
def test_only_clients_that_were_in_flight_are_ever_affected(events: list[tuple[bool, int, float]]) -> None:
    suspects, now, involved = Suspects(), 0.0, set[Client]()
    for is_alone, number, passed in events:
        now += passed
        client = Client(str(number), "")
        involved.add(client)
        if is_alone:
            assert FIRST_WAIT <= suspects.process_ended_by(client, now) <= MAX_WAIT
        else:
            suspects.process_ended([client], now)
        assert len(suspects) <= MAX_CLIENTS
        assert all(suspects.wait_of(other, now) <= MAX_WAIT for other in involved)
    assert not suspects.must_be_alone(EVE, now)
