"""One subscription of the client, without I/O: updates come in, are checked and buffered, and are taken out.

    event          SUBSCRIBING        JOINING                     ACTIVE               ENDED
    confirmed      JOINING if there   -                           -                    -
                   is a snapshot,
                   otherwise ACTIVE
    snapshot_taken -                  ACTIVE; updates that it     -                    -
                                      contains are dropped
    received       ENDED (a gap)      buffered                    buffered             ignored
    refused        ENDED              ENDED                       ENDED                -
    close          ENDED              ENDED                       ENDED                -
    resume         -                  SUBSCRIBING                 SUBSCRIBING          -

A break in the sequence, and in JOINING and ACTIVE an update for which there is no room, can end the subscription, too.
Updates that were buffered before the end can still be taken.

Numbers tell everything about lost updates: those of one epoch are consecutive, so an update whose number is not the one
behind `position` follows others that were dropped, by the server or here.
"""

import enum
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ._control import GAP, Position
from ._frames import Frame
from ._replies import Failure
from ._updates import Update

UPDATE_OVERHEAD = 256
"""Bytes that a buffered update counts besides its payload."""

SLOW = "slow"
"""The code of the end of a subscription whose updates were not taken fast enough. The server never sends it."""


class Overflow(enum.Enum):
    """The treatment of an update for which the buffer has no room."""

    ERROR = "error"
    """End the subscription."""
    DROP_OLDEST = "drop_oldest"
    """Drop the oldest updates in the buffer."""
    LATEST = "latest"
    """Keep only the latest update, whether there is room or not."""


class SubscriptionState(enum.Enum):
    """The state of a subscription."""

    SUBSCRIBING = enum.auto()
    """The server has not confirmed it."""
    JOINING = enum.auto()
    """The snapshot has not arrived. Updates are buffered, and cannot be taken."""
    ACTIVE = enum.auto()
    """Updates arrive, and can be taken."""
    ENDED = enum.auto()
    """Nothing arrives any more."""


_SUBSCRIBING, _JOINING, _ACTIVE, _ENDED = SubscriptionState


class Taken(NamedTuple):
    """An update that was taken out of the buffer.

    Attributes:
        sequence: its number.
        lost: how many updates were dropped directly before it.
        payload: its value, in the wire format.
    """

    sequence: int
    lost: int
    payload: Frame


class ClientSubscription:
    """The state of one subscription in the client.

    Args:
        max_buffer: how many bytes the buffer may hold. One update always fits.
        overflow: what happens beyond that.
        joins: whether a snapshot is to arrive before the first update is taken.
        resume: the position to continue from; `None`: from now on.

    Attributes:
        state: the state.
        position: the place behind the last update that was taken, or behind the snapshot; `None` before it is known.
        end: why it has ended, although the buffer may still have updates; `None` if it has not. The code is `GAP`,
            `SLOW`, one of the server's, or empty if the client has ended it.
        on_change: called when there may be something to take, or the state has changed.
    """

    def __init__(
        self,
        *,
        max_buffer: int,
        overflow: Overflow = Overflow.ERROR,
        joins: bool = False,
        resume: Position | None = None,
    ) -> None:
        self.state = _SUBSCRIBING
        self.position = resume
        self.end: Failure | None = None
        self.on_change: Callable[[], None] = _nothing
        self._max_buffer = max_buffer
        self._overflow = overflow
        self._joins = joins
        self._resume = resume
        self._buffer: deque[Update] = deque()
        self._size = 0
        self._received = 0  # the number of the last update that arrived
        self._dropped = 0  # the highest number of an update that was dropped

    @property
    def resume_from(self) -> Position | None:
        """The position to subscribe from; `None`: from now on."""
        return self._resume

    @property
    def is_joined(self) -> bool:
        """Whether updates can be taken: no snapshot is to arrive first."""
        return not self._joins

    @property
    def buffered(self) -> int:
        """The number of updates in the buffer."""
        return len(self._buffer)

    def confirmed(self, position: Position) -> None:
        """Report that the server sends the updates behind `position`."""
        if self.state is not _SUBSCRIBING:
            return
        if self._resume is not None and position != self._resume:
            self._finish(Failure(GAP, "the server did not continue from the requested position"))
            return
        if self.position is None:
            self.position = position
        self._received = position.sequence
        self.state = _JOINING if self._joins else _ACTIVE
        self.on_change()

    def snapshot_taken(self, next_sequence: int) -> None:
        """Report that the snapshot has arrived, which contains the updates before `next_sequence`."""
        if self.state is not _JOINING:
            return
        assert self.position is not None
        self._joins = False
        self.state = _ACTIVE
        self.position = Position(self.position.epoch, next_sequence - 1)
        while self._buffer and self._buffer[0].sequence < next_sequence:
            self._size -= _size(self._buffer.popleft())
        if self._dropped >= next_sequence and not self._lose():
            self._drop_behind_gap(next_sequence)
        self.on_change()

    def received(self, update: Update) -> None:
        """Report an update of the server."""
        if self.state is _ENDED:
            return
        expected = self._received + 1 + update.lost
        if self.state is _SUBSCRIBING or update.lost < 0 or update.sequence != expected:
            self._finish(Failure(GAP, f"update {update.sequence} arrived instead of update {expected}"))
            return
        assert self.position is not None
        self._received = update.sequence
        if self.state is _ACTIVE and update.sequence <= self.position.sequence:
            return  # the snapshot, which has overtaken it, contains it
        if update.lost:
            self._dropped = update.sequence - 1
            if self.state is _ACTIVE and self._dropped > self.position.sequence and not self._lose():
                return
        if self._overflow is Overflow.LATEST:
            while self._buffer:
                self._drop_oldest()
        size = _size(update)
        while self._buffer and self._size + size > self._max_buffer:
            if self.state is _ACTIVE and not self._lose():
                return
            self._drop_oldest()
        self._buffer.append(update)
        self._size += size
        self.on_change()

    def refused(self, code: str, message: str) -> None:
        """Report that the server has refused or ended the subscription."""
        if self.state is not _ENDED:
            self._finish(Failure(code, message))

    def close(self) -> None:
        """End the subscription, and drop the buffer. Idempotent."""
        self._buffer.clear()
        self._size = 0
        if self.state is not _ENDED:
            self._finish(Failure("", "the subscription was ended"))

    def resume(self) -> bool:
        """Report that another connection takes the place of the one that was lost; return whether to subscribe there.

        Subscribe from `resume_from`. The updates in the buffer stay, unless a snapshot has to be taken again.
        """
        if self.state is _ENDED:
            return False
        if self.state is _ACTIVE:
            assert self.position is not None
            self._resume = Position(self.position.epoch, max(self._received, self.position.sequence))
        elif self.state is _JOINING:
            self._buffer.clear()
            self._size = self._dropped = 0
            self.position = self._resume
        self.state = _SUBSCRIBING
        return True

    def take(self) -> Taken | None:
        """Return the next update; `None` if there is none at present, or the subscription has ended: see `end`."""
        if not self._buffer or self._joins:
            return None
        assert self.position is not None
        update = self._buffer.popleft()
        self._size -= _size(update)
        lost = update.sequence - self.position.sequence - 1
        self.position = Position(self.position.epoch, update.sequence)
        return Taken(update.sequence, lost, update.payload)

    def _lose(self) -> bool:
        """Allow that updates were dropped, or end the subscription; return whether it goes on."""
        if self._overflow is not Overflow.ERROR:
            return True
        self._finish(Failure(SLOW, "its updates were not taken fast enough, and the buffer is full (max_buffer)"))
        return False

    def _drop_oldest(self) -> None:
        update = self._buffer.popleft()
        self._size -= _size(update)
        self._dropped = max(self._dropped, update.sequence)

    def _drop_behind_gap(self, expected: int) -> None:
        """Keep only the updates that are consecutive, from the number `expected` on."""
        kept: deque[Update] = deque()
        for update in self._buffer:
            if update.sequence != expected:
                break
            kept.append(update)
            expected += 1
        self._buffer, self._size = kept, sum(map(_size, kept))

    def _finish(self, end: Failure) -> None:
        self.end = end
        self.state = _ENDED
        self.on_change()


def _size(update: Update) -> int:
    return UPDATE_OVERHEAD + len(update.payload)


def _nothing() -> None:
    """Do nothing."""
