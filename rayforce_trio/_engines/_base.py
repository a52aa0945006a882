"""What evaluates, behind one interface. To add an engine, subclass the two classes here."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import trio

from .._protocol import Failure, Frame, Reply


class Engine(ABC):
    """Something that evaluates queries: in this process, in another, on another machine."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what the engine has to do in the background, until cancelled; by itself that is nothing. A checkpoint.

        Meant for `nursery.start`: `task_status.started()` is called once sessions can be opened.

        Raises:
            RayforceError: the engine cannot start, or ended.
        """
        task_status.started()
        await trio.sleep_forever()

    @property
    def is_down(self) -> bool:
        """Whether it is known, without asking it, that no session can be opened at present; by itself it never is."""
        return False

    @abstractmethod
    async def open_session(self) -> "Session":
        """Open a session for one connection. A checkpoint; if cancelled, nothing is left open.

        Raises:
            EngineError: the engine cannot be reached; the text is shown to the client. Or, if it was busy, later: see
                `Session.ready`.
        """


class Session(ABC):
    """One connection's way to the engine.

    `run` runs in a task of its own, beside the one that calls `request`, `receive_some` and `post`; any task may call
    `cancel`. In the end, when no other call is under way, comes `aclose`.

    Attributes:
        unread: how many bytes of the last reply are still to be had from `receive_some`. They must be had, all of them,
            before the next request.
        evaluate: does the same as `request`, but at once, if the engine is this process; else `None`. Whoever calls it
            sees to it that no connection starves another.
        ready: whether the engine has answered yet; one that has not is busy with somebody else's query, or hangs.
        timed: whether `running_since` will be asked; set by whoever opens the session.
    """

    unread = 0
    ready = True
    timed = False
    evaluate: Callable[[Frame], Reply] | None = None

    async def run(self) -> None:
        """Do what the session has to do in the background, until cancelled; by itself that is nothing.

        Raises:
            EngineError: the engine is lost; what `request` and `post` wait for does not come.
        """
        await trio.sleep_forever()

    @abstractmethod
    async def request(self, frame: Frame) -> Reply:
        """Evaluate a request and return its reply; an error of the evaluation is a reply, too.

        Always a checkpoint, so that no connection starves another. If it is cancelled, only `aclose` may follow;
        whether the request was carried out is unknown.

        Args:
            frame: a whole IPC frame; whatever its message type, it is a request.

        Returns:
            If `unread` is not 0 afterwards, the frame in the `Result` is only the beginning of it.

        Raises:
            EngineError: the engine is lost; the session is of no more use.
        """

    async def receive_some(self) -> bytes:
        """Return the next piece of a reply of which something is unread. A checkpoint; if cancelled, as `request`.

        Raises:
            EngineError: the engine is lost; the session is of no more use.
        """
        raise NotImplementedError("this session returns replies whole")

    def start(self, frame: Frame, answer: Callable[[Reply], None]) -> bool:  # noqa: ARG002 - a session may have no such way
        """Begin with a request, if that needs no waiting; returns whether it did. No checkpoint.

        Args:
            frame: as for `request`.
            answer: called with the reply, in the task that `run` runs in; the same holds for it as for what `request`
                returns. It may call `start`.
        """
        return False

    @abstractmethod
    async def post(self, frame: Frame) -> Failure | None:
        """Evaluate a post; otherwise like `request`. Returns the error of the evaluation, if the engine tells it."""

    def running_since(self) -> float | None:
        """Return since when, at the earliest, the engine has been at work on the request or post under way.

        On trio's clock. `None` if there is none, or its reply has begun, or the engine could not be stopped anyway.
        """
        return None

    @abstractmethod
    def cancel(self) -> None:
        """Ask the engine to stop the request or post under way, if it can.

        `request` then returns as ever: the value if that came first, else a `Failure` with the code `cancel`. Nothing
        happens if nothing is under way. No checkpoint.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Stop what is under way and give back what the session holds, within 2 seconds. A checkpoint. Idempotent.

        If cancelled, it does all the same.
        """
