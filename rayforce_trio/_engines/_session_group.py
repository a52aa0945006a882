"""The sessions with one native server, and an estimate of which one's request the server is evaluating."""

import math
import weakref
from typing import Protocol

from ._wakeup import WakeupConnection

_STOP_LATENCY = 0.1
"""How soon the reply arrives if a stop hits the request that the server is evaluating, in seconds."""


class GroupMember(Protocol):
    """The properties of a session that `SessionGroup` reads."""

    requested_at: float

    @property
    def awaiting_reply(self) -> bool: ...


class SessionGroup:
    """The open sessions with one native server, which evaluates one request at a time and does not report which one.

    Args:
        wakeup: the connection that wakes the server. It is connected while there are sessions.

    Attributes:
        wakeup: as given.
        last_reply_at: when bytes of a reply to a timed session last arrived, on trio's clock. The server evaluates
            nothing while it sends a reply.
    """

    def __init__(self, wakeup: WakeupConnection) -> None:
        self.wakeup = wakeup
        self.last_reply_at = -math.inf
        self._sessions = weakref.WeakSet[GroupMember]()

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def is_busy(self) -> bool:
        """Whether the server is known to have a request to evaluate."""
        return any(session.awaiting_reply for session in self._sessions)

    async def add(self, session: GroupMember) -> None:
        """Add a session. A checkpoint. Call `discard` even if this was cancelled or failed.

        Raises:
            EngineError: the server cannot be reached.
        """
        self._sessions.add(session)
        await self.wakeup.ensure_connected()

    def discard(self, session: GroupMember) -> None:
        """Remove a session. No checkpoint. Idempotent."""
        self._sessions.discard(session)
        if not self._sessions:
            self.wakeup.close()

    def running_since(self, session: GroupMember) -> float | None:
        """Estimate since when the server has been evaluating a session's request; `None` if it is not waiting for one.

        The server began its current request after its last reply. Of several sessions that have waited since then, it
        most likely evaluates the request that was sent first. If that is stopped and the reply does not follow within
        `_STOP_LATENCY`, the server was evaluating a later one.
        """
        if not session.awaiting_reply:
            return None
        asked = session.requested_at
        earlier = sum(other.awaiting_reply and other.requested_at < asked for other in self._sessions)
        return max(asked, self.last_reply_at) + earlier * _STOP_LATENCY
