"""Engines under the test's control."""

from collections.abc import Awaitable, Callable

import trio

from rayforce_trio import InProcessEngine
from rayforce_trio._engines import Engine, Session
from rayforce_trio._protocol import CANCELLED, Failure, Frame, Reply, Result, string_frame


class GateEngine(Engine):
    """Evaluates nothing: every request waits until it is released or, if it is stoppable, cancelled.

    Attributes:
        begun: the frames of requests and posts that have started, in order.
        cancels: the number of times that a session was asked to stop its request.
        sessions: the number of open sessions.
    """

    def __init__(self, *, stoppable: bool = True) -> None:
        self.stoppable = stoppable
        self.begun: list[Frame] = []
        self.cancels = 0
        self.sessions = 0
        self._gate = trio.Event()
        self._changed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await trio.sleep_forever()

    async def open_session(self) -> Session:
        await trio.lowlevel.checkpoint()
        self.sessions += 1
        self.change()
        return _GateSession(self)

    def release(self) -> None:
        """End the running requests, with a String; later ones end at once."""
        self._gate.set()

    async def passed_gate(self) -> None:
        await self._gate.wait()

    def change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def until(self, *, begun: int = 0, cancels: int = 0, sessions: int | None = None) -> None:
        """Wait for this number of started requests, of cancels, and for exactly this number of open sessions."""
        with trio.fail_after(10):
            while (
                len(self.begun) < begun
                or self.cancels < cancels
                or (sessions is not None and self.sessions != sessions)
            ):
                await self._changed.wait()


class _GateSession(Session):
    def __init__(self, engine: GateEngine) -> None:
        self._engine = engine
        self._scope: trio.CancelScope | None = None
        self._begun_at: float | None = None

    async def request(self, frame: Frame) -> Reply:
        with trio.CancelScope() as self._scope:
            await trio.lowlevel.checkpoint()
            self._begun_at = trio.current_time()
            self._engine.begun.append(frame)
            self._engine.change()
            await self._engine.passed_gate()
        cancelled = self._scope.cancelled_caught
        self._scope = self._begun_at = None
        return Failure(CANCELLED, "stopped") if cancelled else Result(string_frame("released"))

    async def post(self, frame: Frame) -> Failure | None:
        await self.request(frame)
        return None

    def running_since(self) -> tuple[float, int] | None:
        return None if self._begun_at is None else (self._begun_at, 0)

    def cancel(self) -> None:
        self._engine.cancels += 1
        self._engine.change()
        if self._scope is not None and self._engine.stoppable:
            self._scope.cancel()

    async def aclose(self) -> None:
        self._engine.sessions -= 1
        self._engine.change()
        await trio.lowlevel.checkpoint()


class TamperedEngine(InProcessEngine):
    """The real engine, but `before` is awaited ahead of every evaluation with its frame."""

    def __init__(self, before: Callable[[Frame], Awaitable[None]]) -> None:
        self._before = before

    async def open_session(self) -> Session:
        return _TamperedSession(await super().open_session(), self._before)


class _TamperedSession(Session):
    def __init__(self, session: Session, before: Callable[[Frame], Awaitable[None]]) -> None:
        self._session = session
        self._before = before

    async def request(self, frame: Frame) -> Reply:
        await self._before(frame)
        return await self._session.request(frame)

    async def post(self, frame: Frame) -> Failure | None:
        await self._before(frame)
        return await self._session.post(frame)

    def cancel(self) -> None:
        self._session.cancel()

    async def aclose(self) -> None:
        await self._session.aclose()


class HeldEngine(TamperedEngine):
    """The real engine, busy with any frame but one until `release` is set.

    Args:
        let_through: the frame that is evaluated at once.

    Attributes:
        busy: set when another frame has arrived.
    """

    def __init__(self, let_through: Frame) -> None:
        self._let_through = let_through
        self.busy = trio.Event()
        self.release = trio.Event()
        super().__init__(self._hold)

    async def _hold(self, frame: Frame) -> None:
        if frame != self._let_through:
            self.busy.set()
            await self.release.wait()
