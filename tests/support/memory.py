"""The memory that this process occupies."""

import gc
import resource
from contextlib import suppress
from pathlib import Path


def resident_memory() -> int:
    """Return the memory that this process occupies, in bytes. Linux only."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def long_buffers(size: int = 1024 * 1024) -> list[int]:
    """Return the sizes of the buffers above `size` bytes that Python code can reach or that wait for the collector."""
    found = []
    for one in gc.get_objects():
        if type(one) is memoryview:
            with suppress(ValueError):  # released
                if one.nbytes > size:
                    found.append(one.nbytes)
    return found


def garbage(*classes: type) -> list[object]:
    """Return the objects of these classes that only the cyclic garbage collector can free. Frees all garbage."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return [one for one in gc.garbage if isinstance(one, classes)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
