"""Decompression of IPC frames.

A native server compresses replies of more than 2,000 bytes to peers on other hosts. The compressed payload begins with
the size of the plain payload, uint32. Then come runs of differences between neighbouring bytes. A run begins with a
control byte n, int8. If n is positive, the next byte is repeated n times; otherwise -n bytes follow as they are. Each
plain byte is the sum, modulo 256, of all differences up to its position. Measured on rayforce-py 2.4.0 (core 3.0.1).
"""

import struct

import numpy as np
from numpy.typing import NDArray

from .._protocol import FrameError, Header

SIZE_BYTES = 4
"""The number of bytes at the start of a compressed payload that contain the size of the plain payload."""

_SLICE = 8 * 1024  # of compressed bytes; at most 64 times as many come out at once


class Decompressor:
    """Decompresses the payload of one frame, in pieces as they arrive.

    Args:
        header: the header of the compressed frame.
        start: at least the first `SIZE_BYTES` bytes of its payload.

    Attributes:
        header: the header of the plain frame.
        left: the number of bytes of the plain payload that are still missing.

    Raises:
        FrameError: the payload is too short, or the plain payload is empty.
    """

    def __init__(self, header: Header, start: bytes) -> None:
        if len(start) < SIZE_BYTES:
            raise FrameError("a compressed frame ends too early")
        (self.left,) = struct.unpack_from("<I", start)
        if not self.left:
            raise FrameError("a compressed frame announces an empty payload")
        self.header = Header(0, header.message_type, self.left)
        self._kept = b""
        self._last = np.uint8(0)
        self._compressed_left = header.size - SIZE_BYTES

    def feed(self, data: bytes) -> bytes:
        """Decompress the next bytes of the payload; the result may be empty.

        Raises:
            FrameError: the payload is damaged.
        """
        plain = b"".join(self._expand(data[start : start + _SLICE]) for start in range(0, len(data), _SLICE))
        self._compressed_left -= len(data)
        if self._compressed_left <= 0 and (self.left or self._kept):
            raise FrameError("a compressed frame ends too early")
        if self._compressed_left > 0 and not self.left:
            raise FrameError("a compressed frame is longer than it announces")
        return plain

    def _expand(self, data: bytes) -> bytes:
        source = np.frombuffer(self._kept + data, np.uint8)
        controls = source.view(np.int8).astype(np.intp)
        steps = np.where(controls > 0, 2, 1 - controls)
        starts, end = _follow(steps)
        self._kept = bytes(source[end:])

        counts = np.ones(end, np.intp)  # for each byte, how often it occurs among the differences
        counts[starts] = 0
        repeats = starts[controls[starts] > 0]
        counts[repeats + 1] = controls[repeats]
        size = int(counts.sum())
        if size > self.left:
            raise FrameError("a compressed frame contains more than it announces")
        if size == 0:
            return b""
        self.left -= size
        plain = np.cumsum(np.repeat(source[:end], counts), dtype=np.uint8)
        plain += self._last
        self._last = plain[-1]
        return bytes(plain)


def _follow(steps: NDArray[np.intp]) -> tuple[NDArray[np.intp], int]:
    """Return the start positions of the complete runs in a slice, and the end of the last one.

    The start of a run is known only from the run before it. Each round doubles the length of the jumps and the number
    of known starts, so that about fifteen array operations replace one step in Python for each run.

    Args:
        steps: for each byte, the distance to the next run if a run starts there.
    """
    beyond = len(steps)
    jumps = np.append(np.minimum(np.arange(beyond) + steps, beyond + 1), [beyond, beyond + 1])
    reached = np.zeros(1, np.intp)
    while reached[-1] < beyond:
        reached = np.concatenate([reached, jumps[reached]])
        jumps = jumps[jumps]
    # Positions after the end are `beyond` if the last run is complete, otherwise `beyond + 1`.
    starts = reached[: np.searchsorted(reached, beyond)]
    if len(starts) and starts[-1] + steps[starts[-1]] > beyond:
        return starts[:-1], int(starts[-1])
    return starts, beyond
