"""The sessions with one native server: whose request it is evaluating, whether it works, and whose turn it is."""

import math
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import trio

from ._base import Client
from ._request_turns import RequestTurns
from ._wakeup import WakeupConnection
from ._watchdog import Watchdog

_STOP_LATENCY = 0.1
"""The time within which the reply arrives if a stop hits the request that the server is evaluating, in seconds."""

_MAX_ABANDONED = 256
_ABANDONED_LIFETIME = 1.0  # seconds; replies of that age may still be on their way


class GroupMember(Protocol):
    """The properties of a session that `SessionGroup` reads.

    Attributes:
        requested_at: when the request in flight was sent, on trio's clock, if the session is timed.
        stopped_at: when the request in flight was stopped, on trio's clock; infinite if it was not.
        client: whose session it is, if that is known.
        is_alone: whether its requests must be alone.
    """

    requested_at: float
    client: Client | None
    is_alone: bool

    @property
    def awaiting_reply(self) -> bool: ...

    @property
    def awaiting_handshake(self) -> bool:
        """Whether a request will be sent as soon as the server has accepted the session."""

    @property
    def stopped_at(self) -> float: ...

    def may_be_running(self, unread: Mapping[int, int]) -> bool:
        """Return whether the server may be evaluating the request of this session; `unread`: see `unread_bytes`."""

    def turn_came(self) -> None:
        """Send the request that has waited for its turn."""


@dataclass(frozen=True, slots=True)
class _Abandoned:
    """A request whose session was closed before the reply."""

    at: float
    client: Client | None
    is_alone: bool


class SessionGroup:
    """The open sessions with one native server, which evaluates one request at a time and does not report which one.

    Args:
        wakeup: the connection that wakes the server. It is connected while there are sessions.
        watchdog: decides whether the server works.

    Attributes:
        wakeup: as given.
        watchdog: as given.
        state_changed: set, and replaced by a new event, when the state of the watchdog changes.
        last_reply_at: when bytes of a reply to a timed session last arrived, on trio's clock. The server evaluates
            nothing while it sends a reply.
        reports_wanted: whether sessions must report each reply to `reply_begun`, and each part of it to `received`.
        has_turns: whether requests must wait for their turn: see `enter`.
    """

    def __init__(self, wakeup: WakeupConnection, watchdog: Watchdog) -> None:
        self.wakeup = wakeup
        self.watchdog = watchdog
        self.state_changed = trio.Event()
        self._reported_state = watchdog.state
        self.last_reply_at = -math.inf
        self.reports_wanted = False
        self.has_turns = False
        self._sessions = weakref.WeakSet[GroupMember]()
        self._turns = RequestTurns[GroupMember]()
        self._abandoned = deque[_Abandoned](maxlen=_MAX_ABANDONED)

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
        if session.is_alone and not self.has_turns:
            self.has_turns = True
            self._turns = RequestTurns[GroupMember]()
            for other in self._sessions:
                if other.awaiting_reply or other.awaiting_handshake:
                    self._turns.enter(other, alone=False)
            self._note_change()
        await self.wakeup.ensure_connected()

    def discard(self, session: GroupMember) -> None:
        """Remove a session. No checkpoint. Idempotent."""
        if session not in self._sessions:
            return
        self._sessions.discard(session)
        if session.awaiting_reply:
            self._abandoned.append(_Abandoned(trio.current_time(), session.client, session.is_alone))
            self.stop_requested()
        if self.has_turns:
            self.leave(session)
            self.has_turns = any(other.is_alone for other in self._sessions) or self._turns.has_waiting
            self._note_change()
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

    # The watchdog. None of these methods is a checkpoint.

    def stop_requested(self) -> None:
        """Record that a request was stopped, or that its session was closed before the reply."""
        self.watchdog.stop_requested(trio.current_time())
        self._note_change()

    def received(self) -> None:
        """Record that the server has sent something to a session."""
        now = trio.current_time()
        while self._abandoned and self._abandoned[0].at + _ABANDONED_LIFETIME < now:
            self._abandoned.popleft()
        if not self.watchdog.is_idle:
            self.watchdog.replied(now, stops_left=self._stops_left())
        self._note_change()

    def reply_begun(self, session: GroupMember) -> None:
        """Record that a reply to a session has begun. Call this when the session no longer waits for it."""
        if self.has_turns:
            self.leave(session)
        self.received()

    def accepted(self) -> None:
        """Record that the server has accepted a session."""
        self.watchdog.accepted(trio.current_time(), stops_left=self._stops_left())
        self._note_change()

    def refused(self) -> None:
        """Record that the server has rejected the credentials of a session."""
        self.watchdog.refused()
        self._note_change()

    def check(self, unread: Mapping[int, int]) -> None:
        """Find out at the watchdog's deadline whether the server is only busy.

        Args:
            unread: how many bytes the server has not read, as `unread_bytes` returns it.
        """
        running = [session.stopped_at for session in self._sessions if session.may_be_running(unread)]
        self.watchdog.checked(
            trio.current_time(), is_busy=math.inf in running, stopped_at=max(running, default=-math.inf)
        )
        self._note_change()

    def unfinished(self) -> tuple[set[Client], set[Client]]:
        """Return the clients whose requests were in flight when the server ended: those that were alone, and all."""
        waiting: list[GroupMember | _Abandoned] = [session for session in self._sessions if session.awaiting_reply]
        alone = [session for session in waiting if self.is_surely_running(session)]
        if self._abandoned and self._abandoned[0].is_alone:
            alone.append(self._abandoned[0])
        waiting += self._abandoned
        return _clients_of(alone), _clients_of(waiting)

    def is_surely_running(self, session: GroupMember | _Abandoned) -> bool:
        """Return whether the server can be evaluating only the request of this session, which awaits a reply.

        If a client has left before the reply to an earlier request, the server may still be evaluating that one.
        """
        return session.is_alone and not self._abandoned

    def _stops_left(self) -> bool:
        return any(session.awaiting_reply and session.stopped_at < math.inf for session in self._sessions)

    def _note_change(self) -> None:
        self.reports_wanted = self.has_turns or bool(self._abandoned) or not self.watchdog.is_idle
        if self.watchdog.state is not self._reported_state:
            self._reported_state = self.watchdog.state
            self.state_changed.set()
            self.state_changed = trio.Event()

    # Turns

    def enter(self, session: GroupMember) -> bool:
        """Ask for the turn of a session's request; return whether it has come. Otherwise `turn_came` will be called.

        Call this only if `has_turns` is true. The turn ends with `reply_begun`, `leave` or `discard`. No checkpoint.
        """
        return self._turns.enter(session, alone=session.is_alone)

    def enter_at_once(self, session: GroupMember) -> bool:
        """Like `enter`, but do not wait: return false if the turn has not come."""
        return self._turns.enter_at_once(session, alone=session.is_alone)

    def reconsider(self, must_be_alone: Callable[[Client], bool]) -> None:
        """Let requests be in flight together with others if their clients are no longer suspects. No checkpoint."""
        for session in self._sessions:
            session.is_alone = session.is_alone and session.client is not None and must_be_alone(session.client)
        self.has_turns = any(session.is_alone for session in self._sessions) or self._turns.has_waiting
        self._note_change()

    def leave(self, session: GroupMember) -> None:
        """End the turn of a session's request, or its wait. No checkpoint. Idempotent."""
        for other in self._turns.leave(session):
            other.turn_came()


def _clients_of(members: Iterable[GroupMember | _Abandoned]) -> set[Client]:
    return {member.client for member in members if member.client is not None}
