"""The messages of a connection that answer no request: notices and updates of subscriptions.

Nothing here waits. Messages that cannot be sent at once wait in the outbox until the transport is idle, so a client
that reads slowly delays nobody else, and no message interrupts a long reply.
"""

from collections.abc import Callable, Sequence
from time import perf_counter

from .._protocol import Outbox, StoredUpdate
from .._tasks import TIME_SLICE
from .._transports import SharedMessage, Transport
from ..errors import ProtocolError, RayforceWSError
from ._counters import Counters
from ._hub import SharedUpdate, pack_update

_POLICY_VIOLATION = 1008


def _message(subscription: int, lost: int, update: StoredUpdate) -> SharedMessage:
    """Return the message of an update; see `OutgoingUpdate`."""
    if isinstance(update, SharedUpdate) and not lost:
        return update.message(subscription)
    return pack_update(update, subscription, lost)


def _ignore(subscription: int) -> None:
    """Do nothing with the id of a subscription."""


class SideMessages:
    """Send notices and updates to one client. None of these methods is a checkpoint.

    Args:
        transport: the connection.
        fail: ends the connection with an error.
        max_buffer: how many bytes of updates may wait for this client. Beyond it, the oldest are dropped.
        counters: count the bytes that are sent.

    Attributes:
        on_dropped: called with the id of a subscription when one of its updates is dropped.
    """

    # An update reads these of each subscriber. Slots are in one piece of memory, so fewer reads miss the cache.
    __slots__ = ("_closed", "_counters", "_direct", "_fail", "_outbox", "_transport", "on_dropped")

    def __init__(
        self, transport: Transport, fail: Callable[[RayforceWSError], None], max_buffer: int, counters: Counters
    ) -> None:
        self.on_dropped: Callable[[int], None] = _ignore
        self._transport = transport
        self._counters = counters
        self._fail = fail
        self._outbox = Outbox[StoredUpdate](max_buffer)
        self._closed = False
        self._direct = True  # updates go to the transport: this is open, and nothing waits in the outbox
        transport.on_idle = self._send_waiting

    def notify(self, text: str) -> None:
        """Send a notice as soon as that is possible."""
        if self._closed:
            return
        is_first = not self._outbox
        self._direct = False
        self._outbox.add_notice(text)
        if is_first:
            self._send_waiting()
        elif self._outbox.is_flooded:
            error = ProtocolError("the client does not read the messages that it requests", _POLICY_VIOLATION)
            self._end(error)

    def update(self, subscription: int, update: SharedUpdate) -> None:
        """Send an update as soon as that is possible."""
        if self._direct:
            message = update.message(subscription)
            try:
                sent = self._transport.send_between(message)
            except RayforceWSError as error:
                self._end(error)
                return
            if sent:
                self._counters.bytes_out += message.size
            else:
                self._direct = False
                self._add(subscription, [update], update.size)
        else:
            self.updates(subscription, [update], update.size)

    def updates(self, subscription: int, updates: Sequence[StoredUpdate], size: int) -> None:
        """Send updates of one subscription as soon as that is possible, as many at once as fit into a slice of time.

        `size` is how many bytes they have together.
        """
        if self._closed:
            return
        is_first = not self._outbox
        self._direct = False
        self._add(subscription, updates, size)
        if is_first:
            self._send_waiting()

    def end(self, subscription: int, text: str) -> None:
        """Send the notice that the server has ended a subscription, behind the updates that wait for it."""
        self._outbox.end(subscription)
        self.notify(text)

    def discard(self, subscription: int) -> None:
        """Drop the updates that wait for a subscription that the client has ended."""
        self._outbox.discard(subscription)
        self._note_whether_direct()

    def close(self) -> None:
        """Send nothing more. Idempotent."""
        if not self._closed:
            self._closed = True
            self._direct = False
            self.on_dropped = _ignore
            del self._transport.on_idle  # it refers to this object

    def _note_whether_direct(self) -> None:
        self._direct = not self._closed and self._outbox.is_clear

    def _add(self, subscription: int, updates: Sequence[StoredUpdate], size: int) -> None:
        for dropped in self._outbox.add_updates(subscription, updates, size):
            self.on_dropped(dropped)

    def _send_waiting(self) -> None:
        """Send the waiting notices and updates, as far as possible."""
        outbox, transport = self._outbox, self._transport
        end = perf_counter() + TIME_SLICE
        try:
            while not self._closed and (first := outbox.first()) is not None:
                message = first if isinstance(first, str) else _message(*first)
                if not transport.send_between(message):
                    return
                outbox.sent()
                self._counters.bytes_out += len(message) if isinstance(message, str) else message.size
                if perf_counter() >= end:
                    transport.notify_when_idle()
                    return
        except RayforceWSError as error:
            self._end(error)
        finally:
            self._note_whether_direct()

    def _end(self, error: RayforceWSError) -> None:
        """End the connection, which broke or is closing."""
        self.close()
        self._fail(error)
