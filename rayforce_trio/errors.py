"""Every exception a caller of `rayforce_trio` can meet.

    RayforceError                    rayforce-py's base class
    +-- RayforceTypeError, ...       an evaluation failed in the engine: rayforce-py's own class for the error's code
    +-- RayforceThreadError          Rayforce was used outside the thread that imported it
    +-- RayforceValueError           an argument is out of range
    +-- RayforceWSError              anything of the network
        +-- ConnectError             no connection could be made
        |   +-- HandshakeError       the peer answered, but not with our handshake, or not in time
        |   +-- ConnectionRejected   the peer answered with an HTTP status that refuses
        +-- ListenError              the server could not listen
        +-- EngineError              the engine behind a server cannot be started or reached, or is lost
        +-- ConnectionClosed         the connection was closed, by either side, in good order
        +-- ConnectionLost           the connection broke, or the peer fell silent
        +-- MessageTooLarge          a message exceeded a limit, ours or the peer's
        +-- ProtocolError            the peer broke the protocol
        +-- QueryTimeout             the server stopped the query, which took too long
        +-- ServerBusy               the server did not begin with the query: too many were unanswered
        +-- ServerClosing            the server did not begin with the query: it is shutting down
        +-- UnsupportedQuery         what was given is no query; also a `TypeError`

The engine's classes are rayforce-py's own (`rayforce.errors`), so that `except RayforceError` keeps working.
"""

from rayforce.errors import (
    RayforceArityError,
    RayforceConversionError,
    RayforceDomainError,
    RayforceError,
    RayforceEvaluationError,
    RayforceIndexError,
    RayforceInitError,
    RayforceLengthError,
    RayforceLimitError,
    RayforceNYIError,
    RayforceOkError,
    RayforceOSError,
    RayforceParseError,
    RayforcePartedTableError,
    RayforceQueryCompilationError,
    RayforceTCPError,
    RayforceThreadError,
    RayforceTypeError,
    RayforceTypeRegistryError,
    RayforceUserError,
    RayforceValueError,
    RayforceWSError,
)

__all__ = [
    "ConnectError",
    "ConnectionClosed",
    "ConnectionLost",
    "ConnectionRejected",
    "EngineError",
    "HandshakeError",
    "ListenError",
    "MessageTooLarge",
    "ProtocolError",
    "QueryTimeout",
    "RayforceArityError",
    "RayforceConversionError",
    "RayforceDomainError",
    "RayforceError",
    "RayforceEvaluationError",
    "RayforceIndexError",
    "RayforceInitError",
    "RayforceLengthError",
    "RayforceLimitError",
    "RayforceNYIError",
    "RayforceOSError",
    "RayforceOkError",
    "RayforceParseError",
    "RayforcePartedTableError",
    "RayforceQueryCompilationError",
    "RayforceTCPError",
    "RayforceThreadError",
    "RayforceTypeError",
    "RayforceTypeRegistryError",
    "RayforceUserError",
    "RayforceValueError",
    "RayforceWSError",
    "ServerBusy",
    "ServerClosing",
    "UnsupportedQuery",
]


class ConnectError(RayforceWSError):
    """No connection could be made: refused, unreachable, unknown host name."""


class HandshakeError(ConnectError):
    """The peer is there, but the opening handshake failed or did not end within its time.

    An HTTP status below 300, where 101 was due, is such a failure.
    """


class ConnectionRejected(ConnectError):
    """The server refused the opening handshake, with an HTTP status of 300 or above.

    `str` shows the first line of the body, at most 200 characters.

    Attributes:
        status: the HTTP status.
        body: what the peer said with it, at most 64 KiB of text.
    """

    def __init__(self, status: int, body: str = "") -> None:
        super().__init__(status, body)
        self.status = status
        self.body = body

    def __str__(self) -> str:
        first_line = self.body.strip().partition("\n")[0][:200]
        said = f": {first_line}" if first_line else ""
        return f"the server refused the connection with HTTP status {self.status}{said}"


class ListenError(RayforceWSError):
    """The server could not listen on its address: port in use, no permission, no such address."""


class EngineError(RayforceWSError):
    """The engine behind a server cannot be started or reached, or was lost. Raised on the server's side.

    A client whose session is concerned is refused with HTTP status 503, or closed with code 1011, and this text.
    """


class ConnectionClosed(RayforceWSError):
    """The connection was closed in good order.

    Attributes:
        code: the WebSocket close code (RFC 6455, section 7.4): 1000 normal, 1001 going away, 1005 none given.
        reason: the text that came with it.
        by_peer: whether the peer closed it, and not this side.
        message: the error in one sentence, which `str` returns.
    """

    def __init__(self, code: int, reason: str = "", *, by_peer: bool = True) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.by_peer = by_peer
        said = f": {reason}" if reason else ""
        self.message = (
            f"the peer closed the connection with code {code}{said}" if by_peer else "the connection is closed"
        )

    @property
    def going_away(self) -> bool:
        """Whether the peer said that it goes away, code 1001, as a server does that is shut down in good order."""
        return self.by_peer and self.code == 1001

    def __str__(self) -> str:
        return self.message


class ConnectionLost(RayforceWSError):
    """The connection broke without a closing handshake, or the peer fell silent."""


class MessageTooLarge(RayforceWSError):
    """A message exceeded `max_message_size`, ours or the peer's; the connection is closed by it."""


class ProtocolError(RayforceWSError):
    """The peer sent something the protocol does not allow; the connection is closed by it.

    Attributes:
        message: the error in one sentence, which `str` returns.
        code: the close code it is closed with.
    """

    def __init__(self, message: str, code: int = 1002) -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return self.message


class QueryTimeout(RayforceWSError):
    """The query ran for longer than the server's `query_timeout`, and was stopped; the connection is usable.

    What it has done before stays done.
    """


class ServerBusy(RayforceWSError):
    """More requests of the connection were unanswered than the server's `max_in_flight`; the connection is usable.

    This one was not begun with, and can be sent again.
    """


class ServerClosing(RayforceWSError):
    """The server is shutting down, and did not begin with a request that came so late.

    It can be sent again, to a server that is not. The connection will be closed with code 1001.
    """


class UnsupportedQuery(RayforceWSError, TypeError):
    """What was given to `execute` or `post` is nothing that can be sent as a query."""
