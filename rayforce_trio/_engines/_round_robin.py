"""The engine that distributes its sessions over other engines."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable

import trio

from .._tasks import collapse_groups, enable_ki_protection
from ..errors import EngineError, RayforceValueError
from ._backoff import exponential_backoff
from ._base import Client, ClientMustWait, Engine, Session

_FIRST_RETRY_DELAY = 0.5  # seconds until an engine that could not be reached is tried again
_MAX_RETRY_DELAY = 10.0


class RoundRobinEngine(Engine):
    """Assigns connections in turn to several engines: replicas of the same data, on one host or on several.

    An engine that cannot be reached is skipped, and tried again in the background. A busy engine is skipped if another
    engine is not busy. A connection stays with its engine. If that engine is lost, the connection is closed.

    Args:
        engines: one engine or more, usually each a `NativeEngine`.

    Raises:
        RayforceValueError: there is no engine, or an element is not an engine.
    """

    def __init__(self, engines: Iterable[Engine]) -> None:
        try:
            self._engines = list(engines)
        except TypeError:
            self._engines = []
        if not self._engines or not all(isinstance(engine, Engine) for engine in self._engines):
            raise RayforceValueError(f"Invalid engines: {engines!r}. Must be a list of one or more engines")
        self._order = deque(self._engines)
        self._down: set[Engine] = set()
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"RoundRobinEngine({self._engines!r})"

    @property
    def pushes(self) -> bool:
        return any(engine.pushes for engine in self._engines)

    @property
    def is_down(self) -> bool:
        return all(engine in self._down or engine.is_down for engine in self._engines)

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all engines until cancelled. A checkpoint; however this ends, no engine is left running.

        Raises:
            RayforceError: an engine cannot be started, or has ended.
        """
        try:
            with collapse_groups():
                async with trio.open_nursery() as self._nursery:
                    for engine in self._engines:
                        await self._nursery.start(engine.run)
                    task_status.started()
        finally:
            self._nursery = None
            self._down.clear()

    async def open_session(self) -> Session:
        """Open a session with the next engine. A checkpoint; if cancelled, nothing is left open.

        Raises:
            EngineError: no engine can be reached; the text has the reason of each.
        """
        return await self._open_next(lambda engine: engine.open_session())

    async def open_session_for(self, client: Client) -> Session:
        return await self._open_next(lambda engine: engine.open_session_for(client))

    async def _open_next(self, open_session: Callable[[Engine], Awaitable[Session]]) -> Session:
        """Like `open_session`, also if cancelled, with a function that opens a session with an engine.

        Raises:
            ClientMustWait: an engine makes the client wait.
            EngineError: as for `open_session`.
        """
        up = [engine for engine in self._order if engine not in self._down]
        reasons = []
        busy: Session | None = None
        try:
            for engine in up or list(self._order):  # if all are marked as down, any of them may be up again
                self._order.remove(engine)
                self._order.append(engine)
                try:
                    session = await open_session(engine)
                except ClientMustWait:
                    raise
                except EngineError as error:
                    reasons.append(str(error))
                    self._mark_down(engine)
                    continue
                session.source = session.source or engine
                if session.ready:
                    return session
                busy, previous = session, busy
                if previous is not None:
                    await previous.aclose()
            if busy is None:
                raise EngineError("; ".join(reasons))
            session, busy = busy, None
            return session  # every engine is busy
        finally:
            if busy is not None:
                await busy.aclose()

    def _mark_down(self, engine: Engine) -> None:
        if engine not in self._down and self._nursery is not None:
            self._down.add(engine)
            self._nursery.start_soon(self._retry, engine)

    @enable_ki_protection
    async def _retry(self, engine: Engine) -> None:
        """Try to reach an engine until that succeeds. A checkpoint; if cancelled, nothing is left open."""
        for delay in exponential_backoff(_FIRST_RETRY_DELAY, _MAX_RETRY_DELAY):
            await trio.sleep(delay)
            try:
                session = await engine.open_session()
            except EngineError:
                continue
            self._down.discard(engine)
            await session.aclose()
            return
