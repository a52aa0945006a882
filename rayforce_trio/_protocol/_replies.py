"""The reply to a request, which is a value or an error. Both sides and the engines use these classes."""

from collections.abc import Callable
from dataclasses import dataclass

from ._frames import Frame

CANCELLED = "cancel"
"""The error code of a request that was stopped because its client cancelled it."""

BUSY = "busy"
"""The error code of a request that was not started because too many of its connection were unanswered."""

CLOSING = "closing"
"""The error code of a request that was not started because the server was shutting down."""

TIMEOUT = "timeout"
"""The error code of a request that the server stopped because it ran for too long. No engine uses this code."""

TOO_LARGE = "toobig"
"""The error code of a request whose result is longer than the server sends. No engine uses this code."""


def too_large(size: int, limit: float) -> "Failure":
    """Return the error in place of a result of `size` bytes."""
    return Failure(
        TOO_LARGE, f"the result has {size} bytes; this server sends at most {limit:.0f} bytes (max_reply_size)"
    )


class LazyFrame:
    """A long frame that is not copied as a whole. It has a length, and its slices are bytes.

    Args:
        size: its length in bytes.
        copy: returns a copy of the bytes from one offset to another.
    """

    def __init__(self, size: int, copy: Callable[[int, int], bytes]) -> None:
        self._size = size
        self._copy = copy

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self._size)
        return self._copy(start, end)


@dataclass(slots=True)  # not frozen, because making a frozen one takes three times as long
class Result:
    """A value, as a response frame. A frame to send may be a `LazyFrame`; a frame that was received may be a view."""

    frame: Frame | LazyFrame


@dataclass(frozen=True, slots=True)
class Failure:
    """An error: a code of at most seven characters, and a message."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


Reply = Result | Failure
