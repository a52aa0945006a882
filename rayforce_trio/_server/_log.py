"""The log of one connection: every line names it, and nothing that a peer sends can look like a line of its own."""

import logging
import sys
import traceback

from .._protocol import (
    HEADER_SIZE,
    SIZED,
    Frame,
    MessageType,
    ServerRequest,
    query_frame,
)
from .._text import escape_controls
from .._transports import close_code
from .._websocket import CloseCode
from ..errors import ConnectionClosed, RayforceWSError

QUERY_LIMIT = 200
"""How much of a query is logged, in characters."""

_STRING = query_frame("", MessageType.SYNC, 0)[HEADER_SIZE]  # what a query as text begins with
_TEXT = HEADER_SIZE + SIZED.size

logger = logging.getLogger("rayforce_trio.server")


class ConnectionLog:
    """Writes lines like `connection 7 (ann at 192.0.2.7:40312): open`.

    Args:
        connection_id: counts the server's connections, from 1.
        peer: the client's address.
        queries: whether to log what clients ask.

    Attributes:
        principal: the name of who was let in; `None`: nobody yet, or nobody asks.
    """

    def __init__(self, connection_id: int, peer: str, *, queries: bool = False) -> None:
        self.connection_id = connection_id
        self.peer = peer
        self.queries = queries
        self.principal: str | None = None

    def refused(self, status: int, reason: str) -> None:
        """Log that the connection was refused, and why."""
        level = logging.WARNING if status >= 500 else logging.INFO  # what the operator can do something about
        self._log(level, "refused with %d: %s", (status, reason))

    def not_opened(self, why: str) -> None:
        """Log that the connection ended before it was open, without being refused."""
        self.info("not opened: %s", why)

    def closed(self, error: RayforceWSError | None) -> None:
        """Log what ended the connection once it was open; `None`: the server ended."""
        if error is None or (isinstance(error, ConnectionClosed) and not error.by_peer):
            self.info("closed with code %d: the server is shutting down", CloseCode.GOING_AWAY)
        elif isinstance(error, ConnectionClosed):
            said = f": {error.reason}" if error.reason else ""
            self.info("closed by the client with code %d%s", error.code, said)
        elif (code := close_code(error)) is None:
            self.info("lost: %s", error)
        else:
            level = logging.WARNING if code == CloseCode.INTERNAL_ERROR else logging.INFO
            self._log(level, "closed with code %d: %s", (code, error))

    def query(self, request: ServerRequest) -> None:
        """Log the beginning of a query."""
        what = "post" if request.number is None else f"request {request.number}"
        self.info("%s: %s", what, beginning_of(request.frame))

    def debug(self, text: str, *arguments: object) -> None:
        self._log(logging.DEBUG, text, arguments)

    def info(self, text: str, *arguments: object) -> None:
        self._log(logging.INFO, text, arguments)

    def warning(self, text: str, *arguments: object) -> None:
        self._log(logging.WARNING, text, arguments)

    def error(self, text: str, *arguments: object) -> None:
        self._log(logging.ERROR, text, arguments)

    def exception(self, text: str, *arguments: object) -> None:
        """Log an error with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, text, arguments, error=sys.exception())

    def _log(self, level: int, text: str, arguments: tuple[object, ...], *, error: BaseException | None = None) -> None:
        if not logger.isEnabledFor(level):
            return
        who = self.peer if self.principal is None else f"{self.principal} at {self.peer}"
        line = escape_controls(f"connection {self.connection_id} ({who}): {text % arguments}")
        if error is None:
            logger.log(level, "%s", line)
            return
        information = (type(error), error, error.__traceback__)
        record = logger.makeRecord(logger.name, level, __file__, 0, "%s", (line,), information)
        record.exc_text = printable_traceback(error)  # which formatters take instead of making their own
        logger.handle(record)


def printable_traceback(error: BaseException) -> str:
    """Return an exception's traceback, indented: its messages may quote what a peer has sent, line breaks included."""
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    return "\n".join(f"  {escape_controls(line)}" for line in lines)


def beginning_of(frame: Frame) -> str:
    """Return the beginning of the query in a frame, on one line; of one that is no text, the frame's size."""
    if len(frame) < _TEXT or frame[HEADER_SIZE] != _STRING:
        return f"({len(frame)} bytes)"
    end = _TEXT + 4 * QUERY_LIMIT
    text = " ".join(bytes(frame[_TEXT:end]).decode("utf-8", "replace").split())
    return text if len(frame) <= end and len(text) <= QUERY_LIMIT else f"{text[:QUERY_LIMIT]}..."
