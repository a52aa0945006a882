"""The values of updates in JSON: each is converted once for all clients, in steps that a task takes between others."""

from collections import OrderedDict, deque

import trio

from .._protocol import TOO_LARGE, Failure
from .._tasks import TimeSlice, enable_ki_protection
from .._transports import Transport
from .._values._json import json_pieces
from ..errors import RayforceConversionError

MAX_UPDATE = 64 * 1024
"""The length of the longest value of an update that is sent in JSON, in bytes of the wire format."""

_MAX_PIECES = 300
"""The largest number of pieces in which the value of an update is converted; each takes about 0.1 ms.

The longest vector has fewer. A value of many small lists and vectors would take many times as long.
"""

_PIECES_AT_ONCE = 2  # of a new value, without the task
_KEPT = 16  # values, since an update goes to many clients, one directly after the other


class UpdateValue:
    """The value of an update while it is converted, and afterwards.

    The publisher may be any client, so no value raises an exception, or takes long.

    Args:
        payload: the value in the wire format.

    Attributes:
        payload: the same bytes.
        result: the text, or the error that takes its place; `None` while the value is being converted.
        waiting: the transports that are told when there is a result.
    """

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.result: str | Failure | None = None
        self.waiting: set[Transport] = set()
        self._pieces = json_pieces(payload)
        self._parts: list[str] = []
        if len(payload) > MAX_UPDATE:
            self.result = Failure(
                TOO_LARGE,
                f"the value has {len(payload)} bytes; in JSON, an update can have {MAX_UPDATE}; query the data instead",
            )

    def step(self) -> bool:
        """Convert a piece. Return whether there is a result."""
        if self.result is not None:
            return True
        try:
            piece = next(self._pieces, None)
        except RayforceConversionError as error:
            self.result = Failure("io", str(error))
            return True
        if piece is None:
            self.result = "".join(self._parts)
            self._parts.clear()
        elif len(self._parts) == _MAX_PIECES:
            self.result = Failure(TOO_LARGE, "the value has too many parts for JSON; query the data instead")
        else:
            self._parts.append(piece)
        return self.result is not None


class JsonUpdates:
    """Convert the values of updates for all clients of `rayforce.json.v1`."""

    def __init__(self) -> None:
        self._kept = OrderedDict[bytes, UpdateValue]()  # the least recently used one first
        self._unfinished = deque[UpdateValue]()
        self._arrived = trio.Event()

    def value(self, payload: bytes) -> UpdateValue:
        """Return a value. A short one has a result; `run` converts a longer one. No checkpoint."""
        value = self._kept.get(payload)
        if value is not None:
            self._kept.move_to_end(payload)
            return value
        value = self._kept[payload] = UpdateValue(payload)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        if not any(value.step() for _ in range(_PIECES_AT_ONCE)):
            self._unfinished.append(value)
            self._arrived.set()
        return value

    @enable_ki_protection
    async def run(self) -> None:
        """Convert the longer values, a piece of each in turn, until cancelled, which may leave some unconverted."""
        time_slice = TimeSlice()
        while True:
            await self._arrived.wait()
            self._arrived = trio.Event()
            time_slice.start()
            while self._unfinished:
                value = self._unfinished.popleft()
                if value.step():
                    for transport in value.waiting:
                        transport.notify_when_idle()
                    value.waiting.clear()
                else:
                    self._unfinished.append(value)
                await time_slice.yield_if_due()
