"""A session over several sessions: every event in every state of its members, and any order of events, without I/O."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import wait_all_tasks_blocked

from rayforce_trio._engines import Session
from rayforce_trio._engines._parallel_session import _SHORT_REPLIES, MemberState, ParallelSession
from rayforce_trio._protocol import Failure, Frame, Reply, Result
from rayforce_trio.errors import EngineError

IDLE, CURRENT, AHEAD, REPLIED, ABANDONED = MemberState

LIMIT = 8

LONG = 3  # pieces of a long reply after the first


class FakeSession(Session):
    """A session whose replies come when the test says so.

    Attributes:
        frame: the request that it evaluates; `None` if it is idle.
        stopped: how often that request was stopped.
    """

    def __init__(self) -> None:
        self.frame: Frame | None = None
        self.stopped = 0
        self.closed = False
        self.since: float | None = None
        self._answer: Callable[[Reply], None] | None = None

    def start(self, frame: Frame, answer: Callable[[Reply], None]) -> bool:
        assert self.frame is None, "two requests at a time"
        assert not self.unread, "the reply before was not read"
        if not self.ready or frame == b"refused":
            return False
        self.frame, self._answer, self.stopped = frame, answer, 0
        return True

    def reply(self, unread: int = 0) -> None:
        """Reply with the request itself."""
        assert self.frame is not None
        assert self._answer is not None
        reply, answer = Result(self.frame), self._answer
        self.frame = self._answer = None
        self.unread = unread
        answer(reply)

    async def request(self, frame: Frame) -> Reply:
        assert self.frame is None
        self.frame = frame
        await trio.testing.wait_all_tasks_blocked()
        self.frame = None
        return Result(frame)

    async def post(self, frame: Frame) -> Failure | None:
        await self.request(frame)
        return Failure("type", "posted")

    async def receive_some(self) -> bytes:
        self.unread -= 1
        return b"x"

    def running_since(self) -> tuple[float, int] | None:
        return None if self.since is None or self.stopped else (self.since, 0)

    def cancel(self) -> None:
        self.stopped += 1

    async def aclose(self) -> None:
        self.closed = True
        await trio.lowlevel.checkpoint()


class Parallel:
    """A `ParallelSession` over fake sessions, and the replies that it has delivered."""

    def __init__(self, members: int = 1) -> None:
        self.fakes = [FakeSession()]
        self.session = ParallelSession(self.fakes[0], self.open_another, LIMIT)
        self.replies: list[Reply] = []
        for _ in range(members - 1):
            self.fakes.append(FakeSession())
            self.session._add(self.fakes[-1])

    async def open_another(self) -> Session | None:
        await trio.lowlevel.checkpoint()
        self.fakes.append(FakeSession())
        return self.fakes[-1]

    def start(self, frame: Frame) -> bool:
        return self.session.start(frame, self.replies.append)

    @property
    def states(self) -> list[MemberState]:
        return [member.state for member in self.session._members]

    def evaluating(self, frame: Frame) -> FakeSession:
        return next(fake for fake in self.fakes if fake.frame == frame)


async def read_rest(session: Session) -> None:
    while session.unread:
        await session.receive_some()


# The states of a member


def test_a_request_that_was_not_started_ahead_uses_the_first_session() -> None:
    parallel = Parallel(3)
    for n in range(3):
        assert parallel.start(b"%d" % n)
        assert parallel.states == [CURRENT, IDLE, IDLE]
        parallel.fakes[0].reply()
        assert parallel.states == [IDLE, IDLE, IDLE]
    assert parallel.replies == [Result(b"0"), Result(b"1"), Result(b"2")]


def test_a_request_that_is_not_started_changes_nothing() -> None:
    parallel = Parallel(2)
    assert not parallel.start(b"refused")
    assert parallel.states == [IDLE, IDLE]
    parallel.start(b"0")
    assert parallel.session.start_ahead(b"refused") == 0
    assert parallel.states == [CURRENT, IDLE]


def test_requests_ahead_use_one_session_each_until_none_is_idle() -> None:
    parallel = Parallel(3)
    parallel.start(b"0")
    assert [parallel.session.start_ahead(b"%d" % n) for n in (1, 2, 3)] == [2, 3, 0]
    assert parallel.states == [CURRENT, AHEAD, AHEAD]
    parallel.fakes[0].reply()
    assert parallel.session.can_start_ahead
    assert parallel.session.start_ahead(b"3") == 0  # one session is left
    parallel.start(b"1")
    assert parallel.session.start_ahead(b"3") == 1
    assert parallel.states == [AHEAD, CURRENT, AHEAD]


def test_a_session_that_is_not_ready_is_passed_over() -> None:
    parallel = Parallel(3)
    parallel.fakes[1].ready = False
    parallel.start(b"0")
    assert parallel.session.start_ahead(b"1") == 3
    assert parallel.session.start_ahead(b"2") == 0


def test_a_reply_that_comes_before_its_turn_waits() -> None:
    parallel = Parallel(2)
    parallel.start(b"0")
    parallel.session.start_ahead(b"1")
    assert parallel.session.take_reply() is None
    parallel.fakes[1].reply()
    assert parallel.states == [CURRENT, REPLIED]
    assert parallel.replies == []
    assert parallel.session.start_ahead(b"2") == 0  # it holds a reply
    parallel.fakes[0].reply()
    assert parallel.session.take_reply() == Result(b"1")
    assert parallel.states == [IDLE, IDLE]


def test_a_reply_that_comes_in_its_turn_is_delivered() -> None:
    parallel = Parallel(2)
    parallel.start(b"0")
    parallel.session.start_ahead(b"1")
    parallel.fakes[0].reply()
    assert parallel.session.take_reply() is None
    assert parallel.start(b"1")
    assert parallel.states == [IDLE, CURRENT]
    parallel.fakes[1].reply()
    assert parallel.replies == [Result(b"0"), Result(b"1")]
    assert parallel.states == [IDLE, IDLE]


@pytest.mark.trio
@pytest.mark.parametrize("early", [False, True])
async def test_a_session_is_used_again_when_its_long_reply_has_been_read(early: bool) -> None:
    parallel = Parallel(2)
    session = parallel.session
    parallel.start(b"0")
    session.start_ahead(b"1")
    if early:
        parallel.fakes[1].reply(LONG)
        assert session.unread == 0  # of the reply whose turn it is
    parallel.fakes[0].reply()
    if early:
        assert session.take_reply() == Result(b"1")
    else:
        parallel.start(b"1")
        parallel.fakes[1].reply(LONG)
    for left in range(LONG, 0, -1):
        assert (session.unread, parallel.states) == (left, [IDLE, CURRENT])
        await session.receive_some()
    assert (session.unread, parallel.states) == (0, [IDLE, IDLE])


@pytest.mark.trio
async def test_after_a_long_reply_nothing_is_started_ahead_until_some_were_short() -> None:
    parallel = Parallel(3)
    parallel.start(b"long")
    parallel.fakes[0].reply(LONG)
    assert parallel.session.start_ahead(b"1") == 0
    await read_rest(parallel.session)
    for _ in range(_SHORT_REPLIES):
        assert parallel.start(b"0")
        assert parallel.session.start_ahead(b"1") == 0
        parallel.fakes[0].reply()
    parallel.start(b"0")
    assert parallel.session.start_ahead(b"1")


@pytest.mark.parametrize("query", [b"(.mc.sub 'prices)", b"(.ipc.post 1 2)"])
def test_a_request_whose_result_depends_on_the_connection_is_not_started_ahead(query: bytes) -> None:
    parallel = Parallel(2)
    parallel.start(b"0")
    assert parallel.session.start_ahead(query) == 0
    parallel.fakes[0].reply()
    parallel.start(query)
    assert parallel.fakes[0].frame == query


def test_a_stop_reaches_the_session_of_its_request() -> None:
    parallel = Parallel(4)
    session = parallel.session
    parallel.start(b"0")
    tickets = [session.start_ahead(b"%d" % n) for n in (1, 2, 3)]
    session.cancel_ahead(tickets[1])
    session.cancel()
    assert [fake.stopped for fake in parallel.fakes] == [1, 0, 1, 0]
    parallel.fakes[0].reply()
    parallel.start(b"1")
    session.cancel()
    session.cancel_ahead(tickets[0])
    assert [fake.stopped for fake in parallel.fakes] == [1, 2, 1, 0]


@pytest.mark.trio
async def test_requests_that_are_abandoned_are_stopped_and_their_replies_dropped() -> None:
    parallel = Parallel(5)
    session = parallel.session
    parallel.start(b"0")
    for n in range(1, 5):
        session.start_ahead(b"%d" % n)
    parallel.fakes[1].reply()
    parallel.fakes[2].reply(LONG)
    session.abandon_ahead()
    assert parallel.states == [CURRENT, IDLE, ABANDONED, ABANDONED, ABANDONED]
    assert [fake.stopped for fake in parallel.fakes if fake.frame] == [0, 1, 1]
    parallel.fakes[3].reply()
    parallel.fakes[4].reply(LONG)
    assert parallel.states == [CURRENT, IDLE, ABANDONED, IDLE, ABANDONED]
    parallel.fakes[0].reply()
    assert parallel.replies == [Result(b"0")]
    with trio.testing.assert_checkpoints():
        failure = await session.post(b"post")
    assert failure == Failure("type", "posted")


@pytest.mark.trio
async def test_a_post_after_requests_were_abandoned_uses_the_session_of_the_last_request() -> None:
    parallel = Parallel(2)
    session = parallel.session
    parallel.start(b"0")
    session.start_ahead(b"1")
    parallel.fakes[0].reply()
    parallel.start(b"1")
    session.start_ahead(b"2")
    session.abandon_ahead()
    parallel.fakes[1].reply()
    assert parallel.states == [ABANDONED, IDLE]
    await session.post(b"post")
    assert parallel.states == [ABANDONED, IDLE]


@pytest.mark.trio
async def test_one_session_is_left_for_a_post_after_all_requests_ahead_are_abandoned() -> None:
    """While the last reply is being sent, no session has the current request. Then the client turns out to be gone."""
    parallel = Parallel(3)
    session = parallel.session
    parallel.start(b"0")
    session.start_ahead(b"1")
    parallel.fakes[0].reply()
    parallel.fakes[1].reply()
    assert session.take_reply() == Result(b"1")
    while session.start_ahead(b"ahead"):
        pass
    session.abandon_ahead()
    with trio.fail_after(20):
        assert await session.post(b"post") == Failure("type", "posted")


@pytest.mark.trio
async def test_a_request_that_is_awaited_runs_beside_those_ahead() -> None:
    parallel = Parallel(2)
    async with trio.open_nursery() as nursery:

        async def ask() -> None:
            parallel.replies.append(await parallel.session.request(b"0"))

        nursery.start_soon(ask)
        while parallel.fakes[0].frame is None:
            await trio.lowlevel.checkpoint()
        assert parallel.session.start_ahead(b"1") == 2
    assert parallel.replies == [Result(b"0")]
    assert parallel.states == [IDLE, AHEAD]


def test_the_first_request_without_a_reply_is_the_one_that_runs() -> None:
    parallel = Parallel(3)
    session = parallel.session
    assert session.running_since() is None
    parallel.start(b"0")
    session.start_ahead(b"1")
    session.start_ahead(b"2")
    parallel.fakes[1].since, parallel.fakes[2].since = 1.0, 2.0
    assert session.running_since() == (1.0, 2)
    parallel.fakes[0].since = 0.5
    assert session.running_since() == (0.5, 0)
    session.cancel()
    assert session.running_since() == (1.0, 2)
    parallel.fakes[0].since = parallel.fakes[1].since = None
    parallel.fakes[0].reply()
    parallel.fakes[1].reply()
    assert session.running_since() == (2.0, 3)


def test_timed_is_set_on_all_sessions_and_ready_is_that_of_the_first() -> None:
    parallel = Parallel(2)
    parallel.session.timed = True
    assert [fake.timed for fake in parallel.fakes] == [True, True]
    assert parallel.session.timed
    parallel.fakes[0].ready = False
    assert not parallel.session.ready


# The tasks


@pytest.mark.trio
async def test_sessions_are_opened_one_by_one_while_requests_wait() -> None:
    parallel = Parallel()
    session = parallel.session
    session.timed = True
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        parallel.start(b"0")
        await wait_all_tasks_blocked()
        assert len(parallel.fakes) == 1
        for n in range(1, LIMIT + 3):
            assert session.start_ahead(b"%d" % n) == 0
            await wait_all_tasks_blocked()
            assert session.start_ahead(b"%d" % n) == (n + 1 if n < LIMIT else 0)
        assert len(parallel.fakes) == LIMIT
        assert not session.can_start_ahead
        parallel.fakes[0].reply()
        assert session.can_start_ahead
        assert all(fake.timed for fake in parallel.fakes)
        nursery.cancel_scope.cancel()
    await session.aclose()
    assert all(fake.closed for fake in parallel.fakes)


@pytest.mark.trio
@pytest.mark.parametrize("refuses", ["for now", "by an error"])
async def test_if_no_session_can_be_opened_there_is_one_request_at_a_time(refuses: str) -> None:
    attempts = 0

    async def open_another() -> Session | None:
        nonlocal attempts
        attempts += 1
        await trio.lowlevel.checkpoint()
        if refuses == "for now":
            return None
        raise EngineError("too many")

    first = FakeSession()
    session = ParallelSession(first, open_another, LIMIT)
    replies: list[Any] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        for _ in range(3):
            assert session.start(b"0", replies.append)
            assert session.start_ahead(b"1") == 0
            await wait_all_tasks_blocked()
            first.reply()
        nursery.cancel_scope.cancel()
    assert len(replies) == 3
    assert attempts == (3 if refuses == "for now" else 1)


@pytest.mark.trio
@pytest.mark.parametrize("which", [0, 1])
async def test_the_loss_of_one_session_ends_all_of_them(which: int) -> None:
    class Lost(FakeSession):
        async def run(self) -> None:
            await trio.lowlevel.checkpoint()
            raise EngineError("the engine is gone")

    async def open_another() -> Session:
        await trio.lowlevel.checkpoint()
        return Lost()

    session = ParallelSession(FakeSession() if which else Lost(), open_another, LIMIT)
    session.start(b"0", lambda _: None)
    session.start_ahead(b"1")
    with trio.fail_after(20), pytest.raises(EngineError, match=r"^the engine is gone$"):
        await session.run()


# Any order of events


@given(st.data())
def test_every_request_gets_its_own_reply_in_its_turn(data: st.DataObject) -> None:
    """As a server uses it: requests arrive, replies come in any order, requests are cancelled or take their turn."""
    parallel = Parallel(data.draw(st.integers(1, 4)))
    session = parallel.session
    queue: list[tuple[bytes, int]] = []  # requests that have arrived, and their tickets
    current: bytes | None = None  # not answered yet
    stopped = set[bytes]()
    arrived = 0

    def evaluated() -> list[bytes]:
        return [bytes(fake.frame) for fake in parallel.fakes if fake.frame is not None]

    for _ in range(data.draw(st.integers(0, 60))):
        event = data.draw(st.sampled_from(["arrive", "turn", "reply", "cancel", "cancel ahead"]))
        if event == "arrive":
            queue.append((b"%d" % arrived, 0))
            arrived += 1
        elif event == "turn" and current is None and queue:
            frame, ticket = queue.pop(0)
            reply = session.take_reply() if ticket else None
            if reply is None:
                assert session.start(frame, parallel.replies.append)
                current = frame
            else:
                parallel.replies.append(reply)
        elif event == "reply" and evaluated():
            frame = data.draw(st.sampled_from(evaluated()))
            fake = parallel.evaluating(frame)
            assert (fake.stopped > 0) is (frame in stopped)
            fake.reply()
            if frame == current:
                current = None
        elif event == "cancel" and current is not None:
            session.cancel()
            stopped.add(current)
        elif event == "cancel ahead":
            waiting = [(frame, ticket) for frame, ticket in queue if ticket and frame in evaluated()]
            if waiting:
                frame, ticket = data.draw(st.sampled_from(waiting))
                session.cancel_ahead(ticket)
                stopped.add(frame)
        if current is not None:
            for index, (frame, ticket) in enumerate(queue):
                if not ticket:
                    queue[index] = (frame, session.start_ahead(frame))
                    if not queue[index][1]:
                        break
        assert parallel.replies == [Result(b"%d" % n) for n in range(len(parallel.replies))]

    session.abandon_ahead()
    for fake in parallel.fakes:
        if fake.frame is not None:
            assert fake.stopped > 0 or fake.frame == current
            fake.reply()
    assert set(parallel.states) == {IDLE}
