"""The messages of a connection that answer no request, over a transport that the test blocks."""

from collections.abc import Iterator

import pytest

from rayforce_trio._protocol import StoredUpdate, Update, parse_update
from rayforce_trio._protocol._outbox import MAX_NOTICES
from rayforce_trio._server._counters import Counters
from rayforce_trio._server._hub import SharedUpdate, pack_update
from rayforce_trio._server._side_messages import SideMessages
from rayforce_trio._transports import SharedMessage, closed_by_us
from rayforce_trio._transports._memory import MemoryTransport, memory_pair
from rayforce_trio.errors import ConnectionClosed, ProtocolError, RayforceWSError


def shared(sequence: int, payload: bytes) -> SharedUpdate:
    return SharedUpdate(StoredUpdate(sequence, payload))


class Blocked:
    """A transport that sends only while it is open, and the messages that go over it.

    Attributes:
        error: raised by the next message.
        failures: the errors that ended the connection.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, max_buffer: int = 1000) -> None:
        self.is_open = True
        self.error: RayforceWSError | None = None
        self.sent: list[object] = []
        self.failures: list[RayforceWSError] = []
        self.dropped: list[int] = []
        self.counters = Counters()
        self.transport, self.peer = memory_pair()
        monkeypatch.setattr(MemoryTransport, "send_between", lambda _, message: self.send(message))
        self.messages = SideMessages(self.transport, self.failures.append, max_buffer, self.counters)
        self.messages.on_dropped = self.dropped.append

    def send(self, message: SharedMessage | str) -> bool:
        if self.error is not None:
            raise self.error
        if self.is_open:
            self.sent.append(message if isinstance(message, str) else parse_update(message.data))
        return self.is_open

    def open(self) -> None:
        self.is_open = True
        self.transport.on_idle()


@pytest.fixture
def blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[Blocked]:
    blocked = Blocked(monkeypatch)
    yield blocked
    blocked.transport.abort()
    blocked.peer.abort()


def test_what_can_be_sent_is_sent_at_once(blocked: Blocked) -> None:
    blocked.messages.notify("subscribed")
    blocked.messages.update(1, shared(1, b"a"))
    assert blocked.sent == ["subscribed", Update(1, 1, 0, b"a")]
    assert blocked.counters.bytes_out > 0


def test_the_rest_waits_in_order_until_the_transport_is_idle(blocked: Blocked) -> None:
    blocked.is_open = False
    blocked.messages.update(1, shared(1, b"a"))
    blocked.messages.notify("notice")
    blocked.is_open = True  # nothing overtakes what waits
    blocked.messages.update(1, shared(2, b"b"))
    assert blocked.sent == []
    blocked.open()
    assert blocked.sent == [Update(1, 1, 0, b"a"), "notice", Update(1, 2, 0, b"b")]


def test_many_updates_are_sent_a_slice_of_time_at_once(blocked: Blocked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rayforce_trio._server._side_messages.TIME_SLICE", 0.0)
    notified: list[None] = []
    monkeypatch.setattr(MemoryTransport, "notify_when_idle", lambda _: notified.append(None))
    updates = [StoredUpdate(number, b"a") for number in (1, 2, 3)]
    blocked.messages.updates(1, updates, sum(update.size for update in updates))
    assert (blocked.sent, len(notified)) == ([Update(1, 1, 0, b"a")], 1)
    blocked.messages.update(1, shared(4, b"a"))
    blocked.messages.notify("notice")
    for _ in range(4):
        blocked.open()
    assert blocked.sent == [*(Update(1, number, 0, b"a") for number in (1, 2, 3, 4)), "notice"]


def test_what_was_lost_before_a_subscription_ended_does_not_slow_down_the_others(blocked: Blocked) -> None:
    """A subscription that the server has ended is discarded when the client ends it, too."""
    blocked.is_open = False
    blocked.messages.update(1, shared(1, bytes(400)))
    blocked.messages.update(2, shared(1, bytes(900)))
    assert blocked.dropped == [1]
    blocked.open()
    assert not blocked.messages._direct
    blocked.messages.discard(1)
    assert blocked.messages._direct


def test_losses_are_counted_and_reported(blocked: Blocked) -> None:
    blocked.is_open = False
    for sequence in range(1, 4):
        blocked.messages.update(1, shared(sequence, bytes(400)))
    assert blocked.dropped == [1, 1]
    blocked.messages.update(2, shared(9, bytes(900)))
    blocked.messages.discard(2)
    blocked.open()
    assert blocked.sent == []
    blocked.messages.update(1, shared(4, b"d"))  # sent at once, with the number of those before it
    assert blocked.sent == [Update(1, 4, 3, b"d")]


def test_the_message_is_packed_once_for_all_who_use_the_same_id() -> None:
    update = shared(1, b"a")
    assert update.message(1) is update.message(1)
    assert update.message(2) is not update.message(1)
    assert parse_update(pack_update(update, 1, 5).data) == Update(1, 1, 5, b"a")
    assert parse_update(update.message(1).data) == Update(1, 1, 0, b"a")


def test_a_client_that_reads_no_notices_is_disconnected(blocked: Blocked) -> None:
    blocked.is_open = False
    for _ in range(MAX_NOTICES + 5):
        blocked.messages.notify("n")
    [error] = blocked.failures
    assert isinstance(error, ProtocolError)
    assert error.code == 1008


@pytest.mark.parametrize("waiting", [True, False])
def test_a_connection_that_breaks_ends_once(blocked: Blocked, waiting: bool) -> None:
    blocked.is_open = not waiting
    if waiting:
        blocked.messages.update(1, shared(1, b"a"))
    blocked.error = closed_by_us()
    if waiting:
        blocked.open()
    for sequence in (2, 3):
        blocked.messages.update(1, shared(sequence, b"a"))
    blocked.messages.notify("n")
    [error] = blocked.failures
    assert isinstance(error, ConnectionClosed)
    blocked.messages.close()
    blocked.transport.on_idle()  # nothing refers to the messages any more
    assert "on_idle" not in vars(blocked.transport)
