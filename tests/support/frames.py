"""Frames in the forms that the package uses, made comparable."""

from rayforce_trio._protocol import Frame, LazyFrame


def whole_frame(frame: Frame | LazyFrame) -> bytes:
    """Return a whole frame as bytes; it may be a view, or a frame that has only slices."""
    return bytes(frame[:])
