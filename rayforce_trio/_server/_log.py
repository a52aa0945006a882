"""The log of one connection: every line names it, and nothing that a peer sends can look like a line of its own."""

import logging

logger = logging.getLogger("rayforce_trio.server")


class ConnectionLog:
    """Writes lines like `connection 7 (ann at 192.0.2.7:40312): open`.

    Args:
        connection_id: counts the server's connections, from 1.
        peer: the client's address.

    Attributes:
        principal: the name of who was let in; `None`: nobody yet, or nobody asks.
    """

    def __init__(self, connection_id: int, peer: str) -> None:
        self.connection_id = connection_id
        self.peer = peer
        self.principal: str | None = None

    def info(self, text: str, *arguments: object) -> None:
        self._log(logging.INFO, text, arguments)

    def warning(self, text: str, *arguments: object) -> None:
        self._log(logging.WARNING, text, arguments)

    def error(self, text: str, *arguments: object) -> None:
        self._log(logging.ERROR, text, arguments)

    def exception(self, text: str, *arguments: object) -> None:
        """Log an error with the traceback of the exception that is being handled."""
        self._log(logging.ERROR, text, arguments, traceback=True)

    def _log(self, level: int, text: str, arguments: tuple[object, ...], *, traceback: bool = False) -> None:
        if logger.isEnabledFor(level):
            who = self.peer if self.principal is None else f"{self.principal} at {self.peer}"
            line = f"connection {self.connection_id} ({who}): {text % arguments}"
            logger.log(level, "%s", printable(line), exc_info=traceback)


def printable(text: str) -> str:
    """Return a text with everything escaped that is no visible character, and no space."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
