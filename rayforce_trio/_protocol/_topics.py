"""The server's half of subscriptions, without I/O: one epoch of a topic, its subscribers and its recent updates.

A source numbers the updates of a topic: a native engine, or, for other engines, the server itself. An epoch is one run
of these numbers, from the subscription at the source to its end:

    IDLE --subscribe--> SUBSCRIBING --confirmed--> ACTIVE --last unsubscribes--> LINGERING --time passes--> ENDED
                                                      ^-------- subscribe ----------'

Every break of the sequence ends the epoch: the loss of the source, its refusal, and a push with an unexpected number.
The caller then forgets the topic, and makes a new one with a new epoch when it is needed again.
"""

import enum
from collections import deque
from collections.abc import Iterable
from itertools import islice
from math import inf
from typing import Generic, NamedTuple, TypeVar

from ._control import ENGINE, GAP, Position
from ._frames import Frame
from ._replies import Failure

UPDATE_OVERHEAD = 128
"""Bytes that a stored update counts besides its payload."""

MAX_HISTORY_UPDATES = 16_384
"""Updates of a topic that are kept. A subscriber gets all that it has missed in one step, so they must not be many."""

S = TypeVar("S")
"""A subscriber, which must be hashable."""


class TopicState(enum.Enum):
    """The state of a topic."""

    IDLE = enum.auto()
    """Nobody has subscribed yet."""
    SUBSCRIBING = enum.auto()
    """The source has been asked to subscribe, and has not confirmed it."""
    ACTIVE = enum.auto()
    """The source is subscribed, and there are subscribers."""
    LINGERING = enum.auto()
    """The source is still subscribed, although the last subscriber has left, so that subscribers can resume."""
    ENDED = enum.auto()
    """The epoch has ended. Forget the topic."""


class Subscribe(NamedTuple):
    """Subscribe at the source, and report `confirmed`, `refused` or `lost`."""


class Unsubscribe(NamedTuple):
    """Unsubscribe at the source. Its pushes of this subscription must not be reported to a later topic."""


class Confirm(NamedTuple, Generic[S]):
    """Tell a subscriber that its subscription is active."""

    subscriber: S
    position: Position


class StoredUpdate:
    """An update of a topic.

    Args:
        sequence: its number.
        payload: the value.
        size_before: the bytes of all earlier updates of the topic.

    Attributes:
        sequence: as given.
        payload: as given.
        size: the bytes that it counts while it is stored.
        size_before: as given, so that nobody has to add up the sizes of many updates.
    """

    __slots__ = ("payload", "sequence", "size", "size_before")

    def __init__(self, sequence: int, payload: Frame, size_before: int = 0) -> None:
        self.sequence = sequence
        self.payload = payload
        self.size = len(payload) + UPDATE_OVERHEAD
        self.size_before = size_before


class Deliver(NamedTuple, Generic[S]):
    """Send an update to subscribers."""

    subscribers: Iterable[S]
    update: StoredUpdate


class Replay(NamedTuple, Generic[S]):
    """Send one subscriber the updates that follow its position, which have so many bytes together."""

    subscriber: S
    updates: list[StoredUpdate]
    size: int


class End(NamedTuple, Generic[S]):
    """Tell a subscriber that its subscription was refused or has ended."""

    subscriber: S
    reason: Failure


TopicAction = Subscribe | Unsubscribe | Confirm[S] | Deliver[S] | Replay[S] | End[S]
"""Something that the caller must do, in the order in which the actions are returned."""

_ACTIVE, _LINGERING = TopicState.ACTIVE, TopicState.LINGERING


class KeptBytes:
    """The total size of the updates that several topics keep.

    Attributes:
        size: the number of bytes.
    """

    def __init__(self) -> None:
        self.size = 0


class Topic(Generic[S]):
    """One epoch of a topic.

    Report events by calling the methods, and perform the actions that they return. Times are in seconds, on any clock.

    Args:
        epoch: identifies the epoch. It must be different for every topic object, also of other servers.
        resume_window: how long the source stays subscribed after the last subscriber has left, in seconds.
        max_history: how many bytes of updates to keep for subscribers that resume.
        total_kept: counts the bytes that all topics keep.

    Attributes:
        epoch: as given.
        state: see `TopicState`.
        subscribers: the subscribers, in the order of their subscriptions.
        next_sequence: the number of the next update, once the source has confirmed.
        kept: how many bytes of updates are kept.
        expires_at: when `time_passed` must be called; infinite unless the topic is LINGERING.
    """

    def __init__(self, epoch: str, *, resume_window: float, max_history: int, total_kept: KeptBytes) -> None:
        self.epoch = epoch
        self.state = TopicState.IDLE
        self.subscribers: dict[S, None] = {}
        self.next_sequence = 0
        self.kept = 0
        self.expires_at = inf
        self._resume_window = resume_window
        self._max_history = max_history
        self._total_kept = total_kept
        self._size = 0  # the bytes of all updates so far
        self._history = deque[StoredUpdate]()  # the latest updates, without gaps

    def subscribe(self, subscriber: S, resume: Position | None = None) -> list[TopicAction[S]]:
        """Add a subscriber, which continues from the position `resume` if there is one.

        A position that cannot be continued ends the subscription at once, with the code `gap`.

        Raises:
            ValueError: the epoch has ended.
        """
        if self.state is TopicState.ENDED:
            raise ValueError("the epoch of this topic has ended")
        if resume is not None and not self._can_resume(resume):
            return [
                End(
                    subscriber,
                    Failure(GAP, "the server no longer has the updates after this position; subscribe with a snapshot"),
                )
            ]
        self.subscribers[subscriber] = None
        if self.state is TopicState.IDLE:
            self.state = TopicState.SUBSCRIBING
            return [Subscribe()]
        if self.state is TopicState.SUBSCRIBING:
            return []
        self.state = _ACTIVE
        self.expires_at = inf
        sequence = self.next_sequence - 1 if resume is None else resume.sequence
        confirm = Confirm(subscriber, Position(self.epoch, sequence))
        missed = self.next_sequence - 1 - sequence
        if missed == 0:
            return [confirm]
        updates = [*islice(self._history, len(self._history) - missed, None)]
        return [confirm, Replay(subscriber, updates, self._size - updates[0].size_before)]

    def unsubscribe(self, subscriber: S, now: float) -> list[TopicAction[S]]:
        """Remove a subscriber. Do nothing if there is no such subscriber."""
        if subscriber not in self.subscribers:
            return []
        del self.subscribers[subscriber]
        if self.subscribers or self.state is not _ACTIVE:
            return []
        self.state = _LINGERING
        self.expires_at = now + self._resume_window
        return self.time_passed(now)

    def confirmed(self, next_sequence: int) -> list[TopicAction[S]]:
        """Report that the source has subscribed, and the number of its next update."""
        if self.state is not TopicState.SUBSCRIBING:
            return []
        if not self.subscribers:  # no subscriber is left, and no position is known
            return self._end_at_source()
        self.state = _ACTIVE
        self.next_sequence = next_sequence
        position = Position(self.epoch, next_sequence - 1)
        return [Confirm(subscriber, position) for subscriber in self.subscribers]

    def pushed(self, sequence: int, payload: Frame) -> list[TopicAction[S]]:
        """Report a push of the source. Before `confirmed`, it belongs to an earlier subscription, and is ignored."""
        if self.state is not _ACTIVE and self.state is not _LINGERING:
            return []
        if sequence != self.next_sequence:
            expected = f"the engine sent update {sequence} instead of update {self.next_sequence}"
            return [*self._end(Failure(GAP, expected)), Unsubscribe()]
        self.next_sequence += 1
        update = StoredUpdate(sequence, payload, self._size)
        self._size += update.size
        self._remember(update)
        return [Deliver(self.subscribers, update)] if self.subscribers else []

    def refused(self, reason: Failure) -> list[TopicAction[S]]:
        """Report that the source cannot be subscribed to."""
        return self._end(reason) if self.state is TopicState.SUBSCRIBING else []

    def lost(self, reason: str) -> list[TopicAction[S]]:
        """Report that the source is lost, and with it any number of updates."""
        if self.state is TopicState.SUBSCRIBING:
            return self._end(Failure(ENGINE, reason))
        return self._end(Failure(GAP, reason))

    def time_passed(self, now: float) -> list[TopicAction[S]]:
        """Report the time, so that a topic that has lingered long enough ends."""
        return self._end_at_source() if now >= self.expires_at else []

    def abandon(self) -> list[TopicAction[S]]:
        """End a topic without subscribers before its time, to make room for another one."""
        return self._end_at_source() if self.state is _LINGERING else []

    def halve_history(self) -> None:
        """Forget the older half of the updates that are kept, and at least one."""
        for _ in range((len(self._history) + 1) // 2):
            self._forget_oldest()

    # Inside

    def _can_resume(self, position: Position) -> bool:
        if position.epoch != self.epoch or self.state not in (_ACTIVE, _LINGERING):
            return False
        return self.next_sequence - len(self._history) <= position.sequence + 1 <= self.next_sequence

    def _remember(self, update: StoredUpdate) -> None:
        self._history.append(update)
        self._count_kept(update.size)
        while self.kept > self._max_history or len(self._history) > MAX_HISTORY_UPDATES:
            self._forget_oldest()

    def _forget_oldest(self) -> None:
        self._count_kept(-self._history.popleft().size)

    def _count_kept(self, change: int) -> None:
        self.kept += change
        self._total_kept.size += change

    def _end_at_source(self) -> list[TopicAction[S]]:
        return [*self._end(None), Unsubscribe()]

    def _end(self, reason: Failure | None) -> list[TopicAction[S]]:
        self.state = TopicState.ENDED
        self.expires_at = inf
        self._history.clear()
        self._count_kept(-self.kept)
        subscribers, self.subscribers = self.subscribers, {}
        return [] if reason is None else [End(subscriber, reason) for subscriber in subscribers]
