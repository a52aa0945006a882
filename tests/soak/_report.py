"""The page of the documentation that tells what came out."""

from collections.abc import Iterator

from support.machine import facts

from ._attackers import NATIVE_ATTACKS, Attack
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
        "request asked for. Memory is the median of the second quarter of the time, and that of the last; the engine's",
        "heap is the part of it that an `InProcessEngine` has reserved. Descriptors and tasks are what the server has",
        "before the first client comes, and when the last one is gone.",
        "",
        *_table(map(_soak_row, soaks, soaks.values()), _SOAK),
        "",
        "One peer of each kind attacks the server meanwhile, again and again:",
        "",
        *_table(_attack_rows(soaks), ("attack", *soaks)),
        "",
        *_EXPLANATION,
        "",
        f"Then {HEALTHY} healthy clients ask, one small query after the other, beside {slow_clients} slow ones, for",
        f"{seconds:g} seconds. A third of those send their opening request line by line, a third send a query byte by",
        "byte, a third read a long reply in small pieces; who is cut off comes again. One answer in a hundred took",
        "longer than:",
        "",
        *_table(((engine, f"{time * 1000:.0f} ms") for engine, time in times.items()), ("engine", "p99")),
        "",
        "Run it with `nox -s soak -- --write docs/explanation/soak.md`. It fails if an answer is wrong, a session",
        "fails without a reason, something is left behind, memory without the engine's heap grows by more than 32 MB,",
        "or the healthy clients wait.",
        "",
        "## What it ran on",
        "",
        *(f"- {name}: {fact}" for name, fact in facts().items()),
    ]
    return "\n".join(lines) + "\n"


_EXPLANATION = (
    "The memory of a server with an `InProcessEngine` grows in steps because the engine's heap does. It has pools of",
    "32 MiB, and reserves another one when more long replies wait for slow clients than ever before. It reuses this",
    "memory, but never returns it to the system; `(.sys.mem)` shows it as `anon-committed`. In a run of ten minutes",
    "with 100 clients, the server's memory was 64.7 MB at the start, 153 MB in the second quarter and 163 MB in the",
    "last. The engine's heap had 34.7 MB at the start, 68.3 MB after 8 seconds and 101.9 MB after 187 seconds; the",
    "pages of a new pool count as memory when they are first used. Everything else stayed the same: Python had",
    "235,000 to 245,000 objects, and malloc had 13 to 14 MB in use and kept 4 to 8 MB free. 40 replies of 8 MB that",
    "wait at once bring the heap to 471 MB, and waiting again does not enlarge it.",
)

_SOAK = (
    "engine",
    "requests",
    "cancelled",
    "sessions",
    "reset",
    "frozen",
    "wrong",
    "memory",
    "engine's heap",
    "descriptors",
    "tasks",
)


def _soak_row(engine: str, result: Soak) -> tuple[str, ...]:
    tally, before, after = result.tally, result.before, result.after
    assert after is not None
    counts = (tally.requests, tally.cancelled, tally.sessions, tally.killed, tally.frozen, len(tally.wrong))
    sizes = (", ".join(f"{size / 1e6:.1f}" for size in pair) + " MB" for pair in (result.memory, result.engine_heap))
    return (
        engine,
        *(f"{count:,}" for count in counts),
        *sizes,
        f"{before.descriptors}, {after.descriptors}",
        f"{before.tasks}, {after.tasks}",
    )


def _attack_rows(soaks: dict[str, Soak]) -> Iterator[tuple[str, ...]]:
    for attack in NATIVE_ATTACKS:
        counts = (soak.attacks[attack.__name__] for soak in soaks.values())
        yield (_first_line(attack), *(f"{count:,}" for count in counts))


def _first_line(attack: Attack) -> str:
    return (attack.__doc__ or attack.__name__).partition("\n")[0].removesuffix(".").lower()


def _table(rows: Iterator[tuple[str, ...]], header: tuple[str, ...]) -> Iterator[str]:
    for row in (header, ("---",) * len(header), *rows):
        yield f"| {' | '.join(row)} |"
