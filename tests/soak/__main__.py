"""Run a server under a mixed load, and then beside slow clients; fail if something grows or a reply is wrong."""

import argparse
import sys
from functools import partial
from pathlib import Path

import trio

from ._report import page
from ._run import Soak, soak
from ._server import ENGINES
from ._slow import HEALTHY, measure

_GROWTH = 32e6  # bytes, from the second quarter of the time to the last, without the engine's heap
_LONGEST = 0.1  # seconds, of healthy clients' times beside slow ones, at the 99th percentile


def show(result: Soak) -> None:
    """Print the counts of the run so far."""
    tally, held = result.tally, result.samples[-1].held
    print(
        f"{tally.requests:>10,} {tally.cancelled:>10,} {tally.sessions:>9,} {tally.killed:>7,} {tally.frozen:>7,} "
        f"{held.memory / 1e6:>8.1f} MB {held.descriptors:>12} {held.tasks:>6}",
        flush=True,
    )


def run(engine: str, clients: int, minutes: float) -> Soak:
    print(f"{engine}: {clients} clients, {minutes:g} minutes")
    print(f"{'requests':>10} {'cancelled':>10} {'sessions':>9} {'killed':>7} {'frozen':>7} {'memory':>11} ", end="")
    print(f"{'descriptors':>12} {'tasks':>6}", flush=True)
    result = trio.run(partial(soak, engine, clients, minutes * 60, max(minutes, 1), show))
    print(f"before: {result.before}\nafter: {result.after}\nattacks: {dict(result.attacks)}")
    heap = " and ".join(f"{size / 1e6:.1f} MB" for size in result.engine_heap)
    print(f"memory grew by {result.growth / 1e6:.1f} MB without the engine's heap, which had {heap}")
    return result


def run_slow(engine: str, clients: int, seconds: float) -> float:
    time = trio.run(partial(measure, engine, clients, seconds))
    print(f"{engine}: p99 of {HEALTHY} healthy clients beside {clients} slow ones: {time * 1000:.1f} ms", flush=True)
    return time


def main() -> None:
    parser = argparse.ArgumentParser(prog=f"python -m {__package__}", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="for each engine (%(default)g)")
    parser.add_argument("--clients", type=int, default=100, help="at the same time (%(default)s)")
    parser.add_argument("--slow-clients", type=int, default=200, help="at the same time, afterwards (%(default)s)")
    parser.add_argument("--slow-seconds", type=float, default=60, help="for each engine (%(default)g)")
    parser.add_argument("--engine", choices=ENGINES, help="one of them only")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the page of the documentation")
    options = parser.parse_args()
    engines = [options.engine] if options.engine else list(ENGINES)
    soaks = {engine: run(engine, options.clients, options.minutes) for engine in engines}
    times = {engine: run_slow(engine, options.slow_clients, options.slow_seconds) for engine in engines}

    complaints = [
        f"{engine}: {complaint}" for engine, result in soaks.items() for complaint in result.complaints(_GROWTH)
    ]
    complaints += [f"{engine}: healthy clients wait" for engine, time in times.items() if time > _LONGEST]
    if complaints:
        sys.exit("\n".join(complaints[:20]))
    if options.write is not None:
        text = page(
            soaks,
            times,
            clients=options.clients,
            minutes=options.minutes,
            slow_clients=options.slow_clients,
            seconds=options.slow_seconds,
        )
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
