"""A queue between two tasks of a connection, bounded in items and in bytes."""

from collections import deque
from typing import Generic, TypeVar

import trio

T = TypeVar("T")


class BoundedQueue(Generic[T]):
    """First in, first out.

    Args:
        max_items: how many items may wait.
        max_bytes: how many bytes they may hold together. An item larger than that passes alone.

    Attributes:
        closed: whether nothing more is put.
    """

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._putting = 0
        self.closed = False
        self._room = trio.Event()

    async def put(self, item: T, size: int) -> None:
        """Append an item of `size` bytes, once there is room. A checkpoint only if it has to wait.

        If cancelled, the item is not in the queue. A closed queue takes nothing more; the item is dropped.
        """
        self._putting += 1
        try:
            while not self.closed and self._is_full_for(size):
                if self._room.is_set():
                    self._room = trio.Event()
                await self._room.wait()
        finally:
            self._putting -= 1
        if not self.closed:
            self._items.append((item, size))
            self._bytes += size

    @property
    def has_waiting_put(self) -> bool:
        """Whether a `put` has not come to its end, though there may be room for it by now."""
        return self._putting > 0

    @property
    def first(self) -> T:
        """The item that `get_nowait` takes next; there must be one."""
        return self._items[0][0]

    def get_nowait(self) -> T:
        """Take the first item; there must be one. No checkpoint."""
        item, size = self._items.popleft()
        self._bytes -= size
        self._room.set()
        return item

    def _is_full_for(self, size: int) -> bool:
        return bool(self._items) and (len(self._items) >= self._max_items or self._bytes + size > self._max_bytes)

    def __len__(self) -> int:
        return len(self._items)

    def close(self) -> None:
        """End both sides: what is in the queue can still be taken, nothing more is put."""
        self.closed = True
        self._room.set()
