"""The client: written once, against anyio, for trio and asyncio."""

from ._batches import Batches
from ._bulk import Progress
from ._client import ClientOptions, WSClient
from ._connection import VerboseResult, WSClientConnection
from ._pending import Nursery, PendingConnection
from ._states import ClientConnectionState, StateChanges
from ._subscription import Subscription, Update

__all__ = [
    "Batches",
    "ClientConnectionState",
    "ClientOptions",
    "Nursery",
    "PendingConnection",
    "Progress",
    "StateChanges",
    "Subscription",
    "Update",
    "VerboseResult",
    "WSClient",
    "WSClientConnection",
]
