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
    """

    def __init__(self, max_items: int, max_bytes: int) -> None:
        self._max_items = max_items
        self._max_bytes = max_bytes
        self._items: deque[tuple[T, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = trio.Event()

    async def put(self, item: T, size: int) -> None:
        """Append an item of `size` bytes, once there is room. A checkpoint only if it has to wait.

        If cancelled, the item is not in the queue. A closed queue takes nothing more; the item is dropped.
        """
        while not self._closed and self._is_full_for(size):
            await self._change()
        if self._closed:
            return
        self._items.append((item, size))
        self._bytes += size
        self._changed.set()

    async def get(self) -> T | None:
        """Take the next item; `None` once the queue is closed and empty. A checkpoint only if it has to wait.

        If cancelled, nothing was taken.
        """
        while not self._items:
            if self._closed:
                return None
            await self._change()
        item, size = self._items.popleft()
        self._bytes -= size
        self._changed.set()
        return item

    def _is_full_for(self, size: int) -> bool:
        return bool(self._items) and (len(self._items) >= self._max_items or self._bytes + size > self._max_bytes)

    def __len__(self) -> int:
        return len(self._items)

    def close(self) -> None:
        """End both sides: what is in the queue can still be taken, nothing more is put."""
        self._closed = True
        self._changed.set()

    async def _change(self) -> None:
        if self._changed.is_set():
            self._changed = trio.Event()
        await self._changed.wait()
