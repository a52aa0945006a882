"""The states of a client's connection, and the iterator of their changes."""

from collections import deque
from enum import Enum
from weakref import WeakSet

import anyio.lowlevel

from .._tasks import Event, enable_ki_protection, event_class
from ..errors import RayforceWSError


class ClientConnectionState(Enum):
    """The state of a `WSClientConnection`. Without `reconnect=True`, it is CONNECTED and then CLOSED."""

    CONNECTING = "connecting"
    """The client is connecting again. Calls wait until it has connected."""
    CONNECTED = "connected"
    """The connection can be used, as far as is known."""
    WAITING = "waiting"
    """The connection was lost, and the client waits before the next attempt. Calls wait until it has connected."""
    CLOSED = "closed"
    """The connection has ended for good. `WSClientConnection.closed` says why."""


_DOWN = (ClientConnectionState.CONNECTING, ClientConnectionState.WAITING)


class Changes:
    """The changes that an iterator has not returned yet, without I/O. There are at most four of them.

    Of several attempts to connect, only the latest state remains, and so does only the latest of several losses.
    """

    def __init__(self) -> None:
        self._returned: ClientConnectionState | None = None  # the last one
        self._pending: deque[ClientConnectionState] = deque()

    def add(self, state: ClientConnectionState) -> None:
        """Add a state that differs from the one before."""
        pending = self._pending
        replaceable = pending and pending[-1] in _DOWN and state is not ClientConnectionState.CLOSED
        if replaceable and (state in _DOWN or ClientConnectionState.CONNECTED in pending):
            pending.pop()
        if state is not (pending[-1] if pending else self._returned):
            pending.append(state)

    def next(self) -> ClientConnectionState | None:
        """Return the next state and remove it; `None` if there is none."""
        if not self._pending:
            return None
        self._returned = self._pending.popleft()
        return self._returned


class StateChanges:
    """The changes of a connection's state, for `async for`. Returned by `WSClientConnection.state_changes`.

    Use it in one task at a time. It does not keep the connection open, and keeps at most four changes. If it is read
    more slowly than the state changes, it leaves out failed attempts to connect, and may merge several losses into one.
    It never leaves out a loss altogether, and the last state that it returns is the present one.
    """

    def __init__(self, new_event: type[Event], *, ended: bool) -> None:
        self._changes = Changes()
        self._new_event = new_event
        self._changed: Event | None = None  # while a task waits
        self._ended = ended  # the last change has been returned

    def __aiter__(self) -> "StateChanges":
        return self

    @enable_ki_protection
    async def __anext__(self) -> ClientConnectionState:
        """Return the next change. A checkpoint; if cancelled, no change is lost.

        Raises:
            StopAsyncIteration: the connection is closed, and CLOSED has been returned.
            RayforceWSError: another task is waiting for the next change.
        """
        if self._changed is not None:
            raise RayforceWSError("another task is waiting for the next change of this connection's state")
        await anyio.lowlevel.checkpoint()
        if self._ended:
            raise StopAsyncIteration
        while (state := self._changes.next()) is None:
            self._changed = self._new_event()
            try:
                await self._changed.wait()
            finally:
                self._changed = None
        self._ended = state is ClientConnectionState.CLOSED
        return state

    def add(self, state: ClientConnectionState) -> None:
        """Add a change, and wake the task that waits for one. No checkpoint."""
        self._changes.add(state)
        if self._changed is not None:
            self._changed.set()


class States:
    """The state of one connection, and the iterators of its changes.

    Attributes:
        current: the present state.
    """

    def __init__(self, current: ClientConnectionState) -> None:
        self.current = current
        self._iterators: WeakSet[StateChanges] | None = None  # few programs need one

    def change(self, state: ClientConnectionState) -> None:
        """Set the state. No checkpoint. Nothing happens if it is the present one."""
        if state is self.current:
            return
        self.current = state
        for iterator in self._iterators or ():
            iterator.add(state)

    def changes(self) -> StateChanges:
        """Return an iterator of the changes from now on. Call it in the connection's event loop."""
        if self._iterators is None:
            self._iterators = WeakSet()
        iterator = StateChanges(event_class(), ended=self.current is ClientConnectionState.CLOSED)
        self._iterators.add(iterator)
        return iterator
