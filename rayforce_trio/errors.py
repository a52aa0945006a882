"""The exceptions of `rayforce_trio`.

    RayforceError                    base class of rayforce-py
    +-- RayforceTypeError, ...       an evaluation failed: rayforce-py's class for the engine's error code
    |   +-- NoColumns                the result of `stream` has no columns
    +-- RayforceThreadError          Rayforce was used outside the thread that imported it
    +-- RayforceConversionError      a value cannot be represented, in the engine or in Python
    +-- RayforceValueError           an argument is out of range
    +-- RayforceWSError              base class of network errors
        +-- ConnectError             the connection could not be opened
        |   +-- HandshakeError       the opening handshake failed or timed out
        |   +-- ConnectionRejected   the server refused the connection with an HTTP status
        +-- ListenError              the server could not listen on its address
        +-- EngineError              the engine cannot be started or reached, or is lost
        +-- ConnectionClosed         either side closed the connection
        +-- ConnectionLost           the connection broke, or the peer fell silent
        +-- MessageTooLarge          a message exceeded the limit of either side
        +-- ProtocolError            the peer violated the protocol
        +-- QueryTimeout             the server stopped the query because it ran too long
        +-- ResultTooLarge           the result is longer than the server sends
        +-- ServerBusy               too many requests are unanswered; this one was not started
        +-- ServerClosing            the server is shutting down; the request was not started
        +-- SlowSubscriber           the updates of a subscription were not taken fast enough
        +-- SubscriptionGap          updates of a subscription are missing
        +-- UnsupportedByServer      the server lacks a feature that the call needs
        +-- UnsupportedQuery         the argument is not a query; also a `TypeError`

The classes of evaluation errors are those of `rayforce.errors`, so `except RayforceError` works with both packages.
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
    "NoColumns",
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
    "ResultTooLarge",
    "ServerBusy",
    "ServerClosing",
    "SlowSubscriber",
    "SubscriptionGap",
    "UnsupportedByServer",
    "UnsupportedQuery",
]


class ConnectError(RayforceWSError):
    """The connection could not be opened: it was refused, or the host is unreachable or unknown."""


class HandshakeError(ConnectError):
    """The peer was reached, but the opening handshake failed or timed out.

    A response with an HTTP status below 300 other than 101 also counts as a failed handshake.
    """

    _untrusted = False  # the peer's TLS certificate cannot be trusted, or it does not trust ours
    _wrong_peer = False  # the peer is not a Rayforce WebSocket server


class ConnectionRejected(ConnectError):
    """The server refused the opening handshake with an HTTP status of 300 or above.

    `str` shows the first line of the body, at most 200 characters.

    Attributes:
        status (int): the HTTP status.
        body (str): the text of the response, at most 64 KiB.
        retry_after (float | None): the number of seconds to wait before the next attempt, if the server gave one.
    """

    def __init__(self, status: int, body: str = "", retry_after: float | None = None) -> None:
        super().__init__(status, body, retry_after)
        self.status = status
        self.body = body
        self.retry_after = retry_after

    def __str__(self) -> str:
        first_line = self.body.strip().partition("\n")[0][:200]
        said = f": {first_line}" if first_line else ""
        return f"the server refused the connection with HTTP status {self.status}{said}"


class ListenError(RayforceWSError):
    """The server could not listen: the port is in use, or the address does not exist or is not allowed."""


class EngineError(RayforceWSError):
    """The engine of a server cannot be started or reached, or is lost. Raised in the server.

    Clients receive its text: in a refusal with HTTP status 503, or as the reason of close code 1011. The close code is
    1008 if requests of this client have ended the engine repeatedly.
    """

    _close_code = 1011


class ConnectionClosed(RayforceWSError):
    """Either side closed the connection with a closing handshake.

    Attributes:
        code (int): the WebSocket close code (RFC 6455, section 7.4): 1000 normal, 1001 going away, 1005 no code.
        reason (str): the text of the close frame.
        by_peer (bool): whether the peer closed the connection, and not this side.
        message (str): the error in one sentence, which `str` returns.
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
        """Whether the peer closed with code 1001, as a server does that shuts down."""
        return self.by_peer and self.code == 1001

    def __str__(self) -> str:
        return self.message


class ConnectionLost(RayforceWSError):
    """The connection broke without a closing handshake, or the peer fell silent.

    On a connection with `reconnect=True`, a call raises this if its query was sent and not answered. The query may or
    may not have been carried out, and the connection stays usable.
    """

    _unsent = False  # nothing of the call was sent


class MessageTooLarge(RayforceWSError):
    """A message exceeded the `max_message_size` of either side. The connection is closed."""


class NoColumns(RayforceTypeError):
    """The result of `stream` has no columns, so it cannot be divided into batches. The query has been evaluated.

    Attributes:
        message (str): the error in one sentence, which `str` returns.
        value (Value): the value of the query, as `execute` returns it.
        output (str): the text that the query printed.
    """

    def __init__(self, message: str, value: object, output: str = "") -> None:
        super().__init__(message, value, output)
        self.message = message
        self.value = value
        self.output = output

    def __str__(self) -> str:
        return self.message


class ProtocolError(RayforceWSError):
    """The peer violated the protocol. The connection is closed.

    Attributes:
        message (str): the error in one sentence, which `str` returns.
        code (int): the close code that this side sent.
    """

    def __init__(self, message: str, code: int = 1002) -> None:
        super().__init__(message, code)
        self.message = message
        self.code = code

    def __str__(self) -> str:
        return self.message


class QueryTimeout(RayforceWSError):
    """The query ran longer than the server's `query_timeout`, and was stopped. The connection stays usable.

    Changes that the query made before the stop remain.
    """


class ResultTooLarge(RayforceWSError):
    """The result of the query is longer than the server's `max_reply_size`. The connection stays usable.

    The query was carried out. Ask for fewer columns or rows, or use `WSClientConnection.stream`.
    """


class ServerBusy(RayforceWSError):
    """The connection has more unanswered requests than the server's `max_in_flight`. The connection stays usable.

    The request was not started; it is safe to retry.
    """


class ServerClosing(RayforceWSError):
    """The server is shutting down and did not start the request. It is about to close the connection with code 1001.

    It is safe to send the request again, to another server or after the restart.
    """


class SlowSubscriber(RayforceWSError):
    """The updates of a subscription were not taken fast enough, and its buffer is full. The connection stays usable.

    Subscribe again: with a larger `max_buffer`, with another `overflow`, or with a snapshot.
    """


class SubscriptionGap(RayforceWSError):
    """Updates of a subscription are missing, or the server cannot resume from the position.

    The connection stays usable. Subscribe again, with a snapshot to get the present state. The server keeps a limited
    number of updates, and the numbers of a topic begin anew when its engine restarts.
    """


class UnsupportedByServer(RayforceWSError):
    """The server lacks a feature that the call needs. Nothing was evaluated, and the connection stays usable."""


class UnsupportedQuery(RayforceWSError, TypeError):
    """The argument of `execute`, `post` or another call is not a query."""
