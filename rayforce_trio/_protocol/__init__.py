"""The Rayforce protocol without I/O: frames, the handshake, control messages, and the state machines of both sides.

The modules here take bytes, text and events, and return messages and actions. They do not wait, open sockets, read
clocks, use an event loop or call the engine.
"""

from ._client import ClientProtocol, ClientRequest, ClientRequestState, Outgoing
from ._control import CONTROL_LIMIT, CancelNotice, ErrorNotice, dump_cancel, dump_error, parse_control
from ._frames import (
    COMPRESSED_FLAG,
    FENCE,
    FLAGS_OFFSET,
    HEADER_SIZE,
    MESSAGE_TYPE_OFFSET,
    SIZED,
    VERBOSE_FLAG,
    Frame,
    FrameError,
    Header,
    MessageType,
    error_code,
    is_null,
    parse_frame,
    parse_header,
    query_frame,
    string_frame,
    string_in,
)
from ._handshake import (
    HELLO,
    HELLO_REPLY,
    MESSAGE_LIMIT_HEADER,
    SUBPROTOCOL,
    check_hello,
    check_hello_reply,
    parse_message_limit,
)
from ._native import NATIVE_MAX_REPLY, NATIVE_MAX_REQUEST, dump_credentials
from ._native_exchange import CancelAction, ExchangeState, FrameChunk, NativeExchange
from ._pipeline import MAX_WAITING_POSTS, WAIT_INTERVAL, Action, ConnectionState, Message, RequestPipeline
from ._replies import BUSY, CANCELLED, CLOSING, TIMEOUT, TOO_LARGE, Failure, LazyFrame, Reply, Result, too_large
from ._requests import CancelRequested, Outcome, RequestState, ServerRequest
from ._verbose import join_verbose, split_verbose
from ._violation import CredentialsRejected, ProtocolViolation

__all__ = [
    "BUSY",
    "CANCELLED",
    "CLOSING",
    "COMPRESSED_FLAG",
    "CONTROL_LIMIT",
    "FENCE",
    "FLAGS_OFFSET",
    "HEADER_SIZE",
    "HELLO",
    "HELLO_REPLY",
    "MAX_WAITING_POSTS",
    "MESSAGE_LIMIT_HEADER",
    "MESSAGE_TYPE_OFFSET",
    "NATIVE_MAX_REPLY",
    "NATIVE_MAX_REQUEST",
    "SIZED",
    "SUBPROTOCOL",
    "TIMEOUT",
    "TOO_LARGE",
    "VERBOSE_FLAG",
    "WAIT_INTERVAL",
    "Action",
    "CancelAction",
    "CancelNotice",
    "CancelRequested",
    "ClientProtocol",
    "ClientRequest",
    "ClientRequestState",
    "ConnectionState",
    "CredentialsRejected",
    "ErrorNotice",
    "ExchangeState",
    "Failure",
    "Frame",
    "FrameChunk",
    "FrameError",
    "Header",
    "LazyFrame",
    "Message",
    "MessageType",
    "NativeExchange",
    "Outcome",
    "Outgoing",
    "ProtocolViolation",
    "Reply",
    "RequestPipeline",
    "RequestState",
    "Result",
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
    "parse_message_limit",
    "query_frame",
    "split_verbose",
    "string_frame",
    "string_in",
    "too_large",
]
