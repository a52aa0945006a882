"""The client: written once, against anyio, for trio and asyncio."""

from ._client import WSClient
from ._connection import WSClientConnection

__all__ = ["WSClient", "WSClientConnection"]
