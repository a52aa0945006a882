"""Asking a server."""

from .. import VerboseResult, WSClientConnection
from ..errors import RayforceWSError


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
