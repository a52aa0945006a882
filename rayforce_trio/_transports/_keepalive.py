"""Keepalive pings."""

from collections.abc import Callable
from dataclasses import dataclass

import anyio

from .._text import counted
from ..errors import ConnectionLost, RayforceValueError

# Seconds that an event loop which was blocked, for example by an evaluation in this process, gets to read what has
# arrived meanwhile, before the silence counts against the peer.
_CATCH_UP = 1.0


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """When to ping a silent peer, and when to give it up.

    Args:
        interval: seconds of silence after which a ping is sent; `None`: never.
        timeout: seconds in which the peer then has to show a sign of life; `None`: unlimited.

    Raises:
        RayforceValueError: one of them is not a number above 0.
    """

    interval: float | None = 60.0
    timeout: float | None = 30.0

    def __post_init__(self) -> None:
        for name, seconds in (("ping_interval", self.interval), ("ping_timeout", self.timeout)):
            if seconds is not None and (type(seconds) not in (int, float) or not seconds > 0):
                raise RayforceValueError(
                    f"Invalid {name}: {seconds!r}. Must be a number of seconds above 0, or None to turn it off"
                )

    async def run(
        self, last_sign_of_life: Callable[[], float], ping: Callable[[], None], listening: Callable[[], bool]
    ) -> None:
        """Send pings while the peer is silent, until cancelled, which changes nothing. A checkpoint.

        Args:
            last_sign_of_life: returns when the peer last sent or took a byte, on the event loop's clock. Progress of a
                large message in either direction counts, since a pong cannot overtake it.
            ping: sends a ping as soon as possible. No checkpoint.
            listening: returns whether bytes from the peer are being read. While it is not, for lack of room, its
                silence does not count; a ping still finds out whether the connection is broken.

        Raises:
            ConnectionLost: the peer showed no sign of life in time.
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
            ping()
            if self.timeout is None:
                continue
            for seconds in (self.timeout, _CATCH_UP):
                await anyio.sleep(seconds)
                if last_sign_of_life() != heard or not listening():
                    break
            else:
                raise ConnectionLost(f"the peer has not answered a ping within {counted(self.timeout, 'second')}")
