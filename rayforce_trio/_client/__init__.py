"""The client: written once, against anyio, for trio and asyncio."""

from ._client import WSClient
from ._connection import VerboseResult, WSClientConnection

__all__ = ["VerboseResult", "WSClient", "WSClientConnection"]
