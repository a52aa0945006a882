"""Message pipes behind one interface, `Transport`, and the choice between them by the running event loop."""

from collections.abc import Sequence
from typing import Protocol

import sniffio

from .._addresses import Endpoint
from ..errors import RayforceWSError
from . import _trio_opening
from ._base import (
    CLOSE_TIMEOUT,
    SHIELDED_CLOSE_TIMEOUT,
    WRITE_STALL_TIMEOUT,
    Transport,
    aclose_shielded,
    check_size,
    close_code,
    closed_by_us,
    end,
)
from ._keepalive import KeepAlive
from ._trio_opening import BadRequest, HttpRequestServed, HttpResponse, OpeningRequest, Refusal, accept, refuse

__all__ = [
    "CLOSE_TIMEOUT",
    "SHIELDED_CLOSE_TIMEOUT",
    "WRITE_STALL_TIMEOUT",
    "BadRequest",
    "HttpRequestServed",
    "HttpResponse",
    "KeepAlive",
    "OpeningRequest",
    "Refusal",
    "Transport",
    "accept",
    "aclose_shielded",
    "check_size",
    "close_code",
    "closed_by_us",
    "connect",
    "end",
    "refuse",
]


async def connect(
    endpoint: Endpoint,
    *,
    subprotocols: Sequence[str],
    headers: Sequence[tuple[str, str]] = (),
    max_message_size: int,
    keepalive: KeepAlive,
) -> Transport:
    """Open a WebSocket connection on the running event loop.

    A checkpoint; if cancelled, nothing is left open.

    Args:
        headers: what the opening request has beside the headers of its own; they may be secret.

    Raises:
        ConnectError: no connection could be made; `HandshakeError` and `ConnectionRejected` say more.
        RayforceWSError: this event loop is not supported, or lacks a library; the error says which to install.
    """
    library = sniffio.current_async_library()
    if library == "trio":
        open_transport: _Connect = _trio_opening.connect
    elif library == "asyncio":
        open_transport = _asyncio_connect()
    else:
        raise RayforceWSError(f"the {library} event loop is not supported; use trio or asyncio")
    return await open_transport(
        endpoint,
        subprotocols=subprotocols,
        headers=headers,
        max_message_size=max_message_size,
        keepalive=keepalive,
    )


class _Connect(Protocol):
    async def __call__(
        self,
        endpoint: Endpoint,
        *,
        subprotocols: Sequence[str],
        headers: Sequence[tuple[str, str]],
        max_message_size: int,
        keepalive: KeepAlive,
    ) -> Transport: ...


def _asyncio_connect() -> _Connect:
    try:
        from . import _asyncio_websockets  # only here: an optional dependency
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "websockets":
            raise
        raise RayforceWSError(
            "on asyncio the client needs the websockets library; install it with: pip install 'rayforce-trio[asyncio]'"
        ) from error
    return _asyncio_websockets.connect
