"""How a command ends: its exit codes, and the exceptions that stand for them."""

from ..errors import ConnectError, ConnectionClosed, ConnectionLost, ConnectionRejected, ProtocolError, RayforceError

OK = 0
FAILED = 1
USAGE = 2
UNREACHABLE = 3
INTERRUPTED = 130

NETWORK_ERRORS = (ConnectError, ConnectionClosed, ConnectionLost, ProtocolError)
"""With one of these a query is lost, whatever it was."""


class UsageError(Exception):
    """The command cannot do what its arguments ask for; the text says why, and what to do."""


class CommandFailed(Exception):
    """The command has failed; the text says why."""


class Interrupted(Exception):
    """Ctrl-C; the text, if there is any, says what the user has to know."""


class Refused(ConnectionRejected):
    """A server refused the connection; the text says which one."""

    def __init__(self, uri: str, error: ConnectionRejected) -> None:
        super().__init__(error.status, error.body)
        self._uri = uri

    def __str__(self) -> str:
        return f"{self._uri}: {super().__str__()}"


class OutputClosed(Exception):
    """Whoever read the output has had enough."""


def code_of(error: RayforceError) -> int:
    """Return the exit code of a command that ends with this error."""
    return UNREACHABLE if isinstance(error, NETWORK_ERRORS) else FAILED
