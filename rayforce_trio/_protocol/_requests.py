"""A request as the server sees it: its place in the pipeline, and how it ended."""

import enum
from collections.abc import Callable
from dataclasses import dataclass

from ._control import TraceNotice
from ._frames import Frame
from ._replies import Failure
from ._server_calls import ServerCall


class RequestState(enum.Enum):
    """The place of a request or post in the pipeline."""

    QUEUED = enum.auto()
    """It waits for the requests before it, or is the next one to start."""
    RUNNING = enum.auto()
    """The engine evaluates it. If it was started ahead, its turn to be answered may not have come yet."""
    STREAMING = enum.auto()
    """Its answer is being sent, as a whole or in parts."""
    DONE = enum.auto()
    """It was answered, or it will never be answered."""


class Outcome(enum.Enum):
    """The reason why a request does not simply get the engine's reply."""

    NONE = enum.auto()
    """There is no reason: the engine evaluates it."""
    INVALID = enum.auto()
    """The engine cannot evaluate it."""
    CANCELLED = enum.auto()
    """The client cancelled it, or is gone."""
    TIMED_OUT = enum.auto()
    """It ran for longer than `query_timeout`."""
    BUSY = enum.auto()
    """Too many requests of the connection were unanswered when it arrived."""
    CLOSING = enum.auto()
    """The server is shutting down: it arrived too late, or did not finish in time."""


@dataclass(eq=False, slots=True)
class ServerRequest:
    """A request or post that has arrived. Only the pipeline writes to it.

    Attributes:
        number: 1, 2, 3, ... in the order of arrival; `None` for a post.
        frame: the frame to evaluate. It is empty once the request cannot be started any more.
        arrived_at: the time that was given to `RequestPipeline.receive`.
        failure: the error that answers the request, once that is known; `None` for a value.
        state: its place in the pipeline.
        ticket: the number that the engine's session gave to a request that was started ahead; otherwise 0.
        call: the call that the server carries out; `None` if the engine evaluates the frame, or if it cannot be
            started any more.
        outcome: the reason why it does not get the engine's reply. A request that was cancelled or timed out while it
            was running may still get a value: the engine may have finished first.
    """

    number: int | None
    frame: Frame
    arrived_at: float = 0.0
    failure: Failure | None = None
    state: RequestState = RequestState.QUEUED
    outcome: Outcome = Outcome.NONE
    ticket: int = 0
    call: ServerCall | None = None


NewRequest = Callable[[int | None, Frame, float, TraceNotice | None], ServerRequest]
"""Makes a request from its number, its frame, its time of arrival and its trace. It may be of a subclass."""


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The client cancelled a request that has no answer yet.

    Attributes:
        request: the cancelled request.
        running: whether the engine must be stopped now. Otherwise the request is never started.
    """

    request: ServerRequest
    running: bool
