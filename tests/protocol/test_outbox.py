"""What waits to be sent beside the replies of a connection."""

from hypothesis import given
from hypothesis import strategies as st

from rayforce_trio._protocol import Outbox, OutgoingUpdate
from rayforce_trio._protocol._outbox import MAX_NOTICES
from rayforce_trio._protocol._topics import UPDATE_OVERHEAD

SIZE = UPDATE_OVERHEAD + 1  # of an update of one byte


class Value(bytes):
    """An update."""

    @property
    def size(self) -> int:
        return UPDATE_OVERHEAD + len(self)


def add(outbox: Outbox[Value], subscription: int, *values: bytes) -> list[int]:
    updates = [*map(Value, values)]
    return outbox.add_updates(subscription, updates, sum(update.size for update in updates))


def sent(outbox: Outbox[Value]) -> list[object]:
    """Send everything; an update is its subscription, what was lost, and the value."""
    found: list[object] = []
    while (first := outbox.first()) is not None:
        assert outbox.first() == first
        found.append(first)
        outbox.sent()
    return found


def test_notices_and_updates_keep_their_order() -> None:
    outbox = Outbox[Value](1000)
    assert (bool(outbox), outbox.is_clear, outbox.first()) == (False, True, None)
    outbox.add_notice("one")
    add(outbox, 1, b"a")
    outbox.add_notice("two")
    add(outbox, 2, b"b")
    assert (len(outbox), bool(outbox), outbox.is_clear) == (4, True, False)
    assert outbox.first() == "one"
    assert sent(outbox) == ["one", (1, 0, b"a"), "two", (2, 0, b"b")]
    assert (outbox.size, outbox.is_clear) == (0, True)


def test_beyond_the_limit_the_oldest_updates_go_and_the_next_one_tells() -> None:
    outbox = Outbox[Value](2 * SIZE)
    outbox.add_notice("subscribed")
    assert add(outbox, 1, b"a") == []
    assert add(outbox, 2, b"b") == []
    assert add(outbox, 3, b"c") == [1]
    assert add(outbox, 4, b"d") == [2]
    assert sent(outbox) == ["subscribed", (3, 0, b"c"), (4, 0, b"d")]
    assert not outbox
    assert not outbox.is_clear  # the next updates of subscriptions 1 and 2 must tell
    add(outbox, 2, b"e")
    assert sent(outbox) == [(2, 1, b"e")]
    outbox.discard(1)
    assert outbox.is_clear


def test_a_busy_topic_does_not_cost_a_quiet_one_its_last_update() -> None:
    outbox = Outbox[Value](3 * SIZE)
    add(outbox, 1, b"q")
    for number in range(100):
        dropped = add(outbox, 2, bytes([number]))
        assert dropped == ([2] if number >= 2 else [])
        assert len(outbox._runs) <= 2 * len(outbox)  # what was dropped does not stay
    assert sent(outbox) == [(1, 0, b"q"), (2, 98, bytes([98])), (2, 0, bytes([99]))]
    assert outbox.is_clear


def test_one_update_may_always_wait() -> None:
    outbox = Outbox[Value](10)
    assert add(outbox, 1, bytes(1000)) == []
    assert add(outbox, 1, bytes(2000)) == [1]
    assert outbox.first() == OutgoingUpdate(1, 1, Value(2000))


def test_a_subscription_that_ended_leaves_nothing() -> None:
    outbox = Outbox[Value](2 * SIZE)
    for value in b"abc":
        add(outbox, 1, bytes([value]))
    outbox.add_notice("n")
    outbox.discard(1)
    assert (len(outbox), outbox.size) == (1, 0)
    assert sent(outbox) == ["n"]
    assert outbox.is_clear
    add(outbox, 2, b"d")
    add(outbox, 3, b"e")
    outbox.discard(2)
    outbox.discard(9)
    assert len(outbox) == 1
    assert add(outbox, 3, b"f") == []  # what was discarded gives way without being counted
    assert sent(outbox) == [(3, 0, b"e"), (3, 0, b"f")]


def test_what_was_lost_of_a_subscription_that_the_server_has_ended_is_forgotten_with_its_last_update() -> None:
    outbox = Outbox[Value](2 * SIZE)
    for subscription in (1, 2, 3):
        add(outbox, subscription, b"a", b"b")
        add(outbox, subscription, b"c", b"d")
    outbox.end(1)  # its updates were dropped for those of the others
    outbox.end(3)
    add(outbox, 4, b"e")
    assert sent(outbox) == [(3, 3, b"d"), (4, 0, b"e")]
    assert not outbox.is_clear
    outbox.discard(2)
    assert outbox.is_clear


def test_a_client_that_reads_nothing_cannot_ask_for_any_number_of_notices() -> None:
    outbox = Outbox[Value](10)
    for _ in range(MAX_NOTICES):
        outbox.add_notice("n")
    assert not outbox.is_flooded
    outbox.add_notice("n")
    assert outbox.is_flooded


@given(
    st.lists(st.tuples(st.sampled_from(["add", "add", "run", "send", "discard"]), st.integers(1, 3)), max_size=80),
    st.integers(1, 6),
)
def test_every_update_is_sent_or_counted(steps: list[tuple[str, int]], room: int) -> None:
    outbox = Outbox[Value](room * SIZE)
    names = {1: 1, 2: 2, 3: 3}  # an id that was discarded is not used again
    added = dict.fromkeys(range(1, 400), 0)
    seen = dict.fromkeys(range(1, 400), 0)

    def append(name: int, count: int) -> None:
        numbers = range(added[name] + 1, added[name] + count + 1)
        added[name] += count
        add(outbox, name, *(bytes([number % 256]) for number in numbers))

    def take(first: str | OutgoingUpdate[Value] | None) -> None:
        assert isinstance(first, OutgoingUpdate)
        seen[first.subscription] += first.lost + 1
        assert first.update == bytes([seen[first.subscription] % 256])
        outbox.sent()

    for step, which in steps:
        if step in ("add", "run"):
            append(names[which], 4 if step == "run" else 1)
            assert len(outbox._runs) <= 2 * len(outbox)  # what was dropped does not stay
        elif step == "discard":
            outbox.discard(names[which])
            names[which] += 3
        elif outbox:
            take(outbox.first())
        assert outbox.size <= room * SIZE
    while outbox:
        take(outbox.first())
    for name in names.values():
        append(name, 1)
        take(outbox.first())
        assert seen[name] == added[name]
    assert outbox.size == 0
