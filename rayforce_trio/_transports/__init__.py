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
from ._keepalive import KeepAlive

__all__ = [
    "CLOSE_TIMEOUT",
    "SHIELDED_CLOSE_TIMEOUT",
    "WRITE_STALL_TIMEOUT",
    "AcceptOptions",
    "BadRequest",
    "HttpRequestServed",
    "HttpResponse",
    "KeepAlive",
    "OpeningProgress",
    "OpeningRequest",
    "PeerTooSlow",
    "Refusal",
    "SharedMessage",
    "Transport",
    "TryAgainLater",
    "accept",
    "aclose_shielded",
    "check_size",
    "close_code",
    "closed_by_us",
    "connect",
    "end",
    "refuse",
]
