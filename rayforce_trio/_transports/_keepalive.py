"""Keepalive pings, the same on both event loops."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import anyio

from ..errors import ConnectionLost, RayforceValueError

# How long a loop that was blocked (by an evaluation in this process, say) gets to read what has arrived meanwhile,
# before silence is held against the peer; in seconds.
_CATCH_UP = 1.0


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """When to ping a silent peer and when to give it up.

    Args:
        interval: seconds of silence after which a ping is sent; `None`: never.
        timeout: seconds the peer then has to show life; `None`: for ever.

    Raises:
        RayforceValueError: one of them is not above 0.
    """

    interval: float | None = 60.0
    timeout: float | None = 30.0

    def __post_init__(self) -> None:
        for name, seconds in (("ping_interval", self.interval), ("ping_timeout", self.timeout)):
            if seconds is not None and (type(seconds) not in (int, float) or not seconds > 0):
                raise RayforceValueError(f"Invalid {name}: {seconds!r}. Must be a number of seconds above 0, or None")

    async def run(
        self,
        last_sign_of_life: Callable[[], float],
        ping: Callable[[], Awaitable[None]],
        listening: Callable[[], bool],
    ) -> None:
        """Ping when it is quiet; returns never.

        Args:
            last_sign_of_life: when the peer last sent or took a byte, on the event loop's clock. A large message that
                makes its way in either direction is life enough, since no pong can overtake it.
            ping: send a ping.
            listening: whether what the peer says is read at present. While it is not, for want of room, its silence is
                not held against it; a ping still finds out whether the connection is broken.

        Raises:
            ConnectionLost: the peer showed no life in time.
        """
        interval = self.interval
        if interval is None:
            await anyio.sleep_forever()
            return
        due = last_sign_of_life() + interval
        while True:
            await anyio.sleep_until(due)
            heard = last_sign_of_life()
            now = anyio.current_time()
            due = max(due, heard + interval)
            if now < due:
                continue
            due = now + interval
            if self.timeout is None:
                await ping()
                continue
            with anyio.CancelScope(deadline=now + self.timeout):  # a ping that cannot leave is silence, too
                await ping()
                await anyio.sleep_forever()
            if last_sign_of_life() == heard and listening():
                await anyio.sleep(_CATCH_UP)
            if last_sign_of_life() == heard and listening():
                raise ConnectionLost(f"the peer fell silent: no answer to a ping for {self.timeout:g} seconds")
