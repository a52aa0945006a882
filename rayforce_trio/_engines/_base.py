"""What evaluates, behind one interface. To add an engine, subclass the two classes here."""

from abc import ABC, abstractmethod

import trio

from .._protocol import Failure, Reply


class Engine(ABC):
    """Something that evaluates queries: in this process, in another, on another machine."""

    @abstractmethod
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Do what the engine has to do in the background, until cancelled.

        Meant for `nursery.start`: `task_status.started()` is called once sessions can be opened.

        Raises:
            RayforceError: the engine cannot start, or ended.
        """

    @abstractmethod
    async def open_session(self) -> "Session":
        """Open a session for one connection. A checkpoint; if cancelled, nothing is left open.

        Raises:
            RayforceWSError: the engine cannot be reached.
        """


class Session(ABC):
    """One connection's way to the engine. One task at a time calls `request` and `post`; any may call `cancel`."""

    @abstractmethod
    async def request(self, frame: bytes) -> Reply:
        """Evaluate a request and return its reply; an error of the evaluation is a reply, too.

        Always a checkpoint, so that no connection starves another. If it is cancelled, only `aclose` may follow;
        whether the request was carried out is unknown.

        Args:
            frame: a whole IPC frame.

        Raises:
            RayforceWSError: the engine is lost; the session is of no more use.
        """

    @abstractmethod
    async def post(self, frame: bytes) -> Failure | None:
        """Evaluate a post; otherwise like `request`. Returns the error of the evaluation, if it is known by then."""

    @abstractmethod
    def cancel(self) -> None:
        """Ask the engine to stop the request or post under way, if it can.

        `request` then returns as ever: the value if that came first, else a `Failure` with the code `cancel`. Nothing
        happens if nothing is under way. No checkpoint.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Stop what is under way and give back what the session holds. Bounded in time; a checkpoint."""
