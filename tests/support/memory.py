"""The memory that this process occupies."""

import resource
from pathlib import Path


def resident_memory() -> int:
    """Return how many bytes of memory this process occupies. Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
