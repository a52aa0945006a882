"""The interface of engines. To add an engine, subclass the two classes in this module."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import inf
from typing import NamedTuple, Protocol

import trio

from .._protocol import Failure, Frame, Push, Reply, Result
from .._tasks import enable_ki_protection
from .._websocket import CloseCode
from ..errors import EngineError


class Client(NamedTuple):
    """The client for which a session is opened. Clients with the same address and name count as one.

    Attributes:
        network: its IPv4 address, or its /64 network of IPv6: see `network_of`.
        principal: the name of its principal; empty if it was not authenticated.
    """

    network: str
    principal: str

    def __str__(self) -> str:
        return f"{self.principal} at {self.network}" if self.principal else self.network


class ClientMustWait(EngineError):
    """Requests of the client have ended the engine, so the client must wait before it can connect again.

    Attributes:
        retry_after: how long the client must wait, in seconds.
    """

    def __init__(self, text: str, retry_after: float) -> None:
        super().__init__(text)
        self.retry_after = retry_after


class ClientEndedEngine(EngineError):
    """The engine ended while the only request in flight was one of this client."""

    _close_code = CloseCode.POLICY_VIOLATION


class FeedHandler(Protocol):
    """Takes what a `Feed` reports. None of these methods is a checkpoint, and none raises an exception."""

    def subscribed(self, topic: str, next_sequence: int) -> None:
        """Take the confirmation of a `subscribe`. The next push of the topic has the number `next_sequence`."""

    def refused(self, topic: str, reason: str) -> None:
        """Take the refusal of a `subscribe`."""

    def pushed(self, push: Push) -> None:
        """Take a push. Those of a topic come in order, behind its confirmation."""


class Feed(ABC):
    """A connection to an engine on which it pushes updates of topics."""

    @abstractmethod
    def subscribe(self, topic: str) -> None:
        """Have the engine push the updates of a topic, as soon as it can. No checkpoint."""

    @abstractmethod
    def unsubscribe(self, topic: str) -> None:
        """End a subscription, after all earlier requests. No checkpoint. It is not confirmed."""

    @abstractmethod
    async def run(self, handler: FeedHandler) -> None:
        """Connect to the engine, and report what it sends until cancelled. A checkpoint.

        If cancelled, nothing is left open, and the engine has no subscription.

        Raises:
            EngineError: the engine cannot be reached, or is lost, and with it any number of updates.
        """


class Engine(ABC):
    """The base class of engines, which evaluate queries: in this process, in another one, or on another machine.

    Create an `InProcessEngine`, a `NativeEngine`, a `NativeProcess` or a `RoundRobinEngine`, and pass it to `WSServer`,
    which runs it. The page "Internals" of the documentation describes how to write an engine.
    """

    @enable_ki_protection
    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run the engine's background work until cancelled. The default only waits. A checkpoint.

        Meant for `nursery.start`: `task_status.started()` is called when sessions can be opened.

        Raises:
            RayforceError: the engine cannot be started, or has ended.
        """
        task_status.started()
        await trio.sleep_forever()

    @property
    def pushes(self) -> bool:
        """Whether clients can publish in the engine, which then pushes the updates: see `open_feed`.

        The default is False: the server passes updates on by itself.
        """
        return False

    @property
    def is_down(self) -> bool:
        """Whether the engine is known to be unable to open sessions now. The default is False."""
        return False

    def open_feed(self) -> Feed:
        """Return a feed that is not connected yet. Only for engines that push and are a `Session.source`."""
        raise NotImplementedError("this engine does not push")

    @abstractmethod
    async def open_session(self) -> "Session":
        """Open a session for one connection. A checkpoint; if cancelled, nothing is left open.

        Raises:
            EngineError: the engine cannot be reached or rejects the connection. The client receives the text. A busy
                engine may reject the connection later: see `Session.ready`.
        """

    async def open_session_for(self, client: Client) -> "Session":  # noqa: ARG002 - for subclasses
        """Open a session for a connection of this client. The server calls this. The default is `open_session`.

        A checkpoint; if cancelled, nothing is left open.

        Raises:
            ClientMustWait: the client must wait before it can connect again.
            EngineError: as for `open_session`.
        """
        return await self.open_session()


def _ignore(count: int) -> None:
    """Do nothing with a number of bytes."""


class Session(ABC):
    """The access of one connection to the engine.

    `run` must run in a separate task while another task calls `request`, `post` and `receive_some`. Any task may call
    `cancel`. Call `aclose` at the end, when no other call is in progress. After `run` has raised, a cancelled call may
    still be ending.

    Attributes:
        unread: how many bytes of the last reply `receive_some` still has to return. The caller must receive all of them
            before the next request.
        evaluate: like `request`, but synchronous, if the engine is in this process; otherwise `None`. The caller must
            yield to other tasks often enough.
        ready: whether the engine has accepted the session. Until then, it is busy with a query of another client, or
            does not respond.
        timed: whether `running_since` is used. The task that opens the session sets it.
        max_reply_size: the longest reply, in bytes; `inf`: no limit. The task that opens the session sets it. A session
            that returns long replies in parts returns an error of code `toobig` instead of a longer one.
        on_stored: called when bytes of a long reply have been stored for `receive_some`, with their number.
        can_start_ahead: whether `start_ahead` may start a request now.
        source: the engine whose pushes belong to this session; `None`: the engine that opened it.
    """

    unread = 0
    ready = True
    timed = False
    max_reply_size: float = inf
    on_stored: Callable[[int], None] = staticmethod(_ignore)
    can_start_ahead = False
    source: Engine | None = None
    evaluate: Callable[[Frame], Reply] | None = None

    @property
    def stored(self) -> int:
        """The number of bytes of replies that are stored for `receive_some`, in memory and in files."""
        return 0

    @enable_ki_protection
    async def run(self) -> None:
        """Run the session's background work until cancelled; the default is to wait. A checkpoint.

        Raises:
            EngineError: the engine is lost. Pending calls of `request` and `post` do not return.
        """
        await trio.sleep_forever()

    @abstractmethod
    async def request(self, frame: Frame) -> Reply:
        """Evaluate a request and return its reply, which may be an error of the evaluation.

        Always a checkpoint, so that other connections can run. If cancelled, the request may or may not have been
        evaluated, and only `aclose` may be called.

        Args:
            frame: a whole IPC frame of any message type.

        Returns:
            The reply. If `unread` is not 0 afterwards, the frame in the `Result` is incomplete: `receive_some` returns
            the rest.

        Raises:
            EngineError: the engine is lost. Only `aclose` may be called.
        """

    async def request_unlogged(self, frame: Frame) -> Reply:
        """Like `request`, for a frame that the engine must not record in its journal. Also like it if cancelled.

        An engine with a journal may not tell why an evaluation failed, or what it printed. The default is `request`,
        for engines without a journal.
        """
        return await self.request(frame)

    async def open_another(self) -> "Session | None":
        """Open another session with the same engine, to tidy up after this one; `None` if that is not possible.

        A checkpoint; if cancelled, nothing is left open. The caller runs the session, and closes it.

        Raises:
            EngineError: the engine cannot be reached.
        """
        await trio.lowlevel.checkpoint()
        return None

    async def receive_some(self) -> bytes:
        """Return the next bytes of a reply that has unread bytes. A checkpoint only if it has to wait.

        If cancelled, only `aclose` may be called.

        Raises:
            EngineError: the engine is lost or sent a damaged reply. Only `aclose` may be called.
        """
        raise NotImplementedError("this session returns complete replies")

    async def receive_whole(self, reply: Result) -> bytes:
        """Return the frame of the last reply, including its unread part. A checkpoint only if it has to wait.

        If cancelled, only `aclose` may be called. Raises as `receive_some`.
        """
        parts = [reply.frame[:]]
        while self.unread:
            parts.append(await self.receive_some())
        return b"".join(parts)

    def start(self, frame: Frame, answer: Callable[[Reply], None]) -> bool:  # noqa: ARG002 - for subclasses
        """Start the request now if the session is idle and the engine would not block; returns whether it did so.

        No checkpoint. If this returns false, call `request` instead.

        Args:
            frame: as for `request`.
            answer: called with the reply, as `request` would return it, in the task of `run`. It may call `start`.
        """
        return False

    def start_ahead(self, frame: Frame) -> int:  # noqa: ARG002 - for subclasses
        """Start a request while the one before it is in flight, if the engine takes several at a time. No checkpoint.

        When it is the turn of this request, call `take_reply`, and if that returns `None`, `start`. While there are
        requests that were started ahead, the next request must be the first of them.

        Args:
            frame: as for `request`.

        Returns:
            The ticket for `cancel_ahead`, or 0 if the request was not started.
        """
        return 0

    def take_reply(self) -> Reply | None:
        """Return the reply to the first request that was started ahead; `None` if it has not arrived. No checkpoint.

        Call this when it is the turn of that request. As with `request`, the reply may be incomplete: see `unread`.
        """
        raise NotImplementedError("this session does not start requests ahead")

    def cancel_ahead(self, ticket: int) -> None:
        """Like `cancel`, for the request with this ticket. Its turn may have come by now."""
        raise NotImplementedError("this session does not start requests ahead")

    def abandon_ahead(self) -> None:  # noqa: B027 - nothing by default
        """Have the engine stop all requests that were started ahead and have not had their turn. No checkpoint."""

    @abstractmethod
    async def post(self, frame: Frame) -> Failure | None:
        """Evaluate a post, and return the error of the evaluation if the engine reports it.

        Otherwise like `request`, also if cancelled.
        """

    def running_since(self) -> tuple[float, int] | None:
        """Estimate since when the engine has been evaluating a request or post in flight, on trio's clock.

        Returns:
            The time, and the ticket of the request, or 0 if it is the request's turn. `None` if nothing is in flight,
            if the reply has begun, if the request was stopped already, or if the engine cannot be stopped.
        """
        return None

    @abstractmethod
    def cancel(self) -> None:
        """Ask the engine to stop the request or post in flight. No checkpoint.

        `request` then returns a `Failure` with the code `cancel`, or the value if the evaluation was complete already.
        Without a request or post in flight, nothing happens.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Stop the request in flight and release all resources, within 2 seconds. A checkpoint. Idempotent.

        If cancelled, it still releases them.
        """
