"""The page of the documentation about a run."""

from collections.abc import Callable, Iterable, Iterator

from support.machine import facts

from ._attackers import NATIVE_ATTACKS, Attack
from ._run import Soak
from ._slow import HEALTHY

_NAMES = {"in-process": "`InProcessEngine`", "child": "`NativeProcess`"}


def page(
    soaks: dict[str, Soak], times: dict[str, float], *, clients: int, minutes: float, slow_clients: int, seconds: float
) -> str:
    """Return the page.

    Args:
        soaks: the results of the runs, by engine.
        times: the 99th percentile of healthy clients' response times beside slow clients, by engine, in seconds.
        clients, minutes: of each run.
        slow_clients, seconds: of each run with slow clients.
    """
    engines = [_NAMES.get(engine, engine) for engine in soaks]
    lines = [
        "# Under load",
        "",
        "Does a server that runs for a long time leak memory, file descriptors or tasks? Does it ever send a",
        "wrong reply? This page shows a run that looks for both.",
        "",
        "## A mixed load",
        "",
        f"{clients} clients keep a server busy. In most of their sessions, several tasks share a connection and",
        "cancel one request in five. Of a hundred sessions, five end by a reset while requests are in flight, and",
        "one requests a lot and reads nothing. Every reply is compared with its request.",
        "",
        *_table(
            ("measured", *engines),
            (
                ("minutes", *(f"{minutes:g}" for _ in soaks)),
                *((name, *map(value, soaks.values())) for name, value in _MEASURES.items()),
            ),
        ),
        "",
        "## Attacks meanwhile",
        "",
        "During the mixed load, one peer of each kind attacks the server, again and again. The table shows how",
        "often:",
        "",
        *_table(("attack", *engines), _attack_rows(soaks)),
        "",
        *_EXPLANATION,
        "",
        "## Beside slow clients",
        "",
        f"After the mixed load, {HEALTHY} healthy clients send one small query after the other for {seconds:g}",
        f"seconds, beside {slow_clients} slow clients. A third of the slow clients send their opening request line",
        "by line, a third send a query byte by byte, and a third read a long reply in small pieces. A slow client",
        "that is disconnected comes again. The table shows the 99th percentile of the healthy clients' response",
        "times:",
        "",
        *_table(
            ("engine", "p99"),
            ((_NAMES.get(engine, engine), f"{time * 1000:.0f} ms") for engine, time in times.items()),
        ),
        "",
        "## Run it yourself",
        "",
        "`nox -s soak -- --write docs/explanation/soak.md` runs it and writes this page. It fails if",
        "",
        "- a reply is wrong, or a session fails without a reason,",
        "- the server's descriptors or tasks after the last client differ in number from those before the first one,",
        "- memory without the engine's heap grows by more than 32 MB, or",
        "- the 99th percentile of the healthy clients' response times exceeds 100 ms.",
        "",
        "The figures on this page come from this machine:",
        "",
        *(f"- {name}: {fact}" for name, fact in facts().items()),
    ]
    return "\n".join(lines) + "\n"


_EXPLANATION = (
    "## Why memory grows in steps",
    "",
    "The memory of a server with an `InProcessEngine` grows in steps because the engine's heap does. The heap has",
    "pools of 32 MiB, and reserves another pool when more long replies wait for slow clients than ever before. It",
    "reuses this memory but never returns it to the operating system; `(.sys.mem)` shows it as `anon-committed`.",
    "The pages of a new pool count as memory when they are first used.",
    "",
    "A run of ten minutes with 100 clients shows this:",
    "",
    "| time | engine's heap |",
    "| --- | ---: |",
    "| at the start | 34.7 MB |",
    "| after 8 seconds | 68.3 MB |",
    "| after 187 seconds | 101.9 MB |",
    "",
    "The server's memory was 64.7 MB at the start of that run, 153 MB in the second quarter and 163 MB in the",
    "last. Everything else stayed constant: Python had 235,000 to 245,000 objects, and malloc had 13 to 14 MB in",
    "use and kept 4 to 8 MB free. 40 replies of 8 MB that wait at once bring the heap to 471 MB, and if they wait",
    "again, it does not grow any further.",
)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def _before_and_after(attribute: str) -> Callable[[Soak], str]:
    return lambda soak: f"{getattr(soak.before, attribute)}, {getattr(soak.after, attribute)}"


_MEASURES: dict[str, Callable[[Soak], str]] = {
    "requests": lambda soak: f"{soak.tally.requests:,}",
    "cancelled requests": lambda soak: f"{soak.tally.cancelled:,}",
    "sessions": lambda soak: f"{soak.tally.sessions:,}",
    "sessions that were reset": lambda soak: f"{soak.tally.killed:,}",
    "sessions that read nothing": lambda soak: f"{soak.tally.frozen:,}",
    "wrong replies": lambda soak: f"{len(soak.tally.wrong):,}",
    "server memory, median of the second quarter of the run": lambda soak: _megabytes(soak.memory[0]),
    "server memory, median of the last quarter": lambda soak: _megabytes(soak.memory[1]),
    "engine's heap in that memory, second quarter": lambda soak: _megabytes(soak.engine_heap[0]),
    "engine's heap in that memory, last quarter": lambda soak: _megabytes(soak.engine_heap[1]),
    "file descriptors before the first client, and after the last": _before_and_after("descriptors"),
    "tasks before the first client, and after the last": _before_and_after("tasks"),
}


def _attack_rows(soaks: dict[str, Soak]) -> Iterator[tuple[str, ...]]:
    for attack in NATIVE_ATTACKS:
        counts = (soak.attacks[attack.__name__] for soak in soaks.values())
        yield (_first_line(attack), *(f"{count:,}" for count in counts))


def _first_line(attack: Attack) -> str:
    return (attack.__doc__ or attack.__name__).partition("\n")[0].removesuffix(".").lower()


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    """Yield the lines of a table whose columns are aligned to the right, except for the first one."""
    for row in (header, ("---", *["---:"] * (len(header) - 1)), *rows):
        yield f"| {' | '.join(row)} |"
