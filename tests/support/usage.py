"""Resources that a process uses."""

from dataclasses import dataclass
from pathlib import Path

from support.leaks import descriptors, tasks


@dataclass(frozen=True)
class Held:
    """What a server holds: memory in bytes, open file descriptors, and tasks."""

    memory: int
    descriptors: int
    tasks: int


def held() -> Held:
    """Return what this process and the running event loop hold. Linux only."""
    return Held(resident(), len(descriptors()), len(tasks()))


def resident() -> int:
    """Return how much memory this process has, in bytes, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def child_processes(pid: int) -> list[int]:
    """Return the ids of the processes that a process has started and that have not ended. Linux only."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for file in found for child in file.read_text().split()]
