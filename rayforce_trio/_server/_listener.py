"""Accepting connections although the system has no room for them at times."""

import errno
import math
import os
from collections.abc import Iterable

import trio

from ._log import logger

Listener = trio.abc.Listener[trio.SocketStream]

PAUSE = 0.1
"""How long to wait until another try; in seconds. Nobody tells when there is room again."""

COMPLAINTS_APART = 1.0
"""How long to keep still about it after a line in the log; in seconds."""

_NO_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


def patient(listeners: Iterable[Listener]) -> list["PatientListener"]:
    """Return listeners that survive a lack of file descriptors and memory; they log it together."""
    complaints = _Complaints()
    return [PatientListener(listener, complaints) for listener in listeners]


class PatientListener(Listener):
    """A listener whose `accept` waits as long as the system has no room: those who connect wait with it."""

    def __init__(self, listener: Listener, complaints: "_Complaints") -> None:
        self._listener = listener
        self._complaints = complaints

    async def accept(self) -> trio.SocketStream:
        while True:
            try:
                return await self._listener.accept()
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                self._complaints.utter(error.errno)
                await trio.sleep(PAUSE)

    async def aclose(self) -> None:
        await self._listener.aclose()


class _Complaints:
    def __init__(self) -> None:
        self._last = -math.inf

    def utter(self, number: int) -> None:
        now = trio.current_time()
        if now >= self._last + COMPLAINTS_APART:
            self._last = now
            logger.error(
                "no connection can be accepted, those that come wait: %s (%s)",
                os.strerror(number),
                errno.errorcode[number],
            )
