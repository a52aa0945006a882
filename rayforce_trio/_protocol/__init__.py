"""The protocol without I/O: frames, handshake, control messages, and the two halves of the conversation.

Bytes and text in, events and bytes and text out. Nothing here waits, opens a socket, reads a clock, knows an event loop
or calls the engine.
"""

from ._client import ClientProtocol, ClientRequest, Outgoing, ReplyReceived
from ._control import CONTROL_LIMIT, CancelNotice, ErrorNotice, dump_cancel, dump_error, parse_control
from ._frames import (
    HEADER_SIZE,
    MESSAGE_TYPE_OFFSET,
    FrameError,
    Header,
    MessageType,
    error_code,
    is_null,
    parse_frame,
    parse_header,
    string_frame,
)
from ._handshake import HELLO, HELLO_REPLY, SUBPROTOCOL, check_hello, check_hello_reply
from ._replies import CANCELLED, Failure, Reply, Result
from ._server import CancelRequested, ServerProtocol, ServerRequest
from ._violation import ProtocolViolation

__all__ = [
    "CANCELLED",
    "CONTROL_LIMIT",
    "HEADER_SIZE",
    "HELLO",
    "HELLO_REPLY",
    "MESSAGE_TYPE_OFFSET",
    "SUBPROTOCOL",
    "CancelNotice",
    "CancelRequested",
    "ClientProtocol",
    "ClientRequest",
    "ErrorNotice",
    "Failure",
    "FrameError",
    "Header",
    "MessageType",
    "Outgoing",
    "ProtocolViolation",
    "Reply",
    "ReplyReceived",
    "Result",
    "ServerProtocol",
    "ServerRequest",
    "check_hello",
    "check_hello_reply",
    "dump_cancel",
    "dump_error",
    "error_code",
    "is_null",
    "parse_control",
    "parse_frame",
    "parse_header",
    "string_frame",
]
