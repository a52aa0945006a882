"""The streams of one connection of the server, without I/O: how many there are, and which rows are returned.

    OPENING --opened--> OPEN --all rows returned--> FINISHED

A stream is removed from every state: by its end, or because it could not be opened.
"""

import enum
from dataclasses import dataclass

from .._text import counted
from ._replies import Failure
from ._server_calls import NextBatch, OpenStream, TakeRows

MAX_STREAMS = 16
"""The limit on the streams of a connection."""

MAX_STREAM_BYTES = 1024**3
"""The limit on the bytes of the results of several streams of a connection. A single one may have any size."""


class StreamState(enum.Enum):
    """The state of a stream."""

    OPENING = enum.auto()
    """The engine evaluates the query."""
    OPEN = enum.auto()
    """There may be batches that have not been returned."""
    FINISHED = enum.auto()
    """All rows have been returned, or there are none."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a batch: the number of the first one, and how many there are."""

    start: int
    count: int


@dataclass(slots=True)
class _Stream:
    batch_size: int
    state: StreamState = StreamState.OPENING
    size: int = 0  # bytes of the result
    rows: int = 0  # of the result
    position: int = 0  # rows that have been returned


class OpenStreams:
    """The streams of one connection by their ids."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}

    def open(self, call: OpenStream) -> Failure | None:
        """Add a stream, whose query is to be evaluated, or return why it is refused."""
        if call.stream in self._streams:
            return Failure("domain", f"the connection already has a stream {call.stream}")
        if len(self._streams) >= MAX_STREAMS:
            return Failure(
                "limit",
                f"the connection already has {MAX_STREAMS} open streams, the most that are allowed; end one first",
            )
        self._streams[call.stream] = _Stream(call.batch_size)
        return None

    def opened(self, stream: int, rows: int, size: int) -> Failure | None:
        """Record how many rows and bytes the result has, or return why the stream is refused, and remove it."""
        opened = self._streams[stream]
        if len(self._streams) > 1 and sum(each.size for each in self._streams.values()) + size > MAX_STREAM_BYTES:
            del self._streams[stream]
            return Failure(
                "limit",
                f"the results of this connection's open streams would have more than {MAX_STREAM_BYTES} bytes "
                "together; end another stream first",
            )
        opened.state, opened.rows, opened.size = StreamState.OPEN, rows, size
        return None

    def has_no_rows(self, stream: int) -> None:
        """Record that the result cannot be divided into batches. The stream remains until its end."""
        self._streams[stream].state = StreamState.FINISHED

    def state(self, stream: int) -> StreamState | None:
        """Return the state of a stream, or `None` if there is no such stream."""
        found = self._streams.get(stream)
        return None if found is None else found.state

    def next_rows(self, call: NextBatch) -> Rows | Failure:
        """Return the rows of the next batch. The first batch may have none; there is at least one."""
        found = self._opened(call.stream)
        if isinstance(found, Failure):
            return found
        if found.state is StreamState.FINISHED:
            return Failure("domain", f"all rows of stream {call.stream} have already been sent")
        return Rows(found.position, min(found.batch_size, found.rows - found.position))

    def take_rows(self, call: TakeRows) -> Rows | Failure:
        """Return the rows that a call asks for. They do not change which batch is next."""
        found = self._opened(call.stream)
        if isinstance(found, Failure):
            return found
        if call.first + call.size > found.rows:
            return Failure(
                "domain",
                f"stream {call.stream} has {counted(found.rows, 'row')}, so it has no rows {call.first} to "
                f"{call.first + call.size - 1}; the first row is row 0",
            )
        return Rows(call.first, call.size)

    def returned(self, stream: int, rows: Rows) -> None:
        """Record that the engine has returned the rows that `next_rows` returned."""
        found = self._streams[stream]
        found.position = rows.start + rows.count
        if found.position == found.rows:
            found.state = StreamState.FINISHED

    def remove(self, stream: int) -> None:
        """Forget a stream. Idempotent."""
        self._streams.pop(stream, None)

    def _opened(self, stream: int) -> _Stream | Failure:
        found = self._streams.get(stream)
        if found is None or found.state is StreamState.OPENING:
            return Failure("domain", f"the connection has no stream {stream}")
        return found
