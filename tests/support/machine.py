"""Facts about the machine and the software of a run."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from rayforce import core_version

_LIBRARIES = ("rayforce-trio", "rayforce-py", "trio", "trio-websocket", "anyio", "websockets", "numpy")


def facts() -> dict[str, str]:
    """Return the facts by name."""
    return {
        "Date": f"{datetime.now(UTC):%Y-%m-%d}",
        "Cores": str(os.cpu_count()),
        "Processor": _processor(),
        "System": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "Libraries": ", ".join([*(f"{name} {version(name)}" for name in _LIBRARIES), f"Rayforce core {core_version}"]),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
