"""Rayforce objects to frames, frames to objects, frames to evaluated frames, compressed frames to plain ones."""

from ._aliases import Parameters, Query, Value
from ._compression import SIZE_BYTES, Decompressor
from ._drawing import draw
from ._rayforce import check_thread, decode, decode_verbose, encode, engine_error, evaluate, native_server

__all__ = [
    "SIZE_BYTES",
    "Decompressor",
    "Parameters",
    "Query",
    "Value",
    "check_thread",
    "decode",
    "decode_verbose",
    "draw",
    "encode",
    "engine_error",
    "evaluate",
    "native_server",
]
