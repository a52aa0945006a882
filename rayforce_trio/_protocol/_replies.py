"""Replies: the value or the error of a request, as both sides and the engines exchange them."""

from collections.abc import Callable
from dataclasses import dataclass

from ._frames import Frame

CANCELLED = "cancel"
"""The error code of a request that was stopped because its client asked for it."""


BUSY = "busy"
"""The error code of a request that was not started, because too many of its connection were unanswered."""

CLOSING = "closing"
"""The error code of a request that was not started, because the server was shutting down."""

TIMEOUT = "timeout"
"""The error code of a request that the server stopped because it took too long. Engines do not use it."""


class LazyFrame:
    """A frame that is too long to be copied whole: its length, and slices of it as bytes.

    Args:
        size: in bytes.
        cut: returns the bytes from one offset to another.
    """

    def __init__(self, size: int, cut: Callable[[int, int], bytes]) -> None:
        self._size = size
        self._cut = cut

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, end, _ = part.indices(self._size)
        return self._cut(start, end)


@dataclass(frozen=True, slots=True)
class Result:
    """A request's value: a response frame. On its way out of this process it may be sliced, on its way in a view."""

    frame: Frame | LazyFrame


@dataclass(frozen=True, slots=True)
class Failure:
    """An error in place of a value: the engine's code, of at most seven characters, and its message."""

    code: str
    message: str

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


Reply = Result | Failure
