"""The variables in which an engine keeps the results of a connection's streams, and their deletion."""

from collections.abc import Callable
from secrets import token_hex

import trio

from .._engines import Session
from .._protocol import STREAM_VARIABLES, Reply, Result
from .._tasks import race
from .._values._payloads import Buffer, call, name
from ..errors import EngineError
from ._expressions import request_of

_DELETE_TIMEOUT = 600.0  # seconds in which another session must have deleted them
_SHIELDED_DELETE_TIMEOUT = 2.0  # seconds for the last attempt, also while the server stops


class StreamVariables:
    """The variables of one connection.

    Args:
        session: the connection's engine session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._names: set[str] = set()

    def __bool__(self) -> bool:
        """Return whether any may exist in the engine."""
        return bool(self._names)

    def new(self) -> str:
        """Return the name of a new variable, which may exist from now on."""
        variable = STREAM_VARIABLES + token_hex(8)
        self._names.add(variable)
        return variable

    def forget(self, variable: str) -> None:
        """Expect that a variable does not exist."""
        self._names.discard(variable)

    async def delete(self, variable: str) -> None:
        """Delete a variable, if it may exist. A checkpoint in that case; if cancelled, the session can only be closed.

        Raises:
            EngineError: the engine is lost.
        """
        if variable in self._names:
            await self._delete_in(self._session, variable)

    async def delete_all(self) -> None:
        """Delete all variables. A checkpoint if there are any; if cancelled, the session can only be closed.

        Raises:
            EngineError: the engine is lost.
        """
        for variable in list(self._names):
            await self._delete_in(self._session, variable)

    async def delete_elsewhere(self, report: Callable[[str], None]) -> None:
        """Delete the remaining variables in another session, since the connection's own is lost or closed.

        A checkpoint if there are any variables, within ten minutes. If cancelled, the last attempt takes 2 seconds at
        most.

        Args:
            report: called with the reason if some may be left in the engine.
        """
        problem = None
        try:
            problem = await self._try_to_delete(_DELETE_TIMEOUT)
        finally:
            if self._names:
                with trio.CancelScope(shield=True):
                    last_problem = await self._try_to_delete(_SHIELDED_DELETE_TIMEOUT)
                if self._names:
                    report(problem or last_problem or "the engine did not delete them")

    async def _try_to_delete(self, seconds: float) -> str | None:
        """Try for some seconds to delete the remaining variables in another session; return why that has failed, if it
        is known.

        A checkpoint if there are any variables; if cancelled, some are left.
        """
        try:
            with trio.move_on_after(seconds) as scope:
                await self._delete_in_another_session()
        except EngineError as error:
            return str(error)
        return f"the engine was busy for {seconds:g} seconds" if scope.cancelled_caught else None

    async def _delete_in_another_session(self) -> None:
        """Delete the variables that are left. A checkpoint if there are any; if cancelled, some are left.

        Raises:
            EngineError: the engine cannot be reached, or is lost.
        """
        session = await self._session.open_another() if self._names else None
        if session is None:
            return

        async def delete() -> None:
            """Delete the variables. A checkpoint; if cancelled, some are left."""
            for variable in list(self._names):
                await self._delete_in(session, variable)

        try:
            await race(session.run, delete)
        finally:
            await session.aclose()

    async def _delete_in(self, session: Session, variable: str) -> None:
        """Delete a variable by a request to a session. A checkpoint; if cancelled, the session can only be closed.

        Raises:
            EngineError: the engine is lost.
        """
        if isinstance(await evaluate_unlogged(session, call("del", name(variable))), Result):
            self._names.discard(variable)


async def evaluate_unlogged(session: Session, payload: Buffer) -> Reply:
    """Evaluate an expression that no journal records. A checkpoint.

    If cancelled, the session can only be closed.

    Raises:
        EngineError: the engine is lost.
    """
    return await session.request_unlogged(request_of(payload))
