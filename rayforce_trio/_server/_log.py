"""The log of a server's connections. Every line names its connection; a peer cannot forge lines or flood the log."""

import logging
import re
import sys
import traceback

import trio

from .._protocol import (
    HEADER_SIZE,
    SIZED,
    Frame,
    MessageType,
    ServerRequest,
    query_frame,
)
from .._tasks import enable_ki_protection
from .._text import counted, escape_controls
from .._transports import close_code
from .._websocket import CloseCode
from ..errors import ConnectionClosed, RayforceWSError
from ._log_summary import LogSummary

QUERY_LIMIT = 200
"""The length to which logged queries are cut, in characters."""

LINE_LIMIT = 2000
"""The length to which lines are cut, in characters. An engine's message may quote a long value of a client."""

_STRING = query_frame("", MessageType.SYNC, 0)[HEADER_SIZE]  # the first byte of a text query
_TEXT = HEADER_SIZE + SIZED.size

_OPTION = re.compile(r"\((max_\w+)\)")  # in the reason of a refusal
_ARGUMENTS = re.compile(r"(%[a-z])+")

logger = logging.getLogger("rayforce_trio.server")


class LogLimiter:
    """Limit the lines that networks cause in each second, and log a summary of the lines left out."""

    def __init__(self) -> None:
        self._summary = LogSummary()
        self._left_out = trio.Event()

    def allow(self, kind: str, network: str, level: int, size: int) -> bool:
        """Return whether a line may be logged; if not, it will be in the summary. Arguments as for `LogSummary`."""
        allowed = self._summary.allow(kind, network, level, size, trio.current_time())
        if not allowed:
            self._left_out.set()
        return allowed

    @enable_ki_protection
    async def run(self) -> None:
        """Log a summary when it is due, until cancelled. A checkpoint. If cancelled, call `report`."""
        while True:
            await self._left_out.wait()
            await trio.sleep_until(self._summary.report_due)
            self.report()

    def report(self) -> None:
        """Log the summary of the lines left out so far, if there are any."""
        self._left_out = trio.Event()
        level, text = self._summary.take()
        if text:
            logger.log(level, "%s", text)


class ConnectionLog:
    """Writes lines like `connection 7 (ann at 192.0.2.7:40312): open`.

    Args:
        connection_id: counts the server's connections, from 1.
        peer: the client's address.
        queries: whether to log the clients' queries.
        limiter: limits the lines that the peer's network causes, except those about queries; `None`: no limit.
        network: the peer's network.

    Attributes:
        principal: the name of the authenticated client; `None` before authentication, or without it.
    """

    def __init__(
        self,
        connection_id: int,
        peer: str,
        *,
        queries: bool = False,
        limiter: LogLimiter | None = None,
        network: str = "",
    ) -> None:
        self.connection_id = connection_id
        self.peer = peer
        self.queries = queries
        self.network = network
        self._limiter = limiter
        self.principal: str | None = None

    def refused(self, status: int, reason: str) -> None:
        """Log the refusal of the connection: as a warning if the operator can do something about it."""
        level = logging.WARNING if status >= 500 else logging.INFO
        option = _OPTION.search(reason)
        kind = f"refused with {status}" + (f" ({option[1]})" if option else "")
        self._log(level, "refused with %d: %s", (status, reason), kind=kind)

    def not_opened(self, reason: str) -> None:
        """Log that the connection ended before it was opened, without a refusal."""
        self.info("not opened: %s", reason)

    def closed(self, error: RayforceWSError | None) -> None:
        """Log the end of an opened connection. `None` as the error means that the server has stopped."""
        if error is None or (isinstance(error, ConnectionClosed) and not error.by_peer):
            self.info("closed with code %d: the server is shutting down", CloseCode.GOING_AWAY)
        elif isinstance(error, ConnectionClosed):
            said = f": {error.reason}" if error.reason else ""
            self.info("closed by the client with code %d%s", error.code, said)
        elif (code := close_code(error)) is None:
            self.info("lost: %s", error)
        else:
            ours = code in (CloseCode.INTERNAL_ERROR, CloseCode.TRY_AGAIN_LATER)
            level = logging.WARNING if ours else logging.INFO
            self._log(level, "closed with code %d: %s", (code, error))

    def query(self, request: ServerRequest, message: Frame | str) -> None:
        """Log the beginning of the query in the message that was received as `request`, which may be refused."""
        what = "post" if request.number is None else f"request {request.number}"
        self._log(logging.INFO, "%s: %s", (what, beginning_of(message)), is_limited=False)

    def debug(self, text: str, *arguments: object) -> None:
        self._log(logging.DEBUG, text, arguments)

    def info(self, text: str, *arguments: object) -> None:
        self._log(logging.INFO, text, arguments)

    def warning(self, text: str, *arguments: object) -> None:
        self._log(logging.WARNING, text, arguments)

    def error(self, text: str, *arguments: object) -> None:
        self._log(logging.ERROR, text, arguments)

    def exception(self, text: str, *arguments: object) -> None:
        """Log an error with the traceback of the current exception."""
        self._log(logging.ERROR, text, arguments, error=sys.exception())

    def _log(
        self,
        level: int,
        text: str,
        arguments: tuple[object, ...],
        *,
        error: BaseException | None = None,
        kind: str = "",
        is_limited: bool = True,
    ) -> None:
        if not logger.isEnabledFor(level):
            return
        who = self.peer if self.principal is None else f"{self.principal} at {self.peer}"
        line = escape_controls(f"connection {self.connection_id} ({who}): {_shortened(text % arguments)}")
        shown_error = "" if error is None else printable_traceback(error)
        if is_limited and self._limiter is not None:
            size = len(line) + len(shown_error)
            if not self._limiter.allow(kind or _kind_of(text), self.network, level, size):
                return
        if error is None:
            logger.log(level, "%s", line)
            return
        information = (type(error), error, error.__traceback__)
        record = logger.makeRecord(logger.name, level, __file__, 0, "%s", (line,), information)
        record.exc_text = shown_error  # formatters use this text instead of their own
        logger.handle(record)


def _shortened(text: str) -> str:
    return text if len(text) <= LINE_LIMIT else f"{text[:LINE_LIMIT]}..."


def _kind_of(text: str) -> str:
    """Return the kind of a line, from its text before the arguments are filled in."""
    return _ARGUMENTS.sub("...", text.removesuffix(": %s"))


def printable_traceback(error: BaseException) -> str:
    """Return the traceback of an exception, indented, because its messages may quote line breaks from a peer."""
    lines = "".join(traceback.format_exception(error)).rstrip("\n").split("\n")
    return "\n".join(f"  {escape_controls(line)}" for line in lines)


def beginning_of(message: Frame | str) -> str:
    """Return the beginning of the text query in a message, on one line. For other messages, return the size."""
    text = text_of(message, QUERY_LIMIT)
    return f"({counted(len(message), 'byte')})" if text is None else text


def text_of(message: Frame | str, limit: int) -> str | None:
    """Return the beginning of the text query in a message, on one line; `None` for other messages.

    Args:
        message: a message of a client.
        limit: the length to which a longer text is cut, in characters.
    """
    if isinstance(message, str) or len(message) < _TEXT or message[HEADER_SIZE] != _STRING:
        return None
    end = _TEXT + 4 * limit
    text = " ".join(bytes(message[_TEXT:end]).decode("utf-8", "replace").split())
    return text if len(message) <= end and len(text) <= limit else f"{text[:limit]}..."
