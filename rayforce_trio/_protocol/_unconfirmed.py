"""The posts that a client has sent without knowing yet whether they were carried out. No I/O.

Posts have no reply. But when a request is answered, the posts that were sent before it have been carried out.
"""

from collections import deque
from dataclasses import dataclass

FENCE_INTERVAL = 250
"""The number of posts after a request before the client sends another request, the fence, to confirm them."""


@dataclass(slots=True)
class _Group:
    """Posts between two requests.

    Attributes:
        after: the number of the request that was sent before them; 0 if none was.
        count: how many they are.
        size: the size of their frames, in bytes.
    """

    after: int
    count: int = 0
    size: int = 0


class UnconfirmedPosts:
    """The posts that no reply has confirmed yet.

    Attributes:
        count: how many they are.
        size: the size of their frames, in bytes.
    """

    def __init__(self) -> None:
        self.count = 0
        self.size = 0
        self._groups: deque[_Group] = deque()

    def is_fence_due(self, last_request: int) -> bool:
        """Return whether a fence is to be sent before the next post.

        Args:
            last_request: the number of the last request that was sent; 0 if none was.
        """
        groups = self._groups
        return bool(groups) and groups[-1].after == last_request and groups[-1].count >= FENCE_INTERVAL

    def sent(self, size: int, last_request: int) -> None:
        """Report that a post of `size` bytes was sent, after the request `last_request`."""
        if not self._groups or self._groups[-1].after != last_request:
            self._groups.append(_Group(last_request))
        group = self._groups[-1]
        group.count += 1
        group.size += size
        self.count += 1
        self.size += size

    def answered(self, number: int) -> None:
        """Report that a request was answered, which confirms the posts before it."""
        while self._groups and self._groups[0].after < number:
            group = self._groups.popleft()
            self.count -= group.count
            self.size -= group.size
