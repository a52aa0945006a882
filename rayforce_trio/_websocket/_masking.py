"""Masking: a client XORs every byte that it sends with one of the four bytes of a key (RFC 6455, section 5.3)."""

import numpy

_SMALL = 1024
"""For data of at most this many bytes, one XOR of two long integers is faster than a call of numpy."""

TILE_SIZE = 64 * 1024
"""Longer data is masked in pieces of this many bytes, which stay in the processor's cache."""


def mask(data: bytes | memoryview, key: bytes) -> bytes:
    """Return `data` masked or, which is the same operation, unmasked. The key has 4 bytes."""
    size = len(data)
    if size <= _SMALL:
        pattern = (key * (size // 4 + 1))[:size]
        return (int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")).to_bytes(size, "little")
    masked = bytearray(data)
    Masker(key).mask_in_place(memoryview(masked))
    return bytes(masked)


class Masker:
    """Masks one long payload piece by piece.

    Args:
        key: 4 bytes.
    """

    def __init__(self, key: bytes) -> None:
        self._tile = numpy.frombuffer(key * (TILE_SIZE // 4 + 1), numpy.uint8)
        self._phase = 0

    def mask_in_place(self, data: memoryview) -> None:
        """Mask the next bytes of the payload in place."""
        self._mask(data, data)

    def mask_into(self, target: memoryview, data: memoryview) -> None:
        """Write the next bytes of the payload, masked, to the beginning of `target`."""
        self._mask(data, target[: len(data)])

    def _mask(self, data: memoryview, target: memoryview) -> None:
        source, masked = numpy.frombuffer(data, numpy.uint8), numpy.frombuffer(target, numpy.uint8)
        for start in range(0, len(source), TILE_SIZE):
            piece = source[start : start + TILE_SIZE]
            tile = self._tile[self._phase : self._phase + len(piece)]
            numpy.bitwise_xor(piece, tile, out=masked[start : start + len(piece)])
            self._phase = (self._phase + len(piece)) % 4
