"""The clients that may have ended an engine process, without I/O.

A process ends without saying whose request ended it, so each client that had a request in flight is a suspect. A client
that is a suspect twice has its requests sent alone from then on. If the process ends during one of those, that client
ended it, and must wait before it can connect again. All times are in seconds.
"""

from collections import OrderedDict
from collections.abc import Iterable

from ._base import Client

MAX_CLIENTS = 1024
"""The number of clients that are remembered. The one that was a suspect least recently is forgotten first."""

SUSPICIONS_UNTIL_ALONE = 2
"""The number of times that a client must be a suspect before its requests are sent alone."""

SUSPICION_LIFETIME = 300.0
"""The time for which a client remains a suspect."""

FIRST_WAIT = 5.0
"""The wait of a client that has ended a process for the first time. It doubles each further time."""

MAX_WAIT = 600.0
"""The longest time that a client waits."""

CRASH_RECORD_LIFETIME = 3600.0
"""The time, after its wait, for which a client that has ended a process is remembered."""


_MAX_ENDED = 10  # more make no difference to the wait


class _Record:
    def __init__(self) -> None:
        self.suspicions = 0  # ends of a process in which the client was a suspect
        self.ended = 0  # processes that the client certainly ended
        self.waits_until = 0.0
        self.forget_at = 0.0


class Suspects:
    """Remember which clients may have ended an engine process. The memory that this takes is bounded."""

    def __init__(self) -> None:
        self._records: OrderedDict[Client, _Record] = OrderedDict()

    def __len__(self) -> int:
        return len(self._records)

    def wait_of(self, client: Client, now: float) -> float:
        """Return how long a client must wait before it can connect; 0: it can connect now."""
        record = self._find(client, now)
        return 0.0 if record is None else max(record.waits_until - now, 0.0)

    def must_be_alone(self, client: Client, now: float) -> bool:
        """Return whether the requests of a client must be sent alone."""
        record = self._find(client, now)
        return record is not None and (record.ended > 0 or record.suspicions >= SUSPICIONS_UNTIL_ALONE)

    def process_ended(self, clients: Iterable[Client], now: float) -> None:
        """Record that a process has ended while requests of these clients were in flight."""
        for client in set(clients):
            record = self._take(client)
            record.suspicions += 1
            record.forget_at = max(record.forget_at, now + SUSPICION_LIFETIME)

    def process_ended_by(self, client: Client, now: float) -> float:
        """Record that a client's request was alone when a process ended. Return how long the client must wait.

        Most likely this client ended the earlier processes, too, so the other suspects are forgotten.
        """
        record = self._take(client)
        wait = min(FIRST_WAIT * 2.0**record.ended, MAX_WAIT)
        record.ended = min(record.ended + 1, _MAX_ENDED)
        record.waits_until = now + wait
        record.forget_at = record.waits_until + CRASH_RECORD_LIFETIME
        for other in [other for other, record in self._records.items() if not record.ended]:
            del self._records[other]
        return wait

    def _find(self, client: Client, now: float) -> _Record | None:
        record = self._records.get(client)
        if record is not None and record.forget_at <= now:
            del self._records[client]
            return None
        return record

    def _take(self, client: Client) -> _Record:
        """Return the record of a client as the most recent one."""
        record = self._records.setdefault(client, _Record())
        self._records.move_to_end(client)
        if len(self._records) > MAX_CLIENTS:
            self._records.popitem(last=False)
        return record
