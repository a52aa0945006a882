"""Sessions that are kept open for clients that come while the engine accepts no connections."""

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from .._tasks import enable_ki_protection
from ..errors import EngineError
from ._backoff import exponential_backoff
from ._native_session import NativeSession

_FIRST_RETRY_DELAY = 0.5  # seconds
_MAX_RETRY_DELAY = 10.0  # seconds


class SessionReserve:
    """A few sessions of an engine that nobody uses yet, opened in advance.

    Args:
        size: the number of sessions.
        open_session: opens a session, and returns it when the engine has accepted it.
    """

    def __init__(self, size: int, open_session: Callable[[], Awaitable[NativeSession]]) -> None:
        self._size = size
        self._open_session = open_session
        self._sessions = deque[NativeSession]()
        self._taken = trio.Event()

    def __len__(self) -> int:
        return len(self._sessions)

    def take(self) -> NativeSession | None:
        """Return a session, which the caller must close; `None` if there is none. No checkpoint."""
        while self._sessions:
            session = self._sessions.popleft()
            self._taken.set()
            if session.is_connected:
                return session
            session.abort()
        return None

    @enable_ki_protection
    async def run(self) -> None:
        """Replace the sessions that are taken, until cancelled; then close the others. A checkpoint.

        Opens one session at a time. If the engine cannot be reached or rejects the session, try again later.
        """
        delays = exponential_backoff(_FIRST_RETRY_DELAY, _MAX_RETRY_DELAY)
        try:
            while True:
                self._taken = trio.Event()
                while len(self._sessions) < self._size:
                    try:
                        self._sessions.append(await self._open_session())
                    except EngineError:
                        await trio.sleep(next(delays))
                    else:
                        delays = exponential_backoff(_FIRST_RETRY_DELAY, _MAX_RETRY_DELAY)
                await self._taken.wait()
        finally:
            while self._sessions:
                self._sessions.pop().abort()
