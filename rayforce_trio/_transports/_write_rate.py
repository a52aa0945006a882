"""The slowest rate at which a peer may take the bytes that are sent to it. Without I/O."""

MIN_RATE = 16 * 1024
"""The bytes per second that a peer must take, on average over `timeout`, while more wait to be sent.

The slowest mobile networks carry twice as many. At this rate, a peer takes 18 hours for a reply of 1 GiB.
"""


class WriteRate:
    """Decides when a peer takes too little. The times are those of one clock, in seconds.

    Only the time for which bytes wait to be sent counts: it uses up the peer's `timeout`, and each `MIN_RATE` bytes
    that the peer takes give back a second.

    Args:
        timeout: seconds; `inf`: the peer has any time.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._used = 0.0  # seconds
        self._waiting_since = 0.0

    def wait(self, now: float, taken: int) -> float:
        """Report that bytes have to wait; return the time at which the peer has taken too little.

        Args:
            now: the time.
            taken: how many bytes the peer has taken since the last call.
        """
        self._used = max(0.0, self._used - taken / MIN_RATE)
        self._waiting_since = now
        return now + self._timeout - self._used

    def resume(self, now: float) -> None:
        """Report that the network takes bytes again."""
        self._used += now - self._waiting_since
