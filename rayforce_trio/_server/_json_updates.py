"""The values of updates in JSON: each is converted once for all clients, in steps that a task takes between others."""

from collections import OrderedDict

import trio

from .._protocol import TOO_LARGE, Failure
from .._tasks import TimeSlice, enable_ki_protection
from .._transports import Transport
from .._values._json import json_pieces
from .._values._payloads import Buffer
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
        result: the text, or the error that takes its place; `None` while the value is being converted.
        waiting: the transports that are told when there is a result.
    """

    def __init__(self, payload: Buffer) -> None:
        self.result: str | Failure | None = None
        self.waiting: set[Transport] = set()
        self._parts: list[str] = []
        if len(payload) > MAX_UPDATE:
            self.result = Failure(
                TOO_LARGE,
                f"the value has {len(payload)} bytes; in JSON, an update can have {MAX_UPDATE}; query the data instead",
            )
        else:
            self._pieces = json_pieces(bytes(payload))

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
        self._unfinished = OrderedDict[UpdateValue, None]()  # the one whose turn it is first
        self._arrived = trio.Event()

    def value(self, payload: Buffer) -> UpdateValue:
        """Return a value. A short one has a result; pass another to `convert`. No checkpoint."""
        if len(payload) > MAX_UPDATE:
            return UpdateValue(payload)  # it would be hashed for each client, and kept
        payload = bytes(payload)
        value = self._kept.get(payload)
        if value is not None:
            self._kept.move_to_end(payload)
            return value
        value = self._kept[payload] = UpdateValue(payload)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        any(value.step() for _ in range(_PIECES_AT_ONCE))
        return value

    def convert(self, value: UpdateValue, transport: Transport) -> None:
        """Have `run` convert a value, and tell a transport when there is a result. Idempotent. No checkpoint.

        To withdraw, remove the transport from `value.waiting`.
        """
        value.waiting.add(transport)
        self._unfinished.setdefault(value)
        self._arrived.set()

    @enable_ki_protection
    async def run(self) -> None:
        """Convert values, a piece of each in turn, until cancelled, which may leave some for the next run."""
        time_slice = TimeSlice()
        while True:
            if not self._unfinished:
                self._arrived = trio.Event()
                await self._arrived.wait()
            time_slice.start()
            while self._unfinished:
                value, _ = self._unfinished.popitem(last=False)
                if not value.waiting:
                    continue
                if value.step():
                    waiting, value.waiting = value.waiting, set()
                    for transport in waiting:
                        transport.notify_when_idle()
                else:
                    self._unfinished[value] = None
                await time_slice.yield_if_due()
