"""The peak memory of a process, as Linux reports it in `/proc`."""

from pathlib import Path

AVAILABLE = Path("/proc/self/clear_refs").exists()

_RESET_PEAK = "5"


class PeakMemory:
    """Measures how much the memory of a process grows from now on.

    Args:
        process: the process id, or `"self"`.
    """

    def __init__(self, process: int | str = "self") -> None:
        self._directory = Path("/proc", str(process))
        Path(self._directory, "clear_refs").write_text(_RESET_PEAK)
        self._before = self._status("VmRSS")

    def growth(self) -> int:
        """Return the peak so far minus the memory at the beginning, in bytes."""
        return max(0, self._status("VmHWM") - self._before)

    def _status(self, field: str) -> int:
        lines = Path(self._directory, "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
