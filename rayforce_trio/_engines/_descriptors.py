"""How many file descriptors a process has in use, compared with its limit."""

import os
import resource
from contextlib import suppress


def reached_descriptor_limit(pid: int) -> int | None:
    """Return the limit of a process if it has as many files and connections open; `None` if not, or if it is unknown.

    This can take long for many descriptors, on Linux before 6.2. Other systems than Linux do not tell the numbers.
    """
    with suppress(AttributeError, OSError):
        limit, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        directory = f"/proc/{pid}/fd"
        in_use = os.stat(directory).st_size or len(os.listdir(directory))  # noqa: PTH116, PTH208 - the number alone
        if in_use >= limit:
            return limit
    return None
