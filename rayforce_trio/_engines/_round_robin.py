"""Several engines behind one server, each with its share of the sessions."""

from collections import deque
from collections.abc import Iterable

import trio

from .._tasks import collapse_groups
from ..errors import EngineError, RayforceValueError
from ._backoff import exponential_backoff
from ._base import Engine, Session

_FIRST_PAUSE = 0.5  # seconds until an engine that could not be reached is tried again
_LONGEST_PAUSE = 10.0


class RoundRobinEngine(Engine):
    """Spreads sessions over several engines, one after the other: replicas of the same data, on one host or on several.

    An engine that cannot be reached is passed over, and tried again in the background until it can. One that is busy is
    passed over, too, if another is not. A session stays with its engine; when that is lost, so is the session, and the
    next one goes to another engine.

    Args:
        engines: at least one; for the most part each is a `NativeEngine`.

    Raises:
        RayforceValueError: there is none, or what is given is none.
    """

    def __init__(self, engines: Iterable[Engine]) -> None:
        try:
            self._engines = list(engines)
        except TypeError:
            self._engines = []
        if not self._engines or not all(isinstance(engine, Engine) for engine in self._engines):
            raise RayforceValueError(f"Invalid engines: {engines!r}. Must be one engine or more, in a list")
        self._order = deque(self._engines)
        self._down: set[Engine] = set()
        self._nursery: trio.Nursery | None = None

    def __repr__(self) -> str:
        return f"RoundRobinEngine({self._engines!r})"

    @property
    def is_down(self) -> bool:
        return all(engine in self._down or engine.is_down for engine in self._engines)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run all of the engines, until cancelled. A checkpoint.

        Raises:
            RayforceError: one of them cannot start, or ended.
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
        up = [engine for engine in self._order if engine not in self._down]
        reasons = []
        busy: Session | None = None
        try:
            for engine in up or list(self._order):  # if none is known to be up, each may be
                self._order.remove(engine)
                self._order.append(engine)
                try:
                    session = await engine.open_session()
                except EngineError as error:
                    reasons.append(str(error))
                    self._pass_over(engine)
                    continue
                if session.ready:
                    return session
                busy, former = session, busy
                if former is not None:
                    await former.aclose()
            if busy is None:
                raise EngineError("; ".join(reasons))
            session, busy = busy, None
            return session  # all of them are, and this one is as good as any
        finally:
            if busy is not None:
                await busy.aclose()

    def _pass_over(self, engine: Engine) -> None:
        if engine not in self._down and self._nursery is not None:
            self._down.add(engine)
            self._nursery.start_soon(self._try_again, engine)

    async def _try_again(self, engine: Engine) -> None:
        for pause in exponential_backoff(_FIRST_PAUSE, _LONGEST_PAUSE):
            await trio.sleep(pause)
            try:
                session = await engine.open_session()
            except EngineError:
                continue
            self._down.discard(engine)
            await session.aclose()
            return
