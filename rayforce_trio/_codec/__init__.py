"""Rayforce objects to frames, frames to objects, frames to evaluated frames, compressed frames to plain ones."""

from ._columns import columns_of
from ._compression import SIZE_BYTES, Decompressor
from ._drawing import draw
from ._rayforce import check_thread, decode, decode_verbose, encode, engine_error, evaluate, native_server

__all__ = [
    "SIZE_BYTES",
    "Decompressor",
    "check_thread",
    "columns_of",
    "decode",
    "decode_verbose",
    "draw",
    "encode",
    "engine_error",
    "evaluate",
    "native_server",
]
