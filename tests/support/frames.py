"""Frames as the package hands them about, made comparable."""

from rayforce_trio._protocol import Frame, LazyFrame


def whole_frame(frame: Frame | LazyFrame) -> bytes:
    """Return all of a frame; it may be a view, or one that is only had in slices."""
    return bytes(frame[:])
