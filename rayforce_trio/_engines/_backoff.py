"""How long to wait before trying again."""

from collections.abc import Iterator


def exponential_backoff(first: float, limit: float) -> Iterator[float]:
    """Yield pauses in seconds, each twice as long as the one before, up to `limit`, without end."""
    pause = first
    while True:
        yield pause
        pause = min(2 * pause, limit)
