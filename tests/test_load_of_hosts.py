"""The bounded load of `load_of_hosts`: every request of many clients at once is answered under each host."""

import load_of_hosts
import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", load_of_hosts.CONTESTANTS)
def test_many_clients_at_once_are_answered(name: str) -> None:
    assert load_of_hosts.measured(name) > 0
