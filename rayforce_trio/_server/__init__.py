"""The server: who may connect, and what becomes of them. Trio only."""

from ._connection import WSServerConnection
from ._server import WSServer

__all__ = ["WSServer", "WSServerConnection"]
