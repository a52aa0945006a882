"""Delays before retries."""

from collections.abc import Iterator


def exponential_backoff(first: float, limit: float) -> Iterator[float]:
    """Yield delays in seconds without end: `first`, then always twice as long, up to `limit`."""
    delay = first
    while True:
        yield delay
        delay = min(2 * delay, limit)
