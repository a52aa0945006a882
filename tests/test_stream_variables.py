"""The variables of streams are deleted in another session, also beside a busy engine and while the server stops."""

import pytest
import trio
import trio.testing
from support.native import native_server

from rayforce_trio import NativeEngine
from rayforce_trio._engines import Session
from rayforce_trio._protocol import BUSY, Failure, Frame, Reply, Result
from rayforce_trio._server._stream_variables import StreamVariables
from rayforce_trio.errors import EngineError

pytestmark = pytest.mark.trio


class BusySession(Session):
    """A session of an engine that evaluates nothing until it is free; all sessions are this one.

    Attributes:
        free: set when the engine is free.
        lost: the engine cannot be reached.
        deleted: how many variables were deleted.
    """

    def __init__(self) -> None:
        self.free = trio.Event()
        self.lost = False
        self.refuses = False
        self.deleted = 0

    async def run(self) -> None:
        await trio.sleep_forever()

    async def open_another(self) -> Session:
        await trio.lowlevel.checkpoint()
        if self.lost:
            raise EngineError("it cannot be reached")
        return self

    async def request(self, frame: Frame) -> Reply:
        await self.free.wait()
        if self.refuses:
            return Failure(BUSY, "")
        self.deleted += 1
        return Result(frame)

    async def post(self, frame: Frame) -> Failure | None:
        raise AssertionError(f"deleting is a request, not {frame[:]!r}")

    def cancel(self) -> None:
        raise AssertionError("nothing is stopped")

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


class Deletion:
    """Two variables whose deletion runs in a nursery.

    Attributes:
        reasons: why some may be left, as reported.
        took: how long the deletion took, in seconds; `None` while it runs.
    """

    def __init__(self) -> None:
        self.session = BusySession()
        self.variables = StreamVariables(self.session)
        self.reasons: list[str] = []
        self.took: float | None = None
        for _ in range(2):
            self.variables.new()

    async def run(self) -> None:
        start = trio.current_time()
        try:
            await self.variables.delete_elsewhere(self.reasons.append)
        finally:
            self.took = trio.current_time() - start


async def test_a_busy_engine_deletes_them_later(autojump_clock: trio.testing.MockClock) -> None:
    deletion = Deletion()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deletion.run)
        await trio.sleep(590)
        assert deletion.took is None
        deletion.session.free.set()
    assert (deletion.session.deleted, bool(deletion.variables), deletion.reasons) == (2, False, [])


async def test_an_engine_that_stays_busy_is_given_up(autojump_clock: trio.testing.MockClock) -> None:
    deletion = Deletion()
    await deletion.run()
    assert deletion.took == pytest.approx(602)
    assert deletion.reasons == ["the engine was busy for 600 seconds"]


@pytest.mark.parametrize("after", [0, 1, 599])
async def test_a_server_that_stops_tries_once_more(autojump_clock: trio.testing.MockClock, after: float) -> None:
    """The engine is free once the server has stopped the queries of its clients."""
    deletion = Deletion()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(deletion.run)
        await trio.sleep(after)
        nursery.cancel_scope.cancel()
        nursery.start_soon(free_after_a_second, deletion.session)
    assert (bool(deletion.variables), deletion.reasons) == (False, [])
    assert deletion.took == pytest.approx(after + 1)


async def free_after_a_second(session: BusySession) -> None:
    with trio.CancelScope(shield=True):
        await trio.sleep(1)
    session.free.set()


async def test_a_server_that_stops_waits_for_two_seconds_at_most(autojump_clock: trio.testing.MockClock) -> None:
    deletion = Deletion()
    with trio.move_on_after(100) as scope:
        await deletion.run()
    assert scope.cancelled_caught
    assert deletion.took == pytest.approx(102)
    assert deletion.reasons == ["the engine was busy for 2 seconds"]


async def test_an_engine_that_refuses_is_reported() -> None:
    deletion = Deletion()
    deletion.session.refuses = True
    deletion.session.free.set()
    await deletion.run()
    assert deletion.reasons == ["the engine did not delete them"]


async def test_an_engine_that_cannot_be_reached_is_reported() -> None:
    deletion = Deletion()
    deletion.session.lost = True
    await deletion.run()
    assert deletion.reasons == ["it cannot be reached"]


async def test_without_variables_nothing_is_opened() -> None:
    session = BusySession()
    session.lost = True
    reasons: list[str] = []
    await StreamVariables(session).delete_elsewhere(reasons.append)
    assert reasons == []


async def test_a_real_engine_that_has_ended_is_reported() -> None:
    with native_server() as server:
        session = await NativeEngine("127.0.0.1", server.port).open_session()
        await session.aclose()
    variables, reasons = StreamVariables(session), list[str]()
    variables.new()
    with trio.fail_after(20):
        await variables.delete_elsewhere(reasons.append)
    assert "cannot be reached" in reasons[0]
