"""A connection for one command: its calls end on Ctrl-C or at a deadline, and report how a cancelled query ended."""

import enum
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import anyio
from anyio.abc import TaskGroup

from .. import Parameters, Query, VerboseResult, WSClient, WSClientConnection
from ..errors import ConnectionRejected, RayforceError, RayforceWSError
from ._console import CommandFailed, Interrupted, Refused
from ._interrupts import Interruptible

T = TypeVar("T")

STOP_TIMEOUT = 0.5
"""Seconds to wait for the server to confirm that it stopped a query."""

CLOSE_TIMEOUT = 0.5
"""Seconds to wait for the closing handshake, which a busy server does not answer."""


class Stop(enum.Enum):
    """How a cancelled query ended. The values are texts for users."""

    STOPPED = "the query was stopped"
    ENDED = "the query ended before the server could stop it"
    UNKNOWN = "the server has not confirmed that it stopped the query, which may still be running"


@contextmanager
def with_server_name(client: WSClient) -> Iterator[None]:
    """Name the server in the error of a refused connection: the user may have meant another server.

    Raises:
        Refused: the server refused the connection.
    """
    try:
        yield
    except ConnectionRejected as error:
        raise Refused(client.uri, error) from None


async def evaluate(connection: WSClientConnection, query: Query, params: Parameters | None = None) -> VerboseResult:
    """Evaluate a query on the server; the result contains the printed output if the server sends it.

    A checkpoint. If cancelled, the query is cancelled as by `WSClientConnection.execute`.

    Raises:
        RayforceError: as `WSClientConnection.execute_verbose`.
    """
    try:
        return await connection.execute_verbose(query, params)
    except RayforceWSError as error:
        if type(error) is not RayforceWSError or connection.closed:
            raise
    # The server supports only the baseline protocol.
    return VerboseResult("", await connection.execute(query, params), None)


class Session:
    """A connection whose calls end on Ctrl-C or at a deadline, and then report whether the server stopped the query.

    Attributes:
        connection: the connection. Its tasks must not be in the scope that Ctrl-C or the deadline cancels: they are
            needed to find out how the query ended.
    """

    def __init__(
        self,
        connection: WSClientConnection,
        interruptible: Interruptible,
        *,
        deadline: float = math.inf,
        time_limit: float = math.inf,
    ) -> None:
        self.connection = connection
        self._interruptible = interruptible
        self._deadline = deadline
        self._time_limit = time_limit
        self._is_busy = False  # a cancelled call is still unanswered

    @classmethod
    async def connect(
        cls, client: WSClient, interruptible: Interruptible, tasks: TaskGroup, *, time_limit: float | None = None
    ) -> "Session":
        """Connect to a server. A checkpoint; if cancelled, no connection is left open.

        Args:
            client: connects to the server.
            interruptible: receives Ctrl-C.
            tasks: runs the connection's tasks.
            time_limit: seconds until all calls must be done, connecting included; `None` means no limit.

        Raises:
            Interrupted: the user pressed Ctrl-C.
            CommandFailed: the time limit has passed.
            Refused: the server refused the connection.
            RayforceError: as `WSClient.connect`.
        """
        time_limit = math.inf if time_limit is None else time_limit
        deadline = anyio.current_time() + time_limit
        with anyio.move_on_at(deadline), with_server_name(client):
            connection = await interruptible.call(lambda: client.connect(tasks))
            return cls(connection, interruptible, deadline=deadline, time_limit=time_limit)
        raise CommandFailed(f"no connection within {time_limit:g} s")

    async def call(
        self,
        function: Callable[[], Awaitable[T]],
        *,
        show_progress: bool = True,
        status: Callable[[], str] | None = None,
    ) -> T:
        """Call an async function that uses the connection for one call at a time, and return its result.

        A checkpoint. If cancelled, the function is cancelled; the query may still be running on the server.

        Args:
            function: takes no arguments.
            show_progress: show the elapsed time on standard error, if that is a terminal.
            status: returns a text that a terminal shows before the elapsed time.

        Raises:
            Interrupted: the user pressed Ctrl-C; the exception has a text if the server did not stop the query, and
                otherwise the output of the query.
            CommandFailed: the deadline has passed; the text says how the query ended.
        """
        stopped_before = self.connection.stopped_queries
        try:
            with anyio.move_on_at(self._deadline):
                return await self._interruptible.call(function, show_progress=show_progress, status=status)
        except Interrupted:
            stop = await self._wait_until_stopped(stopped_before)
            if stop is Stop.STOPPED:
                raise Interrupted(output=self.connection.stopped_output) from None
            raise Interrupted(stop.value) from None
        stop = await self._wait_until_stopped(stopped_before)
        raise CommandFailed(f"no answer within {self._time_limit:g} s; {stop.value}")

    async def _wait_until_stopped(self, stopped_before: int) -> Stop:
        """Wait until the server has answered the cancelled call, for at most `STOP_TIMEOUT` seconds.

        A checkpoint. If cancelled, it is not known how the query ended.
        """
        with anyio.move_on_after(STOP_TIMEOUT), suppress(RayforceError):
            await self.connection.execute("null")  # answered after the cancelled call
            return Stop.STOPPED if self.connection.stopped_queries > stopped_before else Stop.ENDED
        self._is_busy = True
        return Stop.UNKNOWN

    async def aclose(self) -> None:
        """Close the connection; a busy server delays this for at most `CLOSE_TIMEOUT` seconds. A checkpoint.

        If cancelled, the connection is closed at once.
        """
        try:
            if not self._is_busy:
                with anyio.move_on_after(CLOSE_TIMEOUT):
                    await self.connection.close()
        finally:
            self.connection.abort()
