"""A session that evaluates several requests of one client at a time, each in a session of its own."""

import enum
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from .._protocol import Failure, Frame, Reply
from .._tasks import collapse_groups, enable_ki_protection
from ..errors import EngineError
from ._base import Session

_SHORT_REPLIES = 8
"""The number of short replies in a row that must follow a long one before requests are started ahead again.

Several long replies at a time would need more memory, and would be no faster than one after the other.
"""

_SUBSCRIPTIONS, _CONNECTIONS = b".mc.", b".ipc."  # the effects or results of these functions depend on the connection


class MemberState(enum.Enum):
    """The state of one of the sessions."""

    IDLE = enum.auto()
    """It can start a request, once it is ready."""

    CURRENT = enum.auto()
    """It has the request whose turn it is, or the rest of the reply."""

    AHEAD = enum.auto()
    """It evaluates a request whose turn has not come."""

    REPLIED = enum.auto()
    """It has the reply to a request whose turn has not come, at least the beginning of it."""

    ABANDONED = enum.auto()
    """It evaluates a request whose reply nobody wants, or has the rest of the reply."""


# On Python 3.11, looking up a member in its enum takes ten times as long as looking up a global name.
_IDLE, _CURRENT, _AHEAD, _REPLIED, _ABANDONED = MemberState


class _Member:
    """One of the sessions, and its state."""

    __slots__ = ("answer", "on_reply", "reply", "session", "state", "ticket")

    def __init__(self, session: Session, ticket: int, on_reply: Callable[["_Member", Reply], None]) -> None:
        self.session = session
        self.ticket = ticket
        self.on_reply = partial(on_reply, self)
        self.state = _IDLE
        self.answer: Callable[[Reply], None] | None = None  # takes the reply to the request whose turn it is
        self.reply: Reply | None = None  # while the state is REPLIED


class ParallelSession(Session):
    """A session that spreads independent requests over several sessions with one engine.

    Each of these sessions has one request in flight, so a stop cannot hit another request. The first session evaluates
    the requests that are not started ahead. Only if requests were abandoned can it be busy; then an idle one does.

    Args:
        first: the first session. The others are opened when they are needed.
        open_another: opens another session, which is ready. It may return `None` if there are too many already.
        limit: how many sessions to open in total.
    """

    def __init__(self, first: Session, open_another: Callable[[], Awaitable[Session | None]], limit: int) -> None:
        self._open_another = open_another
        self._limit = limit
        self.source = first.source
        self.can_start_ahead = True
        self._members: list[_Member] = []
        self._idle: list[_Member] = []
        self._add(first)
        self._current = self._members[0]
        self._ahead: deque[_Member] = deque()  # AHEAD and REPLIED, in the order of the requests
        self._short_replies_due = 0
        self._another_wanted = trio.Event()

    @property
    def ready(self) -> bool:  # type: ignore[override]  # a subclass computes what others store
        return self._members[0].session.ready

    @property
    def unread(self) -> int:  # type: ignore[override]  # as above
        return self._current.session.unread

    @property
    def timed(self) -> bool:
        return self._members[0].session.timed

    @timed.setter
    def timed(self, timed: bool) -> None:
        for member in self._members:
            member.session.timed = timed

    @property
    def max_reply_size(self) -> float:
        return self._members[0].session.max_reply_size

    @max_reply_size.setter
    def max_reply_size(self, size: float) -> None:
        for member in self._members:
            member.session.max_reply_size = size

    @property
    def on_stored(self) -> Callable[[int], None]:
        return self._members[0].session.on_stored

    @on_stored.setter
    def on_stored(self, call: Callable[[int], None]) -> None:
        for member in self._members:
            member.session.on_stored = call

    @property
    def stored(self) -> int:
        return sum(member.session.stored for member in self._members)

    @enable_ki_protection
    async def run(self) -> None:
        with collapse_groups():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._members[0].session.run)
                while len(self._members) < self._limit:
                    await self._another_wanted.wait()
                    self._another_wanted = trio.Event()
                    try:
                        session = await self._open_another()
                    except EngineError:
                        self._limit = 0
                        break  # the engine rejects more connections; if it is gone, another session reports it
                    if session is not None:
                        session.timed = self.timed
                        session.max_reply_size = self.max_reply_size
                        session.on_stored = self.on_stored
                        self._add(session)
                        nursery.start_soon(session.run)

    # One request after the other

    async def request(self, frame: Frame) -> Reply:
        member = self._begin()
        reply = await member.session.request(frame)
        self._note_length(member)
        self._finish_if_read(member)
        return reply

    async def request_unlogged(self, frame: Frame) -> Reply:
        member = self._begin()
        reply = await member.session.request_unlogged(frame)
        self._note_length(member)
        self._finish_if_read(member)
        return reply

    async def open_another(self) -> Session | None:
        return await self._members[0].session.open_another()

    async def post(self, frame: Frame) -> Failure | None:
        member = self._begin()
        failure = await member.session.post(frame)
        self._finish_if_read(member)
        return failure

    async def receive_some(self) -> bytes:
        member = self._current
        data = await member.session.receive_some()
        self._finish_if_read(member)
        return data

    def start(self, frame: Frame, answer: Callable[[Reply], None]) -> bool:
        if self._ahead:
            member = self._ahead.popleft()
            assert member.state is _AHEAD, "take the reply that has arrived"
            self._current = member
            member.state = _CURRENT
            member.answer = answer
            return True
        member = self._begin()
        member.answer = answer
        if member.session.start(frame, member.on_reply):
            return True
        self._finish(member)
        return False

    def _begin(self) -> _Member:
        """Return the session for the next request, which was not started ahead."""
        member = self._members[0]
        if member.state is _IDLE:
            self._idle.remove(member)
        else:
            member = self._idle.pop()  # there is one, because `start_ahead` leaves one
        self._current = member
        member.state = _CURRENT
        return member

    # Several at a time

    def start_ahead(self, frame: Frame) -> int:
        if self._short_replies_due or type(frame) is not bytes or _SUBSCRIPTIONS in frame or _CONNECTIONS in frame:
            return 0
        # If all requests are abandoned, a post may follow. It needs the session of the current request, or another one.
        if self._current.state is _CURRENT or len(self._idle) > 1:
            for member in self._idle:
                if member.session.start(frame, member.on_reply):
                    self._idle.remove(member)
                    self.can_start_ahead = bool(self._idle) or len(self._members) < self._limit
                    member.state = _AHEAD
                    self._ahead.append(member)
                    return member.ticket
        self._another_wanted.set()
        return 0

    def take_reply(self) -> Reply | None:
        member = self._ahead[0]
        if member.state is not _REPLIED:
            return None
        self._ahead.popleft()
        self._current = member
        member.state = _CURRENT
        reply, member.reply = member.reply, None
        self._finish_if_read(member)
        return reply

    def abandon_ahead(self) -> None:
        for member in self._ahead:
            member.reply = None
            member.session.cancel()
            if member.state is _AHEAD or member.session.unread:
                member.state = _ABANDONED
            else:
                self._finish(member)
        self._ahead.clear()

    # In both cases

    def running_since(self) -> tuple[float, int] | None:
        """Return the estimate for the request that was sent first, since the engine most likely evaluates that one.

        If it has been stopped and has no reply yet, the engine may be evaluating a later one.
        """
        if self._current.state is _CURRENT and (running := self._current.session.running_since()) is not None:
            return running
        for member in self._ahead:
            if member.state is _AHEAD and (running := member.session.running_since()) is not None:
                return running[0], member.ticket
        return None

    def cancel(self) -> None:
        self._current.session.cancel()

    def cancel_ahead(self, ticket: int) -> None:
        self._members[ticket - 1].session.cancel()

    @enable_ki_protection
    async def aclose(self) -> None:
        async with trio.open_nursery() as nursery:
            for member in self._members:
                nursery.start_soon(member.session.aclose)

    def _add(self, session: Session) -> None:
        member = _Member(session, len(self._members) + 1, self._reply_arrived)
        self._members.append(member)
        self._finish(member)

    def _reply_arrived(self, member: _Member, reply: Reply) -> None:
        """Take the reply to a request that a session has started. Called by the task of that session."""
        self._note_length(member)
        if member.state is _CURRENT:
            answer, member.answer = member.answer, None
            self._finish_if_read(member)
            assert answer is not None
            answer(reply)
        elif member.state is _AHEAD:
            member.reply = reply
            member.state = _REPLIED
        else:
            self._finish_if_read(member)

    def _note_length(self, member: _Member) -> None:
        if member.session.unread:
            self._short_replies_due = _SHORT_REPLIES
        elif self._short_replies_due:
            self._short_replies_due -= 1

    def _finish_if_read(self, member: _Member) -> None:
        if not member.session.unread:
            self._finish(member)

    def _finish(self, member: _Member) -> None:
        """Make a session available for the next request."""
        member.state = _IDLE
        self._idle.append(member)
        self.can_start_ahead = True
