"""WebSocket (RFC 6455) without I/O."""

from ._connection import EndedBy, Ending, LocalProtocolError, State, WebSocketConnection
from ._frames import (
    NO_STATUS,
    REASON_LIMIT,
    Close,
    CloseCode,
    Ping,
    Pong,
    WebSocketViolation,
    message_too_long,
    text_too_long,
    truncate_reason,
)
from ._http_heads import HEAD_LIMIT, MAX_HEADERS
from ._opening_request import (
    HttpMethod,
    HttpRequest,
    InvalidRequest,
    UpgradeRequest,
    key_in,
    normalized_request,
    pack_request,
    parse_request,
)
from ._opening_response import (
    BODY_LIMIT,
    InvalidResponse,
    ResponseParser,
    UpgradeAccepted,
    UpgradeRejected,
    normalized_response,
)

__all__ = [
    "BODY_LIMIT",
    "HEAD_LIMIT",
    "MAX_HEADERS",
    "NO_STATUS",
    "REASON_LIMIT",
    "Close",
    "CloseCode",
    "EndedBy",
    "Ending",
    "HttpMethod",
    "HttpRequest",
    "InvalidRequest",
    "InvalidResponse",
    "LocalProtocolError",
    "Ping",
    "Pong",
    "ResponseParser",
    "State",
    "UpgradeAccepted",
    "UpgradeRejected",
    "UpgradeRequest",
    "WebSocketConnection",
    "WebSocketViolation",
    "key_in",
    "message_too_long",
    "normalized_request",
    "normalized_response",
    "pack_request",
    "parse_request",
    "text_too_long",
    "truncate_reason",
]
