"""The client: written once, against anyio, for trio and asyncio."""

from ._batches import Batches
from ._bulk import Progress
from ._client import ClientOptions, Nursery, PendingConnection, WSClient
from ._connection import VerboseResult, WSClientConnection
from ._subscription import Subscription, Update

__all__ = [
    "Batches",
    "ClientOptions",
    "Nursery",
    "PendingConnection",
    "Progress",
    "Subscription",
    "Update",
    "VerboseResult",
    "WSClient",
    "WSClientConnection",
]
