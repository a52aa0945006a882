"""RayforceDB over WebSocket, with structured concurrency.

errors                      the exceptions
auth                        authentication functions for servers
statistics, prometheus      the numbers of a server; prometheus needs its library, so import it yourself
_websocket                  RFC 6455 without I/O
_protocol                   the Rayforce protocol without I/O
_values                     the wire layout of values, without Rayforce objects
_codec                      queries and values to frames and back; the engine's FFI
_streams                    TCP, Unix sockets and TLS on both event loops
_transports                 WebSocket connections on both event loops
_engines                    the engines that evaluate queries
_client | _server           the two ends of a connection
_cli                        the command line, built on the public names
_tasks, _text, _addresses, _checks, _credentials   shared by several packages
"""

from . import auth, errors, statistics
from ._client import (
    Batches,
    ClientConnectionState,
    ClientOptions,
    Nursery,
    PendingConnection,
    Progress,
    StateChanges,
    Subscription,
    Update,
    VerboseResult,
    WSClient,
    WSClientConnection,
)
from ._codec import SQL, ArrowStream, Parameters, Query, TabularData, Value, columns_of, draw, sql
from ._engines import Engine, InProcessEngine, NativeEngine, NativeProcess, RoundRobinEngine
from ._protocol import Position
from ._server import WSServer, WSServerConnection, systemd_sockets
from ._values._columns import Columns

__version__ = "0.2.0.dev0"

__all__ = [
    "SQL",
    "ArrowStream",
    "Batches",
    "ClientConnectionState",
    "ClientOptions",
    "Columns",
    "Engine",
    "InProcessEngine",
    "NativeEngine",
    "NativeProcess",
    "Nursery",
    "Parameters",
    "PendingConnection",
    "Position",
    "Progress",
    "Query",
    "RoundRobinEngine",
    "StateChanges",
    "Subscription",
    "TabularData",
    "Update",
    "Value",
    "VerboseResult",
    "WSClient",
    "WSClientConnection",
    "WSServer",
    "WSServerConnection",
    "__version__",
    "auth",
    "columns_of",
    "draw",
    "errors",
    "sql",
    "statistics",
    "systemd_sockets",
]
