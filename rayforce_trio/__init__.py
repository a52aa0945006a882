"""RayforceDB over WebSocket, with structured concurrency.

errors                      every exception
_protocol                   the conversation, without I/O
_codec                      queries and values to frames and back; the engine's FFI
_transports                 WebSocket libraries behind one interface, and the choice between event loops
_engines                    what evaluates
_client | _server           the two ends
"""

from . import errors
from ._client import WSClient, WSClientConnection
from ._engines import InProcessEngine
from ._server import WSServer, WSServerConnection

__version__ = "0.1.0"

__all__ = [
    "InProcessEngine",
    "WSClient",
    "WSClientConnection",
    "WSServer",
    "WSServerConnection",
    "__version__",
    "errors",
]
