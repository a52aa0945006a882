"""The server's own requests to an engine, through a session that is opened when it is first needed."""

from collections import deque

import trio

from .._engines import Engine, Session
from .._protocol import Frame, Reply
from .._tasks import enable_ki_protection, race
from ..errors import EngineError
from ._log import logger


class _Request:
    """A request that waits for its reply."""

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.reply: Reply | None = None
        self.error: EngineError | None = None
        self.done = trio.Event()


class EngineRequests:
    """Send requests to an engine, one after the other.

    Args:
        engine: the engine.
        nursery: the session is served in this nursery.
    """

    def __init__(self, engine: Engine, nursery: trio.Nursery) -> None:
        self._engine = engine
        self._nursery = nursery
        self._waiting = deque[_Request]()
        self._wake = trio.Event()
        self._serving = False

    async def request(self, frame: Frame) -> Reply:
        """Have the engine evaluate a request. A checkpoint.

        If cancelled, the engine may or may not evaluate it. If it has not been sent, it will not be.

        Raises:
            EngineError: the engine cannot be reached, or is lost. It may have evaluated the request.
        """
        request = _Request(frame)
        self._waiting.append(request)
        self._wake.set()
        if not self._serving:
            self._serving = True
            self._nursery.start_soon(self._serve_engine)
        try:
            await request.done.wait()
        finally:
            if request in self._waiting:
                self._waiting.remove(request)
        if request.error is not None:
            raise EngineError(str(request.error))
        assert request.reply is not None
        return request.reply

    @enable_ki_protection
    async def _serve_engine(self) -> None:
        """Open a session, and send the waiting requests, until the engine is lost. A checkpoint.

        If cancelled, the session is closed, and the outcome of the requests remains unknown.
        """
        error = EngineError("the server is shutting down")
        current: list[_Request] = []
        try:
            session = await self._engine.open_session()
            try:
                await race(session.run, lambda: self._send(session, current))
            finally:
                await session.aclose()
        except EngineError as lost:
            error = lost
        except Exception:  # noqa: BLE001 - logged
            logger.exception("internal error in the server's own session with an engine")
        finally:
            self._serving = False
            lost_with_it = [*current, *self._waiting]
            self._waiting.clear()
            for request in lost_with_it:
                request.error = error
                request.done.set()

    async def _send(self, session: Session, current: list[_Request]) -> None:
        """Send the waiting requests, until cancelled. A checkpoint. If cancelled, `current` has the request in flight.

        Raises:
            EngineError: the engine is lost.
        """
        while True:
            while self._waiting:
                request = self._waiting.popleft()
                current[:] = [request]
                reply = await session.request(request.frame)
                while session.unread:
                    await session.receive_some()
                current.clear()
                request.reply = reply
                request.done.set()
            self._wake = trio.Event()
            await self._wake.wait()
