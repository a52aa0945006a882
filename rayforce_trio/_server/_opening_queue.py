"""Perform what `Openings` decides: admit, refuse, evict and drop connections that are being opened."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf

import trio

from .._tasks import enable_ki_protection
from .._transports import OpeningProgress, PeerTooSlow
from ._checks import check_limit
from ._openings import Action, Actions, Opening, Openings, OpeningState


class OpeningQueue:
    """The connections of a server that are being opened.

    Args:
        max_unauthenticated: the number of openings that can continue at the same time; `None`: no limit.
        open_timeout: seconds that an opening may take.

    Raises:
        RayforceValueError: `max_unauthenticated` is not a positive int.
    """

    def __init__(self, max_unauthenticated: int | None, open_timeout: float) -> None:
        check_limit("max_unauthenticated", max_unauthenticated)
        self._open_timeout = open_timeout
        self._openings = Openings(max_unauthenticated, open_timeout)
        self._pending: dict[Opening, PendingOpening] = {}
        self._timer: trio.CancelScope | None = None

    @enable_ki_protection
    async def run(self) -> None:
        """Evict and refuse openings when it is time, until cancelled. A checkpoint."""
        try:
            while True:
                with trio.CancelScope(deadline=self._openings.deadline) as self._timer:
                    await trio.sleep_forever()
                now = trio.current_time()
                # The bytes that openings wait for may be there: the loop may have been blocked, or the wait just begun.
                # The loop looks for bytes at the end of this round, and the openings continue in the next one.
                for _ in range(2):
                    await trio.lowlevel.checkpoint()
                self.perform(self._openings.time_passed(now))
        finally:
            self._timer = None

    @contextmanager
    def opening(self, network: str | None, record_refusal: Callable[[int, str], None]) -> Iterator["PendingOpening"]:
        """Add a connection that was just accepted. It counts until the block ends, or until `end`.

        Args:
            network: the network that it comes from; `None`: a trusted proxy, which may hold all slots.
            record_refusal: called with the status and the reason if the request turns out not to be valid.
        """
        opening, actions = self._openings.arrived(network, trio.current_time())
        deadline = trio.current_time() + self._open_timeout
        pending = PendingOpening(self, self._openings, opening, deadline, record_refusal)
        self._pending[opening] = pending
        try:
            self.perform(actions)
            yield pending
        finally:
            pending.end()
            del self._pending[opening]

    def cancel(self) -> None:
        """Cancel all openings, including those that have been answered."""
        for pending in self._pending.values():
            pending.scope.cancel()

    def perform(self, actions: Actions) -> None:
        """Perform actions, and make sure that the timer wakes up in time."""
        for action, opening in actions:
            self._pending[opening].perform(action)
        if self._timer is not None and self._openings.deadline < self._timer.deadline:
            self._timer.deadline = self._openings.deadline


class PendingOpening(OpeningProgress):
    """One connection that is being opened.

    Attributes:
        scope: the cancel scope to open the connection in. Its deadline is that of the opening.
        evicted: whether the connection had to make way for another one.
    """

    def __init__(
        self,
        queue: OpeningQueue,
        openings: Openings,
        opening: Opening,
        deadline: float,
        record_refusal: Callable[[int, str], None],
    ) -> None:
        self.scope = trio.CancelScope(deadline=deadline)
        self.evicted = False
        self._queue = queue
        self._openings = openings
        self._opening = opening
        self._record_refusal = record_refusal
        self._queued: trio.Event | None = None  # set when it is no longer queued
        self._wait: trio.CancelScope | None = None  # around a wait for the peer's bytes

    async def is_admitted(self) -> bool:
        """Return whether the opening can continue; otherwise it must be refused. A checkpoint only if it has to wait.

        If cancelled, the opening may still be queued.
        """
        if self._opening.state is OpeningState.QUEUED:
            self._queued = trio.Event()
            await self._queued.wait()
        return self._opening.state is OpeningState.WAITING_FOR_SERVER

    @contextmanager
    def waiting_for_peer(self, *, count_queue_time: bool = False) -> Iterator[None]:
        # While it waits, the deadline is that of the wait, so that the peer can be told when it has passed.
        deadline, self.scope.deadline = self.scope.deadline, inf
        with trio.CancelScope(deadline=deadline) as self._wait:
            self._openings.waits_for_peer(self._opening, trio.current_time(), count_queue_time=count_queue_time)
            self._queue.perform([])
            try:
                yield
            finally:
                self._openings.waits_for_server(self._opening, trio.current_time())
        self.scope.deadline = deadline
        if self.evicted or self._wait.cancelled_caught:
            option = "while others were waiting (max_unauthenticated)" if self.evicted else "(open_timeout)"
            raise PeerTooSlow(f"the client took too long {option}")

    def bad_request(self, status: int, reason: str) -> None:
        self._record_refusal(status, reason)

    def answering(self) -> None:
        self.scope.deadline = inf  # sending the answer has a time limit of its own
        self._queue.perform(self._openings.answering(self._opening, trio.current_time()))

    def end(self) -> None:
        """Give the slot to another opening. Idempotent."""
        self._queue.perform(self._openings.ended(self._opening, trio.current_time()))

    def perform(self, action: Action) -> None:
        """Perform an action that `Openings` returned for this opening."""
        if action is Action.EVICT:
            assert self._wait is not None
            self.evicted = True
            self._wait.cancel()
        elif action is Action.DROP:
            self.scope.cancel()
        elif self._queued is not None:
            self._queued.set()
