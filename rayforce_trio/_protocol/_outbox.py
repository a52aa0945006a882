"""The notices and updates that wait until a connection of the server can send them, without I/O.

Notices are never dropped. Updates are bounded: beyond `max_size`, some are dropped, and the next update of their
subscription tells how many. A new update takes the place of the oldest one of its own subscription if there is one, so
that a busy topic does not cost a quiet one its last update. Updates are shared by all the connections that they wait
for.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Generic, NamedTuple, Protocol, TypeVar

MAX_NOTICES = 4096
"""The limit on the notices that wait for a client that sends and does not read."""


class Sized(Protocol):
    """An update; its size is in bytes."""

    @property
    def size(self) -> int: ...


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


class _Run(Generic[U]):
    """Consecutive updates of one subscription. It is empty when they have been sent or dropped.

    Attributes:
        number: its place among the notices and runs.
        subscription: the id of the subscription.
        updates: the updates that wait.
        size: how many bytes they have.
    """

    __slots__ = ("number", "size", "subscription", "updates")

    def __init__(self, number: int, subscription: int, updates: Iterable[U], size: int) -> None:
        self.number = number
        self.subscription = subscription
        self.updates = deque(updates)
        self.size = size


class Outbox(Generic[U]):
    """The notices and updates that wait to be sent on one connection, in order. Its length is their number.

    Args:
        max_size: how many bytes of updates may wait. One update may always wait.

    Attributes:
        size: how many bytes of updates wait.
    """

    def __init__(self, max_size: int) -> None:
        self.size = 0
        self._max_size = max_size
        self._added = 0  # numbers the notices and runs
        self._notices = deque[tuple[int, str]]()
        self._runs = deque[_Run[U]]()  # in order, including some that are empty
        self._by_subscription: dict[int, deque[_Run[U]]] = {}  # those that are not empty; nor is any deque
        self._waiting = 0  # how many updates wait
        self._lost = Counter[int]()
        self._ended = set[int]()  # subscriptions that the server has ended, whose last updates wait

    def __len__(self) -> int:
        return len(self._notices) + self._waiting

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
        self._added += 1
        self._notices.append((self._added, text))

    def add_updates(self, subscription: int, updates: Sequence[U], size: int) -> list[int]:
        """Append updates of a subscription; return the subscription of each update that was dropped for them.

        This takes little more time for many updates than for one, unless some must be dropped.

        Args:
            subscription: the id of the subscription.
            updates: the updates.
            size: how many bytes they have together.
        """
        self._added += 1
        run = _Run(self._added, subscription, updates, size)
        self._runs.append(run)
        own = self._by_subscription.setdefault(subscription, deque())
        own.append(run)
        self._waiting += len(updates)
        self.size += size
        dropped = list[int]()
        while self.size > self._max_size and self._waiting > 1:
            has_several = len(own) > 1 or len(run.updates) > 1
            oldest = subscription if has_several else self._first_run().subscription
            self._lost[oldest] += 1
            dropped.append(oldest)
            self._remove_oldest(oldest)
        if len(self._runs) > 2 * self._waiting:
            self._runs = deque(each for each in self._runs if each.updates)
        return dropped

    def first(self) -> str | OutgoingUpdate[U] | None:
        """Return the first notice or update; `None` if nothing waits. Call `sent` when it has been sent."""
        if self._is_update_first():
            first = self._first_run()
            return OutgoingUpdate(first.subscription, self._lost[first.subscription], first.updates[0])
        return self._notices[0][1] if self._notices else None

    def sent(self) -> None:
        """Remove the notice or update that `first` has just returned."""
        if self._is_update_first():
            subscription = self._first_run().subscription
            self._lost.pop(subscription, None)
            self._remove_oldest(subscription)
        else:
            self._notices.popleft()

    def end(self, subscription: int) -> None:
        """Expect no more updates of a subscription that the server has ended. Those that wait will be sent."""
        if subscription in self._by_subscription:
            self._ended.add(subscription)
        else:
            self._forget(subscription)  # no update can report a loss any more

    def discard(self, subscription: int) -> None:
        """Drop the updates of a subscription that the client has ended. Its id must not be used again."""
        for run in self._by_subscription.pop(subscription, ()):
            self.size -= run.size
            self._waiting -= len(run.updates)
            run.updates.clear()
        self._forget(subscription)
        if not self._waiting:
            self._runs.clear()

    def _is_update_first(self) -> bool:
        return self._waiting > 0 and not (self._notices and self._notices[0][0] < self._first_run().number)

    def _first_run(self) -> _Run[U]:
        """Return the run with the update that has waited longest. There must be one."""
        while not self._runs[0].updates:
            self._runs.popleft()
        return self._runs[0]

    def _remove_oldest(self, subscription: int) -> None:
        """Remove the oldest update of a subscription."""
        own = self._by_subscription[subscription]
        run = own[0]
        size = run.updates.popleft().size
        run.size -= size
        self.size -= size
        self._waiting -= 1
        if not run.updates:
            own.popleft()
        if not own:
            del self._by_subscription[subscription]
            if subscription in self._ended:
                self._forget(subscription)
        if not self._waiting:
            self._runs.clear()

    def _forget(self, subscription: int) -> None:
        """Forget what was lost of a subscription that has ended, and of which no update waits."""
        self._ended.discard(subscription)
        self._lost.pop(subscription, None)
