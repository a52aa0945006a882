"""The protocol without I/O: frames, handshake, control messages, and the two halves of the conversation.

Bytes and text in, events and bytes and text out. Nothing here waits, opens a socket, reads a clock, knows an event loop
or calls the engine.
"""

from ._client import ClientProtocol, ClientRequest, Outgoing, ReplyReceived
from ._control import CONTROL_LIMIT, CancelNotice, ErrorNotice, dump_cancel, dump_error, parse_control
from ._frames import (
    FLAGS_OFFSET,
    HEADER_SIZE,
    MESSAGE_TYPE_OFFSET,
    VERBOSE_FLAG,
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
from ._native import (
    NATIVE_MAX_REQUEST,
    NativeHandshake,
    NativeReceiver,
    Piece,
    dump_credentials,
)
from ._replies import CANCELLED, Failure, Reply, Result
from ._server import CancelRequested, ServerProtocol, ServerRequest
from ._verbose import join_verbose, split_verbose
from ._violation import ProtocolViolation

__all__ = [
    "CANCELLED",
    "CONTROL_LIMIT",
    "FLAGS_OFFSET",
    "HEADER_SIZE",
    "HELLO",
    "HELLO_REPLY",
    "MESSAGE_TYPE_OFFSET",
    "NATIVE_MAX_REQUEST",
    "SUBPROTOCOL",
    "VERBOSE_FLAG",
    "CancelNotice",
    "CancelRequested",
    "ClientProtocol",
    "ClientRequest",
    "ErrorNotice",
    "Failure",
    "FrameError",
    "Header",
    "MessageType",
    "NativeHandshake",
    "NativeReceiver",
    "Outgoing",
    "Piece",
    "ProtocolViolation",
    "Reply",
    "ReplyReceived",
    "Result",
    "ServerProtocol",
    "ServerRequest",
    "check_hello",
    "check_hello_reply",
    "dump_cancel",
    "dump_credentials",
    "dump_error",
    "error_code",
    "is_null",
    "join_verbose",
    "parse_control",
    "parse_frame",
    "parse_header",
    "split_verbose",
    "string_frame",
]
