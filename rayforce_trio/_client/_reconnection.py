"""Decide when and where to connect, without I/O. Times, in seconds, and random numbers come in as arguments.

    event       CONNECTING                          CONNECTED                   WAITING             CLOSED
    connected   CONNECTED                           -                           -                   -
    failed      CONNECTING: the next server; after  -                           -                   -
                the last one, WAITING, or CLOSED
                if all servers have refused for
                good
    lost        -                                   WAITING; after a drain,     -                   -
                                                    CONNECTING
    waited      -                                   -                           CONNECTING          -
    close       CLOSED                              CLOSED                      CLOSED              CLOSED

The servers are tried in their order, in rounds. Between two rounds there is an exponential backoff with full jitter:
after a restart, all clients come back at different times. A connection that ends soon after it was made counts like one
that failed: otherwise a server that accepts connections and closes them at once would be asked without a pause.
"""

from enum import Enum, auto
from math import inf

from ..errors import ConnectionRejected, HandshakeError, RayforceWSError
from ._states import ClientConnectionState

FIRST_DELAY = 0.1
"""The upper bound of the first delay, in seconds. It doubles with each round that fails."""

MAX_DELAY = 5.0
"""The largest upper bound of a delay, in seconds. All clients are back this long after a server, at most."""

STABLE_AFTER = 5.0
"""The seconds that a connection must have lasted for the delays to begin again with the first one."""

MAX_RETRY_AFTER = 3600.0
"""The longest wait that a server can ask of a client, in seconds."""

_CONNECTING, _CONNECTED = ClientConnectionState.CONNECTING, ClientConnectionState.CONNECTED
_WAITING, _CLOSED = ClientConnectionState.WAITING, ClientConnectionState.CLOSED


class FailureKind(Enum):
    """Why an attempt to connect has failed."""

    TEMPORARY = auto()
    """The server cannot be reached, or refuses for a reason that will pass."""
    UNEXPECTED = auto()
    """It does not look like the right server. Before the first connection, the address is probably wrong. Later, a
    proxy probably answers for a server that is being restarted."""
    PERMANENT = auto()
    """The server refuses this client, or cannot be trusted. Only a human can change that."""


class Reconnection:
    """When and where to connect. The other methods than `close` are allowed in the states of the table only.

    Args:
        servers: the number of servers.

    Attributes:
        state: the state; it begins with CONNECTING.
        server: while CONNECTING, the index of the server to connect to.
        resume_at: while WAITING, the time at which to call `waited`.
    """

    def __init__(self, servers: int) -> None:
        self.state = _CONNECTING
        self.server = 0
        self.resume_at = inf
        self._not_before = [-inf] * servers  # when a server may be asked again, after its `Retry-After`
        self._given_up: set[int] = set()  # servers that have refused for good since the last connection
        self._delays = 0  # since the last stable connection
        self._connected_at: float | None = None  # of the last connection

    def connected(self, now: float) -> None:
        """Handle a connection to `server`."""
        assert self.state is _CONNECTING
        self.state = _CONNECTED
        self._connected_at = now
        self._given_up.clear()

    def failed(self, kind: FailureKind, retry_after: float | None, now: float, random: float) -> None:
        """Handle a failed attempt to connect to `server`.

        Args:
            kind: why it has failed.
            retry_after: how long the server wants to be left alone, in seconds, if it said so.
            now: the current time.
            random: a random number from 0 to 1.
        """
        assert self.state is _CONNECTING
        first = self._connected_at is None
        if kind is FailureKind.PERMANENT or (kind is FailureKind.UNEXPECTED and first):
            self._given_up.add(self.server)
        elif retry_after is not None:
            self._not_before[self.server] = now + min(retry_after, MAX_RETRY_AFTER)
        if (following := self._first(self.server + 1, now)) is not None:
            self.server = following
        elif len(self._given_up) == len(self._not_before):
            self.state = _CLOSED
        else:
            self._wait(now, random)

    def lost(self, *, drained: bool, now: float, random: float) -> None:
        """Handle the end of a connection.

        Args:
            drained: whether the server has ended it because it stops, after it has carried out what it had started.
            now: the current time.
            random: a random number from 0 to 1.
        """
        assert self.state is _CONNECTED
        assert self._connected_at is not None
        if now - self._connected_at >= STABLE_AFTER:
            self._delays = 0
        if drained and not self._delays and (server := self._first(0, now)) is not None:
            self._delays = 1
            self.state, self.server = _CONNECTING, server
        else:
            self._wait(now, random)

    def waited(self, now: float) -> None:
        """Handle the end of a delay, at the time `resume_at` or later."""
        assert self.state is _WAITING
        server = self._first(0, max(now, self.resume_at))
        assert server is not None
        self.state, self.server = _CONNECTING, server

    def close(self) -> None:
        """End this for good. Idempotent."""
        self.state = _CLOSED

    def _first(self, start: int, now: float) -> int | None:
        """Return the first server from an index on that may be asked now; `None` if there is none."""
        for server in range(start, len(self._not_before)):
            if server not in self._given_up and self._not_before[server] <= now:
                return server
        return None

    def _wait(self, now: float, random: float) -> None:
        """Wait for the next round. The jitter is also added to a `Retry-After`, or all clients would come at once."""
        earliest = min(time for server, time in enumerate(self._not_before) if server not in self._given_up)
        jitter = random * min(MAX_DELAY, FIRST_DELAY * 2.0 ** min(self._delays, 30))
        self._delays += 1
        self.state = _WAITING
        self.resume_at = max(now, earliest) + jitter


def failure_kind_of(error: RayforceWSError) -> FailureKind:
    """Return what an error of an attempt to connect means for the next attempts."""
    match error:
        case ConnectionRejected(status=404) | HandshakeError(_wrong_peer=True):
            return FailureKind.UNEXPECTED
        case ConnectionRejected(status=408 | 425 | 429):
            return FailureKind.TEMPORARY
        case ConnectionRejected(status=status) if status < 400:
            return FailureKind.UNEXPECTED  # a redirect: to a page that says so, or to a login
        case ConnectionRejected(status=status) if status < 500:
            return FailureKind.PERMANENT
        case HandshakeError(_untrusted=True):
            return FailureKind.PERMANENT
    return FailureKind.TEMPORARY
