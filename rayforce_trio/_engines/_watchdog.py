"""The watchdog of a native server, without I/O: whether the server obeys stops and accepts our credentials.

A stop has been ignored if the server has done nothing since: it has sent no byte to any session, and it has not
accepted one. The time during which the server evaluates a request that nobody has stopped does not count, because other
stops wait for that request. The caller finds this out when the deadline has passed, and reports it to `checked`.
"""

import enum
import math


class WatchdogState(enum.Enum):
    """The state of a native server, as far as its sessions know it."""

    OBEDIENT = enum.auto()
    """The server has answered since the last stop, and no stop is unanswered."""

    STOPPING = enum.auto()
    """A stop is unanswered. The deadline runs."""

    BUSY = enum.auto()
    """A stop is unanswered, but the server evaluates a request that nobody has stopped. No deadline runs."""

    UNRESPONSIVE = enum.auto()
    """The server has ignored a stop until the deadline."""

    REFUSING = enum.auto()
    """The server has rejected our credentials, and has accepted no session since."""


class Watchdog:
    """Decide from the events of all sessions whether a native server still works. All times are in seconds.

    Args:
        limit: for how long the server may ignore a stop.

    Attributes:
        state: the state of the server.
    """

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.state = WatchdogState.OBEDIENT
        self._since = 0.0  # since when a stop has been ignored, while the state is STOPPING

    @property
    def deadline(self) -> float:
        """The time at which the caller must call `checked`; infinite if there is none."""
        return self._since + self.limit if self.state is WatchdogState.STOPPING else math.inf

    @property
    def is_idle(self) -> bool:
        """Whether no stop is unanswered, and the server works as far as is known."""
        return self.state is WatchdogState.OBEDIENT

    @property
    def is_down(self) -> bool:
        """Whether the server is known not to work."""
        return self.state in (WatchdogState.UNRESPONSIVE, WatchdogState.REFUSING)

    def stop_requested(self, now: float) -> None:
        """Record that a request was stopped, or that its session was closed before the reply."""
        if self.state in (WatchdogState.OBEDIENT, WatchdogState.BUSY):
            self.state = WatchdogState.STOPPING
            self._since = now

    def replied(self, now: float, *, stops_left: bool) -> None:
        """Record that the server has sent something to a session, so that any request may be running now.

        Args:
            now: the time.
            stops_left: whether another request that was stopped has no reply yet.
        """
        if self.state is not WatchdogState.REFUSING:  # a session that is open already proves nothing about new ones
            self.state = WatchdogState.STOPPING if stops_left else WatchdogState.OBEDIENT
            self._since = now

    def accepted(self, now: float, *, stops_left: bool) -> None:
        """Record that the server has accepted a session, which it does only between two requests."""
        self.state = WatchdogState.OBEDIENT
        self.replied(now, stops_left=stops_left)

    def refused(self) -> None:
        """Record that the server has rejected our credentials."""
        self.state = WatchdogState.REFUSING

    def checked(self, now: float, *, is_busy: bool, stopped_at: float) -> None:
        """Record what a check has found out. Call this when the deadline has passed.

        Args:
            now: the time.
            is_busy: whether the server may be evaluating a request that nobody has stopped.
            stopped_at: when the last of the requests that the server may be evaluating was stopped.
        """
        if self.state is not WatchdogState.STOPPING:
            return
        if is_busy:
            self.state = WatchdogState.BUSY
            return
        self._since = max(self._since, stopped_at)
        if self.deadline <= now:
            self.state = WatchdogState.UNRESPONSIVE
