"""The engine that is embedded in this process."""

import trio

from .. import _codec
from .._protocol import CANCELLED, Failure, Frame, Reply
from .._tasks import enable_ki_protection
from ._base import Engine, Session


class InProcessEngine(Engine):
    """An engine in the server's own process: clients query the data that the program has loaded.

    An evaluation blocks the event loop until it is done, because the engine allows no other thread. It cannot be
    interrupted or cancelled. A connection with many short queries yields to other connections every tenth of a
    millisecond. Clients can do everything that this process can, and can end it with `(exit 0)`.
    """

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Wait until cancelled. A checkpoint.

        Raises:
            RayforceThreadError: Rayforce was first imported in a thread other than the current one.
        """
        _codec.check_thread()
        task_status.started()
        await trio.sleep_forever()

    async def open_session(self) -> Session:
        """Open a session. A checkpoint."""
        await trio.lowlevel.checkpoint()
        return _InProcessSession()

    def __repr__(self) -> str:
        return "InProcessEngine()"


class _InProcessSession(Session):
    evaluate = staticmethod(_codec.evaluate)

    def __init__(self) -> None:
        self._cancelled = False

    async def request(self, frame: Frame) -> Reply:
        self._cancelled = False
        await trio.lowlevel.checkpoint()  # before the evaluation, so that its result is never lost
        if self._cancelled:
            return Failure(CANCELLED, "the request was cancelled before it was started")
        return _codec.evaluate(frame)

    async def post(self, frame: Frame) -> Failure | None:
        reply = await self.request(frame)
        return reply if isinstance(reply, Failure) else None

    async def open_another(self) -> Session:
        await trio.lowlevel.checkpoint()
        return _InProcessSession()

    def cancel(self) -> None:
        self._cancelled = True  # has an effect only before the evaluation begins: nothing else runs during it

    @enable_ki_protection
    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
