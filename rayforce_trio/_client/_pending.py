"""`PendingConnection`, which opens connections and starts their tasks."""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Protocol

import anyio

from .._tasks import DetachedTask, enable_ki_protection, running_loop
from .._transports import closed_by_us
from ..errors import RayforceWSError
from ._connection import WSClientConnection


class Nursery(Protocol):
    """The type of `trio.Nursery` and `anyio.abc.TaskGroup`, which can run a connection's task."""

    def start_soon(self, async_fn: Callable[[], Coroutine[Any, Any, None]], /) -> Any:
        """Start a task, which runs until it ends or the nursery is cancelled."""


@dataclass(frozen=True, slots=True)
class _Block:
    """A block of `async with client.connect()` that was entered and not left yet.

    Attributes:
        entered_by: the id of the task that entered it.
        task: the connection's task; `None` if a nursery of the caller's holds it.
    """

    entered_by: int
    connection: WSClientConnection
    task: DetachedTask | None


class PendingConnection:
    """A connection that is not open yet, returned by `WSClient.connect`. Enter it with `async with`, or await it.

    Each use opens a new connection, and raises the errors that `WSClient.connect` lists.
    """

    def __init__(self, open_: Callable[[], Awaitable[WSClientConnection]], nursery: Nursery | None) -> None:
        self._open = open_
        self._nursery = nursery
        self._blocks: list[_Block] = []

    @enable_ki_protection
    def __await__(self) -> Generator[Any, Any, WSClientConnection]:
        return self._connect().__await__()

    @enable_ki_protection
    async def _connect(self) -> WSClientConnection:
        """Open a connection and start its task. A checkpoint; if cancelled, no connection is left open."""
        connection, _ = await self._start()
        return connection

    async def _start(self) -> tuple[WSClientConnection, DetachedTask | None]:
        """Open a connection and start its task. A checkpoint; if cancelled, no connection is left open."""
        connection = await self._open()
        exchange = connection._exchange
        if self._nursery is None:
            connection._is_unclosed = True
            return connection, DetachedTask(exchange.run, exchange.abort)
        try:
            self._nursery.start_soon(exchange.run)
        except (RuntimeError, AttributeError) as error:  # it is closed; or it is trio's, and trio is not running
            exchange.abort()
            raise RayforceWSError(
                "the nursery cannot start the connection's task; it must be open, and belong to the running event loop"
            ) from error
        except BaseException:
            exchange.abort()
            raise
        return connection, None

    @enable_ki_protection
    async def __aenter__(self) -> WSClientConnection:
        """Connect and return the connection. A checkpoint; if cancelled, no connection is left open."""
        connection, task = await self._start()
        self._blocks.append(_Block(anyio.get_current_task().id, connection, task))
        return connection

    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the connection and wait for the end of its task. Any task of the event loop may call this.

        A checkpoint. If this or the block was cancelled, the connection is closed with code 1001, within 2 seconds. The
        connection's task has ended when this returns or raises the cancellation. If your own nursery runs that task,
        this closes the connection as `WSClientConnection.close` does.
        """
        block = self._block_to_leave()
        exchange = block.connection._exchange
        exchange.check_closable()
        self._blocks.remove(block)
        block.connection._is_unclosed = False
        if block.task is None or running_loop() is not exchange.loop:
            await exchange.close()
        else:
            if isinstance(exc, anyio.get_cancelled_exc_class()):
                block.task.cancel()
            await block.task.join(partial(exchange.close_with, closed_by_us()))

    def _block_to_leave(self) -> _Block:
        """Return the latest block that the current task entered. If it entered none, return the latest of all.

        Raises:
            RayforceWSError: no block was entered, or several other tasks have entered one.
        """
        current = None if running_loop() is None else anyio.get_current_task().id
        blocks = [block for block in self._blocks if block.entered_by == current] or self._blocks
        if not blocks:
            raise RayforceWSError("the 'async with' block of this connect() has not been entered, or has already ended")
        if len({block.entered_by for block in blocks}) > 1:
            raise RayforceWSError(
                "several other tasks have entered this connect() object, so it is not clear "
                "which connection to close; call connect() once for each block"
            )
        return blocks[-1]
