"""The server: it accepts connections, authorizes clients and serves their requests. Trio only."""

from ._connection import WSServerConnection
from ._server import WSServer
from ._systemd import systemd_sockets

__all__ = ["WSServer", "WSServerConnection", "systemd_sockets"]
