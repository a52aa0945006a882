"""The page of the documentation that tells what came out."""

from collections.abc import Iterator

from support.machine import facts

from ._run import Soak
from ._slow import HEALTHY


def page(
    soaks: dict[str, Soak], times: dict[str, float], *, clients: int, minutes: float, slow_clients: int, seconds: float
) -> str:
    """Return the page.

    Args:
        soaks: what came of the runs, by engine.
        times: the 99th percentile of healthy clients' times beside slow ones, by engine, in seconds.
        clients, minutes: of each run.
        slow_clients, seconds: of each run with slow clients.
    """
    lines = [
        "# Under load",
        "",
        f"{clients} clients kept a server busy for {minutes:g} minutes, with each engine. In most of their sessions",
        "several tasks share a connection, and cancel one request in five. Of a hundred sessions five end by a reset",
        "while requests are under way, and one asks for much and reads nothing. Every answer is compared with what its",
        "request asked for. Memory is the median of the second quarter of the time, and that of the last; descriptors",
        "and tasks are what the server has before the first client comes, and when the last one is gone.",
        "",
        *_table(map(_soak_row, soaks, soaks.values()), _SOAK),
        "",
        f"Then {HEALTHY} healthy clients ask, one small query after the other, beside {slow_clients} slow ones, for",
        f"{seconds:g} seconds. A third of those send their opening request line by line, a third send a query byte by",
        "byte, a third read a long reply in small pieces; who is cut off comes again. One answer in a hundred took",
        "longer than:",
        "",
        *_table(((engine, f"{time * 1000:.0f} ms") for engine, time in times.items()), ("engine", "p99")),
        "",
        "Run it with `nox -s soak -- --write docs/soak.md`. It fails if an answer is wrong, a session fails without a",
        "reason, something is left behind, memory grows by more than malloc keeps of the busiest moment (32 MB), or",
        "the healthy clients wait.",
        "",
        "## What it ran on",
        "",
        *(f"- {name}: {fact}" for name, fact in facts().items()),
    ]
    return "\n".join(lines) + "\n"


_SOAK = ("engine", "requests", "cancelled", "sessions", "reset", "frozen", "wrong", "memory", "descriptors", "tasks")


def _soak_row(engine: str, result: Soak) -> tuple[str, ...]:
    tally, before, after = result.tally, result.before, result.after
    assert after is not None
    counts = (tally.requests, tally.cancelled, tally.sessions, tally.killed, tally.frozen, len(tally.wrong))
    second, last = result.memory
    return (
        engine,
        *(f"{count:,}" for count in counts),
        f"{second / 1e6:.1f}, {last / 1e6:.1f} MB",
        f"{before.descriptors}, {after.descriptors}",
        f"{before.tasks}, {after.tasks}",
    )


def _table(rows: Iterator[tuple[str, ...]], header: tuple[str, ...]) -> Iterator[str]:
    for row in (header, ("---",) * len(header), *rows):
        yield f"| {' | '.join(row)} |"
