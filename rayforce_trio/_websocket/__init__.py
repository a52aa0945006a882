"""WebSocket, RFC 6455, without I/O."""

from ._frames import (
    NO_STATUS,
    REASON_LIMIT,
    Close,
    CloseCode,
    FrameReader,
    Opcode,
    Ping,
    Pong,
    WebSocketViolation,
    frame_header,
    new_key,
    pack_close,
    pack_frame,
    shortened,
    text_too_long,
    too_long,
)
from ._masking import Masker

__all__ = [
    "NO_STATUS",
    "REASON_LIMIT",
    "Close",
    "CloseCode",
    "FrameReader",
    "Masker",
    "Opcode",
    "Ping",
    "Pong",
    "WebSocketViolation",
    "frame_header",
    "new_key",
    "pack_close",
    "pack_frame",
    "shortened",
    "text_too_long",
    "too_long",
]
