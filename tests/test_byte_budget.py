"""The limit on the bytes that all connections hold together, without sockets."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._server._byte_budget import ByteBudget, Held, Holder, close_beyond

LIMIT = 100
SHARE = LIMIT // 2


@dataclass(eq=False)
class Connection:
    """A connection that holds bytes until it is closed."""

    network: str
    unfinished: int = 0
    waiting: int = 0
    closed: bool = False
    holder: Holder = field(init=False)

    def __post_init__(self) -> None:
        self.holder = Holder(self.network, self.held, self.close)

    def held(self) -> Held:
        return Held(self.unfinished, self.unfinished + self.waiting)

    def close(self) -> None:
        self.closed = True
        self.unfinished = self.waiting = 0


def budget_of(*connections: Connection, limit: int | None = LIMIT, always: int = 0) -> ByteBudget:
    budget = ByteBudget(limit, always=always)
    for connection in connections:
        budget.add(connection.holder)
    return budget


@pytest.mark.parametrize(
    ("held", "closed"),
    [
        ([], []),
        ([("a", 50, 0)], []),
        ([("a", 51, 0)], [0]),
        ([("a", 0, 51)], [0]),
        # The share of a network
        ([("a", 20, 0), ("a", 31, 0)], [1]),
        ([("a", 31, 0), ("a", 20, 0)], [0]),
        ([("a", 1, 0), ("a", 0, 50)], [0]),  # the longest unfinished message comes first
        ([("a", 0, 20), ("a", 0, 31)], [1]),  # without one, the connection that holds the most
        ([("a", 10, 5), ("a", 10, 40)], [1]),
        ([("a", 27, 0), ("a", 26, 0), ("b", 47, 0)], [0]),  # only of the network that holds too much
        # The limit of all
        ([("a", 50, 0), ("b", 50, 0)], []),
        ([("a", 40, 0), ("b", 41, 0), ("c", 20, 0)], [1]),
        ([("a", 0, 50), ("b", 0, 41), ("c", 10, 0)], [2]),
        ([("a", 0, 40), ("b", 0, 41), ("c", 0, 20)], [1]),
        # Both
        ([("a", 60, 0), ("b", 60, 0)], [0, 1]),
        ([("a", 30, 0), ("a", 25, 0), ("b", 50, 0), ("c", 40, 0)], [0, 2]),
    ],
)
def test_these_connections_are_closed(held: list[tuple[str, int, int]], closed: list[int]) -> None:
    connections = [Connection(*one) for one in held]
    budget = budget_of(*connections)
    close_beyond(budget, sum(one.held().total for one in connections))
    assert [number for number, one in enumerate(connections) if one.closed] == closed
    close_beyond(budget, 0)
    assert [number for number, one in enumerate(connections) if one.closed] == closed


def test_without_a_limit_nothing_is_closed() -> None:
    connection = Connection("a", 10**18)
    close_beyond(budget_of(connection, limit=None), 10**18)
    assert not connection.closed


def test_one_message_is_always_allowed() -> None:
    alone, other = Connection("a", 1000), Connection("b", 1)
    budget = budget_of(alone, other, always=1000)
    close_beyond(budget, 1001)
    assert alone.closed
    assert not other.closed
    alone = Connection("a", 1000)
    budget = budget_of(alone, always=1000)
    close_beyond(budget, 1000)
    assert not alone.closed


def test_a_connection_that_has_ended_does_not_count() -> None:
    ended, other = Connection("a", 50), Connection("a", 50)
    budget = budget_of(ended, other)
    budget.remove(ended.holder)
    budget.remove(ended.holder)
    close_beyond(budget, 100)
    assert not other.closed


def test_bytes_that_were_given_back_do_not_count() -> None:
    connection = Connection("a")
    budget = budget_of(connection)
    for _ in range(100):
        connection.unfinished = SHARE
        close_beyond(budget, SHARE)
        connection.unfinished = 0
    assert not connection.closed


events = st.sampled_from(["unfinished", "waiting", "finish", "give back", "leave"])
steps = st.lists(st.tuples(st.integers(0, 7), events, st.integers(1, 40)), max_size=60)


@given(steps)
def test_no_more_is_held_than_the_limit(steps: list[tuple[int, str, int]]) -> None:
    """The longest unfinished message of a network with too many bytes is the first to go, then the largest holder."""
    connections = [Connection("abcd"[number // 2]) for number in range(8)]
    budget = budget_of(*connections)
    for number, what, size in steps:
        connection = connections[number]
        if connection.closed:
            continue
        if what == "finish":
            connection.waiting += connection.unfinished
            connection.unfinished = 0
        elif what == "give back":
            connection.waiting = 0
        elif what == "leave":
            connection.close()
            budget.remove(connection.holder)
        else:
            setattr(connection, what, getattr(connection, what) + size)
            for victim in budget.grown(size):
                held = {one: one.held() for one in connections if not one.closed}
                per_network = {one.network: 0 for one in connections}
                for one, its in held.items():
                    per_network[one.network] += its.total
                most = max(per_network.values())
                assert most > SHARE or sum(per_network.values()) > LIMIT
                suspects = [one for one in held if most <= SHARE or per_network[one.network] == most]
                assert victim.measure() == max(held[one] for one in suspects)
                victim.close()
        open_ones = [one for one in connections if not one.closed]
        assert sum(one.held().total for one in open_ones) <= LIMIT
        assert all(sum(one.held().total for one in open_ones if one.network == name) <= SHARE for name in "abcd")
