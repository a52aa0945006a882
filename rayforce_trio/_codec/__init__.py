"""Convert queries and Rayforce objects to frames and back, evaluate frames, and decompress them."""

from ._aliases import ArrowStream, Parameters, Query, TabularData, Value
from ._columns import columns_of
from ._compression import SIZE_BYTES, Decompressor
from ._decoding import decode, decode_payload, decode_verbose, reply_payload
from ._drawing import draw
from ._encoding import Call, check_topic, describe, encode, encode_call, encode_update
from ._errors import engine_error
from ._evaluation import evaluate
from ._ffi import check_thread, native_server
from ._objects import payload_of_object
from ._sql import SQL, sql

__all__ = [
    "SIZE_BYTES",
    "SQL",
    "ArrowStream",
    "Call",
    "Decompressor",
    "Parameters",
    "Query",
    "TabularData",
    "Value",
    "check_thread",
    "check_topic",
    "columns_of",
    "decode",
    "decode_payload",
    "decode_verbose",
    "describe",
    "draw",
    "encode",
    "encode_call",
    "encode_update",
    "engine_error",
    "evaluate",
    "native_server",
    "payload_of_object",
    "reply_payload",
    "sql",
]
