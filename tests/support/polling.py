"""Wait for conditions that nothing reports: numbers that are only kept, files, and states of other processes."""

from collections.abc import Awaitable, Callable

import anyio

_POLL = 0.002  # seconds
_TIMEOUT = 20.0  # seconds; a test that reaches it has failed


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true. A checkpoint. Raises `TimeoutError` after 20 seconds."""
    with anyio.fail_after(_TIMEOUT):
        while not condition():  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(_POLL)


async def until_equal(expected: object, ask: Callable[[], Awaitable[object]]) -> None:
    """Ask until the answer is the expected one. A checkpoint. Raises `TimeoutError` after 20 seconds."""
    with anyio.fail_after(_TIMEOUT):
        while await ask() != expected:  # noqa: ASYNC110 - there is no event to wait for
            await anyio.sleep(_POLL)
