"""Probe engines with a query, for `/healthz?deep`."""

from collections.abc import Mapping
from functools import partial

import trio

from .._engines import Engine, Session
from .._protocol import MessageType, query_frame
from .._tasks import collapse_groups, enable_ki_protection, race
from ..errors import RayforceWSError

PROBE_TIMEOUT = 2.0
"""Seconds in which an engine must answer the query of a probe."""

_QUERY = query_frame("1", MessageType.SYNC, 0)

_NO_ANSWER = f"did not answer a query within {PROBE_TIMEOUT:g} seconds; it may be busy with another query"


class EngineProbes:
    """Probe the engines of a server.

    Args:
        names: the engines, each with a name that begins a sentence.
    """

    def __init__(self, names: Mapping[Engine, str]) -> None:
        self._probes = {name: _Probe(engine) for engine, name in names.items()}

    async def failures(self) -> list[str]:
        """Probe all engines at the same time, and return a sentence for each one that failed.

        A checkpoint, which takes little more than `PROBE_TIMEOUT`. If cancelled, the probes of this call end; calls
        that have shared them start others.
        """
        found: dict[str, str] = {}

        @enable_ki_protection
        async def probe(name: str, one: _Probe) -> None:
            """Run one probe. A checkpoint; if cancelled, nothing is recorded."""
            failure = await one.failure()
            if failure is not None:
                found[name] = failure

        with collapse_groups():
            async with trio.open_nursery() as nursery:
                for name, one in self._probes.items():
                    nursery.start_soon(probe, name, one)
        return [f"{name} {found[name]}" for name in self._probes if name in found]


class _Probe:
    """The probe of one engine. Simultaneous calls share one query, so that queries do not pile up in a busy engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: _Run | None = None

    async def failure(self) -> str | None:
        """Return why the engine failed, as the rest of a sentence, or `None` if it has answered. A checkpoint.

        If cancelled, the query is stopped, unless another call has started it.
        """
        while (running := self._running) is not None:
            await running.ended.wait()
            if running.is_complete:
                return running.failure
        self._running = running = _Run()
        try:
            running.failure = await _failure_of(self._engine)
            running.is_complete = True
            return running.failure
        finally:
            self._running = None
            running.ended.set()


class _Run:
    """One query of a probe. It is complete, with its outcome, unless the call that started it was cancelled."""

    def __init__(self) -> None:
        self.ended = trio.Event()
        self.is_complete = False
        self.failure: str | None = None


async def _failure_of(engine: Engine) -> str | None:
    """Query an engine in a session of its own. Any reply counts as an answer, even an error.

    A checkpoint, for `PROBE_TIMEOUT` and the end of the session. If cancelled, the session is closed.
    """
    with trio.move_on_after(PROBE_TIMEOUT):
        try:
            session = await engine.open_session()
        except RayforceWSError as error:
            return f"cannot be reached: {error}"
        try:
            await race(partial(_query, session), session.run)
            return None
        except RayforceWSError as error:
            return f"has failed: {error}"
        finally:
            await session.aclose()
    return _NO_ANSWER


async def _query(session: Session) -> None:
    """Send the query and wait for the reply. A checkpoint; if cancelled, only `aclose` may be called."""
    await session.request(_QUERY)
