"""How much memory a process had at most, as Linux tells it in `/proc`."""

from pathlib import Path

AVAILABLE = Path("/proc/self/clear_refs").exists()

_RESET_PEAK = "5"


class PeakMemory:
    """Watches the memory of a process from now on.

    Args:
        process: its id, or `"self"`.
    """

    def __init__(self, process: int | str = "self") -> None:
        self._directory = Path("/proc", str(process))
        Path(self._directory, "clear_refs").write_text(_RESET_PEAK)
        self._idle = self._status("VmRSS")

    def growth(self) -> int:
        """Return how many bytes more than in the beginning it had at most."""
        return max(0, self._status("VmHWM") - self._idle)

    def _status(self, field: str) -> int:
        lines = Path(self._directory, "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))
