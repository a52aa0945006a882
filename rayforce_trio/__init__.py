"""RayforceDB over WebSocket, with structured concurrency.

errors                      every exception
auth                        who is asking, and how a server finds out
statistics                  what a server tells of itself
prometheus                  the same for Prometheus; needs its library, so import it yourself
_protocol                   the conversation, without I/O
_values                     the wire layout of values, without Rayforce objects
_codec                      queries and values to frames and back; the engine's FFI
_tasks, _addresses          what several rooms need: tasks that end together, hosts and ports
_credentials                the same: user names, passwords and tokens
_text                       the same: text that is safe to print
_transports                 WebSocket libraries behind one interface, and the choice between event loops
_engines                    what evaluates
_client | _server           the two ends
_cli                        the command line, on the public names alone
"""

from . import auth, errors, statistics
from ._client import ClientOptions, Nursery, PendingConnection, Progress, VerboseResult, WSClient, WSClientConnection
from ._codec import SQL, ArrowStream, Parameters, Query, TabularData, Value, columns_of, draw, sql
from ._engines import Engine, InProcessEngine, NativeEngine, NativeProcess, RoundRobinEngine
from ._server import WSServer, WSServerConnection
from ._values._columns import Columns

__version__ = "0.1.0"

__all__ = [
    "SQL",
    "ArrowStream",
    "ClientOptions",
    "Columns",
    "Engine",
    "InProcessEngine",
    "NativeEngine",
    "NativeProcess",
    "Nursery",
    "Parameters",
    "PendingConnection",
    "Progress",
    "Query",
    "RoundRobinEngine",
    "TabularData",
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
]
