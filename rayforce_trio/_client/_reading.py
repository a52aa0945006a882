"""Decide which task receives the messages of a connection, without I/O.

The reader task receives them and wakes the calls that wait for replies. While a program sends one request after the
other, each call receives its own reply instead: that saves a switch between two tasks for each request. Meanwhile the
reader task stands by. It receives again when a second call joins, when a call fails, and when no call has received for
`STANDBY` seconds, so that pings and a close of the server are noticed.

    event             READER                        NOBODY                      CALL
    call_joined       stays; the last lone reply    READER                      READER when the call ends
                      is forgotten
    reply_delivered   NOBODY if the lone reply      -                           -
                      before it was at most
                      `STANDBY` seconds ago
    call_started      -                             CALL                        -
    call_ended        -                             -                           NOBODY; READER if the call has failed
                                                                                or left messages unread, or another
                                                                                one has joined, or the reader task is
                                                                                needed
    standby_elapsed   -                             READER, unless a call has   -
                                                    received in that time
    need_reader       stays until `release_reader`  READER                      READER when the call ends

A lone reply is one that the reader task delivers when no other reply is due or has arrived.
"""

import math
from enum import Enum, auto

STANDBY = 0.02
"""The time for which the reader task stands by while no call receives, in seconds. It may be twice as long."""


class Receiver(Enum):
    """The receiver of the next message."""

    READER = auto()
    """The reader task receives, or is about to."""
    NOBODY = auto()
    """The reader task stands by. A call that is alone may receive."""
    CALL = auto()
    """A call receives its reply. The reader task stands by."""


_READER, _NOBODY, _CALL = Receiver


class Reading:
    """The task that receives. Events that return a bool return whether to wake the reader task.

    Attributes:
        receiver: who receives at present.
    """

    __slots__ = ("_joined", "_lone_reply_at", "_needed", "_used", "receiver")

    def __init__(self) -> None:
        self.receiver = _READER
        self._lone_reply_at = -math.inf  # the time of the last lone reply
        self._used = False  # a call has received since the last `standby_elapsed`
        self._joined = False  # another call has joined the one that receives
        self._needed = 0  # calls of `need_reader` without one of `release_reader`

    def need_reader(self) -> bool:
        """Have the reader task receive until `release_reader`, whether there are calls or not."""
        self._needed += 1
        return self.call_joined()

    def release_reader(self) -> None:
        """End the effect of one call of `need_reader`."""
        self._needed -= 1

    def call_joined(self) -> bool:
        """Handle a message that is submitted while others are unsent or unanswered."""
        self._lone_reply_at = -math.inf
        self._joined = True
        if self.receiver is not _NOBODY:
            return False
        self.receiver = _READER
        return True

    def reply_delivered(self, now: float) -> None:
        """Handle a lone reply.

        Args:
            now: the current time in seconds, on any clock.
        """
        if now - self._lone_reply_at <= STANDBY and not self._needed:
            self.receiver = _NOBODY
            self._used = True  # the call that got the reply
        self._lone_reply_at = now

    def call_started(self) -> None:
        """Handle the start of a call that receives its own reply. Allowed only while nobody receives."""
        assert self.receiver is _NOBODY
        self.receiver = _CALL
        self._used = True
        self._joined = False

    def call_ended(self, answered: bool) -> bool:
        """Handle the end of a call that has received.

        Args:
            answered: whether the call has its reply, has received what arrived behind it, and has met no error.
        """
        if answered and not self._joined:
            self.receiver = _NOBODY
            return False
        self.receiver = _READER
        self._lone_reply_at = -math.inf
        return True

    def standby_elapsed(self) -> None:
        """Handle the end of a period of `STANDBY` seconds in which the reader task stood by."""
        if self.receiver is not _NOBODY:
            return
        if not self._used:
            self.receiver = _READER
        self._used = False
