"""WebSocket connections behind one interface, `Transport`, and how they are opened."""

from ._accepting import (
    AcceptOptions,
    BadRequest,
    HttpRequestServed,
    HttpResponse,
    OpeningProgress,
    OpeningRequest,
    PeerTooSlow,
    Refusal,
    accept,
    refuse,
)
from ._base import (
    CLOSE_TIMEOUT,
    SHIELDED_CLOSE_TIMEOUT,
    WRITE_STALL_TIMEOUT,
    SharedMessage,
    Transport,
    TryAgainLater,
    aclose_shielded,
    check_size,
    close_code,
    closed_by_us,
    end,
)
from ._connecting import connect
from ._hosted import HostedRequest, HostedTransport
from ._hosted_asgi import AsgiRequest, Event, Receive, Scope, Send, answer_http, opening_request
from ._hosted_trio_websocket import TrioWebSocketRequest, WebSocketRequest
from ._keepalive import KeepAlive

__all__ = [
    "CLOSE_TIMEOUT",
    "SHIELDED_CLOSE_TIMEOUT",
    "WRITE_STALL_TIMEOUT",
    "AcceptOptions",
    "AsgiRequest",
    "BadRequest",
    "Event",
    "HostedRequest",
    "HostedTransport",
    "HttpRequestServed",
    "HttpResponse",
    "KeepAlive",
    "OpeningProgress",
    "OpeningRequest",
    "PeerTooSlow",
    "Receive",
    "Refusal",
    "Scope",
    "Send",
    "SharedMessage",
    "Transport",
    "TrioWebSocketRequest",
    "TryAgainLater",
    "WebSocketRequest",
    "accept",
    "aclose_shielded",
    "answer_http",
    "check_size",
    "close_code",
    "closed_by_us",
    "connect",
    "end",
    "opening_request",
    "refuse",
]
