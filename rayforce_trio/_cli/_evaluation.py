"""Connecting to a server, and asking it."""

from collections.abc import Iterator
from contextlib import contextmanager

from .. import VerboseResult, WSClient, WSClientConnection
from ..errors import ConnectionRejected, RayforceWSError
from ._exits import Refused


@contextmanager
def naming(client: WSClient) -> Iterator[None]:
    """Have a refusal say which server it comes from, which may be another one than was meant.

    Raises:
        Refused: the server refused the connection.
    """
    try:
        yield
    except ConnectionRejected as error:
        raise Refused(client.uri, error) from None


async def evaluate(connection: WSClientConnection, expression: str) -> VerboseResult:
    """Evaluate an expression on the server, with what it prints, if the server tells that.

    A checkpoint; if cancelled, as `WSClientConnection.execute`.

    Raises:
        RayforceError: as `WSClientConnection.execute_verbose`.
    """
    try:
        return await connection.execute_verbose(expression)
    except RayforceWSError as error:
        if type(error) is not RayforceWSError or connection.closed:
            raise
    return VerboseResult("", await connection.execute(expression), None)  # it speaks the baseline only
