"""The number of file descriptors that a process uses, compared with its limit."""

import os
import resource
from contextlib import suppress


def reached_descriptor_limit(pid: int) -> int | None:
    """Return a process's limit on file descriptors if it has reached that limit; `None` if not, or if that is unknown.

    On Linux before 6.2, this takes long if there are many descriptors. On other systems, the numbers are unknown.
    """
    with suppress(AttributeError, OSError):
        limit, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        directory = f"/proc/{pid}/fd"
        in_use = os.stat(directory).st_size or len(os.listdir(directory))  # noqa: PTH116, PTH208 - the number alone
        if in_use >= limit:
            return limit
    return None
