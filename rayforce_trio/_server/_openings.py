"""The connections that are being opened: which of them continue, wait or end. A state machine without I/O.

An opening that continues holds one of `max_slots` slots, until it is open, answered or over. One network holds half of
the slots at most. If no slot is free, a newcomer waits in a queue. An opening that keeps the server waiting for bytes
can lose its slot to a newcomer; one that waits for the server cannot.

| state | has a slot | next state |
| --- | --- | --- |
| QUEUED | no | WAITING_FOR_SERVER (ADMIT), LINGERING (REFUSE), ENDED |
| WAITING_FOR_SERVER | yes | WAITING_FOR_PEER, LINGERING, ENDED |
| WAITING_FOR_PEER | yes | WAITING_FOR_SERVER, EVICTED (EVICT), LINGERING, ENDED |
| EVICTED | no | LINGERING, ENDED |
| LINGERING | no | ENDED (possibly by DROP) |
| ENDED | no | |

Events that make no sense in a state change nothing. They occur because tasks learn of an action a little later.
"""

from collections import Counter, OrderedDict, deque
from enum import Enum, auto
from math import inf

EVICTION_DELAY = 0.5
"""Seconds that an opening may keep the server waiting for bytes before a newcomer can take its slot."""

MIN_OPEN_TIMEOUT = 1.0
"""Seconds that an opening may keep the server waiting for bytes when all slots are taken."""

QUEUE_TIMEOUT = 2.0
"""Seconds that a newcomer waits for a slot before it is refused; at most half of `open_timeout`."""

MAX_QUEUED = 256
"""The number of newcomers that can wait for a slot."""

MAX_LINGERING = 64
"""The number of answered connections that are kept for a while so that their peers can read the answer."""

MIN_LINGERING = 0.1
"""Seconds that a peer has to read its answer before a queued opening is refused and takes its place."""


class OpeningState(Enum):
    """The states of an opening. See the table of this module."""

    QUEUED = auto()
    """It waits for a slot. Nothing has been read from its peer."""

    WAITING_FOR_SERVER = auto()
    """For example for `authenticate`, or for the engine."""

    WAITING_FOR_PEER = auto()
    """For bytes of the peer."""

    EVICTED = auto()
    """The server no longer waits for the peer's bytes."""

    LINGERING = auto()
    """The last response is being sent, or was sent and the peer has a chance to read it."""

    ENDED = auto()
    """The connection is open, or closed."""


class Action(Enum):
    """An action on an opening."""

    ADMIT = auto()
    """Begin to read."""

    REFUSE = auto()
    """Answer that too many connections are being opened."""

    EVICT = auto()
    """Stop waiting for the peer's bytes."""

    DROP = auto()
    """Close the connection at once."""


class Opening:
    """One connection that is being opened. Only `Openings` changes it. Times are in seconds.

    Attributes:
        network: the network that it comes from; `None`: a trusted proxy, which may hold all slots.
        arrived_at: when it was accepted.
        admitted_at: when it got its slot.
        state: its state.
        waited: the sum of its waits for the peer that are over.
        waiting_since: when its latest wait for the peer began.
        late_since: when that wait would have begun if it included all the earlier time that counts.
    """

    __slots__ = ("admitted_at", "arrived_at", "late_since", "network", "state", "waited", "waiting_since")

    def __init__(self, network: str | None, now: float) -> None:
        self.network = network
        self.arrived_at = self.admitted_at = self.waiting_since = self.late_since = now
        self.state = OpeningState.QUEUED
        self.waited = 0.0

    def late_at(self, delay: float) -> float:
        """Return when it will have kept the server waiting for `delay` seconds, but not before this wait began."""
        return max(self.late_since + delay, self.waiting_since)


Actions = list[tuple[Action, Opening]]


class Openings:
    """All connections that are being opened. Times are in seconds, on any clock that does not go backwards.

    Args:
        max_slots: the number of openings that can continue at the same time; `None`: no limit.
        open_timeout: seconds that an opening may keep the server waiting for bytes. The caller enforces it; if more
            than half of the slots are taken, this class enforces less, down to `MIN_OPEN_TIMEOUT`.

    Attributes:
        deadline: when to call `time_passed`; infinite if nothing is due.
    """

    def __init__(self, max_slots: int | None, open_timeout: float) -> None:
        self._max_slots = inf if max_slots is None else max_slots
        self._share = inf if max_slots is None else (max_slots + 1) // 2
        self._open_timeout = open_timeout
        self._min_open_timeout = min(MIN_OPEN_TIMEOUT, open_timeout)
        self._queue_timeout = min(QUEUE_TIMEOUT, open_timeout / 2)
        self._slots: dict[Opening, None] = {}
        self._slots_of = Counter[str | None]()
        self._queues: OrderedDict[str | None, deque[Opening]] = OrderedDict()  # the network that is next comes first
        self._queued = 0
        self._lingering: dict[Opening, float] = {}  # since when; the oldest comes first
        self.deadline = inf

    # Events

    def arrived(self, network: str | None, now: float) -> tuple[Opening, Actions]:
        """Add a connection that was just accepted. If the actions do not mention it, it is queued.

        If the queue is full, the network that has the most openings in it loses its newest one.
        """
        opening = Opening(network, now)
        if self._has_slot_for(network) and network not in self._queues:
            return opening, [self._admit(opening, now)]
        self._queues.setdefault(network, deque()).append(opening)
        self._queued += 1
        self._check_at(now)
        if self._queued <= MAX_QUEUED:
            return opening, []
        longest = max(reversed(self._queues.values()), key=len)
        return opening, self._refuse(longest[-1], now)

    def waits_for_peer(self, opening: Opening, now: float, *, count_queue_time: bool) -> None:
        """Report that an admitted opening waits for bytes of the peer.

        Args:
            count_queue_time: whether the time in the queue counts, because the peer could have sent the bytes in it.
        """
        if opening.state is OpeningState.WAITING_FOR_SERVER:
            opening.state = OpeningState.WAITING_FOR_PEER
            opening.waiting_since = now
            opening.late_since = now - opening.waited
            if count_queue_time:
                opening.late_since -= opening.admitted_at - opening.arrived_at
            if self._queued or self._is_under_pressure():
                self._check_at(now)

    def waits_for_server(self, opening: Opening, now: float) -> None:
        """Report that an opening has received bytes, and waits for the server now."""
        if opening.state is OpeningState.WAITING_FOR_PEER:
            opening.state = OpeningState.WAITING_FOR_SERVER
            opening.waited += now - opening.waiting_since

    def answering(self, opening: Opening, now: float) -> Actions:
        """Report that the last response of an opening is about to be sent. From now on it lingers."""
        if opening.state in (OpeningState.LINGERING, OpeningState.ENDED):
            return []
        return self._leave(opening, now) + self._linger(opening, now)

    def ended(self, opening: Opening, now: float) -> Actions:
        """Report that an opening is over: the connection is open, or closed."""
        actions = self._leave(opening, now)
        self._lingering.pop(opening, None)
        opening.state = OpeningState.ENDED
        return actions

    def time_passed(self, now: float) -> Actions:
        """Report that it is `deadline` or later. Waits for a peer that began after `now` do not count yet.

        Call this when the bytes that had arrived by `now` have been reported.
        """
        actions = self._evict_late(now) + self._evict_for_queued(now) + self._refuse_queued(now)
        self.deadline = self._next_deadline(now)
        return actions

    # Slots

    def _is_under_pressure(self) -> bool:
        return len(self._slots) > self._max_slots / 2

    def _has_slot_for(self, network: str | None) -> bool:
        return len(self._slots) < self._max_slots and not self._has_share(network)

    def _has_share(self, network: str | None) -> bool:
        return network is not None and self._slots_of[network] >= self._share

    def _admit(self, opening: Opening, now: float) -> tuple[Action, Opening]:
        opening.state = OpeningState.WAITING_FOR_SERVER
        opening.admitted_at = now
        self._slots[opening] = None
        self._slots_of[opening.network] += 1
        return Action.ADMIT, opening

    def _leave(self, opening: Opening, now: float) -> Actions:
        """Take an opening out of its slot or out of the queue, and admit the openings that have a slot now."""
        if opening.state is OpeningState.QUEUED:
            self._unqueue(opening)
        if opening not in self._slots:
            return []
        del self._slots[opening]
        self._slots_of[opening.network] -= 1
        if not self._slots_of[opening.network]:
            del self._slots_of[opening.network]
        return self._admit_queued(now)

    def _admit_queued(self, now: float) -> Actions:
        """Admit as many queued openings as there are slots, one of each network in turn."""
        actions: Actions = []
        while self._queued and len(self._slots) < self._max_slots:
            network = next((network for network in self._queues if not self._has_share(network)), ...)
            if network is ...:
                break
            opening = self._queues[network][0]
            self._unqueue(opening)
            if network in self._queues:
                self._queues.move_to_end(network)
            actions.append(self._admit(opening, now))
        return actions

    def _unqueue(self, opening: Opening) -> None:
        queue = self._queues[opening.network]
        queue.remove(opening)
        self._queued -= 1
        if not queue:
            del self._queues[opening.network]

    # Ends

    def _refuse(self, opening: Opening, now: float) -> Actions:
        self._unqueue(opening)
        return [(Action.REFUSE, opening), *self._linger(opening, now)]

    def _linger(self, opening: Opening, now: float) -> Actions:
        opening.state = OpeningState.LINGERING
        self._lingering[opening] = now
        if len(self._lingering) <= MAX_LINGERING:
            return []
        oldest = next(iter(self._lingering))
        del self._lingering[oldest]
        oldest.state = OpeningState.ENDED
        return [(Action.DROP, oldest)]

    def _evict(self, opening: Opening, now: float) -> Actions:
        actions = self._leave(opening, now)
        opening.state = OpeningState.EVICTED
        return [(Action.EVICT, opening), *actions]

    def _evict_late(self, now: float) -> Actions:
        """Evict the openings that have kept the server waiting for longer than the timeout, the latest first."""
        actions: Actions = []
        if self._is_under_pressure():
            for opening in sorted(self._waiting, key=lambda opening: opening.late_since):
                if not self._is_under_pressure() or opening.late_at(self._timeout) > now:
                    break
                actions += self._evict(opening, now)
        return actions

    def _evict_for_queued(self, now: float) -> Actions:
        """Evict openings that have kept the server waiting, as far as queued openings need their slots."""
        if not self._queued:
            return []
        actions: Actions = []
        evictable: dict[str | None, deque[Opening]] = {}
        for opening in sorted(self._waiting, key=lambda opening: opening.arrived_at):
            if opening.late_at(EVICTION_DELAY) <= now:
                evictable.setdefault(opening.network, deque()).append(opening)
        while evictable:
            victims = next(filter(None, (self._victims(network, evictable) for network in self._queues)), None)
            if victims is None:
                break
            victim = victims.popleft()
            if not victims:
                del evictable[victim.network]
            actions += self._evict(victim, now)
        return actions

    def _victims(self, newcomer: str | None, evictable: dict[str | None, deque[Opening]]) -> deque[Opening] | None:
        """Return the openings of the network that has to give a slot to a newcomer, the oldest first; `None`: none has.

        The newcomer's own network comes first. Then comes the one with the most slots, so that a single slow client is
        safe from the many openings of another network.
        """
        if newcomer in evictable:
            return evictable[newcomer]
        if self._has_share(newcomer):
            return None
        return max(
            evictable.values(), key=lambda openings: (self._slots_of[openings[0].network], -openings[0].arrived_at)
        )

    def _refuse_queued(self, now: float) -> Actions:
        """Refuse the openings that have been queued for too long, but not more at once than can linger."""
        actions: Actions = []
        for queue in list(self._queues.values()):
            while queue and queue[0].arrived_at + self._queue_timeout <= now and self._can_linger_at() <= now:
                actions += self._refuse(queue[0], now)
        return actions

    def _can_linger_at(self) -> float:
        """Return when an opening that is refused can take the place of another one that lingers."""
        return -inf if len(self._lingering) < MAX_LINGERING else next(iter(self._lingering.values())) + MIN_LINGERING

    # Time

    @property
    def _waiting(self) -> list[Opening]:
        return [opening for opening in self._slots if opening.state is OpeningState.WAITING_FOR_PEER]

    @property
    def _timeout(self) -> float:
        """The seconds that an opening may keep the server waiting, if more than half of the slots are taken."""
        free = (self._max_slots - len(self._slots)) / (self._max_slots / 2)
        return self._min_open_timeout + free * (self._open_timeout - self._min_open_timeout)

    def _check_at(self, time: float) -> None:
        self.deadline = min(self.deadline, time)

    def _next_deadline(self, now: float) -> float:
        deadline = inf
        waiting = self._waiting if self._queued or self._is_under_pressure() else []
        if self._queued:
            deadline = min(queue[0].arrived_at for queue in self._queues.values()) + self._queue_timeout
            deadline = max(deadline, self._can_linger_at())
            evictions = (opening.late_at(EVICTION_DELAY) for opening in waiting)
            deadline = min(deadline, min((time for time in evictions if time > now), default=inf))
        if self._is_under_pressure():
            deadline = min(deadline, min((opening.late_at(self._timeout) for opening in waiting), default=inf))
        return deadline
