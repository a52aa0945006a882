"""Performs the I/O of the watchdog of a native server: deadlines, checks, the probe, and the log."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import trio

from .._tasks import enable_ki_protection, race
from .._text import counted
from ..errors import EngineError
from ._backoff import exponential_backoff
from ._base import Session
from ._session_group import SessionGroup
from ._watchdog import WatchdogState

_FIRST_PROBE_DELAY = 1.0  # seconds
_MAX_PROBE_DELAY = 10.0
_LATE_REPLY_TIMEOUT = 0.1  # seconds
_LOG_INTERVAL = 10.0  # seconds between two reports that a server does not work

logger = logging.getLogger("rayforce_trio.engine")


class EngineMonitor:
    """Watches one native server and logs when it stops working.

    While no session waits for a reply, nothing would show that the server works again. So the monitor opens a session,
    the probe. There is only one probe at a time, and it waits as long as the server evaluates requests.

    Args:
        group: the sessions with the server.
        name: the name of the server in the log.
        probe: opens a session that the server has accepted.
        unread_bytes: returns, for each of our ports, how many bytes the server has not read; empty if that is unknown.
    """

    def __init__(
        self,
        group: SessionGroup,
        name: str,
        probe: Callable[[], Awaitable[Session]],
        unread_bytes: Callable[[], Mapping[int, int]],
    ) -> None:
        self._group = group
        self._watchdog = group.watchdog
        self._name = name
        self._probe = probe
        self._unread_bytes = unread_bytes

    @property
    def problem(self) -> str:
        """The reason why the server counts as down; empty if it does not."""
        match self._watchdog.state:
            case WatchdogState.UNRESPONSIVE:
                limit = counted(self._watchdog.limit, "second")
                return f"has not responded to a stop for {limit}, and no other query explains that"
            case WatchdogState.REFUSING:
                return "rejects the user name or the password of this server"
        return ""

    @enable_ki_protection
    async def run(self) -> None:
        """Watch the server until cancelled. A checkpoint; cancelling it closes the probe."""
        await race(self._check_at_deadlines, self._probe_when_needed)

    async def wait_until_down(self) -> None:
        """Wait until the server counts as down. A checkpoint; cancelling it changes nothing."""
        await self._wait_for(lambda: self._watchdog.is_down)

    async def _wait_for(self, condition: Callable[[], bool]) -> None:
        """Wait until a condition on the state of the watchdog holds. A checkpoint; cancelling it changes nothing."""
        await trio.lowlevel.checkpoint()
        while not condition():
            await self._group.state_changed.wait()

    async def _check_at_deadlines(self) -> None:
        """Check at each deadline whether the server is only busy, until cancelled. A checkpoint."""
        while True:
            await self._wait_for(lambda: self._watchdog.state is WatchdogState.STOPPING)
            with trio.move_on_at(self._watchdog.deadline):
                await self._wait_for(lambda: self._watchdog.state is not WatchdogState.STOPPING)
            # If this process itself was blocked, replies of the server may have arrived that nobody has read yet.
            with trio.move_on_after(_LATE_REPLY_TIMEOUT):
                await self._wait_for(lambda: self._watchdog.state is not WatchdogState.STOPPING)
            if self._watchdog.deadline <= trio.current_time():
                self._group.check(self._unread_bytes())

    async def _probe_when_needed(self) -> None:
        """Open sessions while nothing else would show that the server works, until cancelled. A checkpoint.

        Cancelling it closes the session.
        """
        while True:
            await self._wait_for(lambda: not self._watchdog.is_idle)
            for delay in exponential_backoff(_FIRST_PROBE_DELAY, _MAX_PROBE_DELAY):
                with trio.move_on_after(delay):
                    await self._wait_for(lambda: self._watchdog.is_idle)
                    break
                if self._group.is_busy and self._watchdog.state is not WatchdogState.REFUSING:
                    continue  # the reply will show that the server works
                with suppress(EngineError):
                    await (await self._probe()).aclose()

    async def log_problems(self) -> None:
        """Log when the server stops working, and when it works again, until cancelled. A checkpoint."""
        while True:
            await self.wait_until_down()
            logger.warning("%s %s", self._name, self.problem)
            await self._wait_for(lambda: not self._watchdog.is_down)
            logger.warning("%s works again", self._name)
            await trio.sleep(_LOG_INTERVAL)
