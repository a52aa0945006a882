"""The notices and updates that wait until a connection of the server can send them, without I/O.

Notices are never dropped. Updates are bounded: beyond `max_size`, the oldest are dropped, and the next update of their
subscription tells how many. Updates are shared by all the connections that they wait for.
"""

from collections import Counter, deque
from typing import Generic, NamedTuple, Protocol, TypeVar

from ._topics import UPDATE_OVERHEAD

MAX_NOTICES = 4096
"""How many notices may wait for a client that sends and does not read."""


class Sized(Protocol):
    """An update; its length is that of its payload, in bytes."""

    def __len__(self) -> int: ...


U = TypeVar("U", bound=Sized)


class OutgoingUpdate(NamedTuple, Generic[U]):
    """An update to be sent.

    Attributes:
        subscription: the id of the subscription.
        lost: how many updates of the subscription were dropped directly before this one.
        update: the update.
    """

    subscription: int
    lost: int
    update: U


class Outbox(Generic[U]):
    """What waits to be sent on one connection, in order. Its length is the number of these notices and updates.

    Args:
        max_size: how many bytes of updates may wait. One update may always wait.

    Attributes:
        size: how many bytes of updates wait.
    """

    def __init__(self, max_size: int) -> None:
        self.size = 0
        self._max_size = max_size
        self._count = 0  # numbers the notices and updates
        self._notices = deque[tuple[int, str]]()
        self._updates = deque[tuple[int, int, U]]()  # including those of subscriptions that were discarded
        self._waiting = Counter[int]()  # how many updates wait, by subscription
        self._lost = Counter[int]()

    def __len__(self) -> int:
        return len(self._notices) + self._waiting.total()

    def __bool__(self) -> bool:
        return bool(self._notices or self._waiting)

    @property
    def is_clear(self) -> bool:
        """Whether the next update can be sent without the outbox: nothing waits, and no loss has to be reported."""
        return not (self._notices or self._waiting or self._lost)

    @property
    def is_flooded(self) -> bool:
        """Whether the client has asked for so many notices without reading them that it has to be disconnected."""
        return len(self._notices) > MAX_NOTICES

    def add_notice(self, text: str) -> None:
        """Append a notice."""
        self._count += 1
        self._notices.append((self._count, text))

    def add_update(self, subscription: int, update: U) -> list[int]:
        """Append an update; return the subscriptions of the updates that were dropped for it."""
        self._count += 1
        self._updates.append((self._count, subscription, update))
        self._waiting[subscription] += 1
        self.size += len(update) + UPDATE_OVERHEAD
        dropped = list[int]()
        while self.size > self._max_size and len(self._updates) > 1:
            _, oldest, _ = self._pop_update()
            if self._note_gone(oldest):
                self._lost[oldest] += 1
                dropped.append(oldest)
        return dropped

    def first(self) -> str | OutgoingUpdate[U] | None:
        """Return the first notice or update; `None` if nothing waits. Call `sent` when it has been sent."""
        notices, updates = self._notices, self._updates
        while updates and updates[0][1] not in self._waiting:
            self._pop_update()
        if updates and not (notices and notices[0][0] < updates[0][0]):
            _, subscription, update = updates[0]
            return OutgoingUpdate(subscription, self._lost[subscription], update)
        return notices[0][1] if notices else None

    def sent(self) -> None:
        """Remove the notice or update that `first` has just returned."""
        notices, updates = self._notices, self._updates
        if updates and not (notices and notices[0][0] < updates[0][0]):
            _, subscription, _ = self._pop_update()
            self._lost.pop(subscription, None)
            self._note_gone(subscription)
        else:
            notices.popleft()

    def discard(self, subscription: int) -> None:
        """Drop the updates of a subscription that the client has ended. Its id must not be used again."""
        self._lost.pop(subscription, None)
        self._waiting.pop(subscription, None)
        if not self._waiting:
            self._updates.clear()
            self.size = 0

    def _pop_update(self) -> tuple[int, int, U]:
        entry = self._updates.popleft()
        self.size -= len(entry[2]) + UPDATE_OVERHEAD
        return entry

    def _note_gone(self, subscription: int) -> bool:
        """Record that an update of a subscription does not wait any more; return whether it did."""
        waiting = self._waiting.get(subscription)
        if waiting is None:  # it was discarded
            return False
        if waiting == 1:
            del self._waiting[subscription]
        else:
            self._waiting[subscription] = waiting - 1
        return True
